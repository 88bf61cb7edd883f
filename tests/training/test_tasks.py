import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dualspec.audio.binaural import normalize_peak, render
from dualspec.config import override
from dualspec.data.datasets import load_clips
from dualspec.latents.vae import SpectrogramVae
from dualspec.model_folder import assemble
from dualspec.pipeline import DualSpecPipeline
from dualspec.recipes import ROOMS, VAE_ROOMS, Recipe, get_recipe
from dualspec.synthesis.mid_signal import common_phase_mid
from dualspec.training.diffusion_task import DenoiserPhase
from dualspec.training.loop import RunState, Trainer
from dualspec.training.processes import Processes
from dualspec.training.run import build_task, train
from dualspec.training.task import BinauralSource, RenderConfig, StepRandom
from dualspec.training.weights import read_notes, read_state, save_weights

PARTS = VAE_ROOMS


def run(recipe: Recipe, folder: Path, corpus: Path, head, vaes=None, **options) -> RunState:
    def make_task(processes):
        return build_task(
            recipe.task,
            corpus,
            head,
            device=processes.device,
            num_bank_samples=recipe.num_bank_samples,
            vae_folders=vaes or {},
        )

    return train(recipe.task, recipe.loop, folder, make_task=make_task, processes=Processes(), **options)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, corpus, head) -> dict[str, Path]:
    """Every tiny recipe, trained for its 20 steps; weights folders by room."""
    runs = tmp_path_factory.mktemp("runs")
    folders: dict[str, Path] = {}
    for room in ROOMS:
        state = run(
            get_recipe(f"tiny/{room}"), runs / room, corpus, head, {p: folders[p] for p in PARTS if p in folders}
        )
        assert state.step == 20
        folders[room] = runs / room / "weights"
    return folders


@pytest.mark.parametrize("room", ROOMS)
def test_every_tiny_recipe_trains_and_exports(trained, room):
    assert read_notes(trained[room])["steps"] == 20
    assert all(torch.isfinite(value).all() for value in read_state(trained[room]).values())


@pytest.mark.parametrize("room", VAE_ROOMS)
def test_vae_adversary_took_part_after_its_warm_up(trained, room):
    entries = [json.loads(line) for line in (trained[room].parent / "log.jsonl").read_text().splitlines()]
    steps = {entry["step"]: entry for entry in entries if entry["split"] == "train"}
    assert "discriminator_loss" not in steps[10]
    assert "discriminator_loss" in steps[15]


@pytest.mark.parametrize("variant", ["mel_base", "stft_base", "dualspec", "dualspec_d", "dualspec_p"])
def test_every_variant_generates_two_ears_from_words(trained, tmp_path, variant):
    config = get_recipe(f"tiny/{variant}").task.variant
    sources = {"denoiser": trained[variant], **{part: trained[part] for part in config.parts}}
    if variant not in ("stft_base", "dualspec_d"):
        sources["vocoder"] = trained["vocoder"]
    assemble(tmp_path / "model", sources)
    pipeline = DualSpecPipeline.from_pretrained(tmp_path / "model")
    output = pipeline("EVENT: Hum & LOCATION: DOA 90", num_inference_steps=3, num_waveforms_per_prompt=2, seed=5)
    assert output.audios.shape == (2, 2, 10_240)
    assert torch.isfinite(output.audios).all()
    assert output.audios.abs().max() <= 1.0
    assert output.seeds == [5, 6]
    again = pipeline("EVENT: Hum & LOCATION: DOA 90", num_inference_steps=3, seed=6)
    assert torch.allclose(again.audios[0], output.audios[1], atol=1e-3)
    pipeline.save_pretrained(tmp_path / "copy")
    copied = DualSpecPipeline.from_pretrained(tmp_path / "copy")(
        "EVENT: Hum & LOCATION: DOA 90", num_inference_steps=3, seed=6
    )
    assert torch.equal(copied.audios, again.audios)


