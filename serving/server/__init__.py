"""The embedded server: `python -m serving.server`, or `Server` in this process.

Importing it is cheap; TensorFlow is loaded when a server starts.
"""

from serving.server.server import Server

__all__ = ["Server"]
