"""Every verb, from words on the command line to files."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from dualspec.accounting import account
from dualspec.audio.binaural import spatialize
from dualspec.audio.delivery import integrated_loudness
from dualspec.audio.hrir import load_sofa, spherical_head
from dualspec.audio.waveform import audio_info, read_waveform, write_waveform
from dualspec.cli import app
from dualspec.data.manifest import read_manifest
from dualspec.model_folder import read_events
from dualspec.recipes import get_recipe, recipe_names
from dualspec.synthesis.mid_signal import common_phase_mid
from dualspec.training.loop import Trainer
from dualspec.training.run_lock import run_lock

PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"
REPOSITORY = Path(__file__).resolve().parents[1]
NUM_SAMPLES = get_recipe("tiny/dualspec").num_bank_samples
VERBS = tuple(str(command.name) for command in app.registered_commands)


def dualspec(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def done(*words: object) -> Result:
    result = dualspec(*words)
    assert result.exit_code == 0, result.output
    return result


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_new_process(*words: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run Python with `words`; return what it said and the processor time that it took, seconds."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    before = os.times()
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=280, env=environment)
    after = os.times()
    return result, after.children_user + after.children_system - before.children_user - before.children_system


# --- help ---------------------------------------------------------------------------------------------------------


def test_help_of_every_verb_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dualspec.cli import main\n"
        f"for verb in {VERBS!r}: assert main([verb, '--help']) == 0\n"
        "assert main([]) == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'soundfile', 'h5py', 'diffusers', 'transformers', 'matplotlib'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result, _ = in_new_process("-c", code)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
    assert all(verb in result.stdout for verb in VERBS)


def test_help_takes_less_than_half_a_second() -> None:
    seconds = []
    for _ in range(4):  # a busy machine slows single tries down
        result, taken = in_new_process("-m", "dualspec", "--help")
        assert result.returncode == 0 and "generate" in result.stdout
        seconds.append(taken)
        if taken < 0.5:
            return
    pytest.fail(f"processor seconds: {seconds}")


def test_version() -> None:
    from dualspec import __version__

    assert done("--version").output.strip() == f"dualspec {__version__}"


# --- generate -----------------------------------------------------------------------------------------------------


def test_generate_writes_sound_picture_and_record(tiny_model: Path, tmp_path: Path) -> None:
    for run in ("one", "two"):
        done("generate", PROMPT, "-o", tmp_path / run / "dog.wav", "--model", tiny_model)
    one, two = tmp_path / "one", tmp_path / "two"
    assert names(one) == ["dog.json", "dog.png", "dog.wav"]
    for name in names(one):
        assert (one / name).read_bytes() == (two / name).read_bytes(), f"{name} differs for the same seed"
    waveform, sample_rate = read_waveform(one / "dog.wav")
    assert waveform.shape == (2, NUM_SAMPLES) and sample_rate == 16_000 and waveform.abs().max() > 0
    assert (one / "dog.png").read_bytes().startswith(b"\x89PNG")
    text = (one / "dog.json").read_text()
    record = json.loads(text)
    assert str(tmp_path) not in text and str(tiny_model) not in text
    assert record["prompt"] == PROMPT and record["event"] == "Dog bark" and record["rendered"] is False
    assert record["azimuth"] == {"azimuth_deg": 270.0, "spread_deg": 0.0, "style": "clock"}
    assert record["sampling"]["num_inference_steps"] == 4 and record["sampling"]["sampler"] == "ddim"
    parts = record["model"]["sha256"]
    assert sorted(parts) == ["denoiser", "mel_vae", "stft_vae", "vocoder"]
    stored = json.loads((tiny_model / "denoiser" / "config.json").read_text())["files"]
    assert parts["denoiser"].items() >= stored.items()
    assert record["versions"]["torch"] == torch.__version__ and record["sample_rate"] == 16_000


def test_generate_takes_every_setting(tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "dog.flac"
    words = ["--event", "dog_bark", "--azimuth", "270", "-o", target, "--model", tiny_model, "--no-picture"]
    words += ["--seed", 7, "--steps", 2, "--guidance", 1.5, "--sampler", "unipc", "--duration", 0.5]
    result = done("generate", *words, "--subtype", "PCM_24", "--device", "cpu")
    record = json.loads(target.with_suffix(".json").read_text())
    assert names(target.parent) == ["dog.flac", "dog.json"]
    assert audio_info(target).format == "FLAC" and audio_info(target).num_frames == 8_000
    assert record["prompt"] == PROMPT and record["seed"] == 7 and record["subtype"] == "PCM_24"
    expected = {"sampler": "unipc", "num_inference_steps": 2, "guidance_scale": 1.5}
    assert record["sampling"].items() >= expected.items()
    assert "dog.flac: 0.5 s, seed 7, asked 270, heard" in result.output
    assert "replaced" in done("generate", *words).output


def test_generate_for_a_game_engine(tiny_model: Path, tmp_path: Path) -> None:
    """48 kHz, 24 bit, -23 LUFS: the same sound by one gain, nothing above 8 kHz, and the record says both."""
    common = (PROMPT, "--model", tiny_model, "--no-picture", "--steps", 1, "--subtype", "PCM_24", "-o")
    done("generate", *common, tmp_path / "plain.wav", "--loudness", "none")
    output = done("generate", *common, tmp_path / "game.wav", "--sample-rate", 48_000, "--loudness", -23).output
    record = json.loads((tmp_path / "game.json").read_text())
    note = "16 kHz content resampled to 48 kHz: nothing above 8 kHz"
    assert record["bandwidth"] == note and note in output
    assert record["sample_rate"] == 48_000 and record["num_samples"] == 3 * NUM_SAMPLES
    ears, sample_rate = read_waveform(tmp_path / "game.wav")
    assert sample_rate == 48_000 and audio_info(tmp_path / "game.wav").num_frames == 3 * NUM_SAMPLES
    assert integrated_loudness(ears, 48_000) == pytest.approx(record["loudness"]["lufs"], abs=0.02)
    plain = read_waveform(tmp_path / "plain.wav", sample_rate=48_000)[0] * 10 ** (record["loudness"]["gain_db"] / 20)
    assert (ears - plain).abs().max() < 2e-3 * plain.abs().max()
    before = json.loads((tmp_path / "plain.json").read_text())
    assert before["direction"]["heard_deg"] == record["direction"]["heard_deg"] and "loudness" not in before
    assert "loudness must be -70 to -5" in dualspec("generate", *common, tmp_path / "x.wav", "--loudness", 0).output


def test_several_clips_get_names_of_their_own(tiny_model: Path, tmp_path: Path) -> None:
    common = ("--model", tiny_model, "--no-picture", "--steps", 2)
    done("generate", PROMPT, "-o", tmp_path / "a" / "dog.wav", "--num", 3, "--seed", 5, "--batch-size", 2, *common)
    assert [name for name in names(tmp_path / "a") if name.endswith("wav")] == [
        "dog-az270-seed5.wav",
        "dog-az270-seed6.wav",
        "dog-az270-seed7.wav",
    ]
    file = tmp_path / "prompts.txt"
    file.write_text(f"# two sounds\n{PROMPT}\n\na cat behind me to the left\n", encoding="utf-8")
    done("generate", "--prompts", file, "-o", tmp_path / "b", "--seed", 6, *common)
    assert [name for name in names(tmp_path / "b") if name.endswith("wav")] == [
        "1-dog-bark-az270-seed6.wav",
        "2-a-cat-az135-seed6.wav",
    ]
    alone, _ = read_waveform(tmp_path / "a" / "dog-az270-seed6.wav")
    beside, _ = read_waveform(tmp_path / "b" / "1-dog-bark-az270-seed6.wav")
    assert (alone - beside).abs().max() <= 2 / 32768, "the clip must not depend on its batch mates"
    other, _ = read_waveform(tmp_path / "a" / "dog-az270-seed5.wav")
    assert not torch.equal(alone, other)


def test_a_prompt_without_direction_passes_only_when_asked(tiny_model: Path, tmp_path: Path) -> None:
    words = ("EVENT: Rain", "-o", tmp_path / "rain.wav", "--model", tiny_model, "--no-picture", "--steps", 1)
    refused = dualspec("generate", *words)
    assert refused.exit_code == 2 and "--allow-no-direction" in refused.output and names(tmp_path) == []
    done("generate", *words, "--allow-no-direction")
    assert json.loads((tmp_path / "rain.json").read_text())["azimuth"] is None


def test_a_refused_direction_reaches_the_model_only_as_typed(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("rain, not on the left\n")
    rest = ("-o", tmp_path / "out", "--model", tiny_model, "--no-picture", "--steps", 1, "--allow-no-direction")
    for source in (("rain, not on the left",), ("--prompts", tmp_path / "prompts.txt")):
        refused = dualspec("generate", *source, *rest)
        assert refused.exit_code in (2, 65) and "must say where the sound is" in refused.output
        done("generate", *source, *rest, "--location-words", "typed")
        (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*.json"))
        assert (record["prompt"], record["read_as"]) == ("rain, not on the left",) * 2 and record["azimuth"] is None


def test_words_for_an_azimuth_between_sectors_say_so(tiny_model: Path, tmp_path: Path) -> None:
    words = ("--event", "rain", "--azimuth", 100, "--model", tiny_model, "--no-picture", "--steps", 1)
    assert "nearest of 12 directions, 90 for 100" in done("generate", *words, "-o", tmp_path / "a.wav").output
    assert "note" not in done("generate", *words, "-o", tmp_path / "b.wav", "--style", "doa").output
    assert json.loads((tmp_path / "b.json").read_text())["prompt"] == "EVENT: Rain & LOCATION: DOA 100"


def test_another_head_renders_the_models_own_mid_signal(
    tiny_model: Path, tmp_path: Path, write_sofa: Callable[..., Path]
) -> None:
    sofa = write_sofa()
    words = ("-o", tmp_path / "dog.wav", "--model", tiny_model, "--sofa", sofa, "--loudness", "none")
    result = done("generate", "EVENT: Dog bark & LOCATION: DOA 90", *words)
    assert names(tmp_path) == [f"dog{part}" for part in ("-rendered.json", "-rendered.png", "-rendered.wav")] + [
        "dog.json",
        "dog.png",
        "dog.wav",
    ]
    assert result.output.count("rendered") == 2, "name and words of one of the two lines"
    own, rendered = (json.loads((tmp_path / f"dog{part}.json").read_text()) for part in ("", "-rendered"))
    assert own["rendered"] is False and "head" not in own
    assert rendered["rendered"] is True and rendered["rendered_azimuth_deg"] == 90.0
    assert rendered["head"]["name"] == "sphere" and len(rendered["head"]["sha256"]) == 64
    ears, sample_rate = read_waveform(tmp_path / "dog.wav")
    expected = spatialize(common_phase_mid(ears), 90.0, load_sofa(sofa), peak=float(ears.abs().max()))
    heard, _ = read_waveform(tmp_path / "dog-rendered.wav")
    torch.testing.assert_close(heard, expected, atol=8 / 32768, rtol=0)
    assert heard[0].square().sum() > heard[1].square().sum(), "90 degrees is left"
    assert sample_rate == 16_000


# --- the direction comes from the model ---------------------------------------------------------------------------


def test_generation_needs_neither_head_nor_renderer(tiny_model: Path, tmp_path: Path) -> None:
    """With both modules barred in a new process, the same command gives the same files."""
    code = (
        "import sys\n"
        "class Bar:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('dualspec.audio.hrir', 'dualspec.audio.binaural', 'dualspec.audio.sofa'):\n"
        "            raise AssertionError(f'{name} is barred')\n"
        "sys.meta_path.insert(0, Bar())\n"
        "def no_head(event, arguments):\n"
        "    if event == 'open' and '.sofa' in str(arguments[0]):\n"
        "        raise AssertionError(f'{arguments[0]} is barred')\n"
        "sys.addaudithook(no_head)\n"
        "from dualspec.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "try:\n"
        "    import dualspec.audio.hrir\n"
        "except AssertionError:\n"
        "    sys.exit(code)\n"
        "sys.exit('the bar does not hold')"
    )
    words = ["generate", PROMPT, "--model", str(tiny_model), "--seed", "3", "--device", "cpu"]
    result, _ = in_new_process("-c", code, *words, "-o", str(tmp_path / "barred" / "dog.wav"))
    assert result.returncode == 0, result.stderr
    done(*words, "-o", tmp_path / "free" / "dog.wav")
    assert json.loads((tmp_path / "barred" / "dog.json").read_text())["direction"]["heard_deg"] is not None
    for name in ("dog.wav", "dog.json", "dog.png"):
        assert (tmp_path / "barred" / name).read_bytes() == (tmp_path / "free" / name).read_bytes(), name


def test_the_network_never_gets_the_parsed_azimuth(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same words give the same sound, whatever our parser makes of them."""
    from dualspec import prompt_lists
    from dualspec.text.location_parser import ParsedAzimuth
    from dualspec.text.prompts import ParsedPrompt

    words = ("generate", PROMPT, "--model", tiny_model, "--no-picture", "--steps", 2)
    done(*words, "-o", tmp_path / "right.wav")
    wrong = ParsedAzimuth(azimuth_deg=90.0, spread_deg=0.0, style="doa")
    parsed = ParsedPrompt(event="Cat", location="DOA 90", azimuth=wrong)
    monkeypatch.setattr(prompt_lists, "parse_prompt", lambda text: parsed)
    done(*words, "-o", tmp_path / "wrong.wav")
    assert json.loads((tmp_path / "wrong.json").read_text())["azimuth"]["azimuth_deg"] == 90.0
    assert (tmp_path / "right.wav").read_bytes() == (tmp_path / "wrong.wav").read_bytes()


