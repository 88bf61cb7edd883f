"""Train tiny recipes, in this process or in those that torchrun started. Argument: a JSON file with a list of jobs."""

import json
import signal
import sys
from pathlib import Path

from dualspec.audio.hrir import spherical_head
from dualspec.config import override
from dualspec.recipes import get_recipe
from dualspec.training.processes import Processes
from dualspec.training.run import build_task, train


def run_job(job: dict, processes: Processes) -> None:
    """Train, resuming where there is a run, until its end or step `stop`; append the clips that each step saw here."""
    recipe = override(get_recipe(job["recipe"]), job["settings"])
    folder = Path(job["folder"])

    def make_task(own: Processes):
        task = build_task(
            recipe.task,
            Path(job["corpus"]),
            spherical_head(),
            device="cpu",
            num_bank_samples=recipe.num_bank_samples,
            vae_folders={part: Path(path) for part, path in job["vaes"].items()},
        )
        make_batch = task.make_batch

        def noted(indices, random):
            with (folder / f"seen-{own.rank}.txt").open("a") as file:
                file.write(json.dumps([random.step, indices.tolist()]) + "\n")
            return make_batch(indices, random)

        task.make_batch = noted
        return task

    def stop(progress: float) -> None:
        if round(progress * recipe.loop.max_steps) == job["stop"]:
            signal.raise_signal(signal.SIGUSR1)

    folder.mkdir(exist_ok=True, parents=True)
    train(recipe.task, recipe.loop, folder, make_task=make_task, processes=processes, resume=True, on_progress=stop)


if __name__ == "__main__":
    group = Processes.join("cpu")
    for one in json.loads(Path(sys.argv[1]).read_text()):
        run_job(one, group)
    group.leave()
