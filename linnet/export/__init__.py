"""Models in the formats other programs read."""
