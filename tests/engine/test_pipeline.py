"""The engine without torch against the torch pipeline: piece by piece, then whole clips, then the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("onnxruntime")

from dualspec.audio.waveform import read_waveform
from dualspec.bundle import embedded_bundle, localizer_folder
from dualspec.cli import app
from dualspec.config import to_dict
from dualspec.diffusion.objective import NoiseScheduleConfig
from dualspec.diffusion.sampler import SamplingConfig, make_scheduler
from dualspec.engine.ears import interaural_cues as cues_of_one
from dualspec.engine.ears import load_onnx_judge
from dualspec.engine.noise import normal_noise
from dualspec.engine.pipeline import OnnxPipeline, obstacle
from dualspec.engine.session import GRAPHS_NAME, Graphs, graphs_folder
from dualspec.engine.solver import denoise
from dualspec.engine.spectra import Framing, griffin_lim, unit_phase
from dualspec.features.mel import MelConfig, log_mel
from dualspec.features.stft import StftConfig, istft, stft
from dualspec.hearing.cues import interaural_cues
from dualspec.model_folder import assemble, load_judge
from dualspec.pipeline import DualSpecPipeline
from dualspec.synthesis import griffin_lim as torch_griffin_lim
from dualspec.training.weights import read_state
from dualspec.training.weights_folder import read_document

verb = sys.modules["dualspec.cli.generate"]  # the package has a function of this name
PROMPTS = ["EVENT: Dog bark & LOCATION: 3 o'clock direction", "a cat meows behind me to the left"]
FRAMING, CONFIG = Framing(n_fft=512, hop_length=256), StftConfig()


@pytest.fixture(scope="module")
def pipeline() -> OnnxPipeline:
    return OnnxPipeline(num_threads=1)


@pytest.fixture(scope="module")
def reference() -> DualSpecPipeline:
    return DualSpecPipeline.from_pretrained()


def ears(seed: int, num_samples: int = 20_480) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mono = torch.randn(num_samples, generator=generator)
    noise = 0.2 * torch.randn(2, num_samples, generator=generator)
    return 0.1 * (torch.stack([mono, 0.6 * mono.roll(7)]) + noise)


def check_alike(own: np.ndarray, expected: torch.Tensor) -> None:
    """Allow what 32 rounds of Griffin-Lim make of other last bits: torch in another batch differs by as much."""
    difference = own - expected.numpy()
    assert (difference**2).sum() < 10 ** (-25 / 10) * (own**2).sum()
    mels = [log_mel(clip, MelConfig(n_fft=512, win_length=512)) for clip in (torch.from_numpy(own), expected)]
    assert float((mels[0] - mels[1]).abs().mean()) < 5e-3


# --- the pieces -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**61])
def test_noise_is_that_of_torch(seed: int) -> None:
    drawn = torch.randn(16, 80, 16, generator=torch.Generator().manual_seed(seed)).numpy()
    np.testing.assert_allclose(normal_noise((16, 80, 16), seed), drawn, atol=1e-6)


def test_noise_of_odd_size_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16 numbers, got 15"):
        normal_noise((3, 5), 0)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 12, 25, 50])
@pytest.mark.parametrize("target", ["v_prediction", "epsilon"])
def test_solver_is_that_of_diffusers(num_steps: int, target: Any) -> None:
    schedule = NoiseScheduleConfig(prediction_type="v_prediction", zero_terminal_snr=True)
    object.__setattr__(schedule, "prediction_type", target)
    scheduler = make_scheduler("dpmpp", schedule)
    scheduler.set_timesteps(num_steps)
    noise = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))

    def predict(latents: Any, timestep: int) -> Any:
        return 0.3 * latents + 0.1 * (latents - 1.0) ** 2 / (1.0 + latents**2) + timestep / 3000

    latents, seen = noise, []
    for timestep in scheduler.timesteps:
        latents = scheduler.step(predict(latents, int(timestep)), timestep, latents, return_dict=False)[0]
    own = denoise(
        lambda x, t, _: seen.append(t) or predict(x, t),
        noise.numpy(),
        schedule,
        SamplingConfig(num_inference_steps=num_steps),
    )
    assert seen == scheduler.timesteps.tolist()
    np.testing.assert_allclose(own, latents.numpy(), atol=1e-4, rtol=1e-4)


def test_guidance_acts_where_it_does_in_torch(pipeline: OnnxPipeline) -> None:
    seen: list[bool] = []
    sampling = SamplingConfig(num_inference_steps=10, guidance_interval=(0.2, 0.5))
    denoise(lambda x, t, guided: seen.append(guided) or x, np.ones((1, 1, 1, 1)), pipeline._schedule, sampling)
    assert seen == [False] * 2 + [True] * 3 + [False] * 5


@pytest.mark.parametrize("config", [CONFIG, StftConfig(framing="hifigan")], ids=["centered", "hifigan"])
def test_spectra_are_those_of_torch(config: StftConfig) -> None:
    clip, framing = ears(3), Framing.of(to_dict(config))
    spectrum = stft(clip, config)
    np.testing.assert_allclose(framing.stft(clip.numpy()), spectrum.numpy(), atol=1e-4)
    back = framing.istft(spectrum.numpy(), clip.shape[-1])
    np.testing.assert_allclose(back, istft(spectrum, config, clip.shape[-1]).numpy(), atol=1e-6)
    assert back.dtype == np.float32


def test_griffin_lim_is_that_of_torch() -> None:
    spectrum = stft(ears(4)[0], CONFIG)
    start = torch.rand(spectrum.shape, generator=torch.Generator().manual_seed(0)) * 6.0
    expected = torch_griffin_lim.griffin_lim(spectrum.abs(), CONFIG, 20_480, num_iterations=4, initial_phase=start)
    unit = np.exp(1j * start.numpy()).astype(np.complex64)
    own = griffin_lim(spectrum.abs().numpy(), unit, FRAMING, 20_480, num_iterations=4)
    np.testing.assert_allclose(own, expected.numpy(), atol=1e-4)
    assert unit_phase(np.zeros((2, 2), dtype=np.complex64)).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("seed", range(4))
def test_cues_are_those_of_torch(seed: int) -> None:
    clip = ears(seed, 16_000 + 777 * seed)
    expected = interaural_cues(clip, 16_000)
    for name, value in cues_of_one(clip.double().numpy(), 16_000).items():
        assert value == pytest.approx(float(getattr(expected, name)), rel=1e-9, abs=1e-9)


def test_proof_is_that_of_torch() -> None:
    own, judge = load_onnx_judge(embedded_bundle(), num_threads=1), load_judge()
    silent = ears(1)
    silent[1] = 0.0
    for clip, asked in ((ears(1), 60.0), (ears(2), None), (ears(2, 81_920), 90.0), (silent, 30.0)):
        expected, found = judge.hear(clip, 16_000, asked), own.hear(clip.numpy(), 16_000, asked)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert found[name] == (pytest.approx(value, abs=2e-3) if isinstance(value, float) else value), name


# --- whole clips ------------------------------------------------------------------------------------------------------


def test_text_and_denoiser_are_those_of_torch(pipeline: OnnxPipeline, reference: DualSpecPipeline) -> None:
    states, mask = pipeline.text_encoder.encode([*PROMPTS, "", "a dog! " * 70])
    expected, expected_mask = reference.text_encoder.encode([*PROMPTS, "", "a dog! " * 70])
    assert np.array_equal(mask, expected_mask.numpy()) and mask.sum(axis=1).max() == 128
    np.testing.assert_allclose(states, expected.numpy(), atol=1e-5)
    assert (states[~mask] == 0).all()
    pooled = reference.text_encoder.pool([*PROMPTS, ""]).numpy()
    np.testing.assert_allclose(pipeline.text_encoder.pool([*PROMPTS, ""]), pooled, atol=1e-5)


def test_same_seed_gives_the_same_clip(pipeline: OnnxPipeline, reference: DualSpecPipeline) -> None:
    settings: dict[str, Any] = {"seed": [3, 4], "num_inference_steps": 6}
    steps: list[Any] = []
    own = pipeline(
        PROMPTS, **settings, callback_on_step_end=lambda _, step, __, now: steps.append((step, now["latents"]))
    )
    latents: list[torch.Tensor] = []
    torch_out = reference(
        PROMPTS, **settings, callback_on_step_end=lambda _, __, ___, now: latents.append(now["latents"]) or now
    )
    assert [step for step, _ in steps] == list(range(6))
    np.testing.assert_allclose(steps[-1][1], latents[-1].numpy(), atol=1e-4)
    assert own.audios.shape == tuple(torch_out.audios.shape) and own.seeds == torch_out.seeds
    check_alike(own.audios, torch_out.audios)
    assert own.gains_db == pytest.approx(torch_out.gains_db, abs=1e-3)


def test_guidance_in_the_first_half_is_the_same_in_both(
    pipeline: OnnxPipeline, reference: DualSpecPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the steps are pairs; the interval is read from the model's own settings."""
    made, rows = [], []
    hook = reference.denoiser.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    for interval in ((0.0, 0.5), (0.0, 1.0)):
        sampling = replace(reference.config.sampling, num_inference_steps=4, guidance_interval=interval)
        monkeypatch.setattr(pipeline.config, "sampling", sampling)
        monkeypatch.setattr(reference, "config", replace(reference.config, sampling=sampling))
        own = pipeline._denoise(PROMPTS[:1], [3], pipeline.sampling_config(), lambda *_: None)
        expected = reference(PROMPTS[0], seed=3, output_type="latent").audios.numpy()
        np.testing.assert_allclose(own, expected, atol=1e-4)
        made.append(own)
    hook.remove()
    assert rows == [2, 2, 1, 1, 2, 2, 2, 2] and np.abs(made[0] - made[1]).max() > 0.01


