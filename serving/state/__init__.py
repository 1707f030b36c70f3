"""What users did and what the catalogue became since a model was trained, outside the SavedModel.

The embedded server and the client look it up and fill requests with it (`serving.state.requests`),
so that neither a model nor its SavedModel knows of it. No TensorFlow, and nothing of the server.
"""

from serving.state.address import open_state
from serving.state.events import Event, Item, read_events, read_items
from serving.state.store import Live, Store

__all__ = ["Event", "Item", "Live", "Store", "open_state", "read_events", "read_items"]
