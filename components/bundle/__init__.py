"""bundle: a blessed recall and a blessed ranker in one SavedModel."""
