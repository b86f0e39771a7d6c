"""Weights as files: folders in the layout of transformers, read and written one tensor at a time."""
