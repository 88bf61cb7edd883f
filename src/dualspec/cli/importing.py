"""`dualspec import`: published weights into a folder that `dualspec train --init` and `--vae` take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dualspec.cli.door import refuse, usage


def import_weights(
    kind: Annotated[
        Literal["tango2", "tango", "audioldm-vae", "audioldm-vocoder", "flan-t5", "minilm"],
        typer.Argument(help="Which published weights."),
    ],
    source: Annotated[
        str | None, typer.Argument(metavar="PATH_OR_HUB_ID", help="Folder, file, or a hub's OWNER/NAME.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="New weights folder.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="What they are to train, such as paper/dualspec_p.  [default: by the kind]")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for `dualspec train`; repeatable.")
    ] = None,
    prediction: Annotated[
        Literal["v_prediction", "epsilon"] | None,
        typer.Option(help="What the U-Net of TANGO predicts.  [default: as its main_config.json tells]"),
    ] = None,
    list_keys: Annotated[bool, typer.Option("--list-keys", help="Print the names and shapes that must be there.")] = (
        False
    ),
) -> None:
    """Take over published weights: every tensor must be there, be known and fit.

    Pickled files are read by torch's safe reader. A hub id is fetched, or found in the hub's cache. Mind the licences.
    """
    from dualspec.importers.kinds import KINDS

    known = KINDS[kind]
    if not known.room and (recipe is not None or settings):
        refuse(f"--recipe and --set must not come with {kind}, got one; its sizes are those of its config.json")
    if prediction is not None and known.room != "variant":
        refuse(f"--prediction must come with tango or tango2, got {kind}; leave it out")
    config, name = _config(kind, recipe or known.recipe, settings or []) if known.room else (None, "")
    if list_keys:
        _print_keys(kind, config)
        return
    if source is None or output is None:
        refuse(f"PATH_OR_HUB_ID and -o must be given, got one or none; such as {known.hub_id} -o weights/{kind}")
    if output.exists():
        refuse(f"output must be new, got {output}, which exists; choose another name or remove it")
    from dualspec.importers.published import locate

    path = locate(source, known.files)
    if known.room:
        _import(kind, source, path, output, config, prediction)
        print(f"licence of these weights: {known.licence}")
        print(f"to start from them: dualspec train {name} --init {output}")
        return
    if kind == "minilm":
        from dualspec.importers.minilm import import_minilm

        print(f"{output}: {import_minilm(path, output)} tensors, layers in half precision, words in 8 bits")
    else:
        from dualspec.importers.t5 import import_t5

        kept, left = import_t5(path, output, {"kind": kind, "source": source, "licence": known.licence})
        print(f"{output}: {kept} tensors; left out: {left} of the decoder")
    print(f"licence of these weights: {known.licence}")
    print(f"to use them: --set task.variant.text_encoder.name_or_path={output}")


def _config(kind: str, recipe: str, settings: list[str]) -> tuple[Any, str]:
    """Return the config that a recipe gives to the room of these weights, and the recipe's name."""
    from dualspec.cli.training import resolve_recipe
    from dualspec.importers.kinds import KINDS

    with usage():
        chosen = resolve_recipe(recipe, settings)
    config = getattr(chosen.task, KINDS[kind].room, None)  # type: ignore[index]
    if config is None:
        refuse(f"--recipe must train what {kind} is, a {KINDS[kind].room}, got {recipe}; leave it out")  # type: ignore[index]
    return config, chosen.name


def _print_keys(kind: Any, config: Any) -> None:
    from dualspec.importers.kinds import layouts

    for title, tensors in layouts(kind, config).items():
        print(f"# {title}: {len(tensors)} tensors")
        for name, like in tensors.items():
            print(name, "×".join(map(str, like.shape)) or "1", sep="\t")


def _import(kind: Any, source: str, path: Path, output: Path, config: Any, prediction: Any) -> None:
    """Read, write and say what was not simply copied."""
    from dualspec.importers.kinds import describe, read_weights
    from dualspec.training.weights import save_state

    read = read_weights(kind, path, config, prediction_type=prediction)
    save_state(output, read.tensors, read.config, notes={"imported": describe(kind, source, read)})
    print(f"{output}: {len(read.tensors)} tensors of {', '.join(file.name for file in read.files)}")
    for name, how in read.changed.items():
        print(f"not simply copied: {name}: {how}")
    for name, number in read.left_out.items():
        print(f"left out: {number} of {name}")
    if "prediction_type" in read.facts:
        print(
            f"predicts: {read.facts['prediction_type']}; its answer to pure noise correlates with the noise by "
            f"{read.facts['noise_correlation']:.2f} (a model of noise is near 1, of velocity near 0)"
        )
