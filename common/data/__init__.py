"""From annotation files and caches to batches in one global order."""
