"""The verbs of the store: getting models, naming them, copying and removing them."""
