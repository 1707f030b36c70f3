"""What a table is, on disk and in memory: names, columns, schemas, shards, artifacts."""
