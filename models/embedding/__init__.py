"""Vectors of items, learnt from what they occur with."""
