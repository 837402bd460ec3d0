"""Fewer bits per weight: the choice of a type for each tensor. Packing itself is the core's."""
