"""Latents: the three variational autoencoders, their losses and the joining of their latents."""
