"""Using a model: texts, conversations, vectors, and what they cost; ``model.py`` ties it together."""
