"""build: the tables to the rows that a model trains on and is measured by."""
