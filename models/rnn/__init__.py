"""Recurrent networks over sessions and histories."""
