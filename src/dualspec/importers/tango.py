"""TANGO's and TANGO 2's denoiser into the paper's U-Net. Paper section VI-B."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualspec.diffusion.denoiser import UnetConfig, UnetDenoiser
from dualspec.diffusion.objective import NoiseScheduleConfig, PredictionType
from dualspec.diffusion.variant import VariantConfig
from dualspec.importers.layouts import TANGO_MAIN, t5_config, tango_prediction_type
from dualspec.importers.published import Imported, match, part_config, read_tensors, shared_names

CHANNELS = 8
"""Channels of the latents that TANGO denoises."""
_TEXT = "text_encoder."


def import_unet(source: Path, config: VariantConfig, prediction_type: PredictionType | None = None) -> Imported:
    """Read TANGO's U-Net into a variant's denoiser; its target and noise schedule become the variant's.

    All layouts of pairing but `channel` have the published 8 channels. Further channels read zero kernels and write
    zeros at the start, so that the first part is denoised as published.

    Args:
        source: the published folder, or pytorch_model_main.bin alone.
        config: the variant that a recipe trains.
        prediction_type: what the U-Net predicts; by the scheduler that main_config.json names when None.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the recipe's denoiser is another, a tensor does not fit, or the U-Net predicts something else than
            its config says.
    """
    if not isinstance(config.denoiser, UnetConfig):
        raise ValueError(f"recipe must have a denoiser of kind 'unet', got {config.denoiser.kind!r}; take a paper one")
    told = prediction_type is not None
    folder, path = (source.parent, source) if source.is_file() else (source, source / TANGO_MAIN)
    if prediction_type is None:
        prediction_type = tango_prediction_type(part_config(folder, "main_config.json"), folder)  # type: ignore[assignment]
    state = read_tensors(path)
    unet = meta_unet(config.denoiser)
    own, tied = _with_text_encoder(unet, t5_config(state, path, _TEXT))
    found = match(own, state, path, tied=tied)
    tensors = {name: value for name, value in found.items() if not name.startswith(_TEXT)}
    unet.load_state_dict(tensors, assign=True)
    correlation = noise_correlation(unet, config.denoiser.cross_attention_dim)
    if prediction_type == "v_prediction" and correlation > 0.9 and not told:
        raise ValueError(
            f"U-Net of {path} must predict velocity as its config says, but follows the noise (correlation "
            f"{correlation:.2f}); say --prediction epsilon if that is right"
        )
    tensors, changed = _widen(tensors, config.denoiser.latent_shape[0])
    schedule = NoiseScheduleConfig(prediction_type=prediction_type)  # type: ignore[arg-type]
    facts = {"prediction_type": prediction_type, "noise_correlation": round(correlation, 4)}
    left_out = Counter(name.partition(".")[0] for name in state if name.startswith(_TEXT))
    return Imported(
        tensors=tensors,
        config=replace(config, schedule=schedule),
        files=[path],
        changed=changed,
        left_out=left_out,
        facts=facts,
    )


def unet_layout(config: UnetConfig, text_encoder: Any) -> dict[str, dict[str, Tensor]]:
    """Return what the main file must hold: names and, on the meta device, shapes.

    Args:
        config: of the denoiser.
        text_encoder: config of the T5 encoder that lies beside it.
    """
    return {TANGO_MAIN: _with_text_encoder(meta_unet(config), text_encoder)[0]}


def meta_unet(config: UnetConfig) -> UnetDenoiser:
    """Build a denoiser with the published channels on the meta device."""
    with torch.device("meta"):
        return UnetDenoiser(replace(config, latent_shape=(CHANNELS, *config.latent_shape[1:]))).eval()


@torch.no_grad()
def noise_correlation(denoiser: nn.Module, width: int) -> float:
    """Return how a denoiser's answer to pure noise at the last step correlates with that noise.

    A model of the noise must give it back (near 1); the velocity is there almost the negative clip (near 0).

    Args:
        denoiser: takes latents, timesteps, text states and mask.
        width: of the text states.
    """
    noise = torch.randn(1, CHANNELS, 64, 16, generator=torch.Generator().manual_seed(0))
    states, mask = torch.zeros(1, 1, width), torch.ones(1, 1, dtype=torch.bool)
    answer = denoiser(noise, torch.tensor([NoiseScheduleConfig().num_train_timesteps - 1]), states, mask)
    answer, noise = answer.flatten() - answer.mean(), noise.flatten() - noise.mean()
    cosine = float(nn.functional.cosine_similarity(answer, noise, dim=0))
    return cosine if math.isfinite(cosine) else 0.0


def _with_text_encoder(unet: UnetDenoiser, text_encoder: Any) -> tuple[dict[str, Tensor], list[set[str]]]:
    """Return all tensors of the main file and the groups of names of which one suffices."""
    from transformers import T5EncoderModel

    with torch.device("meta"):
        encoder = T5EncoderModel(text_encoder)
    own = unet.state_dict() | {_TEXT + name: value for name, value in encoder.state_dict().items()}
    return own, [{_TEXT + name for name in group} for group in shared_names(encoder)]


def _widen(tensors: dict[str, Tensor], channels: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Give the first and the last layer more channels than the published ones."""
    if channels == CHANNELS:
        return tensors, {}
    if channels < CHANNELS:
        raise ValueError(f"latents of the recipe must have {CHANNELS} channels or more, got {channels}; take its VAEs")
    more = channels - CHANNELS
    wider = {
        "unet.conv_in.weight": nn.functional.pad(tensors["unet.conv_in.weight"], (0, 0, 0, 0, 0, more)),
        "unet.conv_out.weight": nn.functional.pad(tensors["unet.conv_out.weight"], (0, 0, 0, 0, 0, 0, 0, more)),
        "unet.conv_out.bias": nn.functional.pad(tensors["unet.conv_out.bias"], (0, more)),
    }
    return tensors | wider, {name: f"{CHANNELS} channels published, {more} start at zero" for name in wider}
