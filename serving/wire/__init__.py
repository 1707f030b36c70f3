"""What client and server both speak: protocol buffers, tensors, records, status codes.

No TensorFlow.
"""
