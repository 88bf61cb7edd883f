"""AudioLDM's autoencoder and vocoder into our rooms, from each of the forms in which they were published.

A folder of diffusers, the original checkpoint of the whole system, the checkpoints of the parts, or the VAE file of
TANGO, which holds both. All of them hear the one mel that is the default of `MelConfig`.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dualspec.features.mel import MelConfig, mel_filterbank
from dualspec.features.stft import num_stft_channels
from dualspec.importers.layouts import (
    TANGO_STFT,
    TANGO_VAE,
    hifigan_name,
    latent_diffusion_name,
    modern_attention,
    without_weight_norm,
)
from dualspec.importers.published import Imported, below, match, part_config, part_tensors, read_tensors
from dualspec.latents.vae import AutoencoderKlConfig, VaeConfig, build_autoencoder
from dualspec.synthesis.vocoder import HifiGan, HifiGanConfig

_FIRST_STAGE = "first_stage_model."
_BESIDE_THE_VAE = ("vocoder.", "loss.")
_TANGO_STFT_CONFIG = {
    "filter_length": "n_fft",
    "hop_length": "hop_length",
    "win_length": "win_length",
    "n_mel_channels": "n_mels",
    "sampling_rate": "sample_rate",
    "mel_fmin": "f_min",
    "mel_fmax": "f_max",
}


def import_vae(source: Path, config: VaeConfig, generator: torch.Generator) -> Imported:
    """Read AudioLDM's autoencoder into one of ours.

    The published one reads the log-mel of one ear. Mel channels of ours share its first kernel and repeat its last;
    STFT channels start afresh. Where nothing is fresh, both ears alike give what the published one gives of one.

    Args:
        source: file or folder.
        config: the VAE that a recipe trains.
        generator: draws the kernels of STFT channels.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the recipe's VAE or mel is another, or a tensor does not fit; it is named.

    Paper section III-E.
    """
    autoencoder = config.autoencoder
    if not isinstance(autoencoder, AutoencoderKlConfig):
        raise ValueError(f"recipe must have an autoencoder of kind 'kl2d', got {autoencoder.kind!r}; take a paper one")
    if config.stft is None:
        _check_mel(config.mel)
    files: list[Path] = []
    state, facts = _published(source, "vae", files)
    inside = state.pop("scale_factor", None)
    scale = facts.get("scaling_factor", facts.get("scale_factor", inside))
    state, left_out = _first_stage(state)
    left_out += Counter(name.partition(".")[0] for name in state if name.startswith(_BESIDE_THE_VAE))
    state = {modern_attention(n): value for n, value in state.items() if not n.startswith(_BESIDE_THE_VAE)}
    if facts.get("norm_num_groups", autoencoder.norm_groups) != autoencoder.norm_groups:
        raise ValueError(
            f"norm_num_groups of {source} must be {autoencoder.norm_groups}, got {facts['norm_num_groups']}; "
            "set norm_groups of the recipe alike"
        )
    levels = len(autoencoder.channel_multipliers)
    original = not any(".down_blocks." in name for name in state)
    found = match(
        _mono_shapes(autoencoder), state, source, lambda name: latent_diffusion_name(name, levels) if original else name
    )
    tensors, changed = _widen(found, config, generator)
    shift, factor = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    if scale is not None and config.stft is None:
        factor = factor * float(scale)
    else:
        changed["latent_scale"] = "1: measured at the end of a training"
    tensors = {f"autoencoder.{name}": value for name, value in tensors.items()}
    tensors |= {"latent_shift": shift, "latent_scale": factor}
    return Imported(tensors=tensors, config=config, files=files, changed=changed, left_out=left_out)


def import_vocoder(source: Path, config: HifiGanConfig) -> Imported:
    """Read AudioLDM's HiFi-GAN into ours.

    Args:
        source: file or folder.
        config: the vocoder that a recipe trains.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the recipe's vocoder or mel is another, or a tensor does not fit; it is named.

    Paper section V-A.
    """
    if not isinstance(config, HifiGanConfig):
        raise ValueError(f"recipe must have a vocoder of kind 'hifigan', got {config.kind!r}; take paper/vocoder")
    _check_mel(config.mel)
    files: list[Path] = []
    state, facts = _published(source, "vocoder", files)
    state, left_out = _first_stage(state)
    if inside := below(state, "vocoder."):
        left_out += Counter(name.partition(".")[0] for name in state if not name.startswith("vocoder."))
        state = inside
    own = _shapes(HifiGan, config, "generator.")
    _check_generator(facts, config, source)
    state = without_weight_norm({name.removeprefix("_orig_mod."): value for name, value in state.items()})
    original = any(name.startswith("ups.") for name in state)
    changed = {}
    if original:  # which has no place for a normalisation of the mel
        state = {"mean": torch.zeros(config.mel.n_mels), "scale": torch.ones(config.mel.n_mels)} | state
        changed = {"generator.mean, generator.scale": "0 and 1: this vocoder does not normalise its mel"}
    found = match(own, state, source, hifigan_name if original else str)
    tensors = {f"generator.{name}": value for name, value in found.items()}
    return Imported(tensors=tensors, config=config, files=files, changed=changed, left_out=left_out)


def vae_layouts(config: VaeConfig) -> dict[str, dict[str, Tensor]]:
    """Return what each published form of the autoencoder must hold: names and, on the meta device, shapes."""
    assert isinstance(config.autoencoder, AutoencoderKlConfig)
    own, levels = _mono_shapes(config.autoencoder), len(config.autoencoder.channel_multipliers)
    original = {
        _FIRST_STAGE + latent_diffusion_name(name, levels): like.reshape(*like.shape, 1, 1)
        if "attentions" in name and like.ndim == 2
        else like
        for name, like in own.items()
    }
    return {"vae/diffusion_pytorch_model.safetensors": own, "original checkpoint": original}


def vocoder_layouts(config: HifiGanConfig) -> dict[str, dict[str, Tensor]]:
    """Return what each published form of the vocoder must hold: names and, on the meta device, shapes."""
    own = _shapes(HifiGan, config, "generator.")
    original = {f"{_FIRST_STAGE}vocoder.{hifigan_name(n)}": like for n, like in own.items() if "." in n}
    return {"vocoder/model.safetensors": own, "original checkpoint": original}


def _shapes(build: Any, config: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of a module on the meta device, without the beginning of their names."""
    with torch.device("meta"):
        module: nn.Module = build(config)
    return {name.removeprefix(prefix): value for name, value in module.state_dict().items()}


