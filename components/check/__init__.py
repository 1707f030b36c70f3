"""check: a table that is not what it should be stops the run, by name."""
