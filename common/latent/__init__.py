"""Latent diffusion: the frozen autoencoder, the noise schedule, guidance."""
