"""Systems published by companies."""
