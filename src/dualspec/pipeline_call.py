"""What goes into a pipeline call and what comes out, with the names that diffusers' audio pipelines use."""

import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import torch
from diffusers import AudioPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn.functional import pad

from dualspec.diffusion.sampler import SamplerName, initial_noise
from dualspec.text.encoder import TextEncoder
from dualspec.text.location_words import Reading
from dualspec.text.prompt_cache import PromptCache

OutputType = Literal["pt", "np", "latent"]
Generators = torch.Generator | list[torch.Generator]
Given = tuple[str | Sequence[str] | None, Tensor | None, Tensor | None]  # words, or states and their mask
SEED_LIMIT = 2**62
FADE_SAMPLES = 160


@dataclass
class BinauralOutput(AudioPipelineOutput):
    """What a pipeline call returns; the first of its fields is diffusers' own."""

    audios: Tensor  # (B, 2, S) float32 in [-1, 1], channel 0 left; a NumPy array, or packed latents, where asked for
    sample_rate: int  # Hz
    seeds: list[int]  # the seed of each clip; none where generators drew
    prompts: list[str]  # the prompt of each clip; none where its states were given
    gains_db: list[float]  # 0, or the negative gain that kept a clip within full scale; none of latents
    read_as: list[str]  # what the model read of each prompt; none where its states were given


class CallOptions(TypedDict, total=False):
    """The options of a pipeline call that do not decide about the type of its answer."""

    audio_length_in_s: float | None
    num_inference_steps: int | None
    guidance_scale: float | None
    negative_prompt: str | Sequence[str] | None
    num_waveforms_per_prompt: int
    generator: Generators | None
    latents: Tensor | None
    prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None
    attention_mask: Tensor | None
    negative_attention_mask: Tensor | None
    output_type: OutputType
    callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None] | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    sampler: SamplerName | None
    seed: int | Sequence[int] | None
    batch_size: int
    location_words: Reading


@dataclass(frozen=True, kw_only=True)
class Words:
    """Prompts, or negative prompts, of all clips: as words, or as the states that a text encoder made of them."""

    texts: list[str]  # empty where states were given
    embeds: Tensor | None = None  # (B, L, D)
    mask: Tensor | None = None  # (B, L), True at words

    def __len__(self) -> int:
        """Count the clips."""
        return len(self.texts) if self.embeds is None else len(self.embeds)


def _read(name: str, given: Given, *, repeats: int, width: int) -> Words:
    """Check one of a call's two texts, given as words or as states with their mask, and repeat it for its clips."""
    words, embeds, mask = given
    if (words is None) == (embeds is None):
        got = "neither" if words is None else "both"
        raise ValueError(f"{name} must be given as words or as {name}_embeds, got {got}; give one of them")
    if embeds is None:
        if mask is not None:
            raise ValueError(f"the attention mask must come with {name}_embeds, got words; leave it out")
        return Words(texts=[text for text in texts_of(name, words) for _ in range(repeats)])
    if not isinstance(embeds, Tensor) or not isinstance(mask, Tensor | None):
        raise ValueError(f"{name}_embeds and their mask must be tensors, got others; take them from encode_prompt")
    embeds = embeds.float()
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
    if embeds.ndim != 3 or embeds.shape[-1] != width or mask.shape != embeds.shape[:2]:
        raise ValueError(
            f"{name}_embeds must be (prompts, tokens, {width}) with a mask (prompts, tokens), got "
            f"{tuple(embeds.shape)} and {tuple(mask.shape)}; take them from encode_prompt"
        )
    return Words(texts=[], embeds=embeds.repeat_interleave(repeats, 0), mask=mask.repeat_interleave(repeats, 0))


def texts_of(name: str, words: Any) -> list[str]:
    """Return what a caller gave as words as a list of texts.

    Raises:
        ValueError: it is no text and no list of texts.
    """
    if isinstance(words, str):
        return [words]
    if not isinstance(words, Sequence) or isinstance(words, bytes):
        raise ValueError(f"{name} must be a text or a list of texts, got {type(words).__name__}; write a list")
    for index, text in enumerate(words):
        if not isinstance(text, str):
            raise ValueError(f"{name} must be texts, got {text!r:.40} at place {index}; leave it out or write words")
    return list(words)