class NothingIsFetched(TorchDispatchMode):
    """Refuses to read a number of floating point or truth from a tensor: on a GPU the host would wait for it.

    Whole numbers are drawn by the host itself, for prompts and crops.
    """

    def __init__(self, *, host_masks: bool = False) -> None:
        super().__init__()
        self.fetching = {"aten::_local_scalar_dense", "aten::is_nonzero"} | (set() if host_masks else {"aten::nonzero"})

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if name in self.fetching and args[0].dtype != torch.int64:
            raise AssertionError(f"{name} of {args[0].dtype} within a step")
        if name == "aten::index" and any(index is not None and index.dtype == torch.bool for index in args[1]):
            raise AssertionError("indexing by a mask within a step")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("room", ROOMS)
def test_a_step_does_not_wait_for_the_device(trained, corpus, head, tmp_path, room):
    recipe = get_recipe(f"tiny/{room}")
    vaes = {part: trained[part] for part in PARTS}
    task = build_task(
        recipe.task, corpus, head, device="cpu", num_bank_samples=recipe.num_bank_samples, vae_folders=vaes
    )
    trainer = Trainer(task, recipe.loop, tmp_path, Processes())
    for trainer.state.step in (0, 1, 15):  # both adversaries take part from step 10 or progress 0.3
        # which clips the robust localizer's training damages is drawn, and so known, by the host
        with NothingIsFetched(host_masks=room == "robust_localizer"):
            logs = trainer._step()
    assert all(torch.isfinite(value).all() for value in logs.values())
    with pytest.raises(AssertionError, match="within a step"), NothingIsFetched():
        float(next(iter(logs.values())))


def test_a_variant_that_needs_a_vocoder_is_not_assembled_without(trained, tmp_path):
    with pytest.raises(ValueError, match="must name a vocoder for mel_base"):
        assemble(tmp_path / "model", {"denoiser": trained["mel_base"], "mel_vae": trained["mel_vae"]})
    assert list(tmp_path.iterdir()) == []


def test_mini_recipes_take_a_step(corpus, head, tmp_path):
    """The embedded model's own networks, narrowed: two frame-wise VAEs and the transformer."""
    narrow = [
        "task.vae.autoencoder.width=16",
        "task.vae.autoencoder.frame_width=8",
        "loop.max_steps=2",
        "loop.batch_size=2",
    ]
    vaes = {}
    for part in ("mel_vae", "stft_vae"):
        recipe = override(get_recipe(f"mini/{part}"), narrow)
        run(recipe, tmp_path / part, corpus, head)
        vaes[part] = tmp_path / part / "weights"
    recipe = override(
        get_recipe("mini/dualspec"),
        [
            "task.variant.denoiser.width=20",
            "task.variant.denoiser.num_layers=1",
            "task.variant.denoiser.num_heads=2",
            "task.variant.denoiser.cross_attention_dim=12",
            "task.variant.text_encoder.kind=hash",
            "task.variant.text_encoder.width=12",
            "loop.max_steps=2",
            "loop.batch_size=2",
        ],
    )
    assert run(recipe, tmp_path / "dualspec", corpus, head, vaes).step == 2


MINILM = ['task.variant.text_encoder={"kind": "minilm"}', "task.variant.denoiser.cross_attention_dim=384"]


