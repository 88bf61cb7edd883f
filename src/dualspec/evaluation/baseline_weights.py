"""Published weights of the mono systems into modules of diffusers and transformers: every tensor accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualspec.importers.layouts import (
    count,
    get,
    hifigan_name,
    latent_diffusion_name,
    modern_attention,
    t5_config,
    without_weight_norm,
)
from dualspec.importers.published import below, fit, part_config, part_tensors

HIFIGAN_RATES, HIFIGAN_DILATIONS = (5, 4, 2, 2, 2), (1, 3, 5)  # what AudioLDM's vocoder's weights do not tell
HEAD_WIDTH = 64  # of an attention head in TANGO's U-Net
NORM_GROUPS = 32


def diffusers_part(folder: Path, kind: Any, files: list[Path]) -> Any:
    """Build a diffusers model from its config and load its weights strictly."""
    config = part_config(folder)
    if config.get("_class_name") != kind.__name__:
        raise ValueError(
            f"{folder}/config.json must be of {kind.__name__}, got {config.get('_class_name')!r}; restore it"
        )
    state = {modern_attention(name): value for name, value in part_tensors(folder, files).items()}
    return fit(kind.from_config(config), state, folder)


def transformers_part(
    folder: Path,
    config_kind: Any,
    kind: Any,
    files: list[Path],
    *,
    nested: str = "",
    unused: Sequence[str] = (),
    prefix: str = "",
) -> Any:
    """Build a transformers model from its config, or from the part `nested` of it, and load its weights strictly.

    Args:
        folder: of the part.
        config_kind: its config class.
        kind: its model class.
        files: the names of the weights' files are added.
        nested: key of the config inside that of a larger model.
        unused: beginnings of tensor names that the larger model has and this one does not.
        prefix: what a larger model puts before the names of this one's tensors; may be absent.
    """
    config = part_config(folder)
    own = config.get(nested, {}) | {"projection_dim": config.get("projection_dim", 512)} if nested else config
    module = kind(config_kind.from_dict({key: value for key, value in own.items() if key != "torch_dtype"}))
    state = {
        name.removeprefix(prefix): value
        for name, value in part_tensors(folder, files).items()
        if not name.startswith(tuple(unused) or "\0")
    }
    return fit(module, state, folder)


def tokenizer_of(folder: Path, hint: str = "copy the whole published folder") -> Any:
    """Load a tokenizer from its folder, never from a hub.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds none, or only a part of one: without its vocabulary every word would silently be unknown.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no tokenizer in {folder}; {hint}")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"{folder} must hold a tokenizer, got: {reason}; {hint}") from error
    if tokenizer.pad_token is None or tokenizer.unk_token_id in tokenizer("dog").input_ids:
        raise ValueError(f"{folder} must hold a whole tokenizer, got one that cannot pad or read 'dog'; {hint}")
    return tokenizer


# --- TANGO ------------------------------------------------------------------------------------------------------------


def tango_parts(
    main: dict[str, Tensor], vae_state: dict[str, Tensor], vae_config: Any, folder: Path
) -> tuple[Any, Any, Any, Any]:
    """Build TANGO's T5 encoder, U-Net, VAE and vocoder, whose sizes are those of the tensors.

    pytorch_model_main.bin holds "text_encoder." and "unet."; pytorch_model_vae.bin an autoencoder as latent-diffusion
    names it, and "vocoder.".
    """
    unknown = [name for name in main if not name.startswith(("text_encoder.", "unet."))]
    if unknown:
        raise ValueError(f"{folder}/pytorch_model_main.bin must hold text_encoder and unet, got {unknown[0]}; check it")
    t5 = _t5(_part(main, "text_encoder."), folder)
    unet = _unet(_part(main, "unet."), folder)
    vocoder = _hifigan(_part(vae_state, "vocoder."), folder)
    coder = {name: value for name, value in vae_state.items() if not name.startswith("vocoder.")}
    return t5, unet, _autoencoder(coder, vae_config, folder), vocoder