def test_a_text_is_encoded_once_and_what_came_before_changes_nothing(pipeline: OnnxPipeline) -> None:
    words = [PROMPTS[0], ""]
    pipeline.text_encoder._states.cache_clear()
    first, mask = pipeline.text_encoder.encode(words)
    assert pipeline.text_encoder._states.cache_info().misses == 2
    pipeline.text_encoder.encode([PROMPTS[1], "a dog! " * 30])
    again, _ = pipeline.text_encoder.encode(words)
    assert pipeline.text_encoder._states.cache_info().misses == 4 and np.array_equal(first, again)
    pipeline.text_encoder._states.cache_clear()
    assert np.array_equal(pipeline.text_encoder.encode([*PROMPTS, ""])[0][2, mask[1].nonzero()[0]], first[1, mask[1]])


def test_a_clip_depends_on_its_own_seed_and_words_alone(pipeline: OnnxPipeline) -> None:
    both = pipeline(PROMPTS, seed=[3, 4], num_inference_steps=2, audio_length_in_s=0.5)
    alone = pipeline(PROMPTS[1:], seed=[4], num_inference_steps=2, audio_length_in_s=0.5)
    assert both.audios.shape == (2, 2, 8000) and (both.audios[..., -1] == 0).all()
    check_alike(both.audios[1], torch.from_numpy(alone.audios[0]))
    assert np.abs(both.audios[0] - both.audios[1]).max() > 0.5 * np.abs(both.audios).max(), "another seed"