# --- spatialize ---------------------------------------------------------------------------------------------------


def test_spatialize_keeps_the_rate_and_puts_270_on_the_right(tmp_path: Path, write_sofa: Callable[..., Path]) -> None:
    noise = 0.1 * torch.randn(2, 22_050, generator=torch.Generator().manual_seed(0))
    write_waveform(tmp_path / "in.wav", noise, 44_100)
    result = done("spatialize", tmp_path / "in.wav", "-o", tmp_path / "out.flac", "--azimuth", 270)
    ears, sample_rate = read_waveform(tmp_path / "out.flac")
    assert ears.shape == (2, 22_050) and sample_rate == 44_100
    assert ears[1].square().sum() > 4 * ears[0].square().sum() and ears.abs().max() == pytest.approx(0.5, abs=1e-4)
    assert "azimuth 270, rendered through spherical_head" in result.output
    write_waveform(tmp_path / "in.wav", noise[:1], 16_000)
    done("spatialize", tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--azimuth", 30, "--sofa", write_sofa())
    ears, _ = read_waveform(tmp_path / "out.wav")
    stored, _ = read_waveform(tmp_path / "in.wav")
    head = spherical_head(num_directions=12, num_taps=64)
    torch.testing.assert_close(ears, spatialize(stored, 30.0, head, peak=0.5), atol=2 / 32768, rtol=0)


# --- show ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "millions"),
    [("mel_base", 1485), ("stft_base", 1262), ("dualspec", 1541), ("dualspec_d", 1262), ("dualspec_p", 1373)],
)
def test_paper_recipes_have_the_parameters_of_table_ii(variant: str, millions: int) -> None:
    """Printed in Table II, cut to whole millions; counted on modules that are built for real on the meta device."""
    assert account(get_recipe(f"paper/{variant}")).total // 1_000_000 == millions


