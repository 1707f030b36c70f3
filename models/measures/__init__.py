"""Metrics in-graph, and popularity, which answers where a model cannot."""
