"""monitor: request logs, their statistics, skew against training and drift."""