@pytest.mark.parametrize(("room", "settings"), [("mel_vae", []), ("mel_base", MINILM)])
def test_training_resumes_bit_for_bit(corpus, head, tmp_path, room, settings):
    """A VAE, and a denoiser with the real text encoder, whose states depend on the batch in the last bits."""
    recipe, vae = override(get_recipe(f"tiny/{room}"), settings), get_recipe("tiny/mel_vae").task.vae
    save_weights(tmp_path / "mel_vae", SpectrogramVae(vae), vae)
    vaes = {"mel_vae": tmp_path / "mel_vae"}
    run(recipe, tmp_path / "whole", corpus, head, vaes)
    (tmp_path / "cut").mkdir()
    torch.manual_seed(recipe.loop.seed)
    task = build_task(recipe.task, corpus, head, device="cpu", num_bank_samples=10_240, vae_folders=vaes)
    trainer = Trainer(task, recipe.loop, tmp_path / "cut", Processes())
    trainer._should_stop = lambda: trainer.state.step >= 13
    trainer.run()
    run(recipe, tmp_path / "cut", corpus, head, vaes, resume=True)
    whole, cut = (read_state(tmp_path / name / "weights") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_warm_start_takes_exported_weights(trained, corpus, head, tmp_path):
    recipe = get_recipe("tiny/mel_vae")
    recipe = replace(recipe, loop=replace(recipe.loop, max_steps=1, warmup_steps=10_000, ema_decay=0.0))
    run(recipe, tmp_path / "warm", corpus, head, init=trained["mel_vae"])
    before, after = read_state(trained["mel_vae"]), read_state(tmp_path / "warm" / "weights")
    moved = max((before[name] - after[name]).abs().max() for name in before if name.startswith("autoencoder"))
    assert moved < 1e-4


def test_a_decoder_trained_alone_keeps_the_latents(trained, corpus, head, tmp_path):
    """What was trained on the latents of a VAE can be decoded by its second decoder."""
    recipe = override(get_recipe("tiny/mel_vae"), ["task.decoder_only=true", "loop.max_steps=2"])
    with pytest.raises(ValueError, match="init must be given with decoder_only"):
        run(recipe, tmp_path / "no", corpus, head)
    run(recipe, tmp_path / "run", corpus, head, init=trained["mel_vae"])
    before, after = read_state(trained["mel_vae"]), read_state(tmp_path / "run" / "weights")
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in same if name.startswith("autoencoder")} == {"encoder", "quant_conv"}
    assert {"latent_shift", "latent_scale"} <= same
    assert not any(name.startswith(("autoencoder.decoder", "autoencoder.post_quant_conv")) for name in same)


@pytest.mark.parametrize("room", ["stft_vae", "vocoder"])
def test_training_in_bfloat16_stays_finite(corpus, head, tmp_path, room):
    """The networks run in bfloat16, the transforms and the weights stay in float32."""
    recipe = override(get_recipe(f"tiny/{room}"), ["loop.precision=bf16", "loop.max_steps=2"])
    assert run(recipe, tmp_path / "run", corpus, head).bad_steps == 0
    assert all(value.dtype == torch.float32 for value in read_state(tmp_path / "run" / "weights").values())


def test_warm_start_refuses_weights_of_another_meaning(trained, corpus, head, tmp_path):
    """They fit in shape, but were trained on another scale, or to predict something else."""
    recipe = override(get_recipe("tiny/mel_vae"), ["task.vae.log_mean=-5"])
    with pytest.raises(ValueError, match="same VAE settings"):
        run(recipe, tmp_path / "vae", corpus, head, init=trained["mel_vae"])
    recipe = override(get_recipe("tiny/mel_base"), ["task.variant.schedule.prediction_type=v_prediction"])
    with pytest.raises(ValueError, match="noise schedule and target"):
        run(recipe, tmp_path / "v", corpus, head, {"mel_vae": trained["mel_vae"]}, init=trained["mel_base"])


def test_run_folder_is_never_overwritten(trained, corpus, head):
    with pytest.raises(ValueError, match="which holds a run"):
        run(get_recipe("tiny/mel_vae"), trained["mel_vae"].parent, corpus, head)
    other = override(get_recipe("tiny/mel_vae"), ["task.optimizer.lr=0.5"])
    with pytest.raises(ValueError, match="got other settings"):
        run(other, trained["mel_vae"].parent, corpus, head, resume=True)