def _mono_shapes(config: AutoencoderKlConfig) -> dict[str, Tensor]:
    return _shapes(build_autoencoder, replace(config, in_channels=1))


def _published(source: Path, part: str, files: list[Path]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and, where there is one, the config that lies beside them."""
    if source.is_file():
        files.append(source)
        return read_tensors(source), {}
    if (source / TANGO_VAE).is_file():
        _check_tango_stft(source, files)
        files.append(source / TANGO_VAE)
        return read_tensors(source / TANGO_VAE), part_config(source, "vae_config.json")
    folder = source / part if (source / part).is_dir() else source
    return part_tensors(folder, files), part_config(folder)


def _first_stage(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], Counter[str]]:
    """Take the first stage out of a checkpoint of the whole system."""
    inside = below(state, _FIRST_STAGE)
    if not inside:
        return state, Counter()
    return inside, Counter(name.partition(".")[0] for name in state if not name.startswith(_FIRST_STAGE))


def _check_mel(mel: MelConfig | None) -> None:
    if mel != MelConfig():
        raise ValueError(f"mel of the recipe must be AudioLDM's, {MelConfig()}, got {mel}; leave its settings alone")


def _check_tango_stft(folder: Path, files: list[Path]) -> None:
    """Refuse a TANGO folder whose mel is not the one that our features compute."""
    stored, mel = part_config(folder, "stft_config.json"), MelConfig()
    for key, field in _TANGO_STFT_CONFIG.items():
        if stored.get(key) != getattr(mel, field):
            raise ValueError(
                f"{key} of {folder}/stft_config.json must be {getattr(mel, field)}, got {stored.get(key)}; "
                "these weights hear another mel"
            )
    bins = mel.n_fft // 2 + 1
    shapes: dict[str, tuple[int, ...]] = {"mel_basis": (mel.n_mels, bins)}
    shapes |= {f"stft_fn.{way}_basis": (2 * bins, 1, mel.n_fft) for way in ("forward", "inverse")}
    files.append(folder / TANGO_STFT)
    own = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    basis = match(own, read_tensors(folder / TANGO_STFT), folder / TANGO_STFT)["mel_basis"]
    if (worst := float((basis - mel_filterbank(mel)).abs().max())) > 1e-5:
        raise ValueError(f"mel_basis of {folder / TANGO_STFT} must be Slaney's bands, got {worst:.2g} away; check it")


def _check_generator(facts: dict[str, Any], config: HifiGanConfig, source: Path) -> None:
    """Refuse a generator whose config says what its tensors do not tell."""
    wanted = {
        "sampling_rate": config.mel.sample_rate,
        "upsample_rates": list(config.upsample_rates),
        "resblock_dilation_sizes": [list(dilations) for dilations in config.resblock_dilations],
        "leaky_relu_slope": 0.1,
        "normalize_before": False,
    }
    for key, value in wanted.items():
        if facts.get(key, value) != value:
            raise ValueError(f"{key} of {source} must be {value}, got {facts[key]}; it is another vocoder")


def _widen(
    tensors: dict[str, Tensor], config: VaeConfig, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Give the first and the last layer of a mono mel autoencoder the channels of `config`."""
    channels = config.num_channels
    mel = channels - (0 if config.stft is None else num_stft_channels(config.representation))
    first, last = tensors["encoder.conv_in.weight"], tensors["decoder.conv_out.weight"]
    if channels == 1 and (config.log_mean, config.log_std) == (0.0, 1.0):
        return tensors, {}
    conv_in = torch.empty(len(first), channels, *first.shape[2:])
    conv_out = torch.empty(channels, *last.shape[1:])
    for fresh in (conv_in, conv_out):
        nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)  # as torch starts a convolution
    bias_in, bias_out = torch.zeros(len(first)), torch.zeros(channels)
    if mel:  # normalised mels are undone by the first layer and made by the last
        conv_in[:, :mel] = first * (config.log_std / mel)
        bias_in = tensors["encoder.conv_in.bias"] + config.log_mean * first.sum((1, 2, 3))
        conv_out[:mel] = last / config.log_std
        bias_out[:mel] = (tensors["decoder.conv_out.bias"] - config.log_mean) / config.log_std
    rest = f"; {channels - mel} STFT channels start afresh" if channels > mel else ""
    changed = {
        "autoencoder.encoder.conv_in": f"{mel} mel channels share the published kernel{rest}",
        "autoencoder.decoder.conv_out": f"{mel} mel channels repeat the published kernel{rest}",
    }
    layers = {"encoder.conv_in.weight": conv_in, "encoder.conv_in.bias": bias_in}
    return tensors | layers | {"decoder.conv_out.weight": conv_out, "decoder.conv_out.bias": bias_out}, changed
