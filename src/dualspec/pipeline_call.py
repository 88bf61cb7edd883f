"""What goes into a pipeline call and what comes out, with the names that diffusers' audio pipelines use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from diffusers import AudioPipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn.functional import pad

from dualspec.diffusion.sampler import initial_noise
from dualspec.text.encoder import TextEncoder
from dualspec.text.prompt_cache import PromptCache

OutputType = Literal["pt", "np", "latent"]
Generators = torch.Generator | list[torch.Generator]
Given = tuple[str | list[str] | None, Tensor | None, Tensor | None]  # words, or states and their mask
SEED_LIMIT = 2**62


@dataclass
class BinauralOutput(AudioPipelineOutput):
    """What a pipeline call returns; the first of its fields is diffusers' own."""

    audios: Tensor  # (B, 2, S) float32 in [-1, 1], channel 0 left; a NumPy array, or packed latents, where asked for
    sample_rate: int  # Hz
    seeds: list[int]  # the seed of each clip; none where generators drew
    prompts: list[str]  # the prompt of each clip; none where its states were given
    gains_db: list[float]  # 0, or the negative gain that kept a clip within full scale; none of latents
    read_as: list[str]  # what the model read of each prompt; none where its states were given


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
        texts = [words] if isinstance(words, str) else list(words or ())
        return Words(texts=[text for text in texts for _ in range(repeats)])
    mask = torch.ones(embeds.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
    if embeds.ndim != 3 or embeds.shape[-1] != width or mask.shape != embeds.shape[:2]:
        raise ValueError(
            f"{name}_embeds must be (prompts, tokens, {width}) with a mask (prompts, tokens), got "
            f"{tuple(embeds.shape)} and {tuple(mask.shape)}; take them from encode_prompt"
        )
    return Words(texts=[], embeds=embeds.repeat_interleave(repeats, 0), mask=mask.repeat_interleave(repeats, 0))


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
    if repeats < 1:
        raise ValueError(f"num_waveforms_per_prompt must be at least 1, got {repeats}; say 1")
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


def read_seeds(seed: int | list[int], per_prompt: int, count: int) -> list[int]:
    """Return the seed of each of `count` clips.

    Raises:
        ValueError: a seed is out of range, or there are not as many as clips.
    """
    seeds = list(seed) if isinstance(seed, list) else [seed + index % per_prompt for index in range(count)]
    if len(seeds) != count:
        raise ValueError(f"seed must be one number or one per clip ({count}), got {len(seeds)}")
    if any(not 0 <= value < SEED_LIMIT for value in seeds):
        raise ValueError(f"seed must be 0 to 2^62 - 1, got {seeds[:4]}")
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
        if len(stepping) != shape[0]:
            raise ValueError(f"generator must be one or one per clip ({shape[0]}), got {len(stepping)}")
    else:  # steps draw from a stream of their own, so that given latents change nothing but the start
        stepping = [torch.Generator().manual_seed(seed + SEED_LIMIT) for seed in seeds]
    if latents is None:
        if generator is None:
            return initial_noise(shape[1:], seeds, device), stepping
        return randn_tensor(shape, generator=stepping, device=device), stepping
    if tuple(latents.shape) != shape:
        raise ValueError(f"latents must have the shape {shape}, got {tuple(latents.shape)}; draw standard normal noise")
    return latents.to(device, torch.float32), stepping
