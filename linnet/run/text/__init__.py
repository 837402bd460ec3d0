"""A text while it is made: what decides on its tokens, where it ends, what is kept of it."""
