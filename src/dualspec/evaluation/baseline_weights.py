"""Published weights of the mono systems into modules of diffusers and transformers: every tensor accounted for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dualspec.files import read_json
from dualspec.importers.torch_file import read_torch_tensors

HIFIGAN_RATES, HIFIGAN_DILATIONS = (5, 4, 2, 2, 2), (1, 3, 5)  # what AudioLDM's vocoder's weights do not tell
HEAD_WIDTH = 64  # of an attention head in TANGO's U-Net
NORM_GROUPS = 32
_WEIGHT_NAMES = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
)
_NOT_TRAINED = ("position_ids", "num_batches_tracked")


def part_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Read the config of one part of a diffusers folder; errors name the file."""
    if not (folder / name).is_file():
        raise FileNotFoundError(f"no {name} in {folder}; copy the whole published folder")
    config = read_json(folder / name)
    if not isinstance(config, dict):
        raise ValueError(f"{folder / name} must be a JSON object, got {type(config).__name__}; restore it")
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors or .bin file as float32; integers stay."""
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} must be a whole safetensors file, got {error}; fetch it again") from error
    else:
        state = read_torch_tensors(path)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _part_tensors(folder: Path, files: list[Path]) -> dict[str, Tensor]:
    """Read the weights of one part, in one file or several; their names are added to `files`."""
    whole = [folder / name for name in _WEIGHT_NAMES if (folder / name).is_file()][:1]
    found = whole or sorted(folder.glob("*-of-*.safetensors"))
    if not found:
        raise FileNotFoundError(f"no weights in {folder}, such as {_WEIGHT_NAMES[0]}; copy the whole published folder")
    files += found
    return {name: value for path in found for name, value in read_tensors(path).items()}


def diffusers_part(folder: Path, kind: Any, files: list[Path]) -> Any:
    """Build a diffusers model from its config and load its weights strictly."""
    config = part_config(folder)
    if config.get("_class_name") != kind.__name__:
        raise ValueError(
            f"{folder}/config.json must be of {kind.__name__}, got {config.get('_class_name')!r}; restore it"
        )
    state = {_modern_attention(name): value for name, value in _part_tensors(folder, files).items()}
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
        for name, value in _part_tensors(folder, files).items()
        if not name.startswith(tuple(unused) or "\0")
    }
    return fit(module, state, folder)


def fit(module: Any, state: dict[str, Tensor], where: Path) -> Any:
    """Load a state dict; every tensor must be there, be known and fit, but for counters that nobody trains.

    Raises:
        ValueError: names the first tensors that do not.
    """
    own = module.state_dict()
    tied = {name for group in _shared_names(module) if group & set(state) for name in group}
    state = {name: value for name, value in state.items() if name in own or not name.endswith(_NOT_TRAINED)}
    faults = [
        f"missing {name}" for name in own if name not in state and name not in tied and not name.endswith(_NOT_TRAINED)
    ]
    faults += [f"unknown {name}" for name in state if name not in own]
    faults += [
        f"{name} is {tuple(value.shape)}, not {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if faults:
        raise ValueError(f"weights of {where} must fit, got {len(faults)} differences: {'; '.join(faults[:4])}")
    module.load_state_dict(state, strict=False)  # what may be missing was checked above, by name
    return module.eval().requires_grad_(False)


def _shared_names(module: nn.Module) -> list[set[str]]:
    """Return the groups of names under which one parameter stands several times."""
    groups: dict[int, set[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), set()).add(name)
    return [names for names in groups.values() if len(names) > 1]


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


def _modern_attention(name: str) -> str:
    """Give the tensors of a VAE's attention, as diffusers once named them, their present names."""
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    return re.sub(r"(\.attentions\.\d+\.)(query|key|value|proj_attn)\.", lambda m: f"{m[1]}{old[m[2]]}.", name)


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
    t5 = _t5(_below(main, "text_encoder."), folder)
    unet = _unet(_below(main, "unet."), folder)
    vocoder = _hifigan(_below(vae_state, "vocoder."), folder)
    coder = {name: value for name, value in vae_state.items() if not name.startswith("vocoder.")}
    return t5, unet, _autoencoder(coder, vae_config, folder), vocoder


