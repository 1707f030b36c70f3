"""Rankers built on the interactions of features."""
