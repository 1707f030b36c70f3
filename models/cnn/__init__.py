"""Rankers that read text with convolutions."""
