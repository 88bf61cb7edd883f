"""The command line: verbs without logic of their own. Heavy imports load inside the verb that needs them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from dualspec.cli.build import build
from dualspec.cli.door import door, run
from dualspec.cli.evaluation import evaluate, nearest, prompts, roundtrip
from dualspec.cli.generate import generate
from dualspec.cli.hearing import audition, localize
from dualspec.cli.importing import import_weights
from dualspec.cli.listen import listen
from dualspec.cli.models import assemble, show
from dualspec.cli.pack import pack
from dualspec.cli.prepare import prepare
from dualspec.cli.probe import probe
from dualspec.cli.results import baseline, cascade, report
from dualspec.cli.scene import scene
from dualspec.cli.serve import serve
from dualspec.cli.sound import spatialize
from dualspec.cli.training import train

__all__ = ["app", "main"]

app = typer.Typer(
    name="dualspec",
    help="Text to binaural audio: a sentence with a sound and a direction becomes a two-ear recording.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: it reads as well, and loads in half the time
    context_settings={"help_option_names": ["-h", "--help"]},
)

_VERBS: dict[Callable[..., None], str] = {
    generate: "Words to two-ear sound.",
    scene: "Several sounds over time, still and moving, in one mix.",
    serve: "A page for playing, and an HTTP service.",
    spatialize: "A recording into a direction, through a head.",
    show: "What a recipe is: settings, shapes, sizes.",
    prepare: "Corpora to a data set.",
    pack: "A data set and a text encoder made small.",
    import_weights: "Published weights to start from.",
    train: "A data set to trained weights.",
    build: "A data set to a whole model, in given minutes.",
    assemble: "Trained parts to one model.",
    prompts: "A list of prompts, or a whole test set.",
    roundtrip: "True clips through a model's parts.",
    evaluate: "Judge clips: quality and direction.",
    probe: "What says which sound is recognised.",
    localize: "Where a recording is heard.",
    listen: "A blind test: where people hear clips.",
    audition: "How well a localizer hears.",
    nearest: "The training clips nearest to generated ones.",
    baseline: "A published mono system answers a prompt list.",
    cascade: "Clips of any system through a head.",
    report: "The paper's tables and figures, ours beside them.",
}
for verb, summary in _VERBS.items():
    name = verb.__name__.removesuffix("_weights")  # `import` alone is a word of Python's
    app.command(name, short_help=summary)(door(verb))


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from dualspec import __version__

        print(f"dualspec {__version__}")
        raise typer.Exit(0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after the program's name; those of this process when None.

    Returns:
        The exit code; `dualspec.cli.door` says what it means.
    """
    # Threads of torch that wait for work spin this often before they leave their core to others (libgomp).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    return run(app, list(sys.argv[1:] if arguments is None else arguments))
