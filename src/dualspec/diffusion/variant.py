"""The five systems of the paper as configurations of one code (section VI-B)."""

from dataclasses import dataclass, field
from typing import Literal

from dualspec.diffusion.denoiser import UnetConfig
from dualspec.diffusion.objective import NoiseScheduleConfig
from dualspec.diffusion.sampler import SamplingConfig
from dualspec.diffusion.transformer import DitConfig
from dualspec.latents.pairing import LatentPairing, PairingConfig
from dualspec.latents.vae import VaeConfig
from dualspec.text.encoder import TextEncoderConfig
from dualspec.text.location_words import LocationWords

VariantName = Literal["mel_base", "stft_base", "dualspec", "dualspec_d", "dualspec_p"]

VARIANT_PARTS: dict[str, tuple[str, ...]] = {
    "mel_base": ("mel_vae",),
    "stft_base": ("stft_vae",),
    "dualspec": ("mel_vae", "stft_vae"),
    "dualspec_d": ("dual_vae",),
    "dualspec_p": ("mono_mel_vae", "stft_vae"),
}
"""The VAEs of each variant, in the order in which their latents are packed."""


@dataclass(frozen=True, kw_only=True)
class VariantConfig:
    """One text-to-binaural system, apart from the VAEs and the vocoder, which keep their own configs."""

    variant: VariantName  # which of the five
    denoiser: UnetConfig | DitConfig  # the network
    text_encoder: TextEncoderConfig  # the frozen encoder of the prompts
    pairing: PairingConfig = field(default_factory=PairingConfig)  # how the latents are joined
    schedule: NoiseScheduleConfig = field(default_factory=NoiseScheduleConfig)  # noise and target
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # how it is sampled unless asked otherwise
    location_words: LocationWords = field(default_factory=LocationWords)  # the directions it was trained on
    merge_mode: Literal["paper", "phase_delta"] = "paper"  # how Mel and STFT branch meet (decision 20)
    mid_phase: Literal["vocoder", "griffin_lim", "stft"] = "vocoder"  # where "phase_delta" takes its one phase from
    sample_rate: int = 16_000  # Hz
    num_samples: int = 81_920  # samples of a generated clip, 5.12 s

    def __post_init__(self) -> None:
        """Check that text encoder and denoiser fit, and that the mode exists for the variant."""
        if self.merge_mode == "phase_delta" and self.variant in ("mel_base", "stft_base"):
            raise ValueError(
                f"merge_mode must be 'paper' for {self.variant}, got 'phase_delta'; it needs both branches"
            )
        if not (1_000 <= self.sample_rate <= 384_000 and 1 <= self.num_samples <= 600 * self.sample_rate):
            raise ValueError(
                f"num_samples must be at most 10 minutes at 1 to 384 kHz, got {self.num_samples:g} at "
                f"{self.sample_rate:g} Hz; the paper's are 81920 at 16000"
            )
        width = self.text_encoder.width
        if width is not None and self.denoiser.cross_attention_dim != width:
            raise ValueError(
                f"denoiser.cross_attention_dim must be the text encoder's width {width}, "
                f"got {self.denoiser.cross_attention_dim}"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the VAEs, in packing order."""
        return VARIANT_PARTS[self.variant]

    def latent_shapes(self, vaes: dict[str, VaeConfig]) -> list[tuple[int, int, int]]:
        """Return (C, T, F) of every latent of a clip, in packing order, for these VAEs by part name."""
        return latent_shapes([vaes[part] for part in self.parts], self.num_samples)

    def latent_pairing(self, vaes: dict[str, VaeConfig]) -> LatentPairing:
        """Return how the latents of these VAEs, by part name, are joined for the denoiser.

        Raises:
            ValueError: they have other shapes than the denoiser takes.
        """
        pairing = LatentPairing(self.pairing, self.latent_shapes(vaes))
        if pairing.packed_shape != self.denoiser.latent_shape:
            raise ValueError(
                f"denoiser.latent_shape must be {pairing.packed_shape} for these VAEs, "
                f"got {self.denoiser.latent_shape}; take those that it was trained on"
            )
        return pairing


def latent_shapes(vaes: list[VaeConfig], num_samples: int) -> list[tuple[int, int, int]]:
    """Return (C, T, F) of every latent of a clip of `num_samples`, one entry per ear for "mel_mono"."""
    return [vae.latent_shape(num_samples) for vae in vaes for _ in range(vae.num_latents)]
