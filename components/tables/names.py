"""What the three tables are called, and the columns that they must or may have. Light."""

TABLES = ("events", "items", "users")
REQUIRED = {"events": ("user_id", "item_id"), "items": ("item_id",), "users": ("user_id",)}
# The number of an event in the log, which the reader gives it.
ROW = "row"
# The column of the part of the data that a file is, and the parts.
PART = "split"
PARTS = ("train", "valid", "test")
# What TFDV's statistics call all values that are no UTF-8.
NO_TEXT = "__BYTES_VALUE__"
# What a table's columns are called in the built rows begins so; the two keys stay as they are.
PREFIX = {"events": "", "items": "item_", "users": "user_"}
# Vocabularies that are fitted beside those of the columns, which are called as their columns are.
VOCABULARIES = {"item_frequency": "how often train has each item"}
# What the built rows hold beside the columns of their events: queries, and slices of evaluations.
BUILT_FOR_EVENTS = (
    "history",
    "exclude",
    "targets",
    "candidates",
    "event_types",
    "timestamps",
    "activity",
    "popularity",
    "temperature",
)
