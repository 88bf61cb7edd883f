"""Two processes equal one, by DDP and by FSDP2; no clip is lost or doubled when their number changes."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dualspec.latents.vae import SpectrogramVae
from dualspec.recipes import get_recipe
from dualspec.training.processes import Processes
from dualspec.training.task import global_batch
from dualspec.training.weights import read_state, save_weights

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("run_tiny.py")
SPECIFICATION = importlib.util.spec_from_file_location("run_tiny", SCRIPT)
run_tiny = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(run_tiny)

VAE, LOCALIZER, VARIANT = "tiny/mel_vae", "tiny/localizer", "tiny/stft_base"
SETTINGS = {
    # with parts of one size, what a part decides by itself (the adversary's weight) is the same, too
    VAE: ["loop.max_steps=8", "loop.micro_batch=2", "task.loss.adversarial_start_step=6"],
    LOCALIZER: ["loop.max_steps=4"],  # batch normalisation sees all processes
    VARIANT: ["loop.max_steps=4"],
}
PAIRS = [(VAE, "ddp"), (VAE, "fsdp2"), (LOCALIZER, "ddp"), (VARIANT, "fsdp2")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, corpus) -> Path:
    """Every recipe by one process and by two; and one run by one, two with DDP, two with FSDP2, and one again."""
    folder = tmp_path_factory.mktemp("processes")
    config = get_recipe("tiny/stft_vae").task.vae
    torch.manual_seed(0)
    save_weights(folder / "stft_vae", SpectrogramVae(config), config)

    def job(recipe: str, name: str, *settings: str, stop: int | None = None) -> dict:
        chosen = [*SETTINGS[recipe], "loop.log_every=1", "loop.validate_every=4", *settings]
        vaes = {"stft_vae": str(folder / "stft_vae")}
        where = str(folder / name / recipe)
        return {
            "recipe": recipe,
            "settings": chosen,
            "corpus": str(corpus),
            "folder": where,
            "vaes": vaes,
            "stop": stop,
        }

    for recipe in SETTINGS:
        run_tiny.run_job(job(recipe, "one"), Processes())
    run_tiny.run_job(job(VAE, "changing", stop=2), Processes())
    again = "loop.checkpoint_activations=true"  # computed twice, the same comes out
    jobs = [job(recipe, kind, f"loop.parallel={kind}", *[again] * (recipe == VARIANT)) for recipe, kind in PAIRS]
    jobs += [job(VAE, "changing", stop=4), job(VAE, "changing", "loop.parallel=fsdp2", stop=6)]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, SCRIPT, folder / "jobs.json"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-9000:]
    run_tiny.run_job(job(VAE, "changing"), Processes())
    return folder


def logged(folder: Path, split: str) -> list[dict]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in entry.items() if k not in ("minutes", "split")}
        for entry in entries
        if entry["split"] == split
    ]


def assert_same_losses(one: list[dict], two: list[dict]) -> None:
    """To 1e-4; with the adversary to 1e-2, as its weight jumps where a leaky ReLU of the adversary turns."""
    assert len(one) == len(two) >= 4
    for a, b in zip(one, two, strict=True):
        for name in [key for key in a if key.endswith(("_loss", "_grad_norm"))]:
            assert b[name] == pytest.approx(a[name], rel=1e-2 if "adversarial" in a else 1e-4), (a["step"], name)


@pytest.mark.parametrize(("recipe", "kind"), PAIRS)
def test_two_processes_have_the_losses_of_one(runs, recipe, kind):
    """Half a batch each: every loss and gradient norm, and the validation of the averaged weights."""
    assert_same_losses(*(logged(runs / name / recipe, "train") for name in ("one", kind)))
    one, two = (logged(runs / name / recipe, "validation") for name in ("one", kind))
    assert one and len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-3)


@pytest.mark.parametrize(("recipe", "kind"), [pair for pair in PAIRS if pair[0] != LOCALIZER])
def test_two_processes_have_the_weights_of_one(runs, recipe, kind):
    """But the localizer's: Adam moves a bias before a normalisation, which has no effect, by rounding errors."""
    one, two = (read_state(runs / name / recipe / "weights") for name in ("one", kind))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-3, atol=1e-4), name


def test_the_adversary_took_part(runs):
    entries = logged(runs / "one" / VAE, "train")
    assert [entry["step"] for entry in entries if "adversarial" in entry] == [7, 8]


def test_a_run_goes_from_one_process_to_two_and_back_and_sees_each_clip_once(runs):
    folder = runs / "changing" / VAE
    seen: dict[int, list[int]] = {}
    for rank in (0, 1):  # the rows of process 0 come first
        for line in (folder / f"seen-{rank}.txt").read_text().splitlines():
            step, indices = json.loads(line)
            seen.setdefault(step, []).extend(indices)
    num_clips = 11  # of 12, one is held out
    assert seen == {step: global_batch(num_clips, 4, step, 0).tolist() for step in range(8)}
    order = [index for step in range(8) for index in seen[step]]
    assert sorted(order[:11]) == sorted(order[11:22]) == list(range(num_clips))
    whole, changing = (logged(runs / name / VAE, "train") for name in ("one", "changing"))
    assert [entry["step"] for entry in changing] == list(range(1, 9))
    assert_same_losses(whole, changing)


def test_a_batch_is_cut_alike_for_any_number_of_processes():
    """Section VI-B: 4 GPUs × 2 clips × 8 parts = 64; the parts follow from the number of GPUs."""
    loop = get_recipe("paper/dualspec").loop
    assert [loop.parts(world_size) for world_size in (1, 2, 4, 16, 32, 64)] == [
        (32, 2),
        (16, 2),
        (8, 2),
        (2, 2),
        (1, 2),
        (1, 1),
    ]
    for room, clips in (("mel_vae", 16), ("stft_vae", 8), ("dual_vae", 4)):
        assert get_recipe(f"paper/{room}").loop.parts(16) == (1, clips)  # section VI-A
    with pytest.raises(ValueError, match="must be a multiple of the number of processes, 3, got 64"):
        loop.parts(3)
