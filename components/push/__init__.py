"""The push of a blessed model to where servers look for it."""
