"""Metrics that torchmetrics does not have, and the intervals that go with a proportion."""