def test_other_words_for_a_direction_are_read_as_the_torch_pipeline_reads_them(
    pipeline: OnnxPipeline, reference: DualSpecPipeline
) -> None:
    typed = ["a dog barking over my left shoulder", "EVENT: Rain & LOCATION: DOA 315", *PROMPTS[:1]]
    short = {"num_inference_steps": 1, "audio_length_in_s": 0.5}
    output = pipeline(typed, seed=[1, 2, 3], **short)
    assert output.read_as == reference(typed, seed=[1, 2, 3], **short).read_as and output.prompts == typed
    assert output.read_as == ["EVENT: A dog barking & LOCATION: DOA 150", "EVENT: Rain & LOCATION: DOA 330", typed[2]]
    again = pipeline(output.read_as, seed=[1, 2, 3], location_words="typed", **short)
    assert np.array_equal(again.audios, output.audios) and again.read_as == again.prompts
    assert pipeline(typed[:1], seed=[1], location_words="typed", **short).read_as == typed[:1]


def test_what_cannot_be_done_is_refused(pipeline: OnnxPipeline) -> None:
    with pytest.raises(ValueError, match="sampler must be dpmpp for engine onnx, got ddpm"):
        pipeline.sampling_config(sampler="ddpm")
    with pytest.raises(ValueError, match=r"audio_length_in_s must be 0.1 to 5.12, got 6"):
        pipeline.num_samples(6.0)
    with pytest.raises(ValueError, match="prompt must be words"):
        pipeline([" "], seed=[0])
    with pytest.raises(ValueError, match="seed must be one per clip"):
        pipeline(PROMPTS, seed=[0])


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_not_finite_is_never_returned(
    pipeline: OnnxPipeline, reference: DualSpecPipeline, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Both engines say the same."""
    broken = np.zeros((2, 81_920), dtype=np.float32)
    broken[1, 99] = value
    monkeypatch.setattr(pipeline, "_decode", lambda latents: [broken])
    monkeypatch.setattr(reference, "decode_latents", lambda latents: torch.from_numpy(broken)[None])
    said = []
    for engine in (pipeline, reference):
        with pytest.raises(ValueError, match="generated samples must be finite, got NaN or infinity") as refused:
            engine(PROMPTS[:1], seed=[3], num_inference_steps=1)
        said.append(str(refused.value))
    assert said[0] == said[1]


# --- the graphs -------------------------------------------------------------------------------------------------------


def test_graphs_hold_no_weights_and_are_small() -> None:
    files = sorted(graphs_folder().glob("*.onnx"))
    assert [file.stem for file in files] == ["decoder", "denoiser", "localizer", "text"]
    assert sum(file.stat().st_size for file in files) < 400_000


def test_graphs_are_those_of_the_embedded_model() -> None:
    graphs, folder = Graphs(), embedded_bundle()
    assert obstacle(folder) is None
    assert graphs.fits("localizer", read_document(localizer_folder("robust"))["config"])
    known = {f"{part}.{name}" for part in ("mel_vae", "stft_vae") for name in read_state(folder / part)}
    assert set(graphs.weights("decoder")) <= known
    assert set(graphs.weights("denoiser")) == set(read_state(folder / "denoiser"))


def test_a_model_of_other_settings_is_left_to_torch(tmp_path: Path, tiny_model: Path) -> None:
    assert obstacle(tiny_model) == "a model of other parts than the embedded one's"
    parts = {part: embedded_bundle() / part for part in ("denoiser", "mel_vae", "stft_vae")}
    assemble(tmp_path / "again", parts)
    written = json.loads((tmp_path / "again/denoiser/config.json").read_text())["config"]["denoiser"]
    assert "input_gains" in written, "it names what the embedded model's file may leave out"
    assert obstacle(tmp_path / "again") is None
    assert "The text encoder, `minilm`, comes with dualspec." in (tmp_path / "again/README.md").read_text()
    folder = tmp_path / "model"
    shutil.copytree(embedded_bundle(), folder)
    path = folder / "denoiser" / "config.json"
    path.write_text(path.read_text().replace('"num_layers": 6', '"num_layers": 7'))
    assert obstacle(folder) == "a model whose denoiser has other settings than the embedded one's"
    with pytest.raises(ValueError, match="say --engine torch"):
        OnnxPipeline(folder)


def test_a_changed_graph_and_missing_weights_are_refused(tmp_path: Path) -> None:
    shutil.copytree(graphs_folder(), tmp_path / "graphs")
    graphs = Graphs(tmp_path / "graphs")
    with pytest.raises(ValueError, match="weights of the denoiser must fit its graph, got none called"):
        graphs.open("denoiser", {}, num_threads=1)
    with (tmp_path / "graphs" / "denoiser.onnx").open("ab") as file:
        file.write(b" ")
    with pytest.raises(ValueError, match=r"must be the graph that graphs\.json names"):
        graphs.open("denoiser", {}, num_threads=1)
    (tmp_path / "graphs" / GRAPHS_NAME).write_text("{}")
    with pytest.raises(ValueError, match="must be an index of graphs"):
        Graphs(tmp_path / "graphs")


# --- the command ------------------------------------------------------------------------------------------------------


def generate(*words: object) -> tuple[int, str]:
    """Run the verb in a process of its own; return its exit code and what it said, with the heavy modules it loaded."""
    code = (
        "import sys; from dualspec.cli import main\n"
        "status = main(sys.argv[1:])\n"
        "print('loaded', sorted({'torch', 'diffusers', 'transformers', 'scipy', 'matplotlib'} & set(sys.modules)))\n"
        "sys.exit(status)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "generate", *map(str, words)], capture_output=True, text=True, timeout=120
    )
    return result.returncode, result.stdout + result.stderr


def test_generate_loads_no_torch_and_says_what_made_the_clip(tmp_path: Path) -> None:
    target = tmp_path / "dog.wav"
    status, said = generate(PROMPTS[0], "-o", target, "--steps", 6, "--subtype", "PCM_24", "--no-picture", "--seed", 6)
    assert status == 0 and "loaded []" in said, said
    record = json.loads(target.with_suffix(".json").read_text())
    assert record["loudness"]["target_lufs"] == -23.0
    assert record["engine"] == "onnx" and sorted(record["versions"]) == [
        "dualspec",
        "numpy",
        "onnxruntime",
        "tokenizers",
    ]
    assert record["direction"]["asked_deg"] == 270.0 and record["direction"]["heard_deg"] is not None
    assert record["model"]["sha256"].keys() == {"denoiser", "mel_vae", "stft_vae"} and record["device"] == "cpu"
    expected = DualSpecPipeline.from_pretrained()(PROMPTS[0], seed=6, num_inference_steps=6).audios[0]
    gain = 10 ** (record["loudness"]["gain_db"] / 20)
    check_alike(read_waveform(target)[0].numpy() / gain, expected)


def test_auto_takes_torch_where_only_torch_can(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    def wish(**said: Any) -> str | None:
        nothing = {"device": None, "engine": "onnx", "sofa": None, "best_of": 1, "target_head": None, "sampler": None}
        return verb._wish_for_torch(SimpleNamespace(**nothing | said))

    assert wish() is None and wish(device="cpu", sampler="dpmpp") is None
    assert wish(best_of=2) == "--best-of" and wish(sampler="ddim") == "--sampler ddim"
    assert wish(device="cuda:1") == "--device cuda:1" and wish(sofa=Path("head.sofa")) == "--sofa"
    status = CliRunner().invoke(app, ["generate", PROMPTS[0], "--model", str(tiny_model), "--engine", "onnx"])
    assert status.exit_code == 2 and "got a model of other parts" in status.output
