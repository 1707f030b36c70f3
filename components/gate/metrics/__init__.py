"""Metrics for TFMA: means of outputs, what the gate asks of them, values by user, AUC, lists.

An element that they are handed is a batch of rows of one slice (see `components.gate.batches`):
every value of it is an array with one row each, and is added up by NumPy. Outputs are added up once
for all of their metrics.
"""