def whole_number(name: str, value: Any, low: int = 1) -> int:
    """Return a caller's whole number, NumPy's among them, as Python's own.

    Raises:
        ValueError: it is none, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r:.40}; say {low}")
    return int(value)


def read_words(prompt: Given, negative: Given, *, repeats: int, width: int) -> tuple[Words, Words]:
    """Check what a call says of its prompts and its negative prompts, and repeat it for every clip.

    Args:
        prompt: words (or None), states (P, L, D) instead (or None), and their mask (P, L), true at words (or None).
        negative: the same, one for all prompts or one each; the empty text if all are None.
        repeats: clips per prompt.
        width: D that the denoiser takes.

    Raises:
        ValueError: both or neither was given, something is empty, or the shapes and numbers do not fit.
    """
    repeats = whole_number("num_waveforms_per_prompt", repeats)
    asked = _read("prompt", prompt, repeats=repeats, width=width)
    if not len(asked) or not all(text.strip() for text in asked.texts):
        raise ValueError("prompt must be words, got an empty text; say what is heard and where")
    words, embeds, mask = negative
    words = "" if words is None and embeds is None else words
    alone = isinstance(words, str) or (embeds is not None and len(embeds) == 1)
    away = _read("negative_prompt", (words, embeds, mask), repeats=len(asked) if alone else repeats, width=width)
    if len(away) != len(asked):
        rule = f"one or one per prompt ({len(asked) // repeats})"
        raise ValueError(f"negative_prompt must be {rule}, got {len(away) // repeats}; give as many")
    return asked, away


def text_states(
    cache: PromptCache,
    encoder: TextEncoder,
    prompt: Words,
    negative: Words,
    rows: slice,
    device: torch.device,
    num_tokens: int = 0,
) -> dict[str, Tensor]:
    """Return what `sample` takes of the text of some clips, filled up to `num_tokens` tokens at least."""
    states: dict[str, Tensor] = {}
    for name, words in (("prompt", prompt), ("negative", negative)):
        if words.embeds is None or words.mask is None:
            embeds, mask = cache.encode(encoder, words.texts[rows], device)
        else:
            embeds, mask = words.embeds[rows].to(device), words.mask[rows].to(device)
        missing = max(0, num_tokens - mask.shape[1])
        states |= {f"{name}_embeds": pad(embeds, (0, 0, 0, missing)), f"{name}_mask": pad(mask, (0, missing))}
    return states


def check_output(output_type: str, audio_length_in_s: float | None, tensor_inputs: Sequence[str]) -> None:
    """Check what a call says of its results.

    Raises:
        ValueError: no such type, a length of latents, or a callback's input that there is not.
    """
    if output_type not in get_args(OutputType):
        raise ValueError(f"output_type must be one of {', '.join(get_args(OutputType))}, got {output_type!r}")
    if output_type == "latent" and audio_length_in_s is not None:
        raise ValueError("audio_length_in_s must be left out of latents, got one; cut what decode_latents returns")
    if unknown := sorted(set(tensor_inputs) - {"latents"}):
        raise ValueError(f"callback_on_step_end_tensor_inputs must be ['latents'] or [], got {unknown[0]!r}")


def read_seeds(seed: Any, per_prompt: int, count: int) -> list[int]:
    """Return the seed of each of `count` clips.

    Args:
        seed: a whole number, of the first clip of each prompt, or a row of them, one per clip; NumPy's, too. None is 0.
        per_prompt: clips per prompt.
        count: of all clips.

    Raises:
        ValueError: a seed is no whole number or out of range, or there are not as many as clips.
    """
    given: Any = seed.tolist() if isinstance(seed, np.ndarray | Tensor) else 0 if seed is None else seed
    is_row = isinstance(given, list | tuple)
    for value in given if is_row else [given]:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 0 <= int(value) < SEED_LIMIT:
            raise ValueError(f"seed must be a whole number, 0 to 2^62 - 1, got {value!r:.40}; say 0")
    seeds = [int(value) for value in given] if is_row else [int(given + index % per_prompt) for index in range(count)]
    if len(seeds) != count:
        raise ValueError(f"seed must be one number or one per clip ({count}), got {len(seeds)}")
    if max(seeds) >= SEED_LIMIT:
        raise ValueError(f"seed must be a whole number, 0 to 2^62 - 1, got {max(seeds)} for a later clip; begin lower")
    return seeds


def draw_start(
    shape: tuple[int, ...],
    *,
    seeds: list[int],
    generator: Generators | None,
    latents: Tensor | None,
    device: torch.device,
) -> tuple[Tensor, list[torch.Generator]]:
    """Return the noise to start from, (B, C, T, F), and each clip's generator for the noise of ancestral steps.

    Args:
        shape: (B, C, T, F).
        seeds: one per clip; none where generators draw.
        generator: one that draws all clips, or one per clip.
        latents: the noise itself, standard normal.
        device: of the noise.

    Raises:
        ValueError: the latents' shape or the number of generators does not fit.
    """
    if generator is not None:
        stepping = generator if isinstance(generator, list) else [generator] * shape[0]
        if not all(isinstance(one, torch.Generator) for one in stepping):
            raise ValueError("generator must be a torch.Generator or a list of them, got another; say seed=… instead")
        if len(stepping) != shape[0]:
            raise ValueError(f"generator must be one or one per clip ({shape[0]}), got {len(stepping)}")
    else:  # steps draw from a stream of their own, so that given latents change nothing but the start
        stepping = [torch.Generator().manual_seed(seed + SEED_LIMIT) for seed in seeds]
    if latents is None:
        if generator is None:
            return initial_noise(shape[1:], seeds, device), stepping
        return randn_tensor(shape, generator=stepping, device=device), stepping
    if not isinstance(latents, Tensor):
        raise ValueError(f"latents must be a tensor, got {type(latents).__name__}; torch.from_numpy makes one")
    if tuple(latents.shape) != shape:
        raise ValueError(f"latents must have the shape {shape}, got {tuple(latents.shape)}; draw standard normal noise")
    return latents.to(device, torch.float32), stepping


def check_finite(values: Tensor) -> Tensor:
    """Return samples or latents that are all finite.

    Raises:
        ValueError: they are not.
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            "generated samples must be finite, got NaN or infinity; the weights or the settings are at fault"
        )
    return values


def cut(waveform: Tensor, num_samples: int) -> Tensor:
    """Crop (B, 2, S) to `num_samples` with a 10 ms fade where something was cut off."""
    if num_samples == waveform.shape[-1]:
        return waveform
    cropped = waveform[..., :num_samples].clone()
    cropped[..., -FADE_SAMPLES:] *= torch.linspace(1.0, 0.0, FADE_SAMPLES)
    return cropped


def within_full_scale(waveform: Tensor) -> tuple[Tensor, list[float]]:
    """Turn clips (B, 2, S) that pass full scale down, one gain for both ears; return the gains in dB."""
    peaks = waveform.abs().amax(dim=(1, 2)).clamp(min=1.0)
    return (waveform / peaks[:, None, None]).clamp(-1.0, 1.0), [float(-20 * torch.log10(peak)) for peak in peaks]
