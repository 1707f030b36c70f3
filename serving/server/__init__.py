"""The embedded server: `python -m serving.server`, or `serving.server.server.Server` in process."""
