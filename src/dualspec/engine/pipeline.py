"""Prompt → two-ear waveform without torch: `pipeline.DualSpecPipeline` for models built like the embedded one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from dualspec.audio.delivery import samples_of_length
from dualspec.bundle import embedded_bundle, read_index, trained_words
from dualspec.config import from_dict
from dualspec.diffusion.objective import NoiseScheduleConfig
from dualspec.diffusion.sampler import SamplerName, SamplingConfig
from dualspec.engine.noise import normal_noise
from dualspec.engine.session import DECODER_SETTINGS, Graphs, available_threads, read_arrays
from dualspec.engine.solver import denoise, is_served
from dualspec.engine.spectra import Framing, both_ears
from dualspec.engine.text import OnnxTextEncoder
from dualspec.memory import memory_watched
from dualspec.text.location_words import Reading
from dualspec.training.weights_folder import read_document

PACKAGES = ("onnxruntime",)
_PARTS = ("mel_vae", "stft_vae")
_FADE_SAMPLES = 160


@dataclass
class OnnxOutput:
    """What a call returns."""

    audios: np.ndarray  # (B, 2, S) float32 in [-1, 1], channel 0 left
    sample_rate: int  # Hz
    seeds: list[int]  # the seed of each clip
    prompts: list[str]  # the prompt of each clip
    gains_db: list[float]  # 0, or the negative gain that kept a clip within full scale
    read_as: list[str]  # what the model read of each prompt


def obstacle(folder: Path) -> str | None:
    """Say why a model cannot be run without torch, in a few words; None where it can.

    Raises:
        FileNotFoundError: there is no model in the folder, or an embedded file is missing.
        ValueError: a description is damaged.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (pip install '.[onnx]' in the clone)"
    if sorted(read_index(folder)) != ["denoiser", *_PARTS]:
        return "a model of other parts than the embedded one's"
    graphs, settings, vaes = Graphs(), *_settings(folder)
    decoder = {name: settings[name] for name in DECODER_SETTINGS} | {"vaes": vaes}
    fits = {"denoiser": settings["denoiser"], "text": settings["text_encoder"], "decoder": decoder}
    other = [name for name, value in fits.items() if not graphs.fits(name, value)]
    return f"a model whose {other[0]} has other settings than the embedded one's" if other else None


