import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dualspec.training.checkpoint import list_checkpoints, newest_checkpoint
from dualspec.training.loop import LoopConfig, Trainer
from dualspec.training.processes import Processes
from dualspec.training.task import OptimizerConfig, Phase, StepRandom

LOOP = LoopConfig(
    max_steps=12, batch_size=4, warmup_steps=2, log_every=1, validate_every=6, save_every=5, ema_decay=0.9
)


class LinePhase(Phase):
    def __init__(self) -> None:
        super().__init__()
        self.optimizer_config = OptimizerConfig(lr=0.1, weight_decay=0.01)
        self.line = nn.Linear(3, 1)
        self.poison: set[int] = set()

    def forward(self, batch, random, step, progress):
        noise = random.normal((1,))
        loss = (
            (self.line(batch["x"]) + 0.01 * noise - batch["x"].sum(dim=1, keepdim=True)).square().flatten(1).mean(dim=1)
        )
        if step in self.poison:
            loss = loss * float("nan")
        return loss, {"mean": loss.mean().detach()}


class LineTask:
    num_clips = 10

    def __init__(self, weights: torch.Tensor | None = None) -> None:
        torch.manual_seed(0)
        self.phase = LinePhase()
        self.phases = {"line": self.phase}
        self.x = torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
        self.weights = torch.ones(10) if weights is None else weights
        self.seen: list[list[int]] = []

    def make_batch(self, indices, random: StepRandom):
        self.seen.append(indices.tolist())
        return {"x": self.x[indices], "weight": self.weights[indices]}

    @torch.no_grad()
    def validate(self, batch_size: int):
        return {"error": float((self.phase.line(self.x) - self.x.sum(dim=1, keepdim=True)).square().mean())}

    def export(self, folder, *, dtype=torch.float32, notes=None):
        Path(folder).mkdir()


def run(folder: Path, task: LineTask | None = None, loop: LoopConfig = LOOP, resume: bool = False) -> Trainer:
    trainer = Trainer(task or LineTask(), loop, folder, Processes())
    if resume:
        trainer.resume()
    trainer.run()
    return trainer


def losses(folder: Path) -> dict[int, str]:
    """The last line per step, losses as exact hexadecimal."""
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {entry["step"]: float(entry["line_loss"]).hex() for entry in entries if entry["split"] == "train"}


def test_training_learns_and_logs(tmp_path):
    task = LineTask()
    before = task.validate(4)["error"]
    trainer = run(tmp_path, task)
    assert trainer.state.step == 12
    assert sorted(losses(tmp_path)) == list(range(1, 13))
    assert task.validate(4)["error"] < 0.7 * before
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == ["step-00000010", "step-00000012"]


def test_every_clip_is_seen_once_per_epoch(tmp_path):
    task = LineTask()
    run(tmp_path, task, replace(LOOP, max_steps=5))
    flat = [index for batch in task.seen for index in batch]
    assert sorted(flat[:10]) == sorted(flat[10:20]) == list(range(10))


def test_resumed_run_equals_uninterrupted_run_bit_for_bit(tmp_path):
    whole = run(tmp_path / "whole")
    cut = Trainer(LineTask(), LOOP, tmp_path / "cut", Processes())
    cut._should_stop = lambda: cut.state.step >= 7  # as a signal would
    cut.run()
    assert cut.state.step == 7
    resumed = run(tmp_path / "cut", resume=True)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    for key, value in whole.task.phase.state_dict().items():
        assert torch.equal(value, resumed.task.phase.state_dict()[key])
    for key, value in whole.trained["line"].average.items():
        assert torch.equal(value, resumed.trained["line"].average[key])


def test_accumulation_equals_one_batch(tmp_path):
    one, parts = run(tmp_path / "one"), run(tmp_path / "parts", loop=replace(LOOP, micro_batch=2))
    assert torch.allclose(one.task.phase.line.weight, parts.task.phase.line.weight, atol=1e-6)


def test_masked_clips_do_not_count(tmp_path):
    """A clip of weight 0 changes nothing: poisoning it with huge values leaves the run as it was."""
    weights = torch.ones(10)
    weights[3] = 0.0
    clean, poisoned = LineTask(weights), LineTask(weights)
    poisoned.x[3] = 1e3
    one, other = run(tmp_path / "one", clean), run(tmp_path / "other", poisoned)
    assert torch.equal(one.task.phase.line.weight, other.task.phase.line.weight)


