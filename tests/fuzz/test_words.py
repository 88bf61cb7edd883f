"""Words and JSON from strangers: prompts, lists, manifests, settings, configurations. (G5, F3)"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from dualspec.config import load_json, override, save_json
from dualspec.data.manifest import ManifestRow, read_manifest, to_line
from dualspec.data.selection import Pair, read_pairs, write_pairs
from dualspec.hearing.proof import HeadCues
from dualspec.model_folder import embedded_bundle, read_index
from dualspec.prompt_lists import check_prompt, read_manifest_prompts, read_prompt_file
from dualspec.recipes import get_recipe
from dualspec.scenes.score import plan_scene, read_scene
from dualspec.text.prompts import blank_location
from dualspec.training.diffusion_task import DiffusionTaskConfig

PROMPT = "EVENT: Dog bark & LOCATION: 3 o'clock direction"
BREAKERS = st.sampled_from([
    "&", "EVENT:", "LOCATION:", "DOA", "720", "-0", "1e999", "13", "o'clock", "half past", "degrees", "°", "٣", "½",
    "left", "right", "behind", "between", "and", "\x00", "\ud800", "\u202e", "\u200d", "\n", "\t", " ", ":", "'", "’",
    "犬", "9" * 400, "a" * 499,
])  # fmt: skip
PROMPTS = st.one_of(
    st.text(max_size=600),
    st.lists(BREAKERS, max_size=12).map(" ".join),
    st.lists(BREAKERS | st.text(max_size=4), max_size=12).map("".join),
    st.tuples(st.text(max_size=30), st.text(max_size=30)).map(lambda two: f"EVENT: {two[0]} & LOCATION: {two[1]}"),
    st.integers(-(10**6), 10**6).map(lambda number: f"EVENT: dog & LOCATION: DOA {number}"),
)
ROW = ManifestRow(
    id="folder/a", corpus="folder", recording="folder:a", labels=("dog",), licence="CC0", attribution="me",
    split="train", duration_s=1.5, num_samples=24_000, sha256="0" * 64, shard="shards/shard-00000.flac", offset=0,
)  # fmt: skip


def test_prompts(fuzz) -> None:
    def read(prompt: str) -> None:
        parsed = check_prompt(prompt, allow_no_direction=True)
        assert parsed.azimuth is None or 0 <= parsed.azimuth.azimuth_deg < 360
        blank_location(prompt)

    fuzz(PROMPTS, read)


def manifest(path: Path) -> object:
    path.write_text(to_line(ROW) + "\n")
    return read_manifest


def prompt_rows(path: Path) -> object:
    path.write_text(json.dumps({"prompt": PROMPT, "azimuth_deg": 270.0, "seed": 3, "label": "dog", "file": "a.wav"}))
    return read_manifest_prompts


def prompt_lines(path: Path) -> object:
    path.write_text(f"# mine\n{PROMPT}\nEVENT: Rain & LOCATION: DOA 90\n")
    return read_prompt_file


def pairs(path: Path) -> object:
    write_pairs(path, [Pair(clip="folder/a", azimuth_deg=30.0), Pair(clip="folder/b", azimuth_deg=0.0)])
    return read_pairs


def configuration(path: Path) -> object:
    save_json(get_recipe("tiny/dualspec").task, path)
    return lambda file: load_json(DiffusionTaskConfig, file)


def head(path: Path) -> object:
    path.write_bytes((embedded_bundle() / "head.json").read_bytes())
    return lambda file: load_json(HeadCues, file)


def index(path: Path) -> object:
    path.write_bytes((embedded_bundle() / "model_index.json").read_bytes())
    path.rename(path.with_name("model_index.json"))
    return lambda file: read_index(file.parent)


def scene(path: Path) -> object:
    path.write_bytes((Path(__file__).parents[2] / "docs" / "examples" / "scene.json").read_bytes())
    return lambda file: plan_scene(read_scene(file), sound_s=5.12)


# A new kind of text file is one more entry: a function that writes a good one and returns its reader.
TEXT_FILES: dict[str, Callable[[Path], Any]] = {
    write.__name__: write for write in (manifest, prompt_rows, prompt_lines, pairs, configuration, head, index, scene)
}


@pytest.mark.parametrize("kind", TEXT_FILES)
def test_text_files(fuzz, tmp_path: Path, kind: str) -> None:
    read = TEXT_FILES[kind](tmp_path / "file")
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    first, rest = content.partition(b"\n")[::2] if kind in ("manifest", "pairs") else (content, b"")
    cases = fuzz.damage(content)
    if kind != "prompt_lines":
        cases |= fuzz.mutated(json.loads(first)).map(lambda value: json.dumps(value).encode() + b"\n" + rest)

    def act(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    fuzz(cases, act, f"files of kind {kind}", 1 if kind in ("manifest", "configuration", "scene") else 0.3)


def test_settings_from_the_command_line(fuzz) -> None:
    recipe = get_recipe("tiny/dualspec")
    keys = st.sampled_from(["loop.max_steps", "loop.precision", "task.optimizer.betas", "task.variant.denoiser.kind"])
    values = st.sampled_from(["1", "bf16", "0.9,0.99", "dit", "[[[", "{}", "1e999", "none"]) | st.text(max_size=20)
    settings = st.tuples(keys | st.text(max_size=20), values).map("=".join) | st.text(max_size=30)
    fuzz(st.lists(settings, max_size=3), lambda chosen: override(recipe, chosen), share=0.3)
