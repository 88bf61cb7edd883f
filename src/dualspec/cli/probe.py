"""`dualspec probe`: what says which sound is recognised."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualspec.cli.console import progress_bar
from dualspec.cli.door import usage

if TYPE_CHECKING:
    from torch import Tensor

    from dualspec.data.manifest import ManifestRow, Split
    from dualspec.evaluation.embedders import Embedder


def probe(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Weights folder of the probe.")],
    data: Annotated[
        Path, typer.Option(help="What `dualspec prepare` wrote: trains on one split, is judged on the test.")
    ],
    embedder: Annotated[str, typer.Option(metavar="NAME", help="mn04_as, yamnet, cnn14_16k, or NAME=FILE.")],
) -> None:
    """Train a linear probe, by which `dualspec evaluate` says how many clips are recognised.

    Logistic regression on a classifier's embeddings of true mono recordings, each whole, by its first label. What it
    recognises of the test split, whose recordings it never heard, is stored with it.
    """
    import torch

    from dualspec.evaluation.embedders import load_embedder
    from dualspec.evaluation.probe import L2, ProbeConfig, fit_probe, recognised
    from dualspec.training.weights import save_weights

    with usage():
        network = load_embedder(embedder)
    known, rows = _embed(data, "train", network)
    unseen, test_rows = _embed(data, "test", network)
    labels = [row.labels[0] for row in rows]
    classes = tuple(sorted(set(labels)))
    config = ProbeConfig(
        embedder=network.name, embedder_sha256=network.weights_sha256, num_features=known.shape[1], classes=classes
    )
    fitted = fit_probe(config, known, torch.tensor([classes.index(label) for label in labels]))
    found = recognised(fitted, unseen, [row.labels[0] for row in test_rows])
    if found is None:
        raise ValueError(f"{data} must hold test clips of the training labels, got none; prepare it again")
    corpora = sorted({row.corpus for row in [*rows, *test_rows]})
    notes = {"corpora": corpora, "l2": L2, "num_clips": len(rows), "held_out_clips": found["num_clips"]}
    notes |= {f"held_out_{name}": found[name] for name in ("top1", "top1_interval", "top5", "top5_interval")}
    save_weights(output, fitted, config, notes=notes)
    low, high = found["top1_interval"]
    print(
        f"{output}: {len(classes)} classes from {len(rows)} clips. Of {found['num_clips']} unseen clips it recognises "
        f"{100 * found['top1']:.1f} % [{100 * low:.1f}, {100 * high:.1f}], within 5 answers {100 * found['top5']:.1f} %"
    )


def _embed(data: Path, split: Split, network: Embedder) -> tuple[Tensor, list[ManifestRow]]:
    """Embed every clip (N, D) of a split, each at its own length."""
    import torch

    from dualspec.audio.waveform import from_pcm16
    from dualspec.data.datasets import ClipDataset

    embeddings = []
    with closing(ClipDataset(data, split, num_samples=None)) as clips:
        with progress_bar(f"{split} clips", len(clips)) as show:
            for index in range(len(clips)):
                embeddings.append(network(from_pcm16(clips[index][0])[None], clips.sample_rate).embeddings)
                show(index + 1)
        return torch.cat(embeddings), clips.rows
