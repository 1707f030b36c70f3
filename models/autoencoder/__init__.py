"""Auto-encoders of user (or item) profiles."""
