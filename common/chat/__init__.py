"""Conversations about videos: rows to batches, answers, scores, requests; shared by the video language models."""
