"""Coverage-guided fuzzing of what reads strangers' words and files: `make fuzz MINUTES=30`. (F4)

Not part of the suite: needs atheris (libFuzzer for Python). The targets share the minutes, one process each. Inputs,
readers and the rule (accepted, or refused by a short error of ours, within 5 s and 2 GiB) are those of the tests beside
it; libFuzzer makes half of the changes, values inside JSON are changed by the other half. The corpus stays under
--corpus, where the next run goes on. What breaks the rule is kept there, too, as `bad-*`, and the last word is then 1.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
KINDS = ("manifest", "prompt_rows", "prompt_lines", "pairs", "configuration", "head", "index", "scene")  # of test_words
TARGETS = ("prompt", "override", *KINDS, "wav", "flac", "ogg", "sofa", "safetensors")
LIMITS = ("-timeout=5", "-rss_limit_mb=2048", "-max_len=65536", "-print_final_stats=1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="in all")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "dualspec-fuzz")
    parser.add_argument("targets", nargs="*", default=TARGETS, help=", ".join(TARGETS))
    arguments = parser.parse_args()
    found = 0
    for target in arguments.targets:
        corpus = arguments.corpus / target
        corpus.mkdir(parents=True, exist_ok=True)
        seconds = max(1, round(60 * arguments.minutes / len(arguments.targets)))
        own = [f"-max_total_time={seconds}", f"-artifact_prefix={arguments.corpus}/bad-{target}-", *LIMITS, str(corpus)]
        code = (
            f"import sys; sys.path.insert(0, {str(HERE)!r}); import coverage_guided; coverage_guided.fuzz({target!r})"
        )
        ended = subprocess.run([sys.executable, "-c", code, *own], capture_output=True, text=True, errors="replace")
        counts = re.findall(r"number_of_executed_units: *(\d+)|peak_rss_mb: *(\d+)|cov: (\d+)", ended.stderr)
        runs, rss, cov = (next((row[k] for row in reversed(counts) if row[k]), "?") for k in range(3))
        print(f"{target:13} {runs:>9} runs in {seconds} s, {cov:>5} places, {rss:>5} MiB, ", end="", flush=True)
        print(
            "nothing found" if ended.returncode == 0 else f"FOUND, {ended.returncode}\n{ended.stderr[-3000:]}",
            flush=True,
        )
        found += ended.returncode != 0
    return 1 if found else 0


def fuzz(target: str) -> None:
    """Fuzz one target until its time is over; never returns."""
    import atheris

    sys.path.insert(0, str(HERE.parents[1] / "src"))
    with tempfile.TemporaryDirectory() as folder:
        with atheris.instrument_imports(include=["dualspec"]):
            good, act = prepare(target, Path(folder))
            import conftest

        def once(data: bytes) -> None:
            try:
                act(data)
            except (ValueError, FileNotFoundError) as error:
                conftest.check_refusal(error)

        def change(data: bytes, max_size: int, seed: int) -> bytes:
            draw = random.Random(seed)
            first, end, rest = data.partition(b"\n")
            try:
                value = json.loads(data if draw.random() < 0.5 else first) if draw.random() < 0.5 else None
            except (ValueError, RecursionError):
                value = None
            if value is None:
                return atheris.Mutate(data, max_size)
            return (json.dumps(conftest.changed(value, draw)).encode() + end + rest)[:max_size]

        (Path(sys.argv[-1]) / "good").write_bytes(good)
        act(good)
        atheris.Setup(sys.argv, once, custom_mutator=change)
        atheris.Fuzz()


def prepare(target: str, folder: Path) -> tuple[bytes, Callable[[bytes], object]]:
    """Return a good input of a target, and what reads one."""
    import test_words as words

    if target == "prompt":

        def read_prompt(data: bytes) -> None:
            prompt = data.decode("utf-8", "surrogateescape")
            words.check_prompt(prompt, allow_no_direction=True)
            words.blank_location(prompt)

        return words.PROMPT.encode(), read_prompt
    if target == "override":
        recipe, good = words.get_recipe("tiny/dualspec"), b"loop.max_steps=3\ntask.optimizer.betas=0.9,0.99"
        return good, lambda data: words.override(recipe, data.decode("utf-8", "surrogateescape").split("\n"))
    if target == "safetensors":
        return prepare_tensors(folder)
    path = folder / "file"
    if target in KINDS:
        read = words.TEXT_FILES[target](path)
        (path,) = folder.iterdir()
    else:
        read = (prepare_head if target == "sofa" else prepare_sound)(path, target)

    def act(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return path.read_bytes(), act


def prepare_sound(path: Path, kind: str) -> Callable[[Path], object]:
    import numpy as np
    import soundfile

    from dualspec.audio.waveform import audio_info, read_waveform

    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (500, 2)), 16_000, format=kind)
    return lambda file: (audio_info(file), read_waveform(file, sample_rate=8_000, max_seconds=20))


def prepare_head(path: Path, kind: str) -> Callable[[Path], object]:
    import numpy as np
    import sofar

    from dualspec.audio.hrir import load_sofa, spherical_head

    head, sofa = spherical_head(num_directions=4, num_taps=64), sofar.Sofa("SimpleFreeFieldHRIR")
    sofa.SourcePosition = np.c_[head.azimuths_deg.numpy(), np.zeros(4), np.ones(4)]
    sofa.Data_IR, sofa.Data_SamplingRate = head.impulse_responses.double().numpy(), 16_000
    sofa.Data_Delay = np.zeros((1, 2))
    sofar.write_sofa(str(path.with_suffix(".sofa")), sofa)
    path.with_suffix(".sofa").rename(path)
    return lambda file: load_sofa(file, isolate=False)


def prepare_tensors(folder: Path) -> tuple[bytes, Callable[[bytes], object]]:
    """Weights whose hash is true whatever is in them."""
    import torch

    from dualspec.files import sha256_of
    from dualspec.recipes import vae_configs
    from dualspec.training.weights import read_state, save_state

    config_of_any_kind = vae_configs("tiny/dualspec", "dualspec")["mel_vae"]
    save_state(folder / "part", {"a.weight": torch.ones(2, 3), "b": torch.zeros(4)}, config_of_any_kind)
    path, config = folder / "part" / "model.safetensors", folder / "part" / "config.json"
    document = json.loads(config.read_text())

    def act(data: bytes) -> None:
        path.write_bytes(data)
        document["files"][path.name] = sha256_of(path)
        config.write_text(json.dumps(document))
        state = read_state(path.parent)
        assert all(value.isfinite().all() for value in state.values() if value.is_floating_point())

    return path.read_bytes(), act


if __name__ == "__main__":
    sys.exit(main())
