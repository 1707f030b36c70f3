"""What Transform fits on train, as the models' preprocessing asks for it."""
