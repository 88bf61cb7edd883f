"""`dualspec show` and `dualspec assemble`: what a recipe is, and trained parts to one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dualspec.cli.console import print_table
from dualspec.cli.door import note, refuse, usage

if TYPE_CHECKING:
    from dualspec.accounting import Account
    from dualspec.forecast import Forecast
    from dualspec.hearing.proof import HeadCues
    from dualspec.recipes import Recipe


def show(
    recipe: Annotated[str | None, typer.Argument(help="Such as paper/dualspec.  [default: list them all]")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="As for `dualspec train`; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    world_size: Annotated[
        int | None, typer.Option(min=1, help="Also say what training asks of so many processes, one to a GPU.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Corpus that it would train on, for epochs and the memory of its clips.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="List of its clips at azimuths, as for `dualspec train`.")] = None,
    memory_gb: Annotated[
        float | None, typer.Option("--memory-gb", min=0, help="Refuse what does not fit a GPU of so many 1e9 bytes.")
    ] = None,
) -> None:
    """Show a recipe: resolved settings, shapes at every door, parameters of every part, and what training it takes."""
    if world_size is None and (data or memory_gb is not None):
        refuse("--data and --memory-gb must come with --world-size, got none; say how many GPUs")
    if pairs is not None and data is None:
        refuse("--pairs must come with --data, got none; name the corpus that it was selected from")
    if recipe is None:
        if settings or world_size:
            refuse("--set and --world-size must come with a recipe, got none; name one")
        from dualspec.recipes import recipe_names

        print(json.dumps(recipe_names()) if as_json else "\n".join(recipe_names()))
        return
    from dualspec.accounting import account
    from dualspec.cli.training import resolve_recipe
    from dualspec.config import to_dict

    with usage():
        chosen = resolve_recipe(recipe, settings or ())
        result = account(chosen)
    asked = _forecast(chosen, world_size, data, pairs, memory_gb) if world_size is not None else None
    if as_json:
        more = {"training": to_dict(asked)} if asked is not None else {}
        print(json.dumps(_as_json(chosen, result) | more, indent=2))
        return
    _print(chosen, result)
    if asked is not None:
        _print_forecast(chosen, asked)


def _forecast(
    recipe: Recipe, world_size: int, data: Path | None, pairs: Path | None, memory_gb: float | None
) -> Forecast:
    from dualspec.data.datasets import hold_out
    from dualspec.data.manifest import read_manifest
    from dualspec.data.selection import read_pairs
    from dualspec.forecast import forecast

    visits: list[str] = []
    if data is not None:
        visits = [row.id for row in hold_out(read_manifest(data), recipe.loop.held_out) if row.split == "train"]
    if pairs is not None:
        clips = set(visits)
        visits = [pair.clip for pair in read_pairs(pairs) if pair.clip in clips]
    with usage():
        return forecast(recipe, world_size, visits=visits, memory_gb=memory_gb)


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
        typer.Option(
            help="Head (SOFA, or fabian) of the training clips, target of the proof.  [default: as the denoiser says]"
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="What it was trained on (`dualspec prepare`): the page suggests its labels.")
    ] = None,
) -> None:
    """Put trained parts together into a model folder for `dualspec generate --model`."""
    from dualspec.bundle import part_folder
    from dualspec.cli.training import read_pairs

    named = {name: part_folder(name, folder) for name, folder in read_pairs("--part", part)}
    sources = (_parts_of(base) if base is not None else {}) | named
    if "denoiser" not in sources:
        refuse(f"--part must name the denoiser, got {', '.join(sources)}; add --part denoiser=FOLDER")
    if output.exists():
        refuse(f"output must be new, got {output}, which exists; choose another name or remove it")
    import torch

    from dualspec.model_folder import assemble as assemble_folder

    dtype = torch.float16 if export == "fp16" else torch.float32
    hrir = hrir or _head_of(sources["denoiser"])
    head = read_head_cues(hrir, sources["denoiser"]) if hrir is not None else None
    events = labels_of(data) if data is not None else []
    credits = credits_of(base, data)
    assemble_folder(output, sources, settings=settings or (), dtype=dtype, head=head, events=events, credits=credits)
    print(f"{output}: {', '.join(sorted(sources))}")


def _head_of(denoiser: Path) -> Path | None:
    """Return the head that a denoiser says it was trained with, if it is embedded here; say so where it is not."""
    from dualspec.bundle import HEADS
    from dualspec.cli.training import head_facts, known_heads

    known = [head for head in known_heads(denoiser) if head["sha256"] is not None]
    for name, source in HEADS.items():
        if [head["sha256"] for head in known] in ([source], [head_facts(name)["sha256"]]):
            return Path(name)
    if known:
        names = ", ".join(head["name"] for head in known)
        note(f"note: the denoiser was trained with the head {names}; --hrir FILE makes one the target of the proof")
    return None


def base_folder(base: Path) -> Path:
    """Return a model folder; `default` is the embedded one."""
    from dualspec.model_folder import embedded_bundle

    return embedded_bundle() if str(base) == "default" else base


def _parts_of(base: Path) -> dict[str, Path]:
    from dualspec.model_folder import read_index

    folder = base_folder(base)
    return {name: folder / name for name in read_index(folder)}


def credits_of(base: Path | None, data: Path | None) -> str | None:
    """Credit the recordings behind a model: those of its base, and those that it was trained on."""
    from dualspec.data.manifest import read_manifest
    from dualspec.model_folder import CREDITS_NAME, read_documents

    lines = read_documents(base_folder(base)).get(CREDITS_NAME, "").splitlines() if base is not None else []
    rows = [row for row in read_manifest(data) if row.split == "train"] if data is not None else []
    lines = lines or ["id\tlicence\tattribution"]
    lines += [f"{row.id}\t{row.licence}\t{row.attribution}" for row in rows]
    return "\n".join(dict.fromkeys(lines)) + "\n" if len(lines) > 1 else None


def labels_of(data: Path) -> list[str]:
    """Return the labels of a corpus' training clips, the commonest first."""
    from collections import Counter

    from dualspec.data.manifest import read_manifest

    labels = Counter(row.labels[0] for row in read_manifest(data) if row.split == "train")
    return [label for label, _ in labels.most_common()]


