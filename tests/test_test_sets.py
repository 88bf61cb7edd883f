"""From a prepared corpus to a table: test set, references, generation, cascade, round trip, judgement, report."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from dualspec.audio.binaural import render
from dualspec.audio.hrir import load_sofa
from dualspec.audio.waveform import read_waveform, write_waveform
from dualspec.cli import app
from dualspec.evaluation.efficientat import EfficientAt
from dualspec.hearing.localizer import Localizer, LocalizerConfig
from dualspec.prompt_lists import (
    event_rows,
    plan_manifest_clips,
    read_manifest_prompts,
    standard_test_set,
    write_prompt_list,
)
from dualspec.training.weights import save_weights


def dualspec(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def done(*words: object) -> str:
    result = dualspec(*words)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six test recordings of two labels and two for training, prepared."""
    root = tmp_path_factory.mktemp("recordings")
    generator = torch.Generator().manual_seed(0)
    lines = ["file,label,licence,split"]
    for index in range(8):
        write_waveform(root / f"{index}.wav", 0.1 * torch.randn(1, 20_000, generator=generator), 16_000)
        lines.append(f"{index}.wav,{'dog' if index % 2 else 'rain'},CC0,{'train' if index > 5 else 'test'}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    folder = tmp_path_factory.mktemp("data") / "prepared"
    done("prepare", folder, "--corpus", f"folder={root}", "--workers", 1)
    return folder


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Options that name a small localizer and a classifier, both with random weights."""
    folder = tmp_path_factory.mktemp("judges")
    torch.manual_seed(0)
    config = LocalizerConfig(branch_channels=(2, 2, 2), fused_channels=4, hidden_features=(4, 4))
    save_weights(folder / "ear", Localizer(config), config)
    torch.save(EfficientAt().state_dict(), folder / "network.pt")
    return ("--localizer", str(folder / "ear"), "--embedder", f"mn04_as={folder / 'network.pt'},unchecked")


# --- lists ------------------------------------------------------------------------------------------------------------


def test_a_test_set_is_balanced_and_the_same_in_every_wording(corpus: Path) -> None:
    sets = {style: standard_test_set(corpus, 24, styles=[style]) for style in ("doa", "clock", "general")}  # type: ignore[list-item]
    mixed = standard_test_set(corpus, 24, styles=["doa", "clock", "general"])
    for rows in (*sets.values(), mixed):
        assert [(row.file, row.azimuth_deg, row.seed) for row in rows] == [
            (row.file, row.azimuth_deg, row.seed) for row in sets["doa"]
        ]
    assert len({row.file for row in mixed}) == 24, "no recording stands twice at one azimuth"
    assert set(Counter(row.recording for row in mixed).values()) == {4}
    assert set(Counter(row.azimuth_deg for row in mixed).values()) == {2}
    assert {row.style for row in mixed} == {"doa", "clock", "general"}
    assert standard_test_set(corpus, 24, styles=["doa"], seed=1) != sets["doa"]
    with pytest.raises(ValueError, match="num must be 1 to 72 with 6 clips at 12 azimuths, got 73"):
        standard_test_set(corpus, 73, styles=["doa"])
    with pytest.raises(ValueError, match="must hold valid clips"):
        standard_test_set(corpus, 1, styles=["doa"], split="valid")


def test_a_finer_test_set_is_balanced_and_says_each_direction_as_it_can(corpus: Path, tmp_path: Path) -> None:
    rows = standard_test_set(corpus, 144, styles=["doa", "clock", "general"], num_azimuths=72)
    assert set(Counter(row.azimuth_deg for row in rows).values()) == {2} and len({row.file for row in rows}) == 144
    write_prompt_list(tmp_path / "list.jsonl", rows)
    for row, parsed in read_manifest_prompts(tmp_path / "list.jsonl"):
        assert parsed.azimuth is not None and row.azimuth_deg == parsed.azimuth.azimuth_deg, row.prompt
        assert parsed.azimuth.style == row.style
    assert {row.style for row in rows} == {"doa", "clock", "general"}
    assert {row.style for row in rows if row.azimuth_deg is not None and row.azimuth_deg % 15} == {"doa"}
    with pytest.raises(
        ValueError, match=r"styles must have words for all 36 azimuths, got clock without .* 10 degrees"
    ):
        standard_test_set(corpus, 24, styles=["clock"], num_azimuths=36)


def test_lists_are_read_strictly(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    words = "EVENT: Dog & LOCATION: DOA 90"

    def read(*rows: Any) -> Any:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_manifest_prompts(path)

    ((row, parsed),) = read({"prompt": words})
    assert row.file == "00001.wav" and parsed.azimuth is not None and parsed.azimuth.azimuth_deg == 90
    (request,) = plan_manifest_clips([(row, parsed)], tmp_path / "out", seed=7, blank=True)
    assert request.path == tmp_path / "out" / "00001.wav" and request.seed == 7 and request.prompt == "EVENT: Dog"
    for rows, match in (
        ([{"prompt": words, "azimuth_deg": 270}], r"list\.jsonl:1: azimuth_deg must be what the prompt says, got 270"),
        ([{"prompt": words, "colour": 1}], r":1 must hold a prompt and only file, prompt"),
        ([{"file": "a.wav"}], "must hold a prompt"),
        ([{"prompt": words, "file": "../a.wav"}], r":1: file must be a plain name"),
        ([{"prompt": words, "file": "a.wav"}] * 2, r":2: file must be unique .* got 'a\.wav' again"),
        ([{"prompt": words, "file": f"a.{kind}"} for kind in ("wav", "flac")], r":2: file must be unique .* 'a\.flac'"),
        ([{"prompt": "EVENT: Dog"}], r":1: prompt must say where the sound is"),
        ([{"prompt": words, "seed": -1}], r":1: prompt must be words and seed"),
        ([], "must hold prompts, got none"),
    ):
        with pytest.raises(ValueError, match=match):
            read(*rows)


def test_events_make_a_list_or_plain_lines(tmp_path: Path) -> None:
    assert "36 prompts" in done("prompts", "church bells", "-o", tmp_path / "list.jsonl")
    rows = [row for row, _ in read_manifest_prompts(tmp_path / "list.jsonl")]
    assert (
        rows == event_rows(["church bells"], ["doa", "clock", "general"]) and rows[3].file == "church-bells-doa^30.wav"
    )
    assert f"{72 + 24 + 12} prompts" in done("prompts", "rain", "-o", tmp_path / "fine.jsonl", "--azimuths", 72)
    fine = [row for row, _ in read_manifest_prompts(tmp_path / "fine.jsonl")]
    assert fine[5].file == "rain-doa^15.wav" and fine[6].prompt == "EVENT: Rain & LOCATION: half past eleven direction"
    done("prompts", "church bells", "-o", tmp_path / "list.txt", "--styles", "doa")
    assert (tmp_path / "list.txt").read_text().splitlines()[3] == "EVENT: Church bells & LOCATION: DOA 90"
    for words, match in (
        (("-o", tmp_path / "a.txt"), "one of EVENTS and --data"),
        (("dog", "-o", tmp_path / "a.txt", "--others"), "--hrir and --others must come with --data"),
        (("dog", "-o", tmp_path / "a.txt", "--styles", "polar"), "style must be one of"),
    ):
        result = dualspec("prompts", *words)
        assert result.exit_code == 2 and match in result.output


# --- from a test set to tables ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def test_set(
    corpus: Path, write_sofa: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    folder, sofa = tmp_path_factory.mktemp("set") / "test", write_sofa()
    output = done("prompts", "--data", corpus, "-o", folder, "-n", 6, "--hrir", sofa, "--others", "--styles", "doa")
    assert "prompts.jsonl: 6 prompts" in output and "reference: 6 clips" in output and "others: 6 clips" in output
    return folder, sofa


def test_references_are_the_true_clips_through_the_head(corpus: Path, test_set: tuple[Path, Path]) -> None:
    from dualspec.data.datasets import load_clips

    folder, sofa = test_set
    bank, head = load_clips(corpus, "test"), load_sofa(sofa)
    for row, _ in read_manifest_prompts(folder / "prompts.jsonl"):
        ears, _ = read_waveform(folder / "reference" / row.file)
        mono = bank.float_waveforms(torch.tensor([bank.ids.index(str(row.recording))]))
        expected = render(mono, head.at([float(row.azimuth_deg or 0)]))[0]
        torch.testing.assert_close(ears, expected * 0.5 / expected.abs().max(), atol=2 / 32768, rtol=0)
        record = json.loads((folder / "others" / row.file).with_suffix(".json").read_text())
        assert record["event"] == row.label and record["recording"] != row.recording
        assert record["system"]["kind"] == "recordings" and record["azimuth"]["azimuth_deg"] == row.azimuth_deg


def test_from_prompts_to_tables(
    test_set: tuple[Path, Path], tiny_model: Path, judges: tuple[str, ...], tmp_path: Path
) -> None:
    folder, sofa = test_set
    reference, results = ("--reference", folder / "reference"), tmp_path / "results"
    made = tmp_path / "made"
    list_file = folder / "prompts.jsonl"
    done(
        "generate",
        "--manifest",
        list_file,
        "-o",
        made,
        "--model",
        tiny_model,
        "--no-picture",
        "--no-proof",
        "--steps",
        1,
    )
    assert {path.name for path in made.glob("*.wav")} == {path.name for path in (folder / "reference").glob("*.wav")}
    done("cascade", made, "--hrir", sofa, "-o", tmp_path / "mid")
    common = (*reference, *judges, "--cache", tmp_path / "cache", "--device", "cpu")
    for name, clips in (("tiny", made), ("mid", tmp_path / "mid"), ("real", folder / "others")):
        output = done("evaluate", clips, *common, "-o", results / name)
        result = json.loads((results / name / "result.json").read_text())
        assert result["num_clips"] == 6 and {"fd", "kl", "ssim"} <= set(result["quality"]["mean"]), output
        assert result["localizer"]["warning"] and '"num_clips": 6' in output and "| azimuth | clips |" in output
    cascade = json.loads((results / "mid" / "result.json").read_text())
    assert cascade["source"]["kind"] == "cascade" and cascade["source"]["of"] == "model"
    assert cascade["direction"]["share_louder_and_earlier_at_the_correct_ear"] >= 0.8, "the head's direction"
    made_by = json.loads((results / "tiny" / "result.json").read_text())["source"]
    assert made_by["name"] == "dualspec" and made_by["sampling"]["num_inference_steps"] == 1

    words = ("report", "table2", results, "-o", tmp_path / "table2.md", "--no-recipes")
    assert "3 results, 1 with their weights at hand" in done(*words, "--no-time")
    text = (tmp_path / "table2.md").read_text()
    assert "| DualSpec, ours (tiny) | – | – | – | – | – | weights not at hand |" in text
    assert "another of its label, ours (real) | 6 |" in text
    assert "3 with their weights at hand" in done(*words, "--weights", tiny_model)
    text = (tmp_path / "table2.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("| DualSpec, ours (tiny)")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "6" and all(float(cell) > 0 for cell in cells[3:6]), "GFLOPs for a step and all steps, seconds"
    assert "torch.utils.flop_counter" not in line and "Time: seconds for one second of audio" in text
    for table in ("table1", "table3"):
        done("report", table, results, "-o", tmp_path / f"{table}.md", "--weights", tiny_model)
    assert "| DualSpec, ours (tiny) | doa | 6 |" in (tmp_path / "table3.md").read_text()
    done("report", "fig5", made, "-o", tmp_path / "fig5.md")
    assert (tmp_path / "fig5.md").read_text().count("![") == 4 == len(list(tmp_path.glob("fig5-*.png")))
    refused = dualspec("report", "fig6", results, "-o", tmp_path / "fig6.md", "--weights", tiny_model)
    assert refused.exit_code == 65 and "differ in one setting, got none" in refused.output
    shutil.copytree(results / "tiny", results / "guided")
    path = results / "guided" / "result.json"
    other = json.loads(path.read_text())
    other["source"]["sampling"]["guidance_scale"] = 5.0
    path.write_text(json.dumps(other))
    done("report", "fig6", results, "-o", tmp_path / "fig6.md", "--weights", tiny_model)
    assert "![fd](fig6-fd.png)" in (tmp_path / "fig6.md").read_text() and (tmp_path / "fig6-fd.png").is_file()


def test_a_round_trip_names_the_parts_it_used(
    corpus: Path, test_set: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    done("roundtrip", tmp_path / "rt", "--data", corpus, "--hrir", test_set[1], "--model", tiny_model, "-n", 3)
    record = json.loads(next((tmp_path / "rt" / "estimate").glob("*.json")).read_text())
    assert record["system"]["kind"] == "round trip" and record["system"]["name"] == "dualspec"
    assert sorted(record["system"]["sha256"]) == ["mel_vae", "stft_vae", "vocoder"], "a round trip uses no denoiser"
    assert record["gain_db"] <= 0, "what was turned down to fit is said"
    words = (
        "evaluate",
        tmp_path / "rt" / "estimate",
        "--reference",
        tmp_path / "rt" / "reference",
        "--localizer",
        "none",
    )
    done(*words, "-o", tmp_path / "results" / "rt")
    done("report", "table1", tmp_path / "results", "-o", tmp_path / "table1.md", "--weights", tiny_model)
    assert "| DualSpec, ours (rt) | 3 |" in (tmp_path / "table1.md").read_text()


def test_a_probe_is_trained_and_counts_what_is_recognised(
    corpus: Path, test_set: tuple[Path, Path], judges: tuple[str, ...], tmp_path: Path
) -> None:
    output = done("probe", tmp_path / "probe", "--data", corpus, *judges[2:])
    assert "2 classes from 2 clips. Of 6 unseen clips it recognises" in output
    notes = json.loads((tmp_path / "probe" / "config.json").read_text())["notes"]
    assert notes["corpora"] == ["folder"] and notes["held_out_clips"] == 6
    words = ("evaluate", test_set[0] / "reference", "--localizer", "none", *judges[2:])
    done(*words, "--probe", tmp_path / "probe", "-o", tmp_path / "judged")
    result = json.loads((tmp_path / "judged" / "result.json").read_text())
    found = result["embedders"]["mn04_as"]["recognised"]
    assert found["num_clips"] == result["num_clips"] and set(found["classes"]) == {"dog", "rain"}
    assert found["probe"]["held_out_clips"] == 6 and found["top5"] == 1.0
    assert (
        json.loads(done(*words).partition("\n| ")[0])["absent"]["recognised by mn04_as"]
        == "there is no probe for these weights"
    )
    other = dualspec("evaluate", test_set[0] / "reference", "--localizer", "none", "--probe", tmp_path / "probe")
    assert (
        other.exit_code == 65 and "probe must belong to an embedder that is used, got one for mn04_as" in other.output
    )


def test_evaluate_says_in_one_line_what_is_wrong(
    test_set: tuple[Path, Path], judges: tuple[str, ...], tmp_path: Path
) -> None:
    reference = test_set[0] / "reference"
    for words, code, match in (
        ((tmp_path / "nowhere",), 66, "no folder"),
        ((reference, "--unpaired"), 2, "--unpaired must come with --reference"),
        ((reference, "--style", "clock"), 65, "in the style clock, got none"),
        ((reference, "--embedder", "vggish"), 2, "embedder must be"),
        ((reference, *judges[2:], *judges[2:]), 2, "once for each name, got mn04_as twice"),
        ((reference, *judges[2:], "--probe", tmp_path), 66, "no weights in"),
        ((reference, *judges[2:], "--probe", judges[1]), 65, "must be of ProbeConfig, got LocalizerConfig"),
        ((reference, "--localizer", tmp_path), 66, "no weights in"),
        ((tmp_path,), 65, "must hold clips"),
    ):
        localizer = () if "--localizer" in words else ("--localizer", "none")
        result = dualspec("evaluate", *words, *localizer)
        assert result.exit_code == code and match in result.output, result.output
        assert len([line for line in result.output.splitlines() if line]) == 1


def test_nearest_in_the_space_of_a_classifier(
    corpus: Path, test_set: tuple[Path, Path], judges: tuple[str, ...]
) -> None:
    words = ("nearest", test_set[0] / "reference", "--data", corpus, "-n", 3)
    for more in ((), judges[2:]):
        output = done(*words, *more)
        assert output.count("folder/") == 3 and "held-out recordings: median" in output
    assert "percentile" in output and "embedder mn04_as" in output


def test_a_baseline_answers_a_list(
    tmp_path: Path, write_sofa: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published systems themselves are tested in evaluation/test_baselines.py; here one stands in."""
    from dualspec.evaluation import baselines

    class Tone:
        name, sample_rate, num_inference_steps, guidance_scale = "tango", 16_000, 200, 3.0
        scheduler, sha256 = torch.nn.Identity(), dict(weights="0" * 64)

        def __call__(self, texts: list[str], *, seeds: list[int], num_samples: int, **_: Any) -> torch.Tensor:
            heard.extend(texts)
            return (
                torch.stack([torch.randn(num_samples, generator=torch.Generator().manual_seed(s)) for s in seeds]) / 9
            )

    heard: list[str] = []
    monkeypatch.setattr(baselines, "load_baseline", lambda *_, **__: Tone())
    done("prompts", "church bells", "-o", tmp_path / "list.jsonl", "--styles", "doa")
    words = (
        "baseline",
        "tango",
        "--weights",
        tmp_path,
        "--manifest",
        tmp_path / "list.jsonl",
        "-o",
        tmp_path / "tango",
    )
    output = done(*words, "--cascade", write_sofa(), "--num-samples", 16_000, "--device", "cpu")
    assert "12 clips of tango" in output and set(heard) == {"Church bells"}, "no word of any direction"
    ears, _ = read_waveform(tmp_path / "tango" / "church-bells-doa^90.wav")
    assert torch.equal(ears[0], ears[1])
    mono, head = (
        json.loads(done("evaluate", tmp_path / folder, "--localizer", "none").partition("\n| azimuth")[0])
        for folder in ("tango", "tango-cascade")
    )
    assert mono["absent"]["direction"] == "a mono signal at both ears has none" and "direction" not in mono
    assert mono["source"]["kind"] == "baseline" and mono["source"]["sampling"]["num_inference_steps"] == 200
    assert head["source"] == mono["source"] | {"kind": "cascade", "of": "baseline"}
    assert head["direction"]["share_louder_and_earlier_at_the_correct_ear"] == 1.0
