"""Sound through a head: the reference clips of a test set, and the cascades that a text-to-binaural model must beat.

Here the direction comes from a head, not from a model. Such clips are judged as systems of their own, and their records
say what they are: "recordings" (true sound, the upper bound) or "cascade" (what another system made, as a mono signal).
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualspec.audio.binaural import spatialize
from dualspec.data.datasets import ClipDataset
from dualspec.data.manifest import Split
from dualspec.evaluation.clips import Clip, Conversion, read_ears, source_of
from dualspec.generation import Head, OutputOptions, write_clip
from dualspec.prompt_lists import PromptRow
from dualspec.synthesis.mid_signal import common_phase_mid

PEAK = 0.5


def render_references(
    rows: Sequence[PromptRow],
    manifest_dir: Path,
    head: Head,
    output: Path,
    *,
    split: Split = "test",
    options: OutputOptions,
    others: bool = False,
    num_samples: int = 81_920,
) -> Iterator[int]:
    """Write the true clips of a test set through a head, under the names that the list gives them.

    Args:
        rows: the list; each row names a recording.
        manifest_dir: the prepared corpus that it was drawn from.
        head: at the corpus' rate.
        output: folder, made if it is absent.
        split: of the corpus.
        options: sample format, picture.
        others: take another recording of the same label instead (the upper bound of any system: right kind, right
            direction, not the same sound); rows whose label has no other recording are left out.
        num_samples: length of a clip.

    Yields:
        The number of clips written so far.

    Raises:
        ValueError: a row names no recording of the corpus.
    """
    data = ClipDataset(manifest_dir, split, num_samples=num_samples)
    places = {row.id: index for index, row in enumerate(data.rows)}
    output.mkdir(parents=True, exist_ok=True)
    done = 0
    for row in rows:
        if row.recording not in places or row.azimuth_deg is None:
            raise ValueError(
                f"{row.file} must name a {split} clip of {manifest_dir}, got {row.recording!r}; draw it anew"
            )
        place: int | None = places[row.recording]
        if others:
            place = _another(data, places[row.recording], row.seed)
        if place is None:
            continue
        pcm, _ = data[place]
        facts: dict[str, Any] = {"prompt": row.prompt, "event": row.label, "seed": row.seed}
        facts["recording"] = data.rows[place].id
        facts["azimuth"] = {"azimuth_deg": row.azimuth_deg, "style": row.style}
        system = {"kind": "recordings", "name": "another of its label" if others else "the references"}
        _write(output / row.file, pcm[None].float() / 32_768.0, row.azimuth_deg, head, facts, system, options)
        done += 1
        yield done
    data.close()


def _another(data: ClipDataset, place: int, seed: int) -> int | None:
    """Return the place of another recording of the same label, or None."""
    own = data.rows[place]
    found = [
        index
        for index, row in enumerate(data.rows)
        if row.labels[0] == own.labels[0] and row.recording != own.recording
    ]
    return found[seed % len(found)] if found else None


def cascade(clips: Sequence[Clip], head: Head, output: Path, *, options: OutputOptions) -> Iterator[int]:
    """Write the mid signal of every clip through a head, at the azimuth that its record asks for.

    Args:
        clips: of any system; clips without an azimuth are left out.
        head: at the clips' rate.
        output: folder, made if it is absent.
        options: sample format, picture.

    Yields:
        The number of clips written so far.
    """
    source = source_of(clips)
    system = source | {"kind": "cascade", "name": source.get("name"), "of": source["kind"]}
    output.mkdir(parents=True, exist_ok=True)
    for done, clip in enumerate((clip for clip in clips if clip.azimuth_deg is not None), start=1):
        ears = read_ears(clip.path, Conversion(copy_mono=True)).waveform
        facts: dict[str, Any] = {key: clip.record.get(key) for key in ("prompt", "event", "seed")}
        facts["azimuth"] = {"azimuth_deg": clip.azimuth_deg, "style": clip.style}
        path = output / f"{clip.name}.wav"
        _write(path, common_phase_mid(ears)[None], float(clip.azimuth_deg or 0.0), head, facts, system, options)
        yield done


def _write(
    path: Path,
    mono: Tensor,
    azimuth_deg: float,
    head: Head,
    facts: dict[str, Any],
    system: dict[str, Any],
    options: OutputOptions,
) -> None:
    """Render (1, S) at an azimuth and write it with its record."""
    silent = not bool(mono.abs().max() > 0)
    ears = spatialize(mono, azimuth_deg, head.hrir_set, method="interpolate", peak=None if silent else PEAK)
    source = {"name": head.hrir_set.name, "licence": head.hrir_set.licence, "sha256": head.sha256}
    record = facts | {"rendered": False, "system": system, "head": source}
    write_clip(path, ears, head.hrir_set.sample_rate, record, options)


def mono_record(row: PromptRow, text: str, seed: int, system: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a mono baseline's clip; the same signal at both ears has no direction."""
    azimuth = None if row.azimuth_deg is None else {"azimuth_deg": row.azimuth_deg, "style": row.style}
    facts = {"prompt": row.prompt, "event": text, "seed": seed, "azimuth": azimuth}
    return facts | {"rendered": False, "mono": True, "system": system}


def write_mono(
    rows: Sequence[tuple[PromptRow, str]],
    generate: Callable[[list[str], list[int]], Tensor],
    output: Path,
    *,
    sample_rate: int,
    system: dict[str, Any],
    seed: int,
    batch_size: int,
    options: OutputOptions,
) -> Iterator[int]:
    """Let a mono system answer a prompt list and copy each answer to both ears.

    Args:
        rows: rows of the list, each with the words that the system reads.
        generate: texts and seeds → (B, S).
        output: folder, made if it is absent.
        sample_rate: Hz.
        system: what the records say of it.
        seed: added to the rows' own.
        batch_size: clips at once.
        options: sample format, picture.

    Yields:
        The number of clips written so far.
    """
    output.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        seeds = [seed + row.seed for row, _ in batch]
        mono = generate([text for _, text in batch], seeds)
        for (row, text), own_seed, signal in zip(batch, seeds, mono, strict=True):
            ears = torch.stack([signal, signal])
            write_clip(output / row.file, ears, sample_rate, mono_record(row, text, own_seed, system), options)
        yield start + len(batch)
