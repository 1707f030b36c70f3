"""What client and server both speak: protocol buffers, tensors, records and status codes.

Nothing here imports TensorFlow.
"""
