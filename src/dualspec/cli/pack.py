"""`dualspec pack`: what a training elsewhere needs, small enough to carry."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from dualspec.cli.console import print_table, progress_bar
from dualspec.cli.door import refuse, usage


def pack(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New folder of the packed corpus.")],
    data: Annotated[Path, typer.Option(help="What `dualspec prepare` wrote.")],
    seconds: Annotated[float, typer.Option(min=0.1, max=3600, help="Longer clips are cut to their beginning.")] = 5.12,
    kbps: Annotated[float, typer.Option(min=6, max=256, help="Nominal rate of the Opus clips.")] = 16.0,
    shard_mb: Annotated[float, typer.Option(min=0.01, help="Largest file of clips, 1e6 bytes.")] = 15.0,
    test: Annotated[bool, typer.Option("--test/--no-test", help="Keep the test split, for judging there.")] = True,
    max_clips: Annotated[
        int | None, typer.Option(min=1, help="Only so many clips of each split, for a rehearsal.  [default: all]")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Clips coded at a time.")] = 2,
) -> None:
    """Make a corpus small: Opus clips of the seconds used. What comes out is read as any corpus."""
    from dualspec.data.pack import pack_corpus
    from dualspec.files import check_new

    for option, number in (("--seconds", seconds), ("--kbps", kbps), ("--shard-mb", shard_mb)):
        if not math.isfinite(number):
            refuse(f"{option} must be a finite number, got {number}; see the default in --help")
    with usage():
        check_new(output)
    with progress_bar("packing", 1.0, as_share=True) as show:
        pack_corpus(
            data,
            output,
            bit_rate=round(1000 * kbps),
            seconds=seconds,
            max_shard_bytes=round(1e6 * shard_mb),
            splits=("train", "valid", "test") if test else ("train", "valid"),
            max_clips=max_clips,
            workers=workers,
            on_progress=show,
        )
    files = sorted(path for path in output.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    rows = [[str(path), f"{size:,}"] for path, size in zip(files, sizes, strict=True)]
    print_table(["file", "bytes"], [*rows, ["sum", f"{sum(sizes):,}"]])
