"""`dualspec spatialize`: the classic renderer, recordings through a head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dualspec.cli.door import note, refuse, usage


def spatialize(
    sources: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="Recordings or folders of them; channels are mixed to one.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Sound file (.wav, .flac) or folder.")],
    azimuth: Annotated[
        list[float] | None,
        typer.Option(help="Degrees counter-clockwise: 0 front, 90 left, 180 behind, 270 right; repeatable."),
    ] = None,
    azimuths: Annotated[
        int | None, typer.Option(min=1, max=360, help="So many directions around the head: 12 is the clock's.")
    ] = None,
    path: Annotated[
        list[str] | None, typer.Option(help="A movement, seconds:degrees such as 0:270,2.5:90; repeatable.")
    ] = None,
    sofa: Annotated[Path | None, typer.Option(help="Head (SOFA file).  [default: a computed sphere]")] = None,
    peak: Annotated[
        float | None,
        typer.Option(min=0.001, max=1.0, help="Peak of the louder ear, one gain for both ears.  [default: 0.5]"),
    ] = None,
    loudness: Annotated[
        float | None, typer.Option(help="LUFS such as -23, one gain for both ears; in place of --peak.")
    ] = None,
    sample_rate: Annotated[
        int | None, typer.Option(min=8000, max=192_000, help="Hz to render at.  [default: the recording's]")
    ] = None,
    subtype: Annotated[Literal["PCM_16", "PCM_24"], typer.Option(help="Sample format.")] = "PCM_16",
) -> None:
    """Put recordings in directions, or on paths, by convolution with a head: no model, no words.

    Several files, directions or a folder write a folder: NAME-az270.wav, manifest.jsonl (what was made) and
    rejects.jsonl (recordings that could not be used, with the reason; the command then ends with code 65).
    """
    from dualspec import placing
    from dualspec.audio.delivery import check_loudness
    from dualspec.audio.suffixes import CLIP_SUFFIXES

    directions = _directions(azimuth or [], azimuths, path or [])
    if peak is not None and loudness is not None:
        refuse("--loudness must come without --peak, got both; choose one")
    with usage():
        loudness = None if loudness is None else check_loudness(loudness)
    form = placing.Form(sample_rate=sample_rate, subtype=subtype, peak=peak or 0.5, loudness_lufs=loudness)
    is_file = bool(output.suffix) and not output.is_dir()
    if is_file and output.suffix.lower() not in CLIP_SUFFIXES:
        refuse(f"output must end in .wav or .flac, or be a folder, got {str(output)!r}; rename it")
    recordings, left_out = placing.list_recordings(sources, output)
    if left_out.total():
        words = {"hidden": "hidden", "not_sound": "no sound", "own": "in the output folder"}
        note(f"note: left out {', '.join(f'{count} {words[reason]}' for reason, count in sorted(left_out.items()))}")
    if is_file and len(recordings) * len(directions) > 1:
        refuse(f"output must be a folder for {len(recordings)} recordings in {len(directions)} directions, got a file")
    head = placing.load_head(sofa)
    if is_file:
        (source, name), where = recordings[0], directions[0]
        plan = [placing.Placement(source=source, name=name, where=where, target=output)]
        with usage():
            placing.check_targets(plan)
        output.parent.mkdir(parents=True, exist_ok=True)
        (row,) = placing.render_files(plan, head, form)
        if "reason" in row:
            raise ValueError(row["detail"])
        return _report(output, row)
    _fill(output, placing.plan(recordings, directions, output), head, form)


def _directions(azimuths: list[float], num_azimuths: int | None, paths: list[str]) -> list[Any]:
    from dualspec.audio.azimuth import check_azimuth_deg, sector_grid_deg
    from dualspec.placing import read_path

    with usage():
        grid = sector_grid_deg(num_azimuths) if num_azimuths is not None else ()
        angles = dict.fromkeys([*map(check_azimuth_deg, azimuths), *grid])
        directions = [*angles, *map(read_path, dict.fromkeys(paths))]
    if not directions:
        refuse("--azimuth, --azimuths or --path must be given, got none; --azimuth 270 is to the right")
    return directions


def _fill(folder: Path, plan: list[Any], head: Any, form: Any) -> None:
    """Write the files of a plan and their lists."""
    from dualspec.cli.console import progress_bar
    from dualspec.files import remove_leftovers
    from dualspec.placing import check_targets, read_list, render_files, write_lists

    if len({wanted.target for wanted in plan}) < len(plan):
        refuse("paths must differ in where they begin or end, got two of one name; render them into two folders")
    with usage():
        check_targets(plan)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    read_list(folder)
    rows: list[dict[str, Any]] = []
    try:
        with progress_bar("rendering", len(plan)) as show:
            for row in render_files(plan, head, form):
                rows.append(row)
                show(len(rows))
                if "reason" in row:
                    note(f"left out: {row['detail']}")
                else:
                    _report(folder / row["file"], row)
    finally:
        write_lists(folder, rows)
    num_rejects = sum("reason" in row for row in rows)
    if num_rejects:
        raise ValueError(
            f"recordings must be readable, got {num_rejects} of {len({wanted.source for wanted in plan})} that are "
            f"not, listed in {folder / 'rejects.jsonl'}; {len(rows) - num_rejects} files were written"
        )


def _report(path: Path, row: dict[str, Any]) -> None:
    from dualspec.audio.delivery import loudness_words
    from dualspec.placing import is_cut

    way = " to ".join(f"{azimuth_deg:g} at {time_s:g} s" for time_s, azimuth_deg in row.get("path", []))
    words = [
        f"{row['num_samples'] / row['sample_rate']:g} s",
        f"path {way}" if way else f"azimuth {row['azimuth_deg']:g}",
    ]
    words += [f"rendered through {row['head']['name']}"]
    words += ["the sound ends before the path"] if is_cut(row) else []
    words += [row["bandwidth"]] if "bandwidth" in row else []
    words += [loudness_words(row["loudness"])] if "loudness" in row else []
    words += [word for word in ("silent", "replaced") if row[word]]
    print(f"{path}: {', '.join(words)}")
