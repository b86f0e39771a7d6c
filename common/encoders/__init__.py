"""Frozen towers: uint8 pixels in, features out."""
