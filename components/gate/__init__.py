"""gate: what is measured, against which model, and what is required."""
