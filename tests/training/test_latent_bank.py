from dataclasses import replace

import pytest
import torch

from dualspec.config import override
from dualspec.latents.vae import SpectrogramVae
from dualspec.recipes import get_recipe
from dualspec.training.latent_bank import LatentBank
from dualspec.training.run import build_task
from dualspec.training.task import StepRandom
from dualspec.training.weights import save_weights


@pytest.fixture(scope="module")
def vaes(tmp_path_factory):
    """Weights folders of untrained VAEs."""
    folders = {}
    for part in ("mel_vae", "stft_vae", "mono_mel_vae"):
        torch.manual_seed(0)
        config = get_recipe(f"tiny/{part}").task.vae
        folders[part] = tmp_path_factory.mktemp("vaes") / part
        save_weights(folders[part], SpectrogramVae(config), config)
    return folders


def build(corpus, head, vaes, room, *settings, latents_folder=None):
    recipe = override(get_recipe(f"tiny/{room}"), list(settings))
    torch.manual_seed(0)
    samples = recipe.num_bank_samples
    return build_task(
        recipe.task,
        corpus,
        head,
        device="cpu",
        num_bank_samples=samples,
        vae_folders=vaes,
        latents_folder=latents_folder,
    )


@pytest.mark.parametrize(
    ("room", "setting"),
    [
        ("dualspec", "speeds=[1.0]"),
        ("dualspec_p", "speeds=[1.0]"),
        ("dualspec", "speeds=[0.9,1.0,1.2]"),
        ("dualspec", "num_azimuths=72"),
    ],
)
def test_kept_latents_are_those_of_each_visit(corpus, head, vaes, room, setting):
    settings = f"task.render.{setting}"
    fresh, kept = (build(corpus, head, vaes, room, f"task.keep_latents={keep}", settings) for keep in ("false", "true"))
    indices = torch.tensor([0, 3, 1])
    for step in (0, 1, 0):
        batches = [task.make_batch(indices, StepRandom(0, step, slice(None), 3)) for task in (fresh, kept)]
        for name in ("prompt_embeds", "prompt_mask", "weight"):
            assert torch.equal(batches[0][name], batches[1][name])
        assert torch.allclose(batches[0]["latents"], batches[1]["latents"], atol=5e-3)


def test_kept_latents_that_are_turned_have_the_shape_of_the_turned(corpus, head, tmp_path):
    """The bank holds moments as the encoder gives them, 8 channels; what is drawn of them has the 2 that are kept."""
    narrow = ["task.vae.autoencoder.width=16", "task.vae.autoencoder.frame_width=8"]
    turned = ["task.vae.latent_scaling=principal", "task.vae.principal_channels=2"]
    vae = override(get_recipe("mini/stft_vae"), [*narrow, *turned]).task.vae
    save_weights(tmp_path / "stft_vae", SpectrogramVae(vae), vae)
    small = ["width=20", "num_layers=1", "num_heads=2", "cross_attention_dim=12", "latent_shape=[2,80,16]"]
    settings = [f"task.variant.denoiser.{setting}" for setting in small]
    settings += ["task.variant.text_encoder.kind=hash", "task.variant.text_encoder.width=12", "task.keep_latents=true"]
    recipe = override(get_recipe("mini/stft_base"), settings)
    task = build_task(
        recipe.task, corpus, head, device="cpu", num_bank_samples=1, vae_folders={"stft_vae": tmp_path / "stft_vae"}
    )
    indices = torch.tensor([0, 2])
    kept = task.make_batch(indices, StepRandom(0, 0, slice(None), 2))["latents"]
    assert kept.shape == (2, 2, 80, 16)
    task.latents = None
    fresh = task.make_batch(indices, StepRandom(0, 0, slice(None), 2))["latents"]
    assert torch.allclose(kept, fresh, atol=1e-2)


def test_a_pair_is_encoded_once_whatever_stands_beside_it(corpus, head, vaes, monkeypatch):
    tasks = [build(corpus, head, vaes, "dualspec", "task.keep_latents=true") for _ in range(2)]
    random = lambda: StepRandom(0, 0, slice(None), 4)  # noqa: E731
    batch = tasks[0].make_batch(torch.arange(4), random())
    for row in range(4):  # the other task meets the same pairs one by one
        tasks[1].make_batch(torch.arange(4)[row : row + 1], StepRandom(0, 0, slice(row, row + 1), 4))
    monkeypatch.setattr(type(tasks[0].vaes[0]), "encode_moments", lambda *_: pytest.fail("encoded again"))
    for task in tasks:
        assert torch.equal(task.make_batch(torch.arange(4), random())["latents"], batch["latents"])


@pytest.mark.parametrize("posterior", ["true", "false"])
def test_a_folder_keeps_latents_for_the_next_process(corpus, head, vaes, tmp_path, monkeypatch, posterior):
    settings = ("task.keep_latents=true", f"task.sample_posterior={posterior}")
    random = lambda: StepRandom(0, 0, slice(None), 4)  # noqa: E731
    first = build(corpus, head, vaes, "dualspec", *settings, latents_folder=tmp_path)
    batch = first.make_batch(torch.arange(4), random())
    pair = int(first.latents.known.nonzero()[0])
    damaged = first.latents.kept[1].movedim(-2, 1)[pair, 3].clone()
    first.latents.kept[1].movedim(-2, 1)[pair, 3] = 0.0  # as if the machine had stopped in mid write
    second = build(corpus, head, vaes, "dualspec", *settings, latents_folder=tmp_path)
    assert int(second.latents.known.sum()) == 3 and not second.latents.known[pair]
    second.make_batch(torch.arange(4), random())
    assert torch.equal(second.latents.kept[1].movedim(-2, 1)[pair, 3], damaged)
    third = build(corpus, head, vaes, "dualspec", *settings, latents_folder=tmp_path)
    monkeypatch.setattr(type(third.vaes[0]), "encode_moments", lambda *_: pytest.fail("encoded again"))
    assert torch.equal(third.make_batch(torch.arange(4), random())["latents"], batch["latents"])


def test_latents_of_other_clips_or_autoencoders_are_not_taken(corpus, head, vaes, tmp_path):
    build(corpus, head, vaes, "dualspec", "task.keep_latents=true", latents_folder=tmp_path)
    turned = replace(head, impulse_responses=head.impulse_responses.flip(1))
    build(corpus, turned, vaes, "dualspec", "task.keep_latents=true", latents_folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_without_memory_for_them_it_says_how_to_do_without(corpus, head, vaes, monkeypatch):
    """CUDA's error, raised where room is made for the moments of 11 clips (one is held out) at 12 directions."""

    def full(*_, **__):
        raise RuntimeError("CUDA error: out of memory")

    task = build(corpus, head, vaes, "dualspec")
    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(MemoryError, match=r"with 132 clips at once; try --set task\.keep_latents=false"):
        LatentBank(task.source, task.vaes, posterior=True)


@pytest.mark.parametrize("varies", ["random_crop=true", "max_shift_s=0.1", "gain_range_db=6"])
def test_clips_that_differ_at_each_visit_cannot_be_kept(corpus, head, vaes, varies):
    with pytest.raises(ValueError, match="keep_latents must be false for clips that differ"):
        build(corpus, head, vaes, "dualspec", "task.keep_latents=true", f"task.render.{varies}")


def test_nor_those_of_several_heads(corpus, head, vaes):
    heads = [head, replace(head, impulse_responses=head.impulse_responses.flip(1))]
    with pytest.raises(ValueError, match="one head"):
        build(corpus, heads, vaes, "dualspec", "task.keep_latents=true")
