"""The latents of every clip at every speed and direction, encoded once and kept for each further visit."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from dualspec.config import to_dict
from dualspec.latents.vae import SpectrogramVae, waveform_to_channels
from dualspec.memory import memory_watched
from dualspec.training.task import BinauralSource, StepRandom

_CHUNK = 256
"""Clips that a GPU encodes at once."""


class LatentBank:
    """Scaled latents of clips at directions, or the moments of their posterior, in half precision.

    A GPU encodes everything at the start, so that no step waits. A CPU encodes each pair at its first visit, and alone,
    so that its numbers do not depend on the clips beside it; with a folder it keeps them in files there, which a
    resumed run and the other processes of a run read.

    Args:
        source: clips and head; nothing about them may change from visit to visit but speed and direction.
        vaes: frozen, on the clips' device.
        posterior: keep mean and log-variance, from which latents are drawn; else the scaled mean alone.
        folder: where a CPU keeps them; in memory if None.

    Raises:
        MemoryError: there is not enough for all pairs.
        ValueError: the clips are cropped, shifted or turned down at random, or there are several heads.
    """

    def __init__(
        self, source: BinauralSource, vaes: list[SpectrogramVae], *, posterior: bool, folder: Path | None = None
    ) -> None:
        """Make room, and find what is known already."""
        config = source.config
        varies = config.random_crop or config.max_shift_s or config.gain_range_db or len(source.hrirs) > 1
        if varies:
            raise ValueError(
                "keep_latents must be false for clips that differ at each visit, got true; leave it out, or set "
                "render.random_crop=false, render.max_shift_s=0, render.gain_range_db=0 and give one head"
            )
        self.source, self.vaes, self.posterior = source, vaes, posterior
        self.num_directions = len(source.azimuths_deg)
        pairs, self.device = len(source.waveforms) * self.num_directions, source.hrirs.device
        self.kept: list[Tensor] = []  # per VAE: (pairs, ears, C, T, F), moments with mean and log-variance on axis 1
        with memory_watched(pairs, "--set task.keep_latents=false (--set denoiser.task.keep_latents=false of build)"):
            for vae in vaes:
                shape = vae.config.moment_shape if posterior else vae.config.latent_shape
                moments = (2,) if posterior else ()
                size = (pairs, *moments, vae.config.num_latents, *shape(config.num_samples))
                self.kept.append(self._room(size, vae, folder))
            self.known = torch.zeros(pairs, dtype=torch.bool)
            if folder is not None and self.device.type == "cpu":
                self.known = torch.stack([_written(kept) for kept in self.kept]).all(dim=0)
            if self.device.type != "cpu":
                for chunk in torch.arange(pairs).split(_CHUNK):
                    self._encode(chunk)

    def _room(self, size: tuple[int, ...], vae: SpectrogramVae, folder: Path | None) -> Tensor:
        if folder is None or self.device.type != "cpu":
            return torch.zeros(size, dtype=torch.float16, device=self.device)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{vae.config.feature}-{self._fingerprint(vae)}.f16"
        count = torch.Size(size).numel()
        return torch.from_file(str(path), shared=True, size=count, dtype=torch.float16).view(size)

    def _fingerprint(self, vae: SpectrogramVae) -> str:
        """Name all that the latents of a VAE depend on."""
        digest = hashlib.sha256(repr((to_dict(vae.config), self.posterior, self.source.config)).encode())
        for tensor in (*vae.state_dict().values(), self.source.hrirs, self.source.waveforms):
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def draw(self, indices: Tensor, random: StepRandom) -> tuple[list[Tensor], Tensor]:
        """Return the scaled latents of clips, as `SpectrogramVae.encode` lists them, and their direction index (B,).

        Takes the same draws as `BinauralSource.draw`.
        """
        directions, _ = self.source.draw_directions(indices, random)
        copies = self.source.copies_of(indices, random)
        for _ in range(3):  # crop, shift, level
            random.uniform()
        pairs = copies * self.num_directions + directions
        if self.device.type == "cpu":
            for pair in pairs[~self.known[pairs]].unique():
                self._encode(pair[None])
        pairs, latents = pairs.to(self.device, non_blocking=True), []
        for vae, kept in zip(self.vaes, self.kept, strict=True):
            chosen = kept[pairs].float()
            if self.posterior:
                mean, log_variance = (part.flatten(0, 1) for part in chosen.unbind(1))
                latents += vae.scaled_latents(mean, log_variance, random.normal)
            else:
                latents += list(chosen.unbind(1))
        return latents, directions

    @torch.no_grad()
    def _encode(self, pairs: Tensor) -> None:
        copies, directions = pairs // self.num_directions, pairs % self.num_directions
        waveform = self.source.beginnings(copies, directions.to(self.device))
        for vae, kept in zip(self.vaes, self.kept, strict=True):
            moments = vae.encode_moments(waveform_to_channels(waveform, vae.config))
            if self.posterior:
                ears = vae.config.num_latents
                own = torch.stack([part.unflatten(0, (-1, ears)) for part in moments], dim=1)
            else:
                own = torch.stack(vae.scaled_latents(*moments), dim=1)
            kept[pairs.to(self.device)] = own.half()
        self.known[pairs] = True


def _written(kept: Tensor) -> Tensor:
    """Tell which pairs (N,) of a file are whole: a latent frame of zeros was never written."""
    chunks = kept.movedim(-2, 1).split(1024)
    return torch.cat([(some != 0).flatten(2).any(dim=2).all(dim=1) for some in chunks])
