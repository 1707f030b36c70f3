"""What a model trains on: index arrays, batches, and layers that know what their rows stand for."""
