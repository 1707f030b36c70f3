"""Paper number beside ours; throughput beside peers. Every script prints its table and writes it as
JSON.
"""
