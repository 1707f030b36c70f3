"""The two tasks: what a model supplies, and what the task does with it."""
