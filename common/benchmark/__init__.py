"""How fast the training step of a composed run is, and against what."""
