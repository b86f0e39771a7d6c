"""LightningModule callbacks that any method can use."""
