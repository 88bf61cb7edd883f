"""`dualspec localize` and `dualspec audition`: where a sound is heard, and how well the listener hears."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualspec.cli.console import progress_bar
from dualspec.cli.door import BUG, exit_code, note, refuse

if TYPE_CHECKING:
    from dualspec.audio.hrir import HrirSet
    from dualspec.hearing.localizer import Localizer
    from dualspec.model_folder import LoadedLocalizer

_RULER = (180, 150, 120, 90, 60, 30, 0, 330, 300, 270, 240, 210)  # from behind over the left, as one turns
_LETTERS = {180: "B", 90: "L", 0: "F", 270: "R"}
_SIDES = ("front", "front left", "left", "back left", "behind", "back right", "right", "front right")
_WORDS = tuple(_SIDES[index] for index in (0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7))
_BLOCKS = " ▁▂▃▄▅▆▇█"
_Which = Annotated[str, typer.Option("--localizer", help="robust, paper, or a weights folder.")]


def localize(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Sound files with two channels, left first.")],
    localizer: _Which = "robust",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: one object per file.")] = False,
) -> None:
    """Say from where a two-eared recording is heard.

    A file that cannot be judged gets one line, the others are still done, and the exit code is that of the first one.
    """
    from dualspec.model_folder import load_localizer

    loaded = load_localizer(localizer)
    results: list[dict[str, Any]] = []
    code = 0
    for file in files:
        try:
            results.append({"file": str(file), **loaded.listen(file)})
        except (ValueError, OSError) as error:
            failure, message = exit_code(error)
            if failure == BUG:
                raise
            message = message if str(file) in message else f"{file}: {message}"
            note(f"error: {message}")
            results.append({"file": str(file), "error": message})
            code = code or failure
        else:
            if not as_json:
                _print_direction(results[-1], loaded)
    if as_json:
        print(json.dumps(results, indent=2, allow_nan=False))
    elif loaded.warning and len(results) > sum("error" in result for result in results):
        note(f"warning: {loaded.warning}")
    if code:
        raise typer.Exit(code)


def _print_direction(result: dict[str, Any], loaded: LoadedLocalizer) -> None:
    azimuth_deg, probabilities = result["azimuth_deg"], result["probabilities"]
    print(
        f"{result['file']}: {azimuth_deg:g}°, {_WORDS[round(azimuth_deg / 30) % 12]}, "
        f"confidence {result['confidence']:.2f} ({loaded.name})"
    )
    heights = [round(probabilities[angle // 30] * (len(_BLOCKS) - 1)) for angle in _RULER]
    print("  " + " ".join(_BLOCKS[max(1, height)] for height in heights))
    print("  " + " ".join(_LETTERS.get(angle, "·") for angle in _RULER))


def audition(
    localizer: Annotated[str, typer.Argument(help="robust, paper, or a weights folder.")],
    data: Annotated[Path, typer.Option(help="What `dualspec prepare` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The card: OUT.json and OUT.md.")],
    whole: Annotated[
        bool, typer.Option("--whole", help="All splits, for corpora that took no part in training; else the test one.")
    ] = False,
    hrir: Annotated[
        list[str] | None, typer.Option(metavar="HEAD", help="Known from training: SOFA file or analytic; repeatable.")
    ] = None,
    held_out: Annotated[
        list[str] | None, typer.Option(metavar="HEAD", help="Head never trained on: SOFA file; repeatable.")
    ] = None,
    roundtrip: Annotated[
        list[Path] | None, typer.Option(help="Folder of `dualspec roundtrip`: its estimates are judged, too.")
    ] = None,
    num: Annotated[int, typer.Option("-n", "--num", min=1, help="Recordings, spread over the split.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the clips.")] = 5.12,
    weights: Annotated[
        Path | None, typer.Option(help="Also write the weights here in half precision, with the accuracy in them.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in those weights.  [default: as it is called]")] = None,
) -> None:
    """Measure a localizer on recordings it never heard: the card that every judge needs.

    Each recording is rendered at 12 azimuths through each head; through the first one also with noise, through Opus,
    with unrelated ears and without delay, where no judge may believe in a direction.
    """
    if name is not None and weights is None:
        refuse("--name must come with --weights, got it alone; add the folder")
    from dataclasses import asdict

    import torch

    from dualspec.audio.waveform import from_pcm16
    from dualspec.cli.training import read_heads
    from dualspec.data.datasets import load_clips
    from dualspec.data.manifest import Split, read_manifest
    from dualspec.evaluation.audition import CONDITIONS, card
    from dualspec.evaluation.audition import audition as audit
    from dualspec.files import write_text_atomic
    from dualspec.model_folder import load_localizer

    loaded = load_localizer(localizer)
    rate = loaded.localizer.config.sample_rate
    heads: list[tuple[str, HrirSet]] = [("training", head) for head in read_heads(hrir or ())]
    heads += [("held out", head) for head in (read_heads(held_out) if held_out else ())]
    present: set[Split] = {row.split for row in read_manifest(data)} if whole else {"test"}
    banks = [load_clips(data, split, num_samples=round(seconds * rate)) for split in sorted(present)]
    corpora = [row.corpus for bank in banks for row in bank.rows]
    waveforms = torch.cat([bank.waveforms for bank in banks])
    chosen = torch.linspace(0, len(corpora) - 1, min(num, len(corpora))).long()
    recordings = from_pcm16(waveforms[chosen])
    collections = [corpora[index] for index in chosen.tolist()]
    rows = []
    with progress_bar("audition", len(CONDITIONS) + len(heads) - 1) as show:
        for row in audit(loaded.localizer, recordings, rate, heads, collections=collections):
            rows.append(row)
            show(len(rows))
    rows += [_judge_roundtrip(loaded.localizer, folder) for folder in roundtrip or ()]
    facts = {
        "localizer": f"{name or loaded.name}, SHA-256 {loaded.sha256}",
        "recordings": f"{len(chosen)} of {len(corpora)} of {', '.join(sorted(set(collections)))}, "
        f"never used in training, {seconds:g} s, at 12 azimuths each",
    }
    document = {"localizer": name or loaded.name, "sha256": loaded.sha256, "num_recordings": len(chosen)}
    document |= {"seconds": seconds, "collections": sorted(set(collections)), "rows": [asdict(row) for row in rows]}
    output.parent.mkdir(parents=True, exist_ok=True)
    table = card(rows, facts)
    write_text_atomic(output.with_suffix(".json"), json.dumps(document, indent=1, allow_nan=False) + "\n")
    write_text_atomic(output.with_suffix(".md"), table)
    print(table, end="")
    if weights is not None:
        measured = {"held_out_accuracy": rows[0].azimuth_accuracy, "held_out_clips": rows[0].num_clips}
        _embed(localizer, weights, {"localizer": name or loaded.name, "held_out_head": rows[0].head, **measured})


def _judge_roundtrip(localizer: Localizer, folder: Path) -> Any:
    """Judge the estimates of a round trip, whose records know the azimuth."""
    import torch

    from dualspec.evaluation.audition import judge, score
    from dualspec.evaluation.clips import Conversion, list_clips, read_ears

    conversion = Conversion(sample_rate=localizer.config.sample_rate)
    heard = [
        (clip.azimuth_deg, *judge(localizer, read_ears(clip.path, conversion).waveform[None], conversion.sample_rate))
        for clip in list_clips(folder / "estimate" if (folder / "estimate").is_dir() else folder)
        if clip.azimuth_deg is not None
    ]
    wanted = torch.tensor([azimuth for azimuth, angle, *_ in heard for _ in angle])
    angle, confidence = (
        torch.cat([torch.zeros(0), *parts]) for parts in ([r[1] for r in heard], [r[2] for r in heard])
    )
    words = {"role": "of the records", "condition": "after encoding and decoding"}
    return score(angle, confidence, wanted, head=folder.name, **words)


def _embed(localizer: str, target: Path, notes: dict[str, Any]) -> None:
    import torch

    from dualspec.hearing.localizer import LocalizerConfig
    from dualspec.model_folder import localizer_folder
    from dualspec.training.weights import read_config, read_notes, read_state, save_state

    folder = localizer_folder(localizer)
    config = read_config(folder, {"LocalizerConfig": LocalizerConfig})
    save_state(target, read_state(folder), config, dtype=torch.float16, notes=read_notes(folder) | notes)
    note(f"{target}: weights in half precision, with their measured accuracy")