def test_an_attempt_that_left_no_checkpoint_is_no_run(corpus, head, tmp_path):
    """Its first step failed: the same command, with or without --resume, with other settings or not, starts again."""
    recipe = override(get_recipe("tiny/mel_vae"), ["loop.max_steps=2", "loop.log_every=1"])
    folder = tmp_path / "run"

    def broken(processes):
        task = build_task(recipe.task, corpus, head, device="cpu", num_bank_samples=10_240, vae_folders={})
        task.make_batch = lambda indices, random: 1 / 0
        return task

    for resume in (False, True):
        with pytest.raises(ZeroDivisionError):
            train(recipe.task, recipe.loop, folder, make_task=broken, processes=Processes(), resume=resume)
        assert (folder / "task.json").exists()
    (folder / "log.jsonl").write_text("of somebody else\n")
    with pytest.raises(ValueError, match="must be a line of a run's log"):
        run(recipe, folder, corpus, head)
    assert (folder / "log.jsonl").read_text() == "of somebody else\n"
    (folder / "log.jsonl").write_text('{"step": 1, "split": "train"}\n')  # of the attempt
    changed = override(recipe, ["task.optimizer.lr=1e-5"])
    assert run(changed, folder, corpus, head).step == 2
    assert [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] == [1, 2, 2]
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(ValueError, match="has weights alone; --init takes those"):
        run(changed, folder, corpus, head, resume=True)