def read_head_cues(sofa: Path, denoiser: Path) -> HeadCues:
    """Measure the cues of the head in a SOFA file at the directions that a denoiser's weights were trained on."""
    from dualspec.audio.hrir import load_sofa
    from dualspec.bundle import head_file, trained_words
    from dualspec.files import sha256_of
    from dualspec.hearing.proof import measure_head

    sofa = head_file(sofa)
    azimuths_deg = trained_words(denoiser).directions("doa")
    return measure_head(load_sofa(sofa), sha256=sha256_of(sofa), azimuths_deg=azimuths_deg)


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


def _print_forecast(recipe: Recipe, asked: Forecast) -> None:
    steps = f"{'at most ' if recipe.loop.max_minutes else ''}{asked.num_steps:,} steps"
    epochs = f", {asked.num_epochs:,.1f} epochs" if asked.num_epochs is not None else ""
    cut = f"{recipe.loop.batch_size} clips a step, {asked.num_parts} × {asked.micro_batch} on each"
    print(f"\ntraining on {asked.world_size} GPU(s): {cut}; {steps}, {asked.num_samples:,} clips seen{epochs}")
    print(f"{asked.operations:.3g} · 10¹⁸ operations in all, without the frozen encoders'")
    rows = [[name, f"{size / 1e9:.2f} GB"] for name, size in asked.memory.items()]
    print_table(["memory of each GPU", ""], [*rows, ["sum", f"{asked.total_gb:.2f} GB"]])
    print("(not counted: CUDA's context, kernels' work space, the frozen encoders' passes)")
