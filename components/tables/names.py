"""What the three tables are called, and the columns that they must or may have. Light."""

TABLES = ("events", "items", "users")
REQUIRED = {"events": ("user_id", "item_id"), "items": ("item_id",), "users": ("user_id",)}
# The number of an event in the log, which the reader gives it.
ROW = "row"
# The column of the part of the data that a file is, and the parts.
PART = "split"
PARTS = ("train", "valid", "test")
