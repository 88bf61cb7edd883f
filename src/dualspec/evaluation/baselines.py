"""The mono systems that the paper compares with, from their published weight folders, behind one interface.

AudioLDM and AudioLDM 2 come as diffusers folders (one subfolder per part), TANGO and TANGO 2 under their own file
names. Everything is read from the folder: sizes from configs or from the weights themselves. TANGO names two pages of a
hub: its noise schedule's is gone, so that is a constant here; the tokenizer of the other has to be copied beside the
weights. Each clip depends on its prompt and seed alone, not on batch mates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualspec.evaluation.baseline_weights import diffusers_part, tango_parts, tokenizer_of, transformers_part
from dualspec.files import sha256_of
from dualspec.importers.layouts import TANGO_MAIN, TANGO_VAE, tango_prediction_type
from dualspec.importers.published import part_config, read_tensors

TANGO_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
}
"""The schedule of Stable Diffusion 2.1, which TANGO and TANGO 2 name and trained with (decision 12c)."""
TANGO_FRAMES = 256  # its latents always last 10.24 s
_SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "DPMSolverMultistepScheduler")
Condition = Callable[[list[str]], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A mono text-to-audio system: text condition, U-Net, VAE, vocoder, and the settings its authors sample with."""

    name: str
    condition: Condition  # texts of one length → arguments of the U-Net, first axis = text
    unet: nn.Module
    vae: Any  # AutoencoderKL
    vocoder: Any  # SpeechT5HifiGan
    scheduler: Any  # of diffusers
    scaling_factor: float  # of the latents
    num_inference_steps: int = 200
    guidance_scale: float = 2.5
    min_frames: int = 0  # of the latents: no shorter clip was ever seen in training, so longer ones are cut
    sha256: dict[str, str]  # of every file of weights, by its place in the folder

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int(self.vocoder.config.sampling_rate)

    @torch.no_grad()
    def __call__(
        self,
        texts: Sequence[str],
        *,
        seeds: Sequence[int],
        num_samples: int = 81_920,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> Tensor:
        """Generate mono clips (B, S), float32 in [-1, 1], on the CPU, from B descriptions without any direction.

        Each clip has the seed of its own noise; steps and guidance are the authors' when None.
        """
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        arguments, shape = _stack([self.condition([text, ""]) for text in texts]), self._latent_shape(num_samples)
        starts, generators = ([torch.Generator().manual_seed(seed + part) for seed in seeds] for part in (0, 2**62))
        device = next(self.unet.parameters()).device
        latents = torch.stack([torch.randn(shape, generator=start) for start in starts]).to(device)
        self.scheduler.set_timesteps(num_inference_steps or self.num_inference_steps, device=device)
        latents = latents * self.scheduler.init_noise_sigma
        extra = {"generator": generators} if type(self.scheduler).__name__ == "DDPMScheduler" else {}
        for timestep in self.scheduler.timesteps:
            both = self.scheduler.scale_model_input(torch.cat([latents, latents]), timestep)
            guided, free = self.unet(both, timestep, **arguments).sample.chunk(2)
            prediction = free + scale * (guided - free)
            latents = self.scheduler.step(prediction, timestep, latents, **extra).prev_sample
        log_mel = self.vae.decode(latents / self.scaling_factor).sample
        waveform = self.vocoder(log_mel.squeeze(1)).reshape(len(texts), -1).float().cpu()[:, :num_samples]
        return waveform.clamp(-1.0, 1.0)

    def _latent_shape(self, num_samples: int) -> tuple[int, int, int]:
        """Return channels, frames and rows of the latents of a clip."""
        hop, level = math.prod(self.vocoder.config.upsample_rates), 2 ** (len(self.vae.config.block_out_channels) - 1)
        frames = max(self.min_frames, -(-num_samples // (hop * level)))
        return self.vae.config.latent_channels, frames, self.vocoder.config.model_in_dim // level


def _stack(conditions: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join the conditions (2, …) of each clip's text and of no text to (2·B, …); shorter sequences get masked zeros."""
    stacked = {}
    for name in conditions[0]:
        longest = max(own[name].shape[1] for own in conditions)
        padded = [
            functional.pad(own[name], (0, 0) * (own[name].ndim - 2) + (0, longest - own[name].shape[1]))
            for own in conditions
        ]
        stacked[name] = torch.cat([torch.stack([own[side] for own in padded]) for side in (0, 1)])
    return stacked


def load_baseline(name: str, folder: Path, *, device: str = "cpu") -> Baseline:
    """Load a published system; every tensor must be there and fit.

    Args:
        name: which system.
        folder: its weights: for AudioLDM and AudioLDM 2 the diffusers layout (vae, vocoder, unet, text_encoder,
            tokenizer, scheduler, and for AudioLDM 2 text_encoder_2, tokenizer_2, projection_model, language_model); for
            TANGO main_config.json, vae_config.json, pytorch_model_main.bin and pytorch_model_vae.bin, and beside them
            tokenizer/ with the tokenizer of FLAN-T5.
        device: where it runs; text encoders stay on the CPU.

    Raises:
        FileNotFoundError: a file is missing; it is named.
        ValueError: an unknown name, a damaged file, or tensors that do not fit.
    """
    if name not in LOADERS:
        raise ValueError(f"baseline must be one of {', '.join(LOADERS)}, got {name!r}; choose one")
    if not folder.is_dir():
        raise FileNotFoundError(f"no weights folder {folder}; get the published weights of {name} first")
    parts = LOADERS[name](folder)
    files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(parts.pop("files"))}
    for part in ("unet", "vae", "vocoder"):
        parts[part].eval().requires_grad_(False).to(device)
    return Baseline(name=name, sha256=files, **parts)


def _shared_parts(folder: Path, unet_class: Any, files: list[Path]) -> dict[str, Any]:
    """Load what AudioLDM and AudioLDM 2 have in common."""
    import diffusers
    from diffusers import AutoencoderKL
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    vae = diffusers_part(folder / "vae", AutoencoderKL, files)
    settings = part_config(folder / "scheduler", "scheduler_config.json")
    scheduler = settings.get("_class_name")
    if scheduler not in _SCHEDULERS:
        raise ValueError(f"{folder}/scheduler must be one of {', '.join(_SCHEDULERS)}, got {scheduler!r}; restore it")
    return {
        "unet": diffusers_part(folder / "unet", unet_class, files),
        "vae": vae,
        "vocoder": transformers_part(folder / "vocoder", SpeechT5HifiGanConfig, SpeechT5HifiGan, files),
        "scheduler": getattr(diffusers, scheduler).from_config(settings),
        "scaling_factor": float(vae.config.scaling_factor),
        "files": files,
    }


def _clap(folder: Path, files: list[Path], *, nested: bool = False) -> Condition:
    """Return CLAP's text branch: texts → unit vectors (B, D); AudioLDM 2 stores it inside the whole of CLAP."""
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    encoder = transformers_part(
        folder / "text_encoder",
        ClapTextConfig,
        ClapTextModelWithProjection,
        files,
        nested="text_config" if nested else "",
        unused=("audio_model.", "audio_projection.", "logit_scale") if nested else (),
    )
    tokenizer = tokenizer_of(folder / "tokenizer")
    length = min(int(tokenizer.model_max_length), int(encoder.config.max_position_embeddings) - 2)

    def condition(texts: list[str]) -> dict[str, Tensor]:
        tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        embeds = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).text_embeds
        return {"class_labels": functional.normalize(embeds, dim=-1)}

    return condition


def _audioldm(folder: Path) -> dict[str, Any]:
    """AudioLDM: the U-Net is steered by CLAP's vector of the text alone."""
    from diffusers import UNet2DConditionModel

    files: list[Path] = []
    parts = _shared_parts(folder, UNet2DConditionModel, files)
    clap, unet = _clap(folder, files), parts["unet"]
    unet.forward = partial(unet.forward, encoder_hidden_states=None)  # it attends to no text

    def condition(texts: list[str]) -> dict[str, Any]:
        return {"class_labels": clap(texts)["class_labels"].to(unet.device)}

    return parts | {"condition": condition}


def _audioldm2(folder: Path) -> dict[str, Any]:
    """AudioLDM 2: CLAP and FLAN-T5 states, projected, are continued by GPT-2; the U-Net attends to that and to T5."""
    from diffusers import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel
    from transformers import GPT2Config, GPT2Model, T5Config, T5EncoderModel

    files: list[Path] = []
    parts = _shared_parts(folder, AudioLDM2UNet2DConditionModel, files)
    clap = _clap(folder, files, nested=True)
    t5 = transformers_part(folder / "text_encoder_2", T5Config, T5EncoderModel, files)
    tokenizer = tokenizer_of(folder / "tokenizer_2")
    projection = diffusers_part(folder / "projection_model", AudioLDM2ProjectionModel, files).eval()
    gpt = transformers_part(
        folder / "language_model", GPT2Config, GPT2Model, files, unused=("lm_head.",), prefix="transformer."
    )
    num_tokens = int(part_config(folder / "language_model").get("max_new_tokens") or 8)
    unet = parts["unet"]

    def condition(texts: list[str]) -> dict[str, Tensor]:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
        states = t5(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        vector = clap(texts)["class_labels"][:, None]
        joined = projection(vector, states, torch.ones(len(texts), 1, dtype=torch.long), tokens.attention_mask)
        hidden, mask = joined.hidden_states, joined.attention_mask
        for _ in range(num_tokens):
            following = gpt(inputs_embeds=hidden, attention_mask=mask).last_hidden_state[:, -1:]
            hidden = torch.cat([hidden, following], dim=1)
            mask = functional.pad(mask, (0, 1), value=1)
        found = {
            "encoder_hidden_states": hidden[:, -num_tokens:],
            "encoder_hidden_states_1": states,
            "encoder_attention_mask_1": tokens.attention_mask,
        }
        return {name: value.to(unet.device) for name, value in found.items()}

    return parts | {"condition": condition, "guidance_scale": 3.5}


def _tango(folder: Path) -> dict[str, Any]:
    """TANGO and TANGO 2: FLAN-T5 states steer a Stable-Diffusion U-Net over AudioLDM's latents."""
    from diffusers import DDPMScheduler

    names = ("main_config.json", "vae_config.json", TANGO_MAIN, TANGO_VAE)
    main_config, vae_config = (part_config(folder, name) for name in names[:2])
    prediction_type = tango_prediction_type(main_config, folder)
    main, vae_state = (read_tensors(folder / name) for name in names[2:])
    t5, unet, vae, vocoder = tango_parts(main, vae_state, vae_config, folder)
    hint = "copy tokenizer.json and tokenizer_config.json of google/flan-t5-large there: TANGO names it, and holds none"
    tokenizer = tokenizer_of(folder / "tokenizer", hint)

    def condition(texts: list[str]) -> dict[str, Tensor]:
        tokens = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
        states = t5(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        found = {"encoder_hidden_states": states, "encoder_attention_mask": tokens.attention_mask.bool()}
        return {name: value.to(unet.device) for name, value in found.items()}

    return {
        "condition": condition,
        "unet": unet,
        "vae": vae,
        "vocoder": vocoder,
        "scheduler": DDPMScheduler(**TANGO_SCHEDULE, prediction_type=prediction_type),
        "scaling_factor": float(vae.config.scaling_factor),
        "guidance_scale": 3.0,
        "min_frames": TANGO_FRAMES,
        "files": [folder / name for name in names],
    }


LOADERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "audioldm": _audioldm,
    "audioldm2": _audioldm2,
    "tango": _tango,
    "tango2": _tango,
}
