"""Prompt → two-ear waveform, in a few visible lines.

Nothing here knows of azimuths or rendering: the direction comes out of the diffusion model, from words alone. The cues
of a head are carried along for whoever judges, and never read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dualspec.diffusion.denoiser import build_denoiser
from dualspec.diffusion.sampler import SamplingConfig, initial_noise, sample
from dualspec.diffusion.variant import VariantConfig
from dualspec.features.mel import MelConfig
from dualspec.features.stft import StftConfig
from dualspec.hearing.proof import HeadCues
from dualspec.latents.pairing import LatentPairing
from dualspec.latents.vae import Spectra, SpectrogramVae, VaeConfig
from dualspec.model_folder import (
    VOCODER_CONFIGS,
    embedded_bundle,
    read_events,
    read_head,
    read_index,
    write_events,
    write_head,
    write_index,
)
from dualspec.synthesis.reconstruct import reconstruct
from dualspec.synthesis.vocoder import build_vocoder
from dualspec.text.encoder import TextEncoder, build_text_encoder
from dualspec.training.weights import load_module, save_weights

FADE_SAMPLES = 160
SEED_LIMIT = 2**63


@dataclass
class BinauralOutput:
    """What a pipeline call returns."""

    audios: Tensor  # (B, 2, S) float32 in [-1, 1], channel 0 left
    sample_rate: int  # Hz
    seeds: list[int]  # the seed of each clip
    prompts: list[str]  # the prompt of each clip
    gains_db: list[float]  # 0, or the negative gain that kept a clip within full scale


class DualSpecPipeline:
    """A text-to-binaural system: text encoder, denoiser, VAEs, vocoder.

    Args:
        config: the variant.
        denoiser: predicts noise or velocity.
        vaes: the VAEs by part name.
        vocoder: log-mel to waveform, or None where the variant needs none.
        text_encoder: words to token states.
        head: cues of the head that the training clips were rendered with; what the proof of direction aims at.
        events: labels that the model was trained on, the commonest first.

    Use `DualSpecPipeline.from_pretrained()`. Paper Fig. 1.
    """

    engine: Literal["torch"] = "torch"

    def __init__(
        self,
        config: VariantConfig,
        denoiser: torch.nn.Module,
        vaes: dict[str, SpectrogramVae],
        vocoder: torch.nn.Module | None,
        text_encoder: TextEncoder,
        head: HeadCues | None = None,
        events: Sequence[str] = (),
    ) -> None:
        """Check that the parts fit."""
        if text_encoder.width != config.denoiser.cross_attention_dim:
            raise ValueError(
                f"the text encoder must be {config.denoiser.cross_attention_dim} wide, got {text_encoder.width}; "
                "use the one that the denoiser was trained with"
            )
        self.config, self.vaes, self.vocoder, self.text_encoder = config, vaes, vocoder, text_encoder
        self.denoiser, self.head, self.events = denoiser, head, list(events)
        self.pairing = LatentPairing(
            config.pairing, config.latent_shapes({part: vaes[part].config for part in config.parts})
        )
        for module in self._modules():  # frozen: the choice of kernels, and so the last bits, depend on it
            module.eval().requires_grad_(False)
        self.device = torch.device("cpu")

    @property
    def num_threads(self) -> int:
        """Threads that share one operation on the CPU."""
        return torch.get_num_threads()

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def max_duration_s(self) -> float:
        """Length of a generated clip in seconds."""
        return self.config.num_samples / self.config.sample_rate

    def to(self, device: torch.device | str) -> "DualSpecPipeline":
        """Move all parts to a device."""
        self.device = torch.device(device)
        for module in self._modules():
            module.to(self.device)
        return self

    def _modules(self) -> list[torch.nn.Module]:
        vocoder = [self.vocoder] if self.vocoder is not None else []
        return [self.denoiser, *self.vaes.values(), self.text_encoder, *vocoder]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        *,
        negative_prompt: str = "",
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
        num_waveforms_per_prompt: int = 1,
        seed: int | list[int] = 0,
        audio_length_in_s: float | None = None,
        batch_size: int = 8,
        callback_on_step_end: Callable[[int, int, Tensor], None] | None = None,
    ) -> BinauralOutput:
        """Generate two-ear sound from words.

        Args:
            prompt: such as "EVENT: Dog bark & LOCATION: 3 o'clock direction", or a list.
            negative_prompt: what guidance leads away from; the empty text by default, as in training.
            num_inference_steps: evaluations of the denoiser, 1 to 1000; the model's own default if None.
            guidance_scale: w of equation (16), 0 to 20; the model's own default if None.
            sampler: "ddpm", "ddim", "dpmpp" or "unipc"; the model's own default if None.
            num_waveforms_per_prompt: clips per prompt, with seeds seed, seed + 1, …
            seed: of the first clip of each prompt, or one per clip.
            audio_length_in_s: seconds, at most the model's own length; shorter clips are cut with a short fade.
            batch_size: clips denoised at once; it does not change the result beyond rounding.
            callback_on_step_end: called with (step, number of steps, latents); may raise to stop.

        Returns:
            The clips, in prompt order.

        Raises:
            ValueError: an argument is out of its range.
        """
        if num_waveforms_per_prompt < 1:
            raise ValueError(f"num_waveforms_per_prompt must be at least 1, got {num_waveforms_per_prompt}; say 1")
        asked = [prompt] if isinstance(prompt, str) else list(prompt)
        if not asked or not all(text.strip() for text in asked):
            raise ValueError("prompt must be words, got an empty text; say what is heard and where")
        prompts = [text for text in asked for _ in range(num_waveforms_per_prompt)]
        seeds = _seeds(seed, num_waveforms_per_prompt, len(prompts))
        num_samples = self.num_samples(audio_length_in_s)
        sampling = self.sampling_config(num_inference_steps, guidance_scale, sampler)
        clips = []
        for start in range(0, len(prompts), batch_size):
            rows = slice(start, start + batch_size)
            latents = self._denoise(prompts[rows], negative_prompt, seeds[rows], sampling, callback_on_step_end)
            clips.append(self.decode_latents(latents).cpu())
        audios, gains = _within_full_scale(_cut(torch.cat(clips), num_samples))
        return BinauralOutput(audios, self.sample_rate, seeds, prompts, gains)

    def _denoise(
        self, prompts: list[str], negative_prompt: str, seeds: list[int], sampling: SamplingConfig, callback: Any
    ) -> Tensor:
        embeds, mask = self.text_encoder.encode([*prompts, negative_prompt])
        batch = len(prompts)
        noise = initial_noise(self.pairing.packed_shape, seeds, self.device)
        return sample(
            self.denoiser,
            self.config.schedule,
            sampling,
            noise=noise,
            prompt_embeds=embeds[:batch].to(self.device),
            prompt_mask=mask[:batch].to(self.device),
            negative_embeds=embeds[batch:].expand(batch, -1, -1).to(self.device),
            negative_mask=mask[batch:].expand(batch, -1).to(self.device),
            step_generators=[torch.Generator().manual_seed(seed + SEED_LIMIT // 2) for seed in seeds],
            callback=callback,
        )

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Return waveforms (B, 2, S), not limited in level, of packed latents (B, C, T, F)."""
        spectra, vae_configs, parts = Spectra(), [], self.pairing.unpack(latents)
        for part in self.config.parts:
            vae = self.vaes[part]
            own, parts = parts[: vae.config.num_latents], parts[vae.config.num_latents :]
            decoded = vae.decode(own)
            spectra.log_mel = decoded.log_mel if decoded.log_mel is not None else spectra.log_mel
            spectra.stft = decoded.stft if decoded.stft is not None else spectra.stft
            vae_configs.append(vae.config)
        return self._reconstruct(spectra, vae_configs)

    def _reconstruct(self, spectra: Spectra, vae_configs: list[VaeConfig]) -> Tensor:
        mel = next((config.mel for config in vae_configs if config.mel is not None), MelConfig())
        stft = next((config.stft for config in vae_configs if config.stft is not None), StftConfig())
        return reconstruct(
            self.config.variant,
            log_mel=spectra.log_mel,
            stft=spectra.stft,
            mode=self.config.merge_mode,
            mid_phase=self.config.mid_phase,
            vocoder=self.vocoder,
            stft_config=stft,
            mel_config=mel,
            num_samples=self.config.num_samples,
        )

    @torch.no_grad()
    def round_trip(self, waveform: Tensor) -> Tensor:
        """Encode and decode two-ear clips (B, 2, S) without diffusion: the upper bound of what the parts can do."""
        parts = [latent for part in self.config.parts for latent in self.vaes[part].encode(waveform.to(self.device))]
        return self.decode_latents(self.pairing.pack(parts))

    def sampling_config(
        self,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: str | None = None,
    ) -> SamplingConfig:
        """Return the model's own sampling settings with some of them replaced.

        Raises:
            ValueError: a setting is out of its range.
        """
        changes: dict[str, Any] = {
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "sampler": sampler,
        }
        return replace(self.config.sampling, **{key: value for key, value in changes.items() if value is not None})

    def num_samples(self, audio_length_in_s: float | None) -> int:
        """Return the samples of a clip of a length in seconds; None is the model's own length.

        Raises:
            ValueError: the model cannot do that length.
        """
        if audio_length_in_s is None:
            return self.config.num_samples
        if not 0.1 <= audio_length_in_s <= self.max_duration_s:
            raise ValueError(
                f"audio_length_in_s must be 0.1 to {self.max_duration_s:g}, got {audio_length_in_s:g}; "
                "the model was trained on clips of that length, lay several clips end to end for more"
            )
        return round(audio_length_in_s * self.sample_rate)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write all parts as a folder that `from_pretrained` reads; the text encoder is named, not copied."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        modules: dict[str, tuple[torch.nn.Module, Any]] = {"denoiser": (self.denoiser, self.config)}
        modules |= {part: (self.vaes[part], self.vaes[part].config) for part in self.config.parts}
        if self.vocoder is not None:
            modules["vocoder"] = (self.vocoder, self.vocoder.config)
        for name, (module, config) in modules.items():
            save_weights(folder / name, module, config, dtype=dtype)
        write_head(folder, self.head)
        write_events(folder, self.events)
        write_index(folder, self.config.variant, list(modules))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path | None = None, *, device: str | torch.device = "cpu"
    ) -> "DualSpecPipeline":
        """Load a pipeline.

        Args:
            folder: what `save_pretrained` wrote; None loads the embedded model.
            device: where to put it.

        Raises:
            FileNotFoundError: the folder or a file of it is missing.
            ValueError: a file is damaged or does not fit.
        """
        folder = Path(folder) if folder is not None else embedded_bundle()
        parts = read_index(folder)
        denoiser, config = load_module(
            folder / "denoiser", {"VariantConfig": VariantConfig}, lambda own: build_denoiser(own.denoiser)
        )
        missing = [part for part in config.parts if part not in parts]
        if missing:
            raise ValueError(f"{folder} must hold the parts of {config.variant}, got none called {', '.join(missing)}")
        vaes = {part: load_module(folder / part, {"VaeConfig": VaeConfig}, SpectrogramVae)[0] for part in config.parts}
        vocoder = None
        if "vocoder" in parts:
            vocoder, _ = load_module(folder / "vocoder", VOCODER_CONFIGS, build_vocoder)
        text_encoder = build_text_encoder(config.text_encoder)
        return cls(config, denoiser, vaes, vocoder, text_encoder, read_head(folder), read_events(folder)).to(device)


