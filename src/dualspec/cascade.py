"""Sound through a head: the reference clips of a test set, and the cascades that a text-to-binaural model must beat.

Here the direction comes from a head, not from a model. Such clips are judged as systems of their own, and their records
say what they are: "recordings" (true sound, the upper bound) or "cascade" (what another system made, as a mono signal).
All writers yield the number of clips written so far.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualspec.audio.binaural import spatialize
from dualspec.data.datasets import ClipDataset
from dualspec.data.manifest import Split
from dualspec.evaluation.clips import Clip, Conversion, read_ears, source_of
from dualspec.generation import Head, OutputOptions, write_clip
from dualspec.prompt_lists import PromptRow, check_records
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

    Raises:
        ValueError: a row names no recording of the corpus.
    """
    output.mkdir(parents=True, exist_ok=True)
    check_records(output / row.file for row in rows)
    system = {"kind": "recordings", "name": "another of its label" if others else "the references"}
    done = 0
    with closing(ClipDataset(manifest_dir, split, num_samples=num_samples)) as data:
        places = {row.id: index for index, row in enumerate(data.rows)}
        for row in rows:
            if row.recording not in places or row.azimuth_deg is None:
                raise ValueError(
                    f"{row.file} must name a {split} clip of {manifest_dir} and an azimuth, got {row.recording!r} and "
                    f"{row.azimuth_deg}; draw it anew"
                )
            own = places[row.recording]
            place = _another(data, own, row.seed) if others else own
            if place is not None:
                mono = data[place][0][None].float() / 32_768.0
                facts = {"prompt": row.prompt, "event": row.label, "seed": row.seed, "recording": data.rows[place].id}
                _write(output / row.file, mono, row.azimuth_deg, row.style, head, facts | {"system": system}, options)
                done += 1
                yield done


def _another(data: ClipDataset, place: int, seed: int) -> int | None:
    """Return the place of another recording of the same label, or None."""
    own, rows = data.rows[place], enumerate(data.rows)
    found = [index for index, row in rows if row.labels[0] == own.labels[0] and row.recording != own.recording]
    return found[seed % len(found)] if found else None


def cascade(clips: Sequence[Clip], head: Head, output: Path, *, options: OutputOptions) -> Iterator[int]:
    """Write the mid signal of clips of any system through a head, at the azimuths that their records ask for.

    Clips without an azimuth are left out; mono files are welcome; the head must be at the clips' rate.
    """
    source = source_of(clips)
    system = source | {"kind": "cascade", "name": source.get("name"), "of": source["kind"]}
    output.mkdir(parents=True, exist_ok=True)
    asked = [(clip, clip.azimuth_deg) for clip in clips if clip.azimuth_deg is not None]
    check_records(output / f"{clip.name}.wav" for clip, _ in asked)
    for done, (clip, azimuth_deg) in enumerate(asked, start=1):
        mono = common_phase_mid(read_ears(clip.path, Conversion(copy_mono=True)).waveform)[None]
        facts = {key: clip.record.get(key) for key in ("prompt", "event", "seed")} | {"system": system}
        _write(output / f"{clip.name}.wav", mono, azimuth_deg, clip.style, head, facts, options)
        yield done


def _write(
    path: Path,
    mono: Tensor,
    azimuth_deg: float,
    style: str | None,
    head: Head,
    facts: dict[str, Any],
    options: OutputOptions,
) -> None:
    """Render (1, S) at an azimuth and write it with its record."""
    peak = PEAK if bool(mono.abs().max() > 0) else None
    ears = spatialize(mono, azimuth_deg, head.hrir_set, method="interpolate", peak=peak)
    source = {"name": head.hrir_set.name, "licence": head.hrir_set.licence, "sha256": head.sha256}
    facts |= {"azimuth": {"azimuth_deg": azimuth_deg, "style": style}, "rendered": False, "head": source}
    write_clip(path, ears, head.hrir_set.sample_rate, facts, options)


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
    """Let a mono system answer a prompt list and copy each answer to both ears, which then have no direction.

    Args:
        rows: rows of the list, each with the words that the system reads.
        generate: texts and seeds → (B, S).
        output: folder, made if it is absent.
        sample_rate: Hz.
        system: what the records say of it.
        seed: added to the rows' own.
        batch_size: clips at once.
        options: sample format, picture.
    """
    output.mkdir(parents=True, exist_ok=True)
    check_records(output / row.file for row, _ in rows)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        seeds = [seed + row.seed for row, _ in batch]
        mono = generate([text for _, text in batch], seeds)
        for (row, text), own_seed, signal in zip(batch, seeds, mono, strict=True):
            azimuth = None if row.azimuth_deg is None else {"azimuth_deg": row.azimuth_deg, "style": row.style}
            facts = {"prompt": row.prompt, "event": text, "seed": own_seed, "azimuth": azimuth, "system": system}
            record = facts | {"rendered": False, "mono": True}
            write_clip(output / row.file, torch.stack([signal, signal]), sample_rate, record, options)
        yield start + len(batch)
