"""Model folders: `model_index.json` beside one weights folder per part, and the model that is embedded here."""

import json
import os
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch

from dualspec.config import override, write_text_atomic
from dualspec.diffusion.variant import VariantConfig
from dualspec.files import read_json
from dualspec.latents.vae import VaeConfig
from dualspec.synthesis.reconstruct import shares_framing
from dualspec.synthesis.vocoder import GriffinLimConfig, HifiGanConfig, IstftHeadConfig
from dualspec.training.weights import read_config, read_notes, read_state, save_state

INDEX_NAME = "model_index.json"
FORMAT_VERSION = 1
MAX_INDEX_BYTES = 1 << 16
VOCODER_CONFIGS: dict[str, type] = {
    "HifiGanConfig": HifiGanConfig,
    "IstftHeadConfig": IstftHeadConfig,
    "GriffinLimConfig": GriffinLimConfig,
}
PART_CONFIGS: dict[str, type] = {"VaeConfig": VaeConfig, **VOCODER_CONFIGS}


def embedded_bundle() -> Path:
    """Return the folder of the embedded model.

    Raises:
        FileNotFoundError: this installation has none.
    """
    folder = Path(str(resources.files("dualspec") / "bundles" / "default"))
    if not folder.is_dir():
        raise FileNotFoundError("this installation has no embedded model; give a folder with --model")
    return folder


def write_index(folder: Path, variant: str, parts: Sequence[str]) -> None:
    """Write the index of a model folder; the class name is what hubs show."""
    index = {
        "_class_name": "DualSpecPipeline",
        "format_version": FORMAT_VERSION,
        "variant": variant,
        "parts": sorted(parts),
    }
    write_text_atomic(folder / INDEX_NAME, json.dumps(index, indent=2) + "\n")


def read_index(folder: Path) -> list[str]:
    """Return the names of the parts of a model folder.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: it is no index of this format.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no model in {folder}: {INDEX_NAME} is missing")
    index = read_json(path, max_bytes=MAX_INDEX_BYTES)
    if (
        not isinstance(index, dict)
        or (index.get("format_version"), index.get("_class_name")) != (FORMAT_VERSION, "DualSpecPipeline")
        or not isinstance(index.get("parts"), list)
    ):
        raise ValueError(f"{path} must be the index of a dualspec model, got another format; restore the folder")
    return [str(part) for part in index["parts"]]


def needs_vocoder(config: VariantConfig, vaes: dict[str, VaeConfig]) -> bool:
    """Tell whether a variant's last step vocodes. Paper section VI-B; decisions 20 and 21."""
    if config.variant in ("mel_base", "stft_base"):
        return config.variant == "mel_base"
    if config.merge_mode == "paper":
        return config.variant != "dualspec_d"
    mel = next(vae.mel for vae in vaes.values() if vae.mel is not None)
    stft = next(vae.stft for vae in vaes.values() if vae.stft is not None)
    return config.mid_phase == "vocoder" or not shares_framing(mel, stft)


def assemble(
    folder: str | Path,
    sources: dict[str, Path],
    *,
    settings: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
) -> None:
    """Put trained weights folders together into a model folder, which appears whole or not at all.

    Args:
        folder: the new model folder; must not exist.
        sources: part name ("denoiser", "mel_vae", "vocoder", …) → weights folder.
        settings: changes to the variant's own settings, such as "sampling.num_inference_steps=15".
        dtype: of the weights; torch.float16 halves them.

    Raises:
        ValueError: the folder exists, a part is missing or belongs to no variant of this kind.
        FileNotFoundError: a weights folder or a file of it is missing.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"folder must be new, got {folder}, which exists; choose another name or remove it")
    if "denoiser" not in sources:
        raise ValueError(f"sources must name the denoiser, got {sorted(sources)}; add its weights folder")
    variant: VariantConfig = read_config(sources["denoiser"], {"VariantConfig": VariantConfig})
    variant = override(variant, settings)
    for part in variant.parts:
        if part not in sources:
            raise ValueError(f"sources must name the {part} of {variant.variant}, got {sorted(sources)}")
    unknown = sorted(set(sources) - {"denoiser", "vocoder", *variant.parts})
    if unknown:
        raise ValueError(f"sources must be parts of {variant.variant}, got {unknown[0]!r}; leave it out")
    vaes = {part: read_config(sources[part], {"VaeConfig": VaeConfig}) for part in variant.parts}
    if needs_vocoder(variant, vaes) and "vocoder" not in sources:
        raise ValueError(
            f"sources must name a vocoder for {variant.variant} in mode {variant.merge_mode!r}, got {sorted(sources)}; "
            "add one, or set merge_mode=phase_delta with mid_phase=griffin_lim"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    try:
        for name, source in sources.items():
            config = variant if name == "denoiser" else read_config(source, PART_CONFIGS)
            save_state(temporary / name, read_state(source), config, dtype=dtype, notes=read_notes(source))
        write_index(temporary, variant.variant, list(sources))
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