def test_signal_saves_and_leaves(tmp_path):
    trainer = Trainer(LineTask(), LOOP, tmp_path, Processes())
    make_batch = trainer.task.make_batch

    def interrupted(indices, random):
        if trainer.state.step == 3:
            signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGINT) == signal.default_int_handler  # a second one acts at once
        return make_batch(indices, random)

    trainer.task.make_batch = interrupted
    state = trainer.run()
    assert (state.step, state.stop_signal) == (4, signal.SIGTERM)
    found, _ = newest_checkpoint(tmp_path / "checkpoints")
    assert found[0] == 4
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_non_finite_steps_are_skipped_and_counted_then_stop_the_run(tmp_path):
    task = LineTask()
    task.phase.poison = {4, 5}
    trainer = run(tmp_path / "few", task)
    assert trainer.state.bad_steps == 2
    assert all(torch.isfinite(p).all() for p in task.phase.parameters())
    task = LineTask()
    task.phase.poison = set(range(3, 12))
    with pytest.raises(ValueError, match="bad steps in a row"):
        run(tmp_path / "many", task, replace(LOOP, max_bad_steps=4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_skipped_step_leaves_running_statistics_as_they_were(tmp_path, bad):
    """What is not finite reaches batch normalisation before the loss is known: a later save would be refused."""
    task = LineTask()
    task.phase.line = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    trainer = Trainer(task, replace(LOOP, max_steps=4, save_every=100), tmp_path, Processes())
    trainer.run()
    before = {name: value.clone() for name, value in task.phase.state_dict().items()}
    task.x = torch.full_like(task.x, bad)
    trainer._step()
    trainer.state.step += 1
    assert all(torch.equal(value, before[name]) for name, value in task.phase.state_dict().items())
    trainer.save()
    assert trainer.state.bad_steps == 1


def test_minutes_end_the_run_and_the_learning_rate(tmp_path):
    loop = replace(LOOP, max_steps=10**9, max_minutes=0.01, log_every=50, validate_every=0, save_every=10**6)
    trainer = run(tmp_path, loop=loop)
    assert trainer.progress >= 1.0
    assert 0.6 <= trainer.state.elapsed_s < 5
    assert trainer.trained["line"].optimizer.param_groups[0]["lr"] < 0.01


def test_damaged_checkpoint_is_passed_over(tmp_path):
    run(tmp_path)
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    data = bytearray((newest / "line.model.safetensors").read_bytes())
    data[-3] ^= 1
    (newest / "line.model.safetensors").write_bytes(data)
    found, complaints = newest_checkpoint(tmp_path / "checkpoints")
    assert found[0] == 10
    assert len(complaints) == 1
    assert "damaged line.model.safetensors" in complaints[0]


def test_other_seed_or_batch_does_not_resume(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="must be those of the run"):
        run(tmp_path, loop=replace(LOOP, seed=1), resume=True)


def test_a_run_from_before_clips_were_held_out_is_told_how_to_go_on(tmp_path):
    run(tmp_path)
    state = list_checkpoints(tmp_path / "checkpoints")[-1] / "state.json"
    document = json.loads(state.read_text())
    num_clips = document["facts"].pop("num_clips")
    document["format_version"] = 1  # such a run had no hash of its state either
    del document["sha256"]
    state.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"resume with --set loop\.held_out=0"):
        run(tmp_path, resume=True)
    run(tmp_path, loop=replace(LOOP, held_out=0.0), resume=True)
    document["facts"]["num_clips"] = num_clips - 1
    state.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="must be the 9 of the run, got 10"):
        run(tmp_path, resume=True)


def test_settings_without_effect_are_refused(tmp_path):
    with pytest.raises(ValueError, match="checkpoint_activations must be false for these networks"):
        Trainer(LineTask(), replace(LOOP, checkpoint_activations=True), tmp_path, Processes())


def test_averaged_weights_are_lent_and_returned(tmp_path):
    trainer = run(tmp_path)
    own = trainer.task.phase.line.weight.detach().clone()
    with trainer.averaged_weights():
        assert torch.equal(trainer.task.phase.line.weight, trainer.trained["line"].average["line.weight"])
        assert not torch.equal(trainer.task.phase.line.weight, own)
    assert torch.equal(trainer.task.phase.line.weight, own)