def test_show_prints_settings_doors_and_counts() -> None:
    output = done("show", "paper/dualspec").output
    settings, _, rest = output.partition("\n\n")
    assert json.loads(settings)["task"]["variant"]["variant"] == "dualspec"
    for words in ("8 × 80 × 72", "2 × 512 × 64", "4 × 320 × 256", "up to 128 × 1024", "2 × 81920"):
        assert words in rest, words
    for number in ("865.93 M", "341.23 M", "223.32 M", "55.38 M", "55.26 M", "sum: 1541 M, cut as in Table II"):
        assert number in rest, number


def test_show_lists_and_resolves() -> None:
    assert done("show").output.split() == recipe_names()
    shown = json.loads(done("show", "tiny/stft_vae", "--set", "loop.max_steps=7", "--json").output)
    assert shown["recipe"]["loop"]["max_steps"] == 7
    assert shown["total"] == sum(shown["parameters"].values()) > 0 and "discriminator" in shown["training_only"]


@pytest.mark.parametrize("name", [name for name in recipe_names() if not name.startswith("paper")])
def test_every_small_recipe_has_an_account(name: str) -> None:
    result = account(get_recipe(name))
    assert result.total > 0 and result.doors and not result.uncounted


# --- prepare, train, assemble -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve recordings and one that is too short, with the list that `folder` reads."""
    root = tmp_path_factory.mktemp("recordings")
    generator = torch.Generator().manual_seed(0)
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label", "licence", "split"])
        for index in range(13):
            noise = 0.1 * torch.randn(1, 8_000 if index == 12 else 20_800, generator=generator)
            write_waveform(root / f"{index}.wav", noise, 16_000)
            licence = "CC-BY-NC" if index == 11 else "CC0"
            rows.writerow([f"{index}.wav", "dog_bark", licence, "test" if index in (8, 9, 10) else "train"])
    return root


