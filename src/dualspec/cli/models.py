"""`dualspec show` and `dualspec assemble`: what a recipe is, and trained parts to one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dualspec.cli.console import print_table
from dualspec.cli.door import refuse, usage

if TYPE_CHECKING:
    from dualspec.accounting import Account
    from dualspec.hearing.proof import HeadCues
    from dualspec.recipes import Recipe


def show(
    recipe: Annotated[str | None, typer.Argument(help="Such as paper/dualspec.  [default: list them all]")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for `dualspec train`; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a recipe: resolved settings, shapes at every door, parameters of every part."""
    if recipe is None:
        if settings:
            refuse("--set must come with a recipe, got none; name one")
        from dualspec.recipes import recipe_names

        print(json.dumps(recipe_names()) if as_json else "\n".join(recipe_names()))
        return
    from dualspec.accounting import account
    from dualspec.cli.training import resolve_recipe

    with usage():
        chosen = resolve_recipe(recipe, settings or ())
        result = account(chosen)
    if as_json:
        print(json.dumps(_as_json(chosen, result), indent=2))
    else:
        _print(chosen, result)


def assemble(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="New model folder.")],
    part: Annotated[
        list[str], typer.Option(metavar="NAME=FOLDER", help="Weights of a part, such as denoiser=...; repeatable.")
    ],
    base: Annotated[
        Path | None,
        typer.Option(help="Model folder (default: the embedded one) for the parts that --part does not name."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Such as sampling.num_inference_steps=15; repeatable."),
    ] = None,
    export: Annotated[Literal["fp32", "fp16"], typer.Option(help="Precision of the weights.")] = "fp32",
    hrir: Annotated[
        Path | None,
        typer.Option(help="Head (SOFA) of the training clips: its cues become the target of the proof of direction."),
    ] = None,
) -> None:
    """Put trained parts together into a model folder for `dualspec generate --model`."""
    from dualspec.cli.training import read_pairs

    named = {name: Path(folder) for name, folder in read_pairs("--part", part)}
    sources = (_parts_of(base) if base is not None else {}) | named
    if "denoiser" not in sources:
        refuse(f"--part must name the denoiser, got {', '.join(sources)}; add --part denoiser=FOLDER")
    if output.exists():
        refuse(f"output must be new, got {output}, which exists; choose another name or remove it")
    import torch

    from dualspec.model_folder import assemble as assemble_folder

    dtype = torch.float16 if export == "fp16" else torch.float32
    head = read_head_cues(hrir) if hrir is not None else None
    assemble_folder(output, sources, settings=settings or (), dtype=dtype, head=head)
    print(f"{output}: {', '.join(sorted(sources))}")


def _parts_of(base: Path) -> dict[str, Path]:
    from dualspec.model_folder import embedded_bundle, read_index

    folder = embedded_bundle() if str(base) == "default" else base
    return {name: folder / name for name in read_index(folder)}


def read_head_cues(sofa: Path) -> HeadCues:
    """Measure the cues of the head in a SOFA file."""
    from dualspec.audio.hrir import load_sofa
    from dualspec.hearing.proof import measure_head
    from dualspec.training.weights import sha256_of

    return measure_head(load_sofa(sofa), sha256=sha256_of(sofa))


def _as_json(recipe: Recipe, result: Account) -> dict[str, Any]:
    from dualspec.config import to_dict

    return {
        "recipe": to_dict(recipe),
        "doors": {name: list(shape) for name, shape in result.doors.items()},
        "parameters": result.parameters,
        "training_only": result.training_only,
        "uncounted": list(result.uncounted),
        "total": result.total,
    }


def _print(recipe: Recipe, result: Account) -> None:
    from dualspec.config import to_dict

    print(json.dumps(to_dict(recipe), indent=2))
    print()
    print_table(["door", "shape"], [[name, " × ".join(map(str, shape))] for name, shape in result.doors.items()])
    print()
    rows = [[name, f"{count:,}", f"{count / 1e6:.2f} M"] for name, count in result.parameters.items()]
    rows += [[f"{name} (training only)", f"{n:,}", f"{n / 1e6:.2f} M"] for name, n in result.training_only.items()]
    rows += [[name, "not counted", ""] for name in result.uncounted]
    print_table(["part", "parameters", ""], rows)
    words = f"{result.total:,}"
    if recipe.task.kind == "diffusion" and recipe.name.startswith("paper"):
        words = f"{result.total // 1_000_000} M, cut as in Table II ({words})"
    print(f"\nsum: {words}")
