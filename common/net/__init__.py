"""Fetching files from the network, for preparation tasks alone; nothing here runs inside a training."""