def _part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if not (found := below(state, prefix)):
        raise ValueError(f"weights must hold tensors called {prefix}…, got none; is it the right file?")
    return found


def _t5(state: dict[str, Tensor], folder: Path) -> Any:
    from transformers import T5EncoderModel

    return fit(T5EncoderModel(t5_config(state, folder)), state, folder)


def _unet(state: dict[str, Tensor], folder: Path) -> Any:
    from diffusers import UNet2DConditionModel

    levels = count(state, r"down_blocks\.(\d+)\.")
    channels = [get(state, f"down_blocks.{level}.resnets.0.conv1.weight", folder).shape[0] for level in range(levels)]
    attends = [any(name.startswith(f"down_blocks.{level}.attentions.") for name in state) for level in range(levels)]
    first = f"down_blocks.{attends.index(True) if True in attends else 0}.attentions.0."
    config = {
        "in_channels": get(state, "conv_in.weight", folder).shape[1],
        "out_channels": get(state, "conv_out.weight", folder).shape[0],
        "block_out_channels": channels,
        "layers_per_block": count(state, r"down_blocks\.0\.resnets\.(\d+)\."),
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "attention_head_dim": [max(1, width // HEAD_WIDTH) for width in channels],  # diffusers means their number
        "cross_attention_dim": get(state, f"{first}transformer_blocks.0.attn2.to_k.weight", folder).shape[1],
        "use_linear_projection": get(state, f"{first}proj_in.weight", folder).ndim == 2,
        "norm_num_groups": NORM_GROUPS,
    }
    return fit(UNet2DConditionModel(**config), state, folder)


def _hifigan(state: dict[str, Tensor], folder: Path) -> Any:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    state, rates = without_weight_norm(state), HIFIGAN_RATES
    kernels = [get(state, f"ups.{index}.weight", folder).shape[-1] for index in range(len(rates))]
    num_resblocks = count(state, r"resblocks\.(\d+)\.") // len(rates)
    widths = [get(state, f"resblocks.{index}.convs1.0.weight", folder).shape[-1] for index in range(num_resblocks)]
    first = get(state, "conv_pre.weight", folder)
    config = SpeechT5HifiGanConfig(
        model_in_dim=first.shape[1],
        sampling_rate=16_000,
        upsample_initial_channel=first.shape[0],
        upsample_rates=list(rates),
        upsample_kernel_sizes=kernels,
        resblock_kernel_sizes=widths,
        resblock_dilation_sizes=[list(HIFIGAN_DILATIONS)] * num_resblocks,
        normalize_before=False,
    )
    empty = {"mean": torch.zeros(first.shape[1]), "scale": torch.ones(first.shape[1])}  # only used to normalise
    return fit(SpeechT5HifiGan(config), empty | state, folder, rename=hifigan_name)


def _autoencoder(state: dict[str, Tensor], config: Any, folder: Path) -> Any:
    from diffusers import AutoencoderKL

    sizes = config.get("ddconfig") if isinstance(config, dict) else None
    if not isinstance(sizes, dict) or "scale_factor" not in config or sizes.get("attn_resolutions"):
        raise ValueError(
            f"{folder}/vae_config.json must have ddconfig without attn_resolutions and scale_factor, got "
            f"{sorted(config) if isinstance(config, dict) else config!r}; restore it"
        )
    levels = len(sizes["ch_mult"])
    vae = AutoencoderKL(
        in_channels=sizes["in_channels"],
        out_channels=sizes["out_ch"],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=[sizes["ch"] * factor for factor in sizes["ch_mult"]],
        layers_per_block=sizes["num_res_blocks"],
        latent_channels=sizes["z_channels"],
        norm_num_groups=NORM_GROUPS,
        scaling_factor=config["scale_factor"],
    )
    return fit(vae, state, folder, rename=lambda name: latent_diffusion_name(name, levels))