def _seeds(seed: int | list[int], per_prompt: int, count: int) -> list[int]:
    seeds = list(seed) if isinstance(seed, list) else [seed + index % per_prompt for index in range(count)]
    if len(seeds) != count:
        raise ValueError(f"seed must be one number or one per clip ({count}), got {len(seeds)}")
    if any(not 0 <= value < SEED_LIMIT // 2 for value in seeds):
        raise ValueError(f"seed must be 0 to 2^62 - 1, got {seeds[:4]}")
    return seeds


def _cut(waveform: Tensor, num_samples: int) -> Tensor:
    """Crop (B, 2, S) to `num_samples` with a 10 ms fade where something was cut off."""
    if num_samples == waveform.shape[-1]:
        return waveform
    cropped = waveform[..., :num_samples].clone()
    cropped[..., -FADE_SAMPLES:] *= torch.linspace(1.0, 0.0, FADE_SAMPLES)
    return cropped


def _within_full_scale(waveform: Tensor) -> tuple[Tensor, list[float]]:
    """Turn clips (B, 2, S) that pass full scale down, one gain for both ears; return the gains in dB."""
    peaks = waveform.abs().amax(dim=(1, 2)).clamp(min=1.0)
    return waveform / peaks[:, None, None], [float(-20 * torch.log10(peak)) for peak in peaks]
