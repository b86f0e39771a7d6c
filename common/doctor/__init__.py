"""What can be known to be missing or too small before a run is started or queued, and what to do about it."""
