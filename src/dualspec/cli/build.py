"""`dualspec build`: a data set to a whole model, stage by stage, in given minutes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualspec.cli.door import note, refuse, usage
from dualspec.cli.training import going_on, read_heads, read_pairs, resolve_recipe, run_recipe, say_how_it_ended

if TYPE_CHECKING:
    from dualspec.recipes import Recipe
    from dualspec.stages import Stage
    from dualspec.training.processes import Processes


def build(
    recipe: Annotated[str, typer.Argument(help="A variant's, such as mini/dualspec.")],
    data: Annotated[Path, typer.Option(help="What `dualspec prepare` or `pack` wrote.")],
    max_minutes: Annotated[float, typer.Option(min=0.05, help="Of all stages and calls together, by the clock.")],
    runs: Annotated[Path, typer.Option(help="Folder of all runs; the model goes to RUNS/RECIPE/model.")] = Path("runs"),
    hrir: Annotated[
        list[str] | None,
        typer.Option(metavar="HEAD", help="Head: SOFA file or analytic; repeatable.  [default: analytic, a sphere]"),
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help="Model whose parts the stages start from, or keep; default: the embedded one.")
    ] = None,
    shares: Annotated[
        list[str] | None,
        typer.Option("--share", metavar="STAGE=NUMBER", help="Its part of the minutes; 0 leaves it out; repeatable."),
    ] = None,
    text_encoder: Annotated[Path | None, typer.Option(help="Folder of the text encoder, as `pack` writes it.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="[STAGE.]KEY=VALUE", help="For one stage, or for all; repeatable."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.  [default: the GPU, if any]")] = None,
) -> None:
    """Train the parts of a model one after the other, each for its share of the minutes, and assemble them.

    Stopped by Ctrl-C, SIGTERM or SIGUSR1 it saves its state, and the same command goes on; a denoiser that was stopped
    is in RUNS/RECIPE/model as far as it came. A stage with weights in RUNS is done, also where `train` made them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        refuse("build must be one process, got several; train the parts by `dualspec train`, then `dualspec assemble`")
    from dualspec.cli.models import base_folder
    from dualspec.cli.prepare import ready_corpus
    from dualspec.stages import stages_of
    from dualspec.training.processes import Processes

    with usage():
        processes = Processes.join(device)
        given = {name: _number(text) for name, text in read_pairs("--share", shares or ())}
        on_gpu, one_head = processes.device.startswith("cuda"), len(hrir or ("",)) == 1
        stages = stages_of(recipe, given, on_gpu=on_gpu, one_head=one_head)
    base = base_folder(init) if init is not None else None
    chain = _Chain(stages, runs, base, settings or [])
    if text_encoder is not None:
        chain.settings.append(f"denoiser.task.variant.text_encoder.name_or_path={text_encoder.resolve()}")
    chain.check()
    data, stop_signal = ready_corpus(data, runs), None
    while (stage := chain.next_stage()) is not None and stop_signal is None:
        stop_signal = chain.train(stage, max_minutes, data, hrir or [], processes)
    chain.assemble(data, hrir or [])
    say_how_it_ended(stop_signal, "the same command goes on", processes)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"share must be a number, got {text!r}; such as denoiser=9") from error


