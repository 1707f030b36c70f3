"""batch: the pushed model answers for many users at once."""
