"""What a model trains on: index arrays, batches, and the layers that know what their rows stand for."""
