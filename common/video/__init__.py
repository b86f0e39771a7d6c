"""Video files to uint8 frames: exact indices, plain errors, never a neighbour in place of a missing frame."""
