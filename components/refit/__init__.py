"""Fitting a blessed model again on everything: the newest events are worth the most."""