def _below(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if not found:
        raise ValueError(f"weights must hold tensors called {prefix}…, got none; is it the right file?")
    return found


def _count(state: dict[str, Tensor], pattern: str) -> int:
    """Return how many different numbers stand at the group of a pattern in the tensors' names."""
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _get(state: dict[str, Tensor], name: str, folder: Path) -> Tensor:
    if name not in state:
        raise ValueError(f"weights of {folder} must hold {name}, got none; is it the right file?")
    return state[name]


def _t5(state: dict[str, Tensor], folder: Path) -> Any:
    from transformers import T5Config, T5EncoderModel

    block = "encoder.block.0.layer."
    table = _get(state, "shared.weight", folder)
    heads = _get(state, f"{block}0.SelfAttention.relative_attention_bias.weight", folder).shape[1]
    config = T5Config(
        vocab_size=table.shape[0],
        d_model=table.shape[1],
        d_kv=_get(state, f"{block}0.SelfAttention.q.weight", folder).shape[0] // heads,
        d_ff=_get(state, f"{block}1.DenseReluDense.wi_0.weight", folder).shape[0],
        num_layers=_count(state, r"encoder\.block\.(\d+)\."),
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return fit(T5EncoderModel(config), state, folder)


def _unet(state: dict[str, Tensor], folder: Path) -> Any:
    from diffusers import UNet2DConditionModel

    levels = _count(state, r"down_blocks\.(\d+)\.")
    channels = [_get(state, f"down_blocks.{level}.resnets.0.conv1.weight", folder).shape[0] for level in range(levels)]
    attends = [any(name.startswith(f"down_blocks.{level}.attentions.") for name in state) for level in range(levels)]
    first = f"down_blocks.{attends.index(True) if True in attends else 0}.attentions.0."
    unet = UNet2DConditionModel(
        in_channels=_get(state, "conv_in.weight", folder).shape[1],
        out_channels=_get(state, "conv_out.weight", folder).shape[0],
        block_out_channels=channels,
        layers_per_block=_count(state, r"down_blocks\.0\.resnets\.(\d+)\."),
        down_block_types=["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        up_block_types=["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        attention_head_dim=[max(1, width // HEAD_WIDTH) for width in channels],  # diffusers means their number
        cross_attention_dim=_get(state, f"{first}transformer_blocks.0.attn2.to_k.weight", folder).shape[1],
        use_linear_projection=_get(state, f"{first}proj_in.weight", folder).ndim == 2,
        norm_num_groups=NORM_GROUPS,
    )
    return fit(unet, state, folder)


def _hifigan(state: dict[str, Tensor], folder: Path) -> Any:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    state = {name.replace("ups.", "upsampler."): value for name, value in _without_weight_norm(state).items()}
    rates = HIFIGAN_RATES
    kernels = [_get(state, f"upsampler.{index}.weight", folder).shape[-1] for index in range(len(rates))]
    num_resblocks = _count(state, r"resblocks\.(\d+)\.") // len(rates)
    widths = [_get(state, f"resblocks.{index}.convs1.0.weight", folder).shape[-1] for index in range(num_resblocks)]
    first = _get(state, "conv_pre.weight", folder)
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
    return fit(SpeechT5HifiGan(config), empty | state, folder)


def _without_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Multiply out weights that are stored as direction and size."""
    plain = {}
    for name, value in state.items():
        if name.endswith(".weight_g"):
            direction = state[name.removesuffix("_g") + "_v"]
            norm = direction.flatten(1).norm(dim=1).reshape(-1, *[1] * (direction.ndim - 1))
            plain[name.removesuffix("_g")] = direction * (value / norm)
        elif not name.endswith(".weight_v"):
            plain[name] = value
    return plain


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
    renamed = {_diffusers_name(name, levels): value for name, value in state.items()}
    own = vae.state_dict()
    flat = {n: v.flatten(1) if n in own and v.ndim == 4 and own[n].ndim == 2 else v for n, v in renamed.items()}
    return fit(vae, flat, folder)


def _diffusers_name(name: str, levels: int) -> str:
    """Translate the name of a tensor of a latent-diffusion autoencoder; its decoder counts levels from the last."""
    name = re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.up_blocks.{levels - 1 - int(m[1])}.", name)
    rules = (
        (r"^encoder\.down\.(\d+)\.", r"encoder.down_blocks.\1."),
        (r"(_blocks\.\d+)\.block\.(\d+)\.", r"\1.resnets.\2."),
        (r"(_blocks\.\d+)\.(down|up)sample\.", r"\1.\2samplers.0."),
        (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
        (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
        (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
        (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
        (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
        (r"\.nin_shortcut\.", ".conv_shortcut."),
        (r"\.norm_out\.", ".conv_norm_out."),
    )
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
