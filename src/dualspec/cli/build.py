"""`dualspec build`: a data set to a whole model, stage by stage, in given minutes."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualspec.cli.door import note, refuse, usage
from dualspec.cli.training import (
    HeadsOption,
    going_on,
    heads_to_train_with,
    read_pairs,
    resolve_recipe,
    run_recipe,
    say_how_it_ended,
)

if TYPE_CHECKING:
    from dualspec.recipes import Recipe
    from dualspec.stages import Stage
    from dualspec.training.loop import RunState
    from dualspec.training.processes import Processes


def build(
    recipe: Annotated[str, typer.Argument(help="A variant's, such as mini/dualspec.")],
    data: Annotated[Path, typer.Option(help="What `dualspec prepare` or `pack` wrote.")],
    max_minutes: Annotated[float, typer.Option(min=0.05, help="Of all stages and calls together, by the clock.")],
    runs: Annotated[Path, typer.Option(help="Folder of all runs; the model goes to RUNS/RECIPE/model.")] = Path("runs"),
    hrir: HeadsOption = None,
    init: Annotated[
        Path | None, typer.Option(help="Model whose parts the stages start from, or keep; default: the embedded one.")
    ] = None,
    shares: Annotated[
        list[str] | None,
        typer.Option("--share", metavar="STAGE=NUMBER", help="Its part of the minutes; 0 leaves it out; repeatable."),
    ] = None,
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
    if not math.isfinite(max_minutes):
        refuse(f"--max-minutes must be a finite number, got {max_minutes}; such as 15")
    begun = time.monotonic()
    from dualspec.cli.models import base_folder
    from dualspec.cli.prepare import ready_corpus
    from dualspec.stages import stages_of
    from dualspec.training.processes import Processes

    hrir = heads_to_train_with(hrir or (), init)
    with usage():
        processes = Processes.join(device)
        given = {name: _number(text) for name, text in read_pairs("--share", shares or ())}
        on_gpu, one_head = processes.device.startswith("cuda"), len(hrir or ("",)) == 1
        stages = stages_of(recipe, given, on_gpu=on_gpu, one_head=one_head)
    base = base_folder(init) if init is not None else None
    chain = _Chain(stages, runs, base, settings or [], begun)
    chain.check()
    chain.mend()
    data, state = ready_corpus(data, runs), None
    while (ahead := chain.ahead()) and (state is None or state.stop_signal is None):
        state = chain.train(ahead, max_minutes, data, hrir, processes)
    chain.assemble(data, hrir)
    say_how_it_ended(state, "the same command goes on", processes)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"share must be a number, got {text!r}; such as denoiser=9") from error


class _Chain:
    """The stages of one model on their way through the trainer."""

    def __init__(self, stages: list[Stage], runs: Path, base: Path | None, settings: list[str], begun: float) -> None:
        from dualspec.model_folder import read_index
        from dualspec.stages import Ledger

        self.stages, self.runs, self.base, self.settings = stages, runs, base, settings
        self.parts = {part: base / part for part in read_index(base)} if base is not None else {}
        if "denoiser" in self.parts and not self._is_of_this_variant(self.parts["denoiser"]):
            del self.parts["denoiser"]
        self.folder = stages[-1].folder(runs)
        self.model = self.folder / "model"
        self.ledger = Ledger.read(self.folder / "build.json")
        self.begun, self.used, self.overhead = begun, self.ledger.used, 0.0

    def _is_of_this_variant(self, denoiser: Path) -> bool:
        from dualspec.diffusion.variant import VariantConfig
        from dualspec.training.weights import read_config

        stored: VariantConfig = read_config(denoiser, {"VariantConfig": VariantConfig})
        return stored.variant == self.stages[-1].recipe.split("/")[1]

    def weights(self, part: str, *, sharpened: bool = True) -> Path | None:
        """Return the folder of a part: what its last stage made, else what the model at the start has.

        That model's denoiser counts only where none is trained here, nor a VAE but for its decoder.
        """
        made = [stage for stage in self.stages if stage.part == part and (sharpened or not stage.place)]
        folders = [stage.folder(self.runs) / name for stage in reversed(made) for name in ("weights", "snapshot")]
        newest = next((folder for folder in folders if folder.exists()), None)
        if part == "denoiser" and (self.stages[-1].share or any(map(self._has_own_latents, self.stages))):
            return newest
        return newest or self.parts.get(part)

    def _has_own_latents(self, stage: Stage) -> bool:
        vae = stage.part.endswith("_vae") and not stage.place
        return vae and (stage.share > 0 or self.weights(stage.part, sharpened=False) != self.parts.get(stage.part))

    def ahead(self) -> list[Stage]:
        """Return the stages that are still to be trained."""
        return [stage for stage in self.stages if stage.share and not (stage.folder(self.runs) / "weights").exists()]

    def check(self) -> None:
        """Refuse, before anything is trained, what could not be finished."""
        from dualspec.training.run import with_stored_schedule
        from dualspec.training.run_lock import holds_run

        for stage in self.stages:
            recipe, begun = self.resolved(stage, 1.0), holds_run(stage.folder(self.runs))
            if not stage.share and not stage.place and self.weights(stage.part) is None:
                fitting = " on the VAEs that this trains" if stage.part in self.parts else ""
                refuse(
                    f"--share of {stage.name} must be above 0, got 0 and no weights to keep{fitting}; name a model of "
                    "this variant by --init, or train it"
                )
            init = self.parts.get(stage.part)
            if not (stage.share and init and self.sets_schedule(stage)) or begun:
                continue
            if with_stored_schedule(recipe.task, self.folder, init) != recipe.task:
                refuse(f"task.variant.schedule must be that of {init} to start from it, got another by --set")
        self.check_latents()
        if holds_run(self.folder) and (new := [stage.name for stage in self.ahead() if self._has_own_latents(stage)]):
            refuse(
                f"--runs must have no denoiser before its {new[0]}, got one in {self.folder}; take other --runs, or "
                f"keep the VAE that it was trained on by --share {new[0]}=0"
            )

    def check_latents(self) -> None:
        """Refuse a decoder that is sharpened on other latents, and a denoiser that takes others than the VAEs give."""
        from dualspec.latents.vae import VaeConfig
        from dualspec.training.weights import read_config

        vaes: dict[str, Any] = {}
        for stage in self.stages:
            kept = None if stage.share else self.weights(stage.part, sharpened=not stage.place)
            task = self.resolved(stage, 1.0).task
            if task.kind == "vae" and (stage.share or (kept and stage.part not in vaes)):
                own = task.vae if kept is None else read_config(kept, {"VaeConfig": VaeConfig})
                if vaes.setdefault(stage.part, own) != own:
                    refuse(f"{stage.name}.task.vae must be that of {stage.part}, got another by --set; set both alike")
            elif task.kind == "diffusion" and stage.share and set(task.variant.parts) <= set(vaes):
                with usage():
                    task.variant.latent_pairing(vaes)

    def asked(self, stage: Stage) -> list[str]:
        """Return the command's settings of a stage: its own, without its name before them, and those of all."""
        others = {other.name for other in self.stages} - {stage.name}
        texts = [text for text in self.settings if text.partition(".")[0] not in others]
        return [text.removeprefix(f"{stage.name}.") for text in texts]

    def sets_schedule(self, stage: Stage) -> bool:
        return any(text.strip().startswith("task.variant.schedule") for text in self.asked(stage))

    def resolved(self, stage: Stage, minutes: float) -> Recipe:
        """Return a stage's recipe with its own settings, those of the command, and its minutes."""
        last = {text.partition("=")[0].strip(): text for text in (*stage.settings, *self.asked(stage))}
        with usage():
            return resolve_recipe(stage.recipe, list(last.values()), minutes)

    def train(
        self, ahead: list[Stage], max_minutes: float, data: Path, hrir: list[str], processes: Processes
    ) -> RunState:
        """Train the first of the stages ahead for the minutes that are its own; return how that ended."""
        import torch

        from dualspec.stages import LEAST_MINUTES
        from dualspec.training.run_lock import holds_run

        stage, began = ahead[0], time.monotonic()
        folder = stage.folder(self.runs)
        resume = holds_run(folder)
        already = self.trained(stage)
        self.keep()
        minutes = self.ledger.allot(ahead, max_minutes, self.overhead)
        self.keep(stage=stage.name, given=minutes, trained=already, max_minutes=max_minutes, assembled=False)
        if minutes <= already + 1.001 * LEAST_MINUTES:
            note(f"warning: the minutes are used up, {stage.name} takes a few steps at most; raise --max-minutes")
        recipe = self.resolved(stage, minutes)
        init = None if resume else self.start_of(stage)
        note(f"{stage.name}: {minutes:.2f} min in {folder}, from {init or ('where it was' if resume else 'the start')}")
        try:
            state = run_recipe(
                going_on(recipe, folder, init, self.asked(stage)),
                folder,
                processes,
                data=data,
                heads=hrir,
                vae_folders={part: path for part in self.parts_needed(recipe) if (path := self.weights(part))},
                resume=resume,
                init=init,
                export_dtype=torch.float16,
                snapshot=stage.part == "denoiser",
            )
            self.ledger = replace(self.ledger, trained=state.elapsed_s / 60)
        finally:
            self.keep()
        self.overhead = max(self.overhead, (time.monotonic() - began) / 60 - (self.ledger.trained - already))
        if state.stop_signal is None:
            rate = state.step * recipe.loop.batch_size / max(state.elapsed_s, 1e-3)
            print(f"{stage.name}: {state.step} steps, {rate:.1f} clips/s; {folder / 'weights'}", flush=True)
        return state

    def keep(self, **changes: Any) -> None:
        """Write the ledger with the minutes used up to now."""
        self.ledger = replace(self.ledger, used=self.used + (time.monotonic() - self.begun) / 60, **changes)
        self.ledger.write(self.folder / "build.json")

    def trained(self, stage: Stage) -> float:
        """Return the minutes that a stage has trained; those of a call that was killed count as used, too."""
        from dualspec.training.checkpoint import newest_checkpoint

        found, _ = newest_checkpoint(stage.folder(self.runs) / "checkpoints")
        minutes = float(found[2]["elapsed_s"]) / 60 if found is not None else 0.0
        if self.ledger.stage == stage.name:
            self.used += max(0.0, minutes - self.ledger.trained)
            self.ledger = replace(self.ledger, trained=minutes)
        return minutes

    def parts_needed(self, recipe: Recipe) -> tuple[str, ...]:
        return recipe.task.variant.parts if recipe.task.kind == "diffusion" else ()

    def start_of(self, stage: Stage) -> Path | None:
        """Return the weights that a stage starts from."""
        return self.weights(stage.part, sharpened=False) if stage.place else self.parts.get(stage.part)

    def mend(self) -> None:
        """Remove what a killed call left beside the model, and put the model back that it had moved aside."""
        from dualspec.training.run_lock import run_lock
        from dualspec.training.weights import remove_leftovers

        with run_lock(self.folder):
            remove_leftovers(self.folder)

    def assemble(self, data: Path, hrir: Sequence[str]) -> None:
        """Put the newest weights of all parts together in place of the model before, unless nothing is new."""
        import torch

        from dualspec.cli.models import credits_of, labels_of, read_head_cues
        from dualspec.files import temporary_in
        from dualspec.model_folder import assemble
        from dualspec.training.run_lock import run_lock
        from dualspec.training.weights import replace_folder

        parts = dict.fromkeys(stage.part for stage in self.stages) | ({"vocoder": None} if self.parts else {})
        sources = {part: path for part in parts if (path := self.weights(part)) is not None}
        if not sources.keys() >= {stage.part for stage in self.stages}:
            return  # stopped before there was a denoiser
        if not self.ledger.assembled or not self.model.exists():
            one_head = len(hrir) == 1 and hrir[0] != "analytic"
            head = read_head_cues(Path(hrir[0]), sources["denoiser"]) if one_head else None
            credits = credits_of(self.base, data)
            self.mend()
            with run_lock(self.folder), temporary_in(self.folder) as temporary:
                new = temporary / "model"
                assemble(new, sources, dtype=torch.float16, head=head, events=labels_of(data), credits=credits)
                replace_folder(new, self.model)
            self.keep(assembled=True)
        print(f"{self.model}: {', '.join(sorted(sources))}")
