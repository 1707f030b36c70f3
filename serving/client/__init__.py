"""A small typed client for this server and for TensorFlow Serving.

Nothing of the server is imported, and no TensorFlow.
"""

from serving.client.client import Client
from serving.client.messages import Query, Reasons, Recommendations, VersionStatus
from serving.wire.errors import ServingError

__all__ = ["Client", "Query", "Reasons", "Recommendations", "ServingError", "VersionStatus"]
