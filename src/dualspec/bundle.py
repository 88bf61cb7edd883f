"""What lies where: the names and small files of a model folder, and what is embedded here. Nothing here loads torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from dualspec.config import from_dict, load_json, save_json
from dualspec.files import read_json, read_text, write_text_atomic
from dualspec.hearing.proof import HeadCues
from dualspec.text.location_words import LocationWords
from dualspec.training.weights_folder import read_document, read_hashes, read_notes

INDEX_NAME = "model_index.json"
HEAD_NAME = "head.json"
EVENTS_NAME = "events.txt"
FORMAT_VERSION = 1
MAX_INDEX_BYTES = 1 << 16
LOCALIZERS = ("paper", "robust")  # the embedded ones
PROBES = ("mn04_as", "yamnet")  # embedders that an embedded probe belongs to
HEADS = {"fabian": "5f265789490af25a7cca6c64a8e6c3c7ae35f7bd94b3a97cbe3df72b6128d888"}
"""The embedded heads, each with the SHA-256 of the file that it was taken from (tools/embedded_head.py). They are for
training and for true clips: nothing on the way from words to sound reads one."""
TRUSTED_ACCURACY = 0.99  # below this share of true clips a localizer's scores carry a warning (decision 24)


def _bundle(name: str) -> Path:
    return Path(str(resources.files("dualspec") / "bundles" / name))


def embedded_bundle() -> Path:
    """Return the folder of the embedded model.

    Raises:
        FileNotFoundError: this installation has none.
    """
    folder = _bundle("default")
    if not folder.is_dir():
        raise FileNotFoundError("this installation has no embedded model; give a folder with --model")
    return folder


def head_file(name: str | Path) -> Path:
    """Return the SOFA file of a head: that of an embedded one by its name, or the one that is named."""
    return _bundle(f"heads/{name}.sofa") if str(name) in HEADS else Path(name)


def part_folder(part: str, place: str) -> Path:
    """Return the weights folder that is named for a part, or that part of a model; `default` is the embedded model."""
    folder = embedded_bundle() if place == "default" else Path(place)
    return folder / part if (folder / INDEX_NAME).is_file() else folder


def write_index(folder: Path, variant: str, parts: Sequence[str]) -> None:
    """Write the index of a model folder; the class name is what hubs show."""
    index: dict[str, Any] = {"_class_name": "DualSpecPipeline", "format_version": FORMAT_VERSION}
    index |= {"variant": variant, "parts": sorted(parts)}
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


def trained_words(denoiser: Path) -> LocationWords:
    """Return the words for directions that a denoiser's weights folder was trained on; older ones had the defaults.

    Raises:
        FileNotFoundError: there are no such weights.
        ValueError: their settings are damaged.
    """
    words = read_document(denoiser)["config"].get("location_words", {})
    return from_dict(LocationWords, words, where=f"{denoiser}: location_words")


def read_head(folder: Path) -> HeadCues | None:
    """Return the cues of the head that a model's training clips were rendered with; None where its folder has none.

    Raises:
        ValueError: the file is damaged.
    """
    return load_json(HeadCues, folder / HEAD_NAME) if (folder / HEAD_NAME).is_file() else None


def write_head(folder: Path, head: HeadCues | None) -> None:
    """Write these cues beside a model's parts; None leaves no file behind."""
    if head is None:
        (folder / HEAD_NAME).unlink(missing_ok=True)
    else:
        save_json(head, folder / HEAD_NAME)


def read_events(folder: Path) -> list[str]:
    """Return the labels that a model was trained on, the commonest first; none where the folder does not say.

    Raises:
        ValueError: the list is too large or no UTF-8.
    """
    path = folder / EVENTS_NAME
    return read_text(path).splitlines() if path.is_file() else []


def write_events(folder: Path, events: Sequence[str]) -> None:
    """Write these labels beside a model's parts; none leave no file behind."""
    if events:
        write_text_atomic(folder / EVENTS_NAME, "\n".join(events) + "\n")
    else:
        (folder / EVENTS_NAME).unlink(missing_ok=True)


def target_head(folder: str | Path | None = None) -> HeadCues:
    """Return what proofs of a model's clips aim at: its own head, or the computed sphere where it names none.

    The embedded model if None.
    """
    own = read_head(Path(folder) if folder is not None else embedded_bundle())
    return own or load_json(HeadCues, _bundle("sphere.json"))


def localizer_folder(name_or_folder: str | Path) -> Path:
    """Return the weights folder of an embedded localizer, or the folder itself.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    embedded = str(name_or_folder) in LOCALIZERS
    folder = _bundle(f"localizers/{name_or_folder}") if embedded else Path(name_or_folder)
    if not folder.is_dir():
        hint = "this installation has not embedded it" if embedded else f"or name one of {', '.join(LOCALIZERS)}"
        raise FileNotFoundError(f"no localizer in {folder}; give a weights folder, {hint}")
    return folder


def localizer_notes(folder: Path) -> tuple[str, str, float | None]:
    """Return a localizer's name, the SHA-256 of its weights, and its measured share of true clips, from its folder."""
    notes = read_notes(folder)
    return (
        str(notes.get("localizer", folder.name)),
        "+".join(read_hashes(folder).values()),
        notes.get("held_out_accuracy"),
    )


def probe_folder(embedder: str) -> Path:
    """Return the folder of the embedded probe of an embedder, one of `PROBES`."""
    return _bundle(f"probes/{embedder}")


def judge_facts(name: str, sha256: str, held_out_accuracy: float | None) -> dict[str, Any]:
    """Return what a record says of a localizer: JSON values, with the line that its score must carry, if any."""
    facts = {"name": name, "sha256": sha256, "held_out_accuracy": held_out_accuracy}
    if held_out_accuracy is None:
        return facts | {"warning": "the accuracy of the judge itself was never measured"}
    if held_out_accuracy < TRUSTED_ACCURACY:
        return facts | {"warning": f"the judge itself is right on only {100 * held_out_accuracy:.1f} % of true clips"}
    return facts
