"""`dualspec prepare`: recordings to a data set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dualspec.cli.console import print_table
from dualspec.cli.door import refuse
from dualspec.cli.training import head_at, read_pairs

if TYPE_CHECKING:
    from dualspec.data.manifest import Split
    from dualspec.data.prepare import PrepareSummary

_CORPORA = "arca23k, urbansound8k, esc50, esc10, fsd50k, berklee or folder"


def prepare(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for manifest, rejects, summary and shards.")],
    corpus: Annotated[
        list[str], typer.Option(metavar="NAME=ROOT", help=f"Corpus in its original layout: {_CORPORA}; repeatable.")
    ],
    licence: Annotated[Literal["open", "all"], typer.Option(help="open keeps CC0 and CC-BY recordings only.")] = "all",
    sample_rate: Annotated[int, typer.Option(help="Hz.")] = 16_000,
    min_seconds: Annotated[float, typer.Option(help="Shorter clips are left out.")] = 1.0,
    max_clip_seconds: Annotated[
        float | None, typer.Option(help="Longer clips are cut to their beginning.  [default: kept whole]")
    ] = None,
    max_bad_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Largest share of damaged clips that is accepted.")
    ] = 0.01,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    render_to: Annotated[
        Path | None, typer.Option(help="Also write twelve stereo files per clip here, as the paper did.")
    ] = None,
    hrir: Annotated[
        Path | None, typer.Option(help="Head for --render-to (SOFA file).  [default: a computed sphere]")
    ] = None,
    select: Annotated[
        int | None, typer.Option(min=1, help="List so many training clips with azimuths in OUT/train_pairs.jsonl.")
    ] = None,
    test: Annotated[
        int | None, typer.Option(min=1, help="The same of the test clips, in OUT/test_pairs.jsonl; the paper has 5000.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of --select and --test.  [default: 0]")] = None,
) -> None:
    """Turn corpora into a data set: filter, resample, split by source recording.

    Call it again after an interruption: what is done is kept. The paper trains its diffusion models on --select 50000
    --test 5000; `dualspec train --pairs` reads the first list, and `dualspec prompts --data OUT -n 5000` with the same
    seed draws the second.
    """
    if hrir is not None and render_to is None:
        refuse("--hrir must come with --render-to, got it alone; training takes its own --hrir")
    if seed is not None and select is None and test is None:
        refuse("--seed must come with --select or --test, got it alone; the rest of the preparation draws nothing")
    from dualspec.data.corpora import READERS, CorpusSpec
    from dualspec.data.prepare import prepare as prepare_corpora

    specs = []
    for name, root in read_pairs("--corpus", corpus):
        if name not in READERS:
            refuse(f"--corpus must be one of {', '.join(READERS)}, got {name!r}; use folder for your own clips")
        specs.append(CorpusSpec(name=name, root=Path(root)))
    summary = prepare_corpora(
        specs,
        output,
        sample_rate=sample_rate,
        min_seconds=min_seconds,
        licence=licence,
        max_clip_seconds=max_clip_seconds,
        workers=workers,
        render_to=render_to,
        hrir_set=head_at(hrir, sample_rate) if render_to is not None else None,
        max_bad_fraction=max_bad_fraction,
    )
    _print_summary(summary, output)
    wanted: dict[Split, int | None] = {"train": select, "test": test}
    for split, num in wanted.items():
        if num is not None:
            from dualspec.data.selection import select_pairs, write_pairs

            write_pairs(output / f"{split}_pairs.jsonl", select_pairs(output, split, num, seed=seed or 0))
            print(f"{output / f'{split}_pairs.jsonl'}: {num} clips at azimuths")


def ready_corpus(data: Path, runs: Path) -> Path:
    """Return a prepared corpus: `data` itself, or what is made in `runs` of a plain folder of clips."""
    from dualspec.data.manifest import MANIFEST_NAME

    if (data / MANIFEST_NAME).is_file() or not data.is_dir():
        return data
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        refuse(
            f"--data must be prepared for several processes, got the plain folder {data}; run `dualspec prepare OUT "
            f"--corpus folder={data}` first"
        )
    from hashlib import sha256

    from dualspec.data.corpora import CorpusSpec
    from dualspec.data.prepare import prepare as prepare_corpora

    folder = data.resolve()
    output = runs / "data" / f"{folder.name}-{sha256(os.fsencode(folder)).hexdigest()[:8]}"
    _print_summary(prepare_corpora([CorpusSpec(name="folder", root=folder)], output), output)
    return output


def _print_summary(summary: PrepareSummary, output: Path) -> None:
    rows = [
        [corpus, split, licence, str(count)]
        for corpus, splits in sorted(summary.counts.items())
        for split, licences in sorted(splits.items())
        for licence, count in sorted(licences.items())
    ]
    print_table(["corpus", "split", "licence", "clips"], rows)
    rejects = [
        [corpus, reason, str(count)]
        for corpus, reasons in sorted(summary.rejects.items())
        for reason, count in sorted(reasons.items())
    ]
    if rejects:
        print()
        print_table(["corpus", "left out because", "clips"], rejects)
    print()
    print(
        f"{output}: {summary.num_clips} clips of {summary.num_recordings} recordings, "
        f"{summary.duration_s / 3600:.2f} h, {summary.num_duplicates} with the samples of another"
    )
