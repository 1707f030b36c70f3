"""One file a public layout of data, and the one that tells them apart.

Light: neither Beam nor TFX.
"""
