"""Benchmarks: the papers' numbers beside ours, and our throughput beside peers'.

Every script prints its table and writes it as JSON.
"""
