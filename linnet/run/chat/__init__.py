"""Conversations: how they are written for a model, and how its answers and calls of tools are read."""