def _settings(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of a model's variant and of its VAEs by part."""
    vaes = {part: read_document(folder / part)["config"] for part in _PARTS}
    return read_document(folder / "denoiser")["config"], vaes


class OnnxPipeline:
    """A text-to-binaural system on ONNX Runtime: text encoder, denoiser and decoder on the CPU.

    Noise, sampler and last step are those of the torch pipeline up to rounding (docs/performance.md says how far).

    Args:
        folder: a model folder; the embedded model if None.
        num_threads: that share one operation; those that are available if None.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the model is not built like the embedded one, or a file is damaged.
    """

    engine: Literal["onnx"] = "onnx"
    vocoder = None

    def __init__(self, folder: Path | None = None, *, num_threads: int | None = None) -> None:
        """Load the parts."""
        folder = folder or embedded_bundle()
        if reason := obstacle(folder):
            raise ValueError(f"engine must be torch here, got onnx and {reason}; say --engine torch")
        self.num_threads, self.device = num_threads or available_threads(), SimpleNamespace(type="cpu")
        settings, vaes = _settings(folder)
        encoder, stft = settings["text_encoder"], vaes["stft_vae"]["stft"]
        self.config = SimpleNamespace(
            variant=settings["variant"], parts=_PARTS, text_encoder=SimpleNamespace(**encoder), num_samples=0
        )
        self.sample_rate, self.config.num_samples = int(settings["sample_rate"]), int(settings["num_samples"])
        self.config.sampling = from_dict(SamplingConfig, settings["sampling"], where=f"{folder}: sampling")
        self._schedule = from_dict(NoiseScheduleConfig, settings["schedule"], where=f"{folder}: schedule")
        self.config.location_words = trained_words(folder / "denoiser")
        self._framing = Framing.of(stft)
        self._shape = tuple(settings["denoiser"]["latent_shape"])
        graphs, threads = Graphs(), self.num_threads
        self.text_encoder = OnnxTextEncoder(graphs, encoder["max_tokens"], threads)
        weights = read_arrays(folder / "denoiser", graphs.weights("denoiser"))
        self._denoiser = graphs.open("denoiser", weights, num_threads=threads)
        weights = {}
        for part in _PARTS:
            weights |= read_arrays(folder / part, graphs.weights("decoder"), f"{part}.")
        self._decoder = graphs.open("decoder", weights, num_threads=threads, once=True)

    @property
    def max_duration_s(self) -> float:
        """Length of a generated clip in seconds."""
        return self.config.num_samples / self.sample_rate

    def sampling_config(
        self,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: SamplerName | None = None,
    ) -> SamplingConfig:
        """Return the model's own sampling settings with some of them replaced.

        Raises:
            ValueError: a setting is out of its range, or needs torch.
        """
        sampling: SamplingConfig = self.config.sampling.changed(num_inference_steps, guidance_scale, sampler)
        if not is_served(self._schedule, sampling.sampler):
            raise ValueError(f"sampler must be dpmpp for engine onnx, got {sampling.sampler}; say --engine torch")
        return sampling

    def num_samples(self, audio_length_in_s: float | None) -> int:
        """Return the samples of a clip of a length in seconds; None is the model's own length.

        Raises:
            ValueError: the model cannot do that length.
        """
        return samples_of_length(audio_length_in_s, self.config.num_samples, self.sample_rate)

    def __call__(
        self,
        prompt: list[str],
        *,
        seed: list[int],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: SamplerName | None = None,
        audio_length_in_s: float | None = None,
        batch_size: int = 8,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], Any] | None = None,
        location_words: Reading = "known",
    ) -> OnnxOutput:
        """Generate two-ear sound from words; arguments, with one seed for each prompt, as of `DualSpecPipeline`.

        Raises:
            ValueError: an argument is out of its range, or what comes out is not finite.
            MemoryError: the clips of a batch do not fit; a call with a smaller batch may follow.
        """
        if not prompt or not all(text.strip() for text in prompt):
            raise ValueError("prompt must be words, got an empty text; say what is heard and where")
        if len(seed) != len(prompt):
            raise ValueError(f"seed must be one per clip ({len(prompt)}), got {len(seed)}")
        num_samples = self.num_samples(audio_length_in_s)
        sampling = self.sampling_config(num_inference_steps, guidance_scale, sampler)
        read_as = [self.config.location_words.read(text, location_words) for text in prompt]
        clips, gains = [], []

        def on_step(done: int, _: int, latents: np.ndarray) -> None:
            if callback_on_step_end is not None:
                callback_on_step_end(self, done - 1, None, {"latents": latents})

        for start in range(0, len(prompt), batch_size):
            rows = slice(start, start + batch_size)
            with memory_watched(len(prompt[rows]), "a batch size of {} (batch_size, --batch-size)"):
                decoded = self._decode(self._denoise(read_as[rows], seed[rows], sampling, on_step))
            for clip in (_cut(whole, num_samples) for whole in decoded):
                if not np.isfinite(clip).all():
                    raise ValueError(
                        "generated samples must be finite, got NaN or infinity; "
                        "the weights or the settings are at fault"
                    )
                peak = max(1.0, float(np.abs(clip).max()))
                clips.append(clip / np.float32(peak))
                gains.append(-20.0 * math.log10(peak))
        return OnnxOutput(np.stack(clips), self.sample_rate, list(seed), list(prompt), gains, read_as)

    def _denoise(
        self, prompts: Sequence[str], seeds: Sequence[int], sampling: SamplingConfig, on_step: Any
    ) -> np.ndarray:
        """Return latents (B, C, T, F)."""
        batch = len(prompts)
        states, mask = self.text_encoder.encode([*prompts, ""])
        pair = [*range(batch), *[batch] * batch]  # each prompt, and the empty text for each
        scale = np.float32(sampling.guidance_scale)

        def predict(latents: np.ndarray, timestep: int, guided: bool) -> np.ndarray:
            rows = pair if guided else pair[:batch]
            feed = {"latents": np.concatenate((latents, latents)) if guided else latents}
            feed |= {
                "timesteps": np.full(len(rows), timestep),
                "prompt_embeds": states[rows],
                "prompt_mask": mask[rows],
            }
            (predicted,) = self._denoiser.run(None, feed)
            return scale * predicted[:batch] + (1 - scale) * predicted[batch:] if guided else predicted

        noise = np.stack([normal_noise(self._shape, seed) for seed in seeds])
        return denoise(predict, noise, self._schedule, sampling, on_step)

    def _decode(self, latents: np.ndarray) -> list[np.ndarray]:
        """Return waveforms (2, S), not limited in level, of latents (B, C, T, F)."""
        decoded = zip(*self._decoder.run(None, {"latents": latents}), strict=True)
        return [
            both_ears(int(near), magnitude, channels, self._framing, self.config.num_samples)
            for near, magnitude, channels in decoded
        ]


def _cut(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """Crop (2, S) to `num_samples` with a 10 ms fade where something was cut off."""
    if num_samples == waveform.shape[-1]:
        return waveform
    cropped = waveform[..., :num_samples].copy()
    cropped[..., -_FADE_SAMPLES:] *= np.linspace(1.0, 0.0, _FADE_SAMPLES, dtype=np.float32)
    return cropped
