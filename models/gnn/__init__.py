"""Models of the family gnn."""
