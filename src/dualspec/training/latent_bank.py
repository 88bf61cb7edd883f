"""The latents of every clip at every speed and direction, encoded once and kept for each further visit."""

import torch
from torch import Tensor

from dualspec.latents.vae import SpectrogramVae, waveform_to_channels
from dualspec.memory import memory_watched
from dualspec.training.task import BinauralSource, StepRandom

_CHUNK = 256
"""Clips that a GPU encodes at once."""


class LatentBank:
    """Posterior moments of clips at directions, in half precision on the clips' device.

    A GPU encodes everything at the start, so that no step waits; a CPU each pair at its first visit, and alone, so that
    its numbers do not depend on the clips beside it.

    Args:
        source: clips and head; nothing about them may change from visit to visit but speed and direction.
        vaes: frozen, on the clips' device.

    Raises:
        MemoryError: there is not enough for all pairs.
        ValueError: the clips are cropped, shifted or turned down at random, or there are several heads.
    """

    def __init__(self, source: BinauralSource, vaes: list[SpectrogramVae]) -> None:
        """Make room for the moments."""
        config = source.config
        varies = config.random_crop or config.max_shift_s or config.gain_range_db or len(source.hrirs) > 1
        if varies:
            raise ValueError(
                "keep_latents must be false for clips that differ at each visit, got true; leave it out, or set "
                "render.random_crop=false, render.max_shift_s=0, render.gain_range_db=0 and give one head"
            )
        self.source, self.vaes = source, vaes
        self.num_directions = len(source.azimuths_deg)
        pairs, device = len(source.waveforms) * self.num_directions, source.hrirs.device
        self.moments: list[Tensor] = []
        with memory_watched(pairs, "--set task.keep_latents=false (--set denoiser.task.keep_latents=false of build)"):
            self.known = torch.zeros(pairs, dtype=torch.bool)
            for vae in vaes:
                shape = (vae.config.num_latents, *vae.config.moment_shape(config.num_samples))
                self.moments.append(torch.zeros(pairs, 2, *shape, dtype=torch.float16, device=device))
            if device.type != "cpu":
                for chunk in torch.arange(pairs).split(_CHUNK):
                    self._encode(chunk)

    def draw(self, indices: Tensor, random: StepRandom) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Return mean and log variance (B · ears, C, T, F) of each VAE, and the direction index (B,) of each clip.

        Takes the same draws as `BinauralSource.draw`.
        """
        directions, _ = self.source.draw_directions(indices, random)
        copies = self.source.copies_of(indices, random)
        for _ in range(3):  # crop, shift, level
            random.uniform()
        pairs = copies * self.num_directions + directions
        if self.moments[0].device.type == "cpu":
            for pair in pairs[~self.known[pairs]].unique():
                self._encode(pair[None])
        pairs = pairs.to(self.moments[0].device, non_blocking=True)
        chosen = [bank[pairs].float().unbind(1) for bank in self.moments]
        return [(mean.flatten(0, 1), log_variance.flatten(0, 1)) for mean, log_variance in chosen], directions

    @torch.no_grad()
    def _encode(self, pairs: Tensor) -> None:
        device = self.source.hrirs.device
        copies, directions = pairs // self.num_directions, pairs % self.num_directions
        waveform = self.source.beginnings(copies, directions.to(device))
        for vae, bank in zip(self.vaes, self.moments, strict=True):
            moments = vae.encode_moments(waveform_to_channels(waveform, vae.config))
            ears = vae.config.num_latents
            bank[pairs.to(device)] = torch.stack([part.unflatten(0, (-1, ears)) for part in moments], 1).half()
        self.known[pairs] = True
