"""What the methods share: video, encoders, latents, text, data order, checkpoints. Knows no project and no launcher."""
