"""`dualspec listen`: a page on which people say where they hear clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dualspec.cli.door import note, refuse, usage


def listen(
    folder: Annotated[Path | None, typer.Argument(metavar="FOLDER", help="Clips with records or a manifest.")] = None,
    results: Annotated[
        Path | None, typer.Option("-o", "--results", help="CSV of answers, extended.  [default: FOLDER/listening.csv]")
    ] = None,
    summary: Annotated[Path | None, typer.Option(help="Only print what a CSV of answers amounts to.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="JSON lines with the azimuth of every file.")] = None,
    num: Annotated[
        int | None, typer.Option(min=1, help="Clips for each listener, spread over the azimuths.  [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the orders; each listener gets another.")] = 0,
    host: Annotated[str, typer.Option(help="Address; one that others can reach needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="DUALSPEC_TOKEN", help="What clients must send; better by the environment.")
    ] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="Name that a proxy gives us; repeatable.")] = None,
) -> None:
    """Let people hear clips blindly and point to where they hear them.

    Each answer is a line of the CSV: listener, clip, asked, answered, error, front and back confused, time, plays. Who
    comes back under the same name goes on. At the end each listener sees what the answers amount to.
    """
    if (summary is None) == (folder is None):
        refuse("one of FOLDER and --summary must be given, got both or none; choose one")
    if summary is not None:
        return _print_summary(summary)
    assert folder is not None
    try:
        from dualspec.web.listening import create_listening_app
        from dualspec.web.serving import run_without_jobs
        from dualspec.web.settings import Settings
    except ModuleNotFoundError as error:
        refuse(f"listen must have the extra 'web', got no {error.name}; pip install '.[web]' in the clone")
    import asyncio
    import signal

    from dualspec.evaluation.listening import ListeningTest, open_results
    from dualspec.web.serving import listen_on

    with usage():
        names = tuple(name.lower() for name in allow_host or ())
        settings = Settings(host=host, token=token or None, allowed_hosts=names)
    clips = _clips(folder, manifest)
    with open_results(results or folder / "listening.csv") as book, listen_on(settings, port) as (listener, url):
        test = ListeningTest(clips, book, seed=seed, num=num)
        words = f"{url}  {test.num_trials} clips for each listener (Ctrl-C stops)"
        app = create_listening_app(test, settings)
        ended_by = asyncio.run(run_without_jobs(app, listener, lambda: print(words, flush=True)))
    if ended_by is signal.SIGINT:
        raise KeyboardInterrupt


def _clips(folder: Path, manifest: Path | None) -> list[Any]:
    """List the clips that can be asked about: with two channels and an azimuth."""
    from dualspec.audio.waveform import audio_info
    from dualspec.evaluation.clips import list_clips

    found = list_clips(folder, manifest=manifest)
    clips = [clip for clip in found if clip.azimuth_deg is not None]
    if not clips:
        raise ValueError(f"{folder} must hold clips with an azimuth, got none; generate some, or name a --manifest")
    if len(clips) < len(found):
        note(f"note: {len(found) - len(clips)} of {len(found)} clips have no azimuth and are left out")
    for clip in clips:
        if (channels := audio_info(clip.path).num_channels) != 2:
            raise ValueError(f"{clip.path} must have two channels, got {channels}; leave it out")
    return clips


def _print_summary(path: Path) -> None:
    from dualspec.cli.console import print_table
    from dualspec.evaluation.listening import group, read_answers

    answers = read_answers(path)
    if not answers:
        raise ValueError(f"{path} must hold answers, got none; open the page and listen")
    heads = ("answers", "ACC %", "MAE °", "folded MAE °", "front-back %", "seconds")
    tables = (
        ("listener", group(answers, lambda answer: answer.listener) | group(answers, lambda answer: "(all)")),
        ("direction", group(answers, lambda answer: answer.asked_deg)),
    )
    for place, (name, groups) in enumerate(tables):
        rows = []
        for key, result in groups.items():
            mirrored = result.get("front_back_rate")
            row = [f"{100 * result['azimuth_accuracy']:.1f}", f"{result['azimuth_mae_deg']:.1f}"]
            row += [f"{result['folded_mae_deg']:.1f}", "" if mirrored is None else f"{100 * mirrored:.1f}"]
            rows.append([f"{key:g}" if isinstance(key, float) else key, str(result["num_answers"]), *row])
            rows[-1].append(f"{result['median_response_s']:.1f}")
        print("\n" * (place > 0), end="")
        print_table((name, *heads), rows)
