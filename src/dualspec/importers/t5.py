"""The encoder half of any T5 into a folder that our text encoder reads: safetensors, with its tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from dualspec.files import sha256_of, whole_folder, write_text_atomic
from dualspec.importers.published import match, part_config, part_tensors, shared_names
from dualspec.text.encoder import TextEncoderConfig, build_text_encoder

_DECODER = ("decoder.", "lm_head.")
NOTES_NAME = "import.json"
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def import_t5(source: Path, target: Path, notes: dict[str, Any]) -> tuple[int, int]:
    """Write the encoder of a T5 folder, pickled, in pieces or whole, as one safetensors file beside its tokenizer.

    Args:
        source: folder with config.json, weights and tokenizer, as the hub has it.
        target: new folder.
        notes: kept in it, with the SHA-256 of what was read.

    Returns:
        Tensors written, tensors of the decoder left out.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the config is no T5's, a tensor does not fit, or the tokenizer is another.

    Paper section V-D.
    """
    from transformers import T5Config, T5EncoderModel

    settings = part_config(source)
    if settings.get("model_type") != "t5":
        raise ValueError(f"model_type of {source}/config.json must be 't5', got {settings.get('model_type')!r}")
    if not (source / TOKENIZER_NAMES[0]).is_file():
        raise FileNotFoundError(f"no {TOKENIZER_NAMES[0]} in {source}; copy the whole published folder")
    files: list[Path] = []
    state = part_tensors(source, files)
    kept = {name: value for name, value in state.items() if not name.startswith(_DECODER)}
    config = T5Config.from_dict(settings | {"is_encoder_decoder": False, "use_cache": False, "torch_dtype": "float32"})
    with torch.device("meta"):
        model = T5EncoderModel(config)
    found = match(model.state_dict(), kept, source, tied=shared_names(model))
    if "encoder.embed_tokens.weight" in found:  # the other name of shared.weight
        found["shared.weight"] = found.pop("encoder.embed_tokens.weight")
    with whole_folder(target) as temporary:
        config.save_pretrained(temporary)
        save_file(found, temporary / "model.safetensors", metadata={"format": "pt"})
        for name in TOKENIZER_NAMES:
            if (source / name).is_file():
                shutil.copy(source / name, temporary / name)
        facts = notes | {"files": {path.name: sha256_of(path) for path in files}}
        write_text_atomic(temporary / NOTES_NAME, json.dumps(facts, indent=2) + "\n")
        build_text_encoder(TextEncoderConfig(kind="t5", name_or_path=str(temporary)))
    return len(kept), len(state) - len(kept)
