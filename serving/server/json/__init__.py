"""TensorFlow Serving's JSON, as RapidJSON reads and prints it."""
