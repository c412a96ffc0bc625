"""Frozen data that the capabilities share, with their schemas."""
