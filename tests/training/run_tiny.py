"""Train a tiny recipe in this process, or in one that torchrun started. Arguments: recipe, corpus, folder."""

import sys
from pathlib import Path

from dualspec.audio.hrir import spherical_head
from dualspec.recipes import get_recipe
from dualspec.training.processes import Processes
from dualspec.training.run import build_task, train

if __name__ == "__main__":
    recipe = get_recipe(sys.argv[1])
    processes = Processes.join("cpu")
    train(
        recipe.task,
        recipe.loop,
        Path(sys.argv[3]),
        make_task=lambda p: build_task(
            recipe.task,
            Path(sys.argv[2]),
            spherical_head(),
            device="cpu",
            num_bank_samples=recipe.num_bank_samples,
            vae_folders={},
        ),
        processes=processes,
    )
    processes.leave()
