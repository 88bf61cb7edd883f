"""What `dualspec import` knows: kinds of published weights, where they come from, and under which licence."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dualspec.diffusion.objective import PredictionType
from dualspec.files import sha256_of
from dualspec.importers import audioldm, tango
from dualspec.importers.layouts import TANGO_MAIN, TANGO_STFT, TANGO_VAE
from dualspec.importers.published import Imported
from dualspec.text.bert import BertEncoder
from dualspec.text.bert_files import BertConfig
from dualspec.text.encoder import t5_large_encoder_config

KindName = Literal["tango2", "tango", "audioldm-vae", "audioldm-vocoder", "flan-t5", "minilm"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of published weights."""

    hub_id: str  # where they were published
    licence: str  # as that page said when it was looked up
    files: tuple[str, ...]  # names to fetch from a hub
    room: str = ""  # which setting of a recipe's task they become
    recipe: str = ""  # the recipe when none is named


_SHARE_ALIKE = "CC BY-NC-SA 4.0: not for commercial use, and what is made from them stays under the same terms"
_TANGO = ("main_config.json", TANGO_MAIN)
_TANGO_PARTS = ("vae_config.json", TANGO_VAE, "stft_config.json", TANGO_STFT)
KINDS: dict[KindName, Kind] = {
    "tango2": Kind(
        hub_id="declare-lab/tango2", licence=_SHARE_ALIKE, files=_TANGO, room="variant", recipe="paper/dualspec"
    ),
    "tango": Kind(
        hub_id="declare-lab/tango", licence=_SHARE_ALIKE, files=_TANGO, room="variant", recipe="paper/dualspec"
    ),
    "audioldm-vae": Kind(
        hub_id="cvssp/audioldm-s-full-v2",
        licence=_SHARE_ALIKE,
        files=("vae/*", *_TANGO_PARTS),
        room="vae",
        recipe="paper/mono_mel_vae",
    ),
    "audioldm-vocoder": Kind(
        hub_id="cvssp/audioldm-s-full-v2",
        licence=_SHARE_ALIKE,
        files=("vocoder/*", *_TANGO_PARTS),
        room="vocoder",
        recipe="paper/vocoder",
    ),
    "flan-t5": Kind(hub_id="google/flan-t5-large", licence="Apache-2.0", files=("*.json", "model*.safetensors")),
    "minilm": Kind(
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        licence="Apache-2.0",
        files=("config.json", "tokenizer.json", "model.safetensors"),
    ),
}


def read_weights(
    kind: KindName, source: Path, config: Any, *, prediction_type: PredictionType | None = None, seed: int = 0
) -> Imported:
    """Read published weights into the room that a recipe's config describes.

    Args:
        kind: which weights; not the text encoders', whose folders `importers.t5` and `importers.minilm` write.
        source: file or folder.
        config: VariantConfig, VaeConfig or HifiGanConfig.
        prediction_type: what TANGO's U-Net predicts, where its config does not tell.
        seed: of the kernels that start afresh.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a tensor or a setting does not fit; it is named.
    """
    if kind == "audioldm-vae":
        return audioldm.import_vae(source, config, torch.Generator().manual_seed(seed))
    if kind == "audioldm-vocoder":
        return audioldm.import_vocoder(source, config)
    return tango.import_unet(source, config, prediction_type)


def layouts(kind: KindName, config: Any) -> Mapping[str, Mapping[str, Tensor]]:
    """Return what the published files must hold, by file: names and, on the meta device, shapes."""
    if kind == "audioldm-vae":
        return audioldm.vae_layouts(config)
    if kind == "audioldm-vocoder":
        return audioldm.vocoder_layouts(config)
    if kind == "flan-t5":
        from transformers import T5EncoderModel

        with torch.device("meta"):
            return {"model.safetensors": T5EncoderModel(t5_large_encoder_config()).state_dict()}
    if kind == "minilm":
        with torch.device("meta"):
            return {"model.safetensors": BertEncoder(BertConfig()).state_dict()}
    return tango.unet_layout(config.denoiser, t5_large_encoder_config())


def describe(kind: KindName, source: str, imported: Imported) -> dict[str, Any]:
    """Return what the notes of a weights folder keep of an import: source, hashes, licence, changes."""
    return {
        "kind": kind,
        "source": source,
        "licence": KINDS[kind].licence,
        "files": {path.name: sha256_of(path) for path in imported.files},
        "changed": imported.changed,
        **imported.facts,
    }