def test_compiling_reaches_a_vae(corpus, head, tmp_path, monkeypatch):
    """It has no forward of its own: encoder and decoder are compiled. Same loss as without."""
    compiled, called = torch.compile, []

    def noting(function, **options):
        inner = compiled(function, **options | {"backend": "eager"})

        def noted(*args, **kwargs):
            called.append(function.__name__)
            return inner(*args, **kwargs)

        return noted

    monkeypatch.setattr(torch, "compile", noting)
    losses = []
    for setting in ("false", "true"):
        recipe = override(get_recipe("tiny/mel_vae"), [f"loop.compile={setting}"])
        torch.manual_seed(0)
        task = build_task(recipe.task, corpus, head, device="cpu", num_bank_samples=10_240, vae_folders={})
        losses.append(float(Trainer(task, recipe.loop, tmp_path, Processes())._step()["vae_loss"]))
    assert set(called) == {"encode_moments", "decode_channels"}
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_missing_vae_is_named(corpus, head, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights of mel_vae"):
        run(get_recipe("tiny/dualspec"), tmp_path / "run", corpus, head)


def test_draws_do_not_depend_on_the_number_of_processes(corpus, head):
    source = BinauralSource(
        load_clips(corpus, "train", num_samples=10_240), head, RenderConfig(num_samples=16_000, random_crop=True)
    )
    indices = torch.arange(6)
    whole, directions = source.draw(indices, StepRandom(0, 3, slice(0, 6), 6))
    for rows in (slice(0, 3), slice(3, 6)):
        part, part_directions = source.draw(indices[rows], StepRandom(0, 3, rows, 6))
        assert torch.equal(directions[rows], part_directions)
        assert torch.allclose(whole[rows], part, atol=1e-6)


def test_of_several_heads_one_is_drawn_per_clip(corpus, head):
    bank, config = load_clips(corpus, "train", num_samples=10_240), RenderConfig(num_samples=10_240)
    other = replace(head, impulse_responses=head.impulse_responses[..., :100].flip(1))  # ears changed, and shorter
    alone = [BinauralSource(bank, one, config) for one in (head, other)]
    both = BinauralSource(bank, [head, other], config)
    directions, heads = both.draw_directions(torch.arange(12), StepRandom(0, 0, slice(None), 12))
    clips, _ = both.draw(torch.arange(12), StepRandom(0, 0, slice(None), 12))
    assert set(heads.tolist()) == {0, 1}
    mono = bank.float_waveforms(torch.arange(12))
    for row in range(12):
        pair = alone[heads[row]].hrirs[0, directions[row]]
        assert torch.allclose(clips[row], normalize_peak(render(mono[row : row + 1], pair[None]))[0], atol=1e-5)


LINEAR = [
    "task.vae.autoencoder.linear=true",
    "task.vae.autoencoder.encoder_layers=0",
    "task.vae.autoencoder.width=16",
    "task.vae.autoencoder.frame_width=8",
    "task.vae.latent_scaling=principal",
    "task.vae.principal_channels=8",
    "task.decoder_only=true",
    "task.loss.adversarial_weight=0",
    "loop.batch_size=2",
]


def test_a_linear_encoder_is_had_from_the_clips_and_stays(corpus, head, tmp_path):
    """Nothing trains it: a denoiser can learn its latents while the decoder is still being trained."""
    for steps in (1, 3):
        run(
            override(get_recipe("mini/mel_vae"), [*LINEAR, f"loop.max_steps={steps}"]),
            tmp_path / f"{steps}",
            corpus,
            head,
        )
    short, long = (read_state(tmp_path / name / "weights") for name in ("1", "3"))
    again = override(get_recipe("mini/mel_vae"), [*LINEAR, "loop.max_steps=1"])
    run(again, tmp_path / "resumed", corpus, head, resume=True)  # of nothing: as if it were new
    assert torch.equal(read_state(tmp_path / "resumed" / "weights")["latent_basis"], short["latent_basis"])
    kept = {name for name in short if torch.equal(short[name], long[name])}
    encoder = {name for name in short if "linear_encoder" in name or name.startswith("latent_")}
    assert encoder <= kept and len(encoder) == 6
    assert float(short["autoencoder.linear_encoder.to_mean.weight"].norm(dim=1).min()) == pytest.approx(1.0, abs=1e-4)
    assert not {name for name in kept if "decoder" in name and name.endswith("weight") and "norm" not in name}


def test_latents_are_turned_when_another_scaling_is_asked_for(corpus, head, tmp_path):
    narrow = [setting for setting in LINEAR if "width" in setting or "batch" in setting]
    run(override(get_recipe("mini/stft_vae"), [*narrow, "loop.max_steps=1"]), tmp_path / "first", corpus, head)
    turned = [
        *narrow,
        "loop.max_steps=1",
        "task.decoder_only=true",
        "task.vae.latent_scaling=principal",
        "task.vae.principal_channels=2",
    ]
    recipe = override(get_recipe("mini/stft_vae"), turned)
    run(recipe, tmp_path / "turned", corpus, head, init=tmp_path / "first" / "weights")
    first, second = (read_state(tmp_path / name / "weights") for name in ("first", "turned"))
    assert torch.equal(first["autoencoder.embed.weight"], second["autoencoder.embed.weight"])
    assert second["latent_basis"].shape == (128, 32)
    product = second["latent_inverse"] @ second["latent_basis"]
    assert torch.allclose(product, torch.eye(32), atol=1e-3)
    with pytest.raises(ValueError, match="same VAE settings"):
        run(
            override(recipe, ["task.vae.log_mean=-5"]),
            tmp_path / "no",
            corpus,
            head,
            init=tmp_path / "first" / "weights",
        )


def test_a_run_of_an_older_version_goes_on_and_one_of_other_settings_does_not(corpus, head, tmp_path):
    recipe = override(get_recipe("tiny/mel_vae"), ["loop.max_steps=2"])
    run(recipe, tmp_path / "run", corpus, head)
    settings = tmp_path / "run" / "task.json"
    document = json.loads(settings.read_text())
    assert document["config"]["render"].pop("speeds") == [1.0]
    settings.write_text(json.dumps(document))
    assert run(recipe, tmp_path / "run", corpus, head, resume=True).step == 2
    faster = override(recipe, ["task.render.speeds=[1.1]"])
    with pytest.raises(ValueError, match="recipe must be that of the run"):
        run(faster, tmp_path / "run", corpus, head, resume=True)


def test_a_vocoder_learns_the_mid_from_mels_that_the_autoencoder_decoded(trained, corpus, head):
    settings = ["task.signal=decoded_mid", "task.render.num_samples=10240"]
    recipe = override(get_recipe("tiny/vocoder"), settings)
    options = {"device": "cpu", "num_bank_samples": 16_384}
    task = build_task(recipe.task, corpus, head, vae_folders={"mel_vae": trained["mel_vae"]}, **options)
    indices, draws = torch.tensor([0, 3]), [StepRandom(0, 0, slice(None), 2) for _ in range(2)]
    waveform, _ = task.source.draw(indices, draws[0])
    batch = task.make_batch(indices, draws[1])
    assert torch.equal(batch["waveform"], common_phase_mid(waveform))
    ears = task.mel_vae.decode(task.mel_vae.encode(waveform)).log_mel.exp()
    torch.testing.assert_close(batch["log_mel"], ears.mean(dim=1).log())
    losses, _ = task.phase(batch, draws[1], 0, 0.0)
    assert torch.isfinite(losses).all()
    with pytest.raises(FileNotFoundError, match="no weights of mel_vae, which the vocoder needs"):
        build_task(recipe.task, corpus, head, vae_folders={}, **options)
    other = override(recipe, ["task.vocoder.mel.f_min=50.0"])
    with pytest.raises(ValueError, match="mel_vae must be given with the vocoder's mel settings"):
        build_task(other.task, corpus, head, vae_folders={"mel_vae": trained["mel_vae"]}, **options)


def test_weights_of_the_parts_are_those_of_the_loss_and_not_of_the_error(trained, corpus, head):
    losses = []
    for settings in ([], ["task.part_weights=[2.0,0.5]"]):
        recipe = override(get_recipe("tiny/dualspec"), ["task.snr_gamma=none", *settings])
        torch.manual_seed(0)
        vaes = {part: trained[part] for part in ("mel_vae", "stft_vae")}
        task = build_task(recipe.task, corpus, head, device="cpu", num_bank_samples=16_384, vae_folders=vaes)
        random = StepRandom(0, 0, slice(None), 2)
        batch = task.make_batch(torch.tensor([0, 3]), random)
        losses.append(task.phase(batch, random, 0, 0.0))
    (plain, error), (weighted, same) = losses
    assert torch.equal(error["error"], same["error"]) and torch.allclose(plain.mean(), error["error"])
    assert not torch.allclose(weighted, plain)
    with pytest.raises(ValueError, match="part_weights must be one for each of 2 latents"):
        DenoiserPhase(override(recipe, ["task.part_weights=[1.0]"]).task, task.pairing)


def test_adversaries_hear_the_same_part_of_both(corpus, head):
    settings = ["task.adversarial_samples=1000", "task.adversarial_start_fraction=0.0"]
    recipe = override(get_recipe("tiny/vocoder"), settings)
    task = build_task(recipe.task, corpus, head, device="cpu", num_bank_samples=16_384, vae_folders={})
    random = StepRandom(0, 0, slice(None), 2)
    batch = task.make_batch(torch.tensor([0, 3]), random)
    task.phase.vocoder.forward = lambda mel: batch["waveform"]  # a perfect one
    task.phase(batch, random, 0, 0.5)
    assert batch["heard"].shape == (2, 1000) and torch.equal(batch["heard"], batch["made"])
    starts = [int((whole.unfold(0, 1000, 1) == part).all(dim=1).nonzero()[0]) for whole, part in
              zip(batch["waveform"], batch["heard"], strict=True)]  # fmt: skip
    assert len(set(starts)) == 2, "each clip is cut at a place of its own"
    losses, _ = task.phases["adversaries"](batch, random, 0, 0.5)
    assert torch.isfinite(losses).all()
