"""Bad input at the front door: one clear line, the documented exit code, nothing half-written."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualspec.audio.waveform import write_waveform
from dualspec.cli import main
from dualspec.cli.door import BAD_DATA, BUG, INTERRUPTED, IO_ERROR, NO_INPUT, TERMINATED, USAGE
from dualspec.memory import is_out_of_memory
from dualspec.pipeline import DualSpecPipeline

PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"
Knock = Callable[..., tuple[int, str]]


@pytest.fixture
def knock(capsys: pytest.CaptureFixture[str]) -> Knock:
    """Run a command; return its exit code and what it said on stderr."""

    def run(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, capsys.readouterr().err

    return run


def refuses(answer: tuple[int, str], code: int, words: str) -> None:
    """Check exit code and that there is one line, which holds `words`."""
    got, said = answer
    assert got == code, f"exit code {got}, wanted {code}: {said}"
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert words in said, said


def nothing_new(folder: Path) -> None:
    assert [path.name for path in folder.rglob("*")] == []


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where results would go: a sound in an empty folder."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "dog.wav"


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([""], "prompt must"),
        (["   "], "prompt must"),
        (["EVENT:  & LOCATION: DOA 90"], "prompt must name a sound event"),
        (["EVENT: Dog bark"], "prompt must say where the sound is, got none"),
        (["a dog barking loudly"], "--allow-no-direction"),
        (["EVENT: Dog bark & LOCATION: in the kitchen"], "got 'in the kitchen'"),
        (["EVENT: Dog bark & LOCATION: DOA 400"], "azimuth must be -180 to 359 degrees"),
        (["EVENT: Dog bark & LOCATION: 13 o'clock"], "clock hour must be 1 to 12"),
        (["EVENT: a & EVENT: b & LOCATION: DOA 0"], "at most once"),
        (["rain not on the left"], "location must say where the sound is"),
        (["two dogs, one left one right"], "`dualspec scene`"),
        (["EVENT: rain behind me & LOCATION: 12 o'clock direction"], "event must be free of directions"),
        (["--event", "rain behind me", "--azimuth", "0"], "event must be free of directions"),
        (["EVENT: Rain & LOCATION: left, far away"], "got also 'far away'"),
        (["EVENT: Rain & LOCATION: DOA 400", "--location-words", "typed"], "azimuth must be -180 to 359 degrees"),
        (["dog on the left " * 50], "at most 500 characters"),
        ([], "one of PROMPT, --event with --azimuth, --prompts or --manifest"),
        ([PROMPT, "--event", "dog", "--azimuth", "0"], "none or several"),
        (["--event", "dog", "--azimuth", "400"], "azimuth_deg must be a number with 0 <= azimuth_deg < 360"),
        (["--event", "dog", "--azimuth", "-90"], "say 270"),
        (["--event", "dog", "--azimuth", "nan"], "azimuth_deg must be"),
        (["--event", "", "--azimuth", "90"], "event must be words"),
        (["--event", "dog"], "--event must come with --azimuth"),
        (["--azimuth", "90"], "--azimuth must come with --event"),
        ([PROMPT, "--steps", "0"], "--steps"),
        ([PROMPT, "--guidance", "99"], "--guidance"),
        ([PROMPT, "--seed", "-1"], "--seed"),
        ([PROMPT, "--num", "0"], "--num"),
        ([PROMPT, "--best-of", "0"], "--best-of"),
        (
            ["EVENT: Rain", "--allow-no-direction", "--best-of", "2"],
            "--best-of must have prompts that name a direction",
        ),
        ([PROMPT, "--no-proof", "--target-head", "x.sofa"], "--target-head must come with the proof"),
        ([PROMPT, "--manifest", "x.jsonl"], "none or several"),
        (["--manifest", "x.jsonl"], "--manifest must come with a folder"),
        ([PROMPT, "--sampler", "euler"], "not one of 'ddpm', 'ddim', 'dpmpp', 'unipc'"),
        ([PROMPT, "--device", "abacus"], "device must be 'cpu', 'cuda' or 'cuda:N'"),
        ([PROMPT, "--duration", "60"], "audio_length_in_s must be 0.1 to"),
        ([PROMPT, "--colour", "red"], "--colour"),
    ],
)
def test_generate_refuses_wrong_commands(
    knock: Knock, target: Path, tiny_model: Path, words: list[str], complaint: str
) -> None:
    refuses(knock("generate", *words, "-o", target, "--model", tiny_model), USAGE, complaint)
    nothing_new(target.parent)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["sing"], "No such command 'sing'"),
        (["show", "mini/dualspek"], "did you mean 'mini/dualspec'?"),
        (["show", "tiny/stft_vae", "--set", "loop.max_stepps=3"], "did you mean 'loop.max_steps'?"),
        (["show", "tiny/stft_vae", "--set", "optimizer.lr=1e-4"], "did you mean 'task.optimizer'?"),
        (["show", "tiny/stft_vae", "--set", "loop.max_steps=many"], "loop.max_steps must be an integer"),
        (["show", "tiny/stft_vae", "--set", "loop.max_steps"], "KEY=VALUE"),
        (["show", "--set", "loop.max_steps=3"], "must come with a recipe"),
        (["train", "tiny/stft_vea", "--data", "x"], "did you mean 'tiny/stft_vae'?"),
        (["train", "tiny/stft_vae"], "--data"),
        (["train", "tiny/stft_vae", "--data", "x", "--set", "name=tiny/other"], "name must stay"),
        (["train", "tiny/stft_vae", "--data", "x", "--vae", "stft_vae=y"], "--vae must name one of no parts"),
        (["train", "tiny/dualspec", "--data", "x", "--vae", "stft_vae"], "--vae must be written as NAME=FOLDER"),
        (["train", "tiny/dualspec", "--data", "x", "--pairs", "y", "--max-clips", "9"], "--pairs must not come with"),
        (["train", "tiny/dualspec", "--data", "x", "--max-minutes", "nan"], "--max-minutes"),
        (["prepare", "out", "--corpus", "esc51=x"], "--corpus must be one of"),
        (["prepare", "out", "--corpus", "esc50"], "--corpus must be written as NAME=FOLDER"),
        (["prepare", "out", "--corpus", "esc50=x", "--hrir", "y"], "--hrir must come with --render-to"),
        (["assemble", "out", "--part", "mel_vae=x"], "--part must name the denoiser"),
        (["spatialize", "x.wav", "-o", "y.wav", "--azimuth", "400"], "azimuth_deg must be"),
        (["spatialize", "x.wav", "-o", "y.mp3", "--azimuth", "90"], "output must end in .wav or .flac"),
        (["spatialize", "x.wav", "--azimuth", "90"], "--output"),
    ],
)
def test_other_verbs_refuse_wrong_commands(
    knock: Knock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], complaint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    refuses(knock(*words), USAGE, complaint)
    nothing_new(tmp_path)


@given(
    text=st.text(max_size=600) | st.sampled_from(["&", "EVENT:" * 9, "\x00", "\ud800", "DOA 720", "LOCATION: EVENT:"])
)
def test_any_prompt_is_read_or_refused(text: str) -> None:
    from dualspec.prompt_lists import check_prompt

    try:
        check_prompt(text, allow_no_direction=True)
    except ValueError as error:
        assert str(error)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "code", "complaint"),
    [
        (b"", BAD_DATA, "got 0 bytes"),
        (b"this is a text, not a sound\n" * 40, BAD_DATA, "must be WAV, FLAC, Ogg, AIFF or MP3"),
        (b"RIFF\xff\xff\xff\x7fWAVEfmt ", BAD_DATA, "in.wav"),
        (None, NO_INPUT, "in.wav"),
    ],
)
def test_spatialize_refuses_what_is_no_sound(
    knock: Knock, target: Path, tmp_path: Path, content: bytes | None, code: int, complaint: str
) -> None:
    source = tmp_path / "in.wav"
    if content is not None:
        source.write_bytes(content)
    refuses(knock("spatialize", source, "-o", target, "--azimuth", 90), code, complaint)
    nothing_new(target.parent)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"swap_ears": True}, "ears or azimuth sense are swapped"),
        ({"convention": "GeneralTF"}, "SOFAConventions must be SimpleFreeFieldHRIR"),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "spatialize"])
def test_heads_of_another_convention_are_refused(
    knock: Knock,
    target: Path,
    tiny_model: Path,
    write_sofa: Callable[..., Path],
    verb: str,
    options: dict,
    complaint: str,
) -> None:
    write_waveform(target.parent.parent / "in.wav", torch.full((1, 4000), 0.1), 16_000)
    words = {
        "generate": [PROMPT, "--model", tiny_model],
        "spatialize": [target.parent.parent / "in.wav", "--azimuth=0"],
    }
    refuses(knock(verb, *words[verb], "-o", target, "--sofa", write_sofa(**options)), BAD_DATA, complaint)
    nothing_new(target.parent)


@pytest.mark.parametrize(
    ("content", "code", "complaint"),
    [
        (None, NO_INPUT, "prompts.txt: No such file or directory"),
        ("\n# nothing\n", BAD_DATA, "must hold prompts, got none"),
        (f"{PROMPT}\nEVENT: Rain\n", BAD_DATA, "prompts.txt:2: prompt must say where the sound is"),
        (b"\xff\xfe\x00", BAD_DATA, "must be UTF-8 text"),
    ],
)
def test_prompt_files_are_refused_with_the_line(
    knock: Knock, target: Path, tmp_path: Path, content: str | bytes | None, code: int, complaint: str
) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    refuses(knock("generate", "--prompts", file, "-o", target.parent), code, complaint)
    nothing_new(target.parent)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("denoiser/model.safetensors", "it is damaged"),
        ("stft_vae/config.json", "config.json must be JSON"),
        ("model_index.json", "model_index.json must be"),
    ],
)
def test_truncated_models_are_refused(
    knock: Knock, target: Path, tmp_path: Path, tiny_model: Path, name: str, complaint: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / name).write_bytes((model / name).read_bytes()[:-20])
    refuses(knock("generate", PROMPT, "-o", target, "--model", model), BAD_DATA, complaint)
    (model / name).unlink()
    refuses(knock("generate", PROMPT, "-o", target, "--model", model), NO_INPUT, "is missing")
    nothing_new(target.parent)


def test_a_damaged_target_is_refused(knock: Knock, target: Path, tmp_path: Path, tiny_model: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "head.json").write_text("{}")
    refuses(knock("generate", PROMPT, "-o", target, "--model", model), BAD_DATA, "head.json must be an object")
    nothing_new(target.parent)


@pytest.mark.parametrize(
    "words",
    [
        ["generate", PROMPT, "--model", "absent"],
        ["generate", "--manifest", "absent.jsonl", "-o", "."],
        ["generate", PROMPT, "-o", "x.wav", "--target-head", "absent.sofa"],
        ["assemble", "out", "--part", "denoiser=absent", "--hrir", "absent.sofa"],
        ["train", "tiny/stft_vae", "--data", "absent"],
        ["train", "tiny/stft_base", "--data", "absent"],
        ["train", "tiny/stft_vae", "--data", "absent", "--hrir", "absent.sofa"],
        ["prepare", "out", "--corpus", "esc50=absent"],
        ["assemble", "out", "--part", "denoiser=absent"],
        ["spatialize", "absent.wav", "-o", "out.wav", "--azimuth", "0"],
    ],
)
def test_absent_input_is_named(knock: Knock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    refuses(knock(*words), NO_INPUT, "absent")
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "run.lock"]
    assert left == []


# --- the system ---------------------------------------------------------------------------------------------------


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("writer", ["generation.write_waveform", "generation.write_text_atomic", "files.os.replace"])
def test_a_full_disk_leaves_nothing(
    knock: Knock, target: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    monkeypatch.setattr(f"dualspec.{writer}", full_disk)
    refuses(knock("generate", PROMPT, "-o", target, "--model", tiny_model), IO_ERROR, "No space left on device")
    nothing_new(target.parent)


def test_a_full_disk_keeps_what_was_there(
    knock: Knock, target: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.write_bytes(b"the former sound")
    monkeypatch.setattr("dualspec.plots.spectrogram_figure", full_disk)
    refuses(knock("generate", PROMPT, "-o", target, "--model", tiny_model), IO_ERROR, "No space left on device")
    assert target.read_bytes() == b"the former sound" and len(list(target.parent.iterdir())) == 1


def test_a_full_disk_while_rendering_leaves_nothing(
    knock: Knock, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_waveform(tmp_path / "in.wav", torch.full((1, 4000), 0.1), 16_000)
    monkeypatch.setattr("dualspec.audio.waveform.soundfile.SoundFile.write", full_disk)
    answer = knock("spatialize", tmp_path / "in.wav", "-o", target, "--azimuth", 90)
    refuses(answer, IO_ERROR, "No space left on device")
    nothing_new(target.parent)


def test_a_place_that_takes_no_files_is_refused(knock: Knock, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    words = ("generate", PROMPT, "--model", tiny_model, "-o")
    assert knock(*words, tmp_path / "file" / "sub" / "dog.wav")[0] == IO_ERROR
    assert knock(*words, tmp_path / "file" / "dog.wav")[0] == IO_ERROR
    refuses(knock(*words, tmp_path / "dog.mp3"), USAGE, "output must end in .wav or .flac")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dog.json").mkdir()
    refuses(knock(*words, tmp_path / "out" / "dog.wav"), IO_ERROR, "output must be a file, got the folder")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dog.json"]


@pytest.mark.parametrize(
    ("raised", "code", "complaint"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "nothing half-written"),
        (MemoryError(), IO_ERROR, "out of memory with 1 clip at once"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), IO_ERROR, "out of memory with 1 clip at once"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), IO_ERROR, "try another device"),
        (PermissionError(errno.EACCES, "Permission denied", "/models/x"), IO_ERROR, "/models/x: Permission denied"),
    ],
)
def test_what_stops_generation_leaves_nothing(
    knock: Knock,
    target: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    code: int,
    complaint: str,
) -> None:
    def stop(*_: object) -> None:
        raise raised

    monkeypatch.setattr(DualSpecPipeline, "decode_latents", stop)
    got, said = knock("generate", PROMPT, "-o", target, "--model", tiny_model)
    assert got == code and complaint in said and said.count("\n") == 1
    nothing_new(target.parent)


@pytest.mark.parametrize(
    ("said", "is_so"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDA error: an illegal memory access was encountered", False),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", False),
    ],
)
def test_libraries_of_a_gpu_say_in_ways_of_their_own_that_memory_is_out(said: str, is_so: bool) -> None:
    assert is_out_of_memory(RuntimeError(said)) == is_so


def test_termination_unwinds_and_leaves_nothing(
    knock: Knock, target: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import signal

    def end(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # main() has its handler in place by now

    monkeypatch.setattr("dualspec.plots.spectrogram_figure", end)
    assert knock("generate", PROMPT, "-o", target, "--model", tiny_model)[0] == TERMINATED
    nothing_new(target.parent)


@pytest.mark.parametrize("raised", [KeyError("left"), RuntimeError("shapes"), AssertionError("no"), TypeError("two")])
def test_an_error_nobody_foresaw_keeps_its_trace(
    knock: Knock, target: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(DualSpecPipeline, "decode_latents", fail)
    code, said = knock("generate", PROMPT, "-o", target, "--model", tiny_model)
    assert code == BUG and "Traceback" in said and "please report it" in said.splitlines()[-1]
    nothing_new(target.parent)


def test_a_value_error_of_a_library_is_a_bug_and_one_of_ours_a_refusal() -> None:
    from dualspec.cli.door import exit_code
    from dualspec.files import parse_json

    def caught(act: Callable[[], object]) -> BaseException:
        with pytest.raises(ValueError) as info:
            act()
        return info.value

    assert exit_code(caught(lambda: torch.distributions.Normal(torch.nan, 1.0, validate_args=True)))[0] == BUG
    assert exit_code(caught(lambda: parse_json("{", "it"))) == (BAD_DATA, str(caught(lambda: parse_json("{", "it"))))


def test_warnings_are_lines(knock: Knock, target: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    decode = DualSpecPipeline.decode_latents

    def warn(self: DualSpecPipeline, latents: torch.Tensor) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("the end of\nthe prompt was cut", stacklevel=1)
        return decode(self, latents)

    monkeypatch.setattr(DualSpecPipeline, "decode_latents", warn)
    code, said = knock("generate", PROMPT, "-o", target, "--model", tiny_model, "--no-picture")
    assert code == 0 and said == "warning: the end of the prompt was cut\n"


def test_odd_prompts_become_files(knock: Knock, target: Path, tiny_model: Path) -> None:
    """Marks that mean something to a shell, a figure or JSON go through; the file name stays plain."""
    words = ("EVENT: $x_{1}$ “100 %” \\frac <b>犬</b> & LOCATION: DOA 90", "--model", tiny_model, "--steps", 1)
    code, said = knock("generate", *words, "-o", target.parent)
    assert code == 0 and "Traceback" not in said
    assert sorted(path.name for path in target.parent.iterdir()) == [
        f"x-1-100-frac-b-b-az090-seed0.{suffix}" for suffix in ("json", "png", "wav")
    ]
