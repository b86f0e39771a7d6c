"""Scoring generated answers to questions about videos: benchmarks, predictions, judges, judge-free scores."""
