"""A BERT such as all-MiniLM-L6-v2 in compact form: half precision, its word table in 8 bits, with its tokenizer."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from dualspec.files import sha256_of, whole_folder, write_text_atomic
from dualspec.text.bert_files import SCALES, WORDS, BertFiles
from dualspec.text.encoder_files import COMPACT_KEY, CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME

MAX_FILE_BYTES = 15 * 2**20


def import_minilm(source: Path, target: Path) -> int:
    """Write a BERT of about 0.37 of its size in single precision; both engines and training read it as it is.

    A row of the word table is kept as int8 times one scale, its largest number / 127, in half precision: a number is
    off by half a scale at most.

    Args:
        source: folder with config.json, model.safetensors and tokenizer.json, as the hub has it.
        target: new folder.

    Returns:
        Tensors written.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the target exists, or the source is no BERT.
    """
    files = BertFiles(source)
    tensors = {name: value.astype(np.float16) for name, value in files.layers().items()}
    tensors[WORDS], tensors[SCALES] = in_8_bits(files.words())
    with whole_folder(target) as folder:
        shards = _shards(tensors)
        names = [f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors" for index in range(len(shards))]
        for name, shard in zip(names, shards, strict=True):
            save_file(shard, folder / name)
        shutil.copyfile(source / TOKENIZER_NAME, folder / TOKENIZER_NAME)
        compact = {
            "files": {name: sha256_of(folder / name) for name in (TOKENIZER_NAME, *names)},
            "source_sha256": sha256_of(source / WEIGHTS_NAME),
        }
        config = {"model_type": "bert", "hidden_act": "gelu", **asdict(files.config), COMPACT_KEY: compact}
        write_text_atomic(folder / CONFIG_NAME, json.dumps(config, indent=2) + "\n")
    return len(tensors)


def in_8_bits(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (V, D) of a table as int8 and the scale (V, 1) of each, float16."""
    scales = (np.abs(table).max(axis=1, keepdims=True) / 127).astype(np.float16)
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)
    return np.clip(np.rint(table / divisors), -127, 127).astype(np.int8), scales


def _shards(tensors: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Split tensors, in order, into files of at most `MAX_FILE_BYTES`."""
    shards: list[dict[str, np.ndarray]] = [{}]
    for name, value in tensors.items():
        if shards[-1] and sum(own.nbytes for own in shards[-1].values()) + value.nbytes > MAX_FILE_BYTES:
            shards.append({})
        shards[-1][name] = value
    return shards
