"""Diffusion: the text-conditioned denoiser, what it is trained on, and how it is sampled."""
