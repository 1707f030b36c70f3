"""read: a data folder, whatever its layout, to the three tables."""