class _Chain:
    """The stages of one model on their way through the trainer."""

    def __init__(self, stages: list[Stage], runs: Path, base: Path | None, settings: list[str]) -> None:
        from dualspec.model_folder import read_index
        from dualspec.stages import Ledger

        self.stages, self.runs, self.base, self.settings = stages, runs, base, settings
        self.parts = {part: base / part for part in read_index(base)} if base is not None else {}
        self.folder = stages[-1].folder(runs)
        self.ledger = Ledger.read(self.folder / "build.json")
        self.begun, self.used, self.overhead = time.monotonic(), self.ledger.used, 0.0

    def weights(self, part: str, *, sharpened: bool = True) -> Path | None:
        """Return the folder of a part: what its last stage made, else what the model at the start has."""
        made = [stage for stage in self.stages if stage.part == part and (sharpened or not stage.place)]
        folders = [stage.folder(self.runs) / name for stage in reversed(made) for name in ("weights", "snapshot")]
        return next((folder for folder in folders if folder.exists()), self.parts.get(part))

    def ahead(self) -> list[Stage]:
        """Return the stages that are still to be trained."""
        return [stage for stage in self.stages if stage.share and not (stage.folder(self.runs) / "weights").exists()]

    def next_stage(self) -> Stage | None:
        return next(iter(self.ahead()), None)

    def check(self) -> None:
        """Refuse, before anything is trained, what could not be finished."""
        for stage in self.stages:
            self.resolved(stage, 1.0)
            if not stage.share and not stage.place and self.weights(stage.part) is None:
                refuse(f"--share of {stage.name} must be above 0, got 0 and no weights to keep; name them by --init")

    def resolved(self, stage: Stage, minutes: float) -> Recipe:
        """Return a stage's recipe with its own settings, those of the command, and its minutes."""
        names, asked = {stage.name for stage in self.stages}, []
        for text in self.settings:
            first, _, rest = text.partition(".")
            if first not in names or first == stage.name:
                asked.append(rest if first in names else text)
        last = {text.partition("=")[0].strip(): text for text in (*stage.settings, *asked)}
        with usage():
            return resolve_recipe(stage.recipe, list(last.values()), minutes)

    def train(self, stage: Stage, max_minutes: float, data: Path, hrir: list[str], processes: Processes) -> int | None:
        """Train a stage for the minutes that are its own; return the signal that stopped it, if any."""
        import torch

        from dualspec.training.run_lock import holds_run

        began, folder = time.monotonic(), stage.folder(self.runs)
        minutes = self.ledger.allot(self.ahead(), max_minutes, self.overhead)
        already = self.ledger.trained if self.ledger.stage == stage.name else 0.0
        self.ledger = replace(self.ledger, stage=stage.name, given=minutes, trained=already)
        resume, recipe = holds_run(folder), self.resolved(stage, minutes)
        init = None if resume else self.start_of(stage, recipe)
        note(f"{stage.name}: {minutes:.2f} min in {folder}, from {init or ('where it was' if resume else 'the start')}")
        try:
            state = run_recipe(
                going_on(recipe, folder, init, self.settings),
                folder,
                processes,
                data=data,
                heads=read_heads(hrir),
                vae_folders={part: path for part in self.parts_needed(recipe) if (path := self.weights(part))},
                resume=resume,
                init=init,
                export_dtype=torch.float16,
                snapshot=stage.part == "denoiser",
            )
            self.ledger = replace(self.ledger, trained=state.elapsed_s / 60)
        finally:
            self.ledger = replace(self.ledger, used=self.used + (time.monotonic() - self.begun) / 60)
            self.ledger.write(self.folder / "build.json")
        self.overhead = max(self.overhead, (time.monotonic() - began) / 60 - (self.ledger.trained - already))
        if state.stop_signal is None:
            rate = state.step * recipe.loop.batch_size / max(state.elapsed_s, 1e-3)
            print(f"{stage.name}: {state.step} steps, {rate:.1f} clips/s; {folder / 'weights'}", flush=True)
        return state.stop_signal

    def parts_needed(self, recipe: Recipe) -> tuple[str, ...]:
        return recipe.task.variant.parts if recipe.task.kind == "diffusion" else ()

    def start_of(self, stage: Stage, recipe: Recipe) -> Path | None:
        """Return the weights that a stage starts from; a denoiser takes none of another variant."""
        if stage.place:
            return self.weights(stage.part, sharpened=False)
        start = self.parts.get(stage.part)
        if start is None or recipe.task.kind != "diffusion":
            return start
        from dualspec.diffusion.variant import VariantConfig
        from dualspec.training.weights import read_config

        same = read_config(start, {"VariantConfig": VariantConfig}).variant == recipe.task.variant.variant
        return start if same else None

    def assemble(self, data: Path, hrir: Sequence[str]) -> None:
        """Put the newest weights of all parts together as a model, in place of the one before."""
        import torch

        from dualspec.cli.models import credits_of, labels_of, read_head_cues
        from dualspec.model_folder import assemble
        from dualspec.training.weights import replace_folder

        parts = dict.fromkeys(stage.part for stage in self.stages) | ({"vocoder": None} if self.parts else {})
        sources = {part: path for part in parts if (path := self.weights(part)) is not None}
        if set(sources) < {stage.part for stage in self.stages}:
            return  # stopped before there was a denoiser
        head = read_head_cues(Path(hrir[0])) if len(hrir) == 1 and hrir[0] != "analytic" else None
        new, model = self.folder / ".tmp-model", self.folder / "model"
        credits = credits_of(self.base, data)
        assemble(new, sources, dtype=torch.float16, head=head, events=labels_of(data), credits=credits)
        replace_folder(new, model)
        print(f"{model}: {', '.join(sorted(sources))}")
