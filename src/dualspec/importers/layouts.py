"""Layouts of published weights as rules on names; sizes are derived from modules or from the tensors themselves.

Facts from the conversion scripts of diffusers and from the configs beside the published files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

TANGO_MAIN, TANGO_VAE, TANGO_STFT = (f"pytorch_model_{part}.bin" for part in ("main", "vae", "stft"))
_PREDICTS = {
    "stabilityai/stable-diffusion-2": "v_prediction",
    "stabilityai/stable-diffusion-2-1": "v_prediction",
    "stabilityai/stable-diffusion-2-base": "epsilon",
    "stabilityai/stable-diffusion-2-1-base": "epsilon",
}
"""What the schedulers that TANGO may name say of their models; the pages themselves are gone (decisions 12, 12c)."""
_OF_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_TO_LATENT_DIFFUSION = (
    (r"^encoder\.down_blocks\.", "encoder.down."),
    (r"\.resnets\.(\d+)\.", r".block.\1."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.mid_block\.block\.0\.", ".mid.block_1."),
    (r"\.mid_block\.block\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
    (r"\.attn_1\.to_([qkv])\.", r".attn_1.\1."),
    (r"\.attn_1\.to_out\.0\.", ".attn_1.proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
)


def modern_attention(name: str) -> str:
    """Give the tensors of a VAE's attention, as diffusers once named them, their present names."""
    pattern = rf"(\.attentions\.\d+\.)({'|'.join(_OF_ATTENTION)})\."
    return re.sub(pattern, lambda m: f"{m[1]}{_OF_ATTENTION[m[2]]}.", name)


def latent_diffusion_name(name: str, levels: int) -> str:
    """Return what latent-diffusion calls a tensor of diffusers' autoencoder; its decoder counts levels from the end."""
    name = re.sub(r"^decoder\.up_blocks\.(\d+)\.", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.", name)
    for pattern, replacement in _TO_LATENT_DIFFUSION:
        name = re.sub(pattern, replacement, name)
    return name


def hifigan_name(name: str) -> str:
    """Return what HiFi-GAN's authors call a tensor of transformers' generator."""
    return name.replace("upsampler.", "ups.")


def without_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply out weights that are stored as direction and size."""
    plain = {}
    for name, value in state.items():
        if name.endswith(".weight_g") and (direction := state.get(name.removesuffix("_g") + "_v")) is not None:
            norm = direction.flatten(1).norm(dim=1).reshape(-1, *[1] * (direction.ndim - 1))
            plain[name.removesuffix("_g")] = direction * (value / norm)
        elif not name.endswith(".weight_v") or name.removesuffix("_v") + "_g" not in state:
            plain[name] = value
    return plain


def count(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many different numbers stand at the group of a pattern in the tensors' names."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def get(state: Mapping[str, Tensor], name: str, where: Path) -> Tensor:
    """Return a tensor that tells a size, or refuse the file that lacks it."""
    if name not in state:
        raise ValueError(f"weights of {where} must hold {name}, got none; is it the right file?")
    return state[name]


def t5_config(state: Mapping[str, Tensor], where: Path, prefix: str = "") -> Any:
    """Return the config of the T5 encoder whose tensors these are, under names that begin with `prefix`."""
    from transformers import T5Config

    block = f"{prefix}encoder.block.0.layer."
    table = get(state, f"{prefix}shared.weight", where)
    heads = get(state, f"{block}0.SelfAttention.relative_attention_bias.weight", where).shape[1]
    return T5Config(
        vocab_size=table.shape[0],
        d_model=table.shape[1],
        d_kv=get(state, f"{block}0.SelfAttention.q.weight", where).shape[0] // heads,
        d_ff=get(state, f"{block}1.DenseReluDense.wi_0.weight", where).shape[0],
        num_layers=count(state, rf"{re.escape(prefix)}encoder\.block\.(\d+)\."),
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )


def tango_prediction_type(config: Mapping[str, Any], where: Path) -> str:
    """Return what TANGO's U-Net predicts, by the scheduler that its main_config.json names.

    Raises:
        ValueError: that scheduler is not known.
    """
    name = config.get("scheduler_name")
    if name not in _PREDICTS:
        raise ValueError(
            f"scheduler_name of {where}/main_config.json must be one of {', '.join(_PREDICTS)}, got {name!r}; "
            "correct it there, or import it with --prediction"
        )
    return _PREDICTS[name]