@pytest.fixture(scope="session")
def data(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "prepared"
    done("prepare", folder, "--corpus", f"folder={corpus}", "--licence", "open", "--workers", 1)
    return folder


def test_prepare_prints_what_it_kept_and_left_out(corpus: Path, tmp_path: Path) -> None:
    words = ("prepare", tmp_path / "out", "--corpus", f"folder={corpus}", "--workers", 1)
    rendered = tmp_path / "rendered"
    rows = [line.split() for line in done(*words, "--licence", "open", "--render-to", rendered).output.splitlines()]
    assert ["folder", "train", "CC0", "8"] in rows and ["folder", "test", "CC0", "3"] in rows
    assert ["folder", "licence", "1"] in rows and ["folder", "too_short", "1"] in rows
    assert len(list(rendered.rglob("*^270.wav"))) == 11
    other = dualspec(*words, "--licence", "all")
    assert other.exit_code == 65 and "same settings" in other.output


def train(data: Path, runs: Path, recipe: str, *more: object) -> Result:
    return dualspec("train", recipe, "--data", data, "--runs", runs, "--device", "cpu", *more)


def steps(number: int) -> tuple[str, ...]:
    return ("--set", f"loop.max_steps={number}", "--set", "loop.log_every=1")


def test_from_recordings_to_sound(data: Path, tmp_path: Path, write_sofa: Callable[..., Path]) -> None:
    """prepare, train a VAE, train the denoiser on it, assemble, generate: by commands alone."""
    runs = tmp_path / "runs"
    missing = train(data, runs, "tiny/stft_base", *steps(2))
    assert missing.exit_code == 66 and "no weights in" in missing.output
    result = train(data, runs, "tiny/stft_vae", *steps(2), "--max-clips", 4)
    assert result.exit_code == 0 and "train step 2 (100 %)" in result.output, result.output
    again = train(data, runs, "tiny/stft_vae", *steps(2))
    assert again.exit_code == 2 and "--resume" in again.output
    named = ("--vae", f"stft_vae={runs / 'tiny/stft_vae/weights'}")
    result = train(data, runs, "tiny/stft_base", *steps(2), *named, "--export", "fp16")
    assert result.exit_code == 0, result.output
    parts = [f"denoiser={runs / 'tiny/stft_base/weights'}", f"stft_vae={runs / 'tiny/stft_vae/weights'}"]
    whole = ("--part", parts[0], "--part", parts[1], "--hrir", write_sofa(), "--data", data)
    done("assemble", tmp_path / "model", *whole)
    labels = Counter(row.labels[0] for row in read_manifest(data) if row.split == "train")
    assert read_events(tmp_path / "model") == [label for label, _ in labels.most_common()] != []
    done("generate", PROMPT, "-o", tmp_path / "dog.wav", "--model", tmp_path / "model", "--no-picture")
    assert json.loads((tmp_path / "dog.json").read_text())["direction"]["target"]["name"] == "sphere"
    assert audio_info(tmp_path / "dog.wav").num_frames == NUM_SAMPLES
    unknown = dualspec("assemble", tmp_path / "other", "--part", parts[0], "--part", "ear=x", "--part", parts[1])
    assert unknown.exit_code == 65 and "got 'ear'" in unknown.output and not (tmp_path / "other").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 75), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_resume_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    step = Trainer._step

    def stopped(self: Trainer) -> Any:
        os.kill(os.getpid(), number)  # the trainer's own handlers are in place by now
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopped)
        result = train(data, tmp_path, "tiny/localizer", *steps(3))
    assert result.exit_code == code and "the state is saved, --resume goes on" in result.output, result.output
    assert not (tmp_path / "tiny/localizer/weights").exists()
    result = train(data, tmp_path, "tiny/localizer", *steps(3), "--resume")
    assert result.exit_code == 0 and "resumed at step 1" in result.output, result.output
    assert (tmp_path / "tiny/localizer/weights/config.json").is_file()


