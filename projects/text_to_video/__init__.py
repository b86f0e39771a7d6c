"""Text to video on cached latents: Stable Diffusion 2.1 lifted to clips."""