def test_a_folder_has_one_trainer(data: Path, tmp_path: Path) -> None:
    with run_lock(tmp_path / "tiny" / "localizer"):
        result = train(data, tmp_path, "tiny/localizer", *steps(1))
    assert result.exit_code == 73 and f"process {os.getpid()}" in result.output
    assert train(data, tmp_path, "tiny/localizer", *steps(1)).exit_code == 0


def test_init_starts_from_weights_and_names_what_does_not_fit(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path / "a", "tiny/localizer", *steps(1)).exit_code == 0
    weights = tmp_path / "a" / "tiny" / "localizer" / "weights"
    result = train(data, tmp_path / "b", "tiny/localizer", *steps(1), "--init", weights)
    assert result.exit_code == 0, result.output
    result = train(data, tmp_path / "c", "tiny/stft_vae", *steps(1), "--init", weights)
    assert result.exit_code == 65 and "must be of VaeConfig, got LocalizerConfig" in result.output


def test_truncated_checkpoints_and_weights_are_refused(data: Path, tmp_path: Path) -> None:
    assert train(data, tmp_path, "tiny/localizer", *steps(1)).exit_code == 0
    run = tmp_path / "tiny" / "localizer"
    for path in [*run.glob("checkpoints/*/*.safetensors"), run / "weights" / "model.safetensors"]:
        path.write_bytes(path.read_bytes()[:-100])
    resumed = train(data, tmp_path, "tiny/localizer", *steps(2), "--resume")
    assert resumed.exit_code == 65 and "must be whole" in resumed.output
    started = train(data, tmp_path / "new", "tiny/localizer", *steps(1), "--init", run / "weights")
    assert started.exit_code == 65 and "it is damaged" in started.output


def test_a_table_in_a_pipe_is_never_folded(capsys):
    from dualspec.cli.console import print_table

    print_table(("clip", "label"), [("a" * 150, "b" * 60)])
    assert capsys.readouterr().out.splitlines()[1].split() == ["a" * 150, "b" * 60]
