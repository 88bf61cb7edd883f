"""The paper's tables from results on disk: only what weights at hand made is printed."""

import json
from pathlib import Path
from typing import Any

import pytest

from dualspec.evaluation.paper_tables import TABLE_1, TABLE_2, TABLE_3
from dualspec.evaluation.tables import (
    NOT_AT_HAND,
    Shelf,
    Size,
    Weights,
    event_table,
    hash_weights,
    read_results,
    sweep,
    sweep_table,
    table_1,
    table_2,
    table_3,
)
from dualspec.files import sha256_of


def write_result(folder: Path, result: str, /, *, fd: float = 12.345, styles: Any = None, **source: Any) -> None:
    quality = {"fd": fd, "kl": 1.5, "inception_score": 4.0, "psnr_db": 20.0, "ssim": 0.7}
    data = {
        "format_version": 1,
        "num_clips": 120,
        "mode": "ears",
        "source": source,
        "styles": styles or {"doa": 120},
        "quality": {"left": quality, "right": quality, "mean": quality},
        "direction": {"azimuth_accuracy": 0.975, "azimuth_mae_deg": 3.25, "median_itd_error_us": 7.0},
        "embedder": {"name": "mn04_as", "sha256": "a" * 64},
        "localizer": {"name": "robust", "sha256": "c" * 64, "warning": "the judge itself is right on only 97.1 %"},
        "absent": {},
    }
    (folder / result).mkdir(parents=True)
    (folder / result / "result.json").write_text(json.dumps(data))


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A folder of weights, and what records of its clips say of it."""
    (tmp_path / "model" / "denoiser").mkdir(parents=True)
    file = tmp_path / "model" / "denoiser" / "model.safetensors"
    file.write_bytes(b"weights")
    return tmp_path / "model", {"denoiser": {"config.json": "f" * 64, file.name: sha256_of(file)}}


def row(text: str, beginning: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {beginning}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_papers_numbers_are_consistent() -> None:
    """Table II's accuracy and error are the mean of Table III's wordings, within 1 % and 1 degree (paper notes)."""
    for variant, by_style in TABLE_3.items():
        for place, tolerance in ((3, 1.0), (4, 0.01)):
            mean = sum(values[place] for values in by_style.values()) / 3
            assert mean == pytest.approx(TABLE_2[variant][place + 3], abs=tolerance), variant
    assert {len(values) for values in TABLE_1.values()} == {7} and {len(values) for values in TABLE_2.values()} == {8}


def test_a_row_needs_its_weights_at_hand(model: Any, tmp_path: Path) -> None:
    folder, sha256 = model
    write_result(tmp_path / "r", "mini", kind="model", name="dualspec", sha256=sha256)
    found = read_results(tmp_path / "r")
    without = table_2(Shelf(results=found))
    assert row(without, "DualSpec, ours (mini)")[6] == NOT_AT_HAND and "12.35" not in without and "97.5" not in without
    size = Size(parameters=20_600_000, gflops=1.25, gflops_full=11.5, seconds=0.4)
    weights = Weights(sha256=hash_weights(folder), size=size)
    text = table_2(Shelf(results=found, weights=[weights]))
    cells = row(text, "DualSpec, ours (mini)")
    assert cells[1:11] == ["120", "20.6", "1.25", "11.5", "0.40", "12.35", "1.500", "4.00", "3.25", "97.5"]
    assert cells[11] == "7" and row(text, "DualSpec, paper")[1:3] == ["5000", "1541"]
    assert "**the judge itself is right on only 97.1 %**" in text and "mn04_as (aaaaaaaaaaaa…)" in text
    assert row(text, "TANGO, ours")[6] == NOT_AT_HAND and row(text, "TANGO, paper")[9] == "–"
    (folder / "denoiser" / "model.safetensors").write_bytes(b"other weights")
    changed = table_2(Shelf(results=found, weights=[Weights(sha256=hash_weights(folder))]))
    assert row(changed, "DualSpec, ours (mini)")[6] == NOT_AT_HAND


def test_what_names_no_weights_is_never_printed(model: Any, tmp_path: Path) -> None:
    """A config's hash is no proof, and neither is a record without hashes."""
    folder, _ = model
    configs = {"denoiser": {"config.json": sha256_of(folder / "denoiser" / "model.safetensors")}}
    write_result(tmp_path / "r", "empty", kind="model", name="dualspec", sha256={})
    write_result(tmp_path / "r", "config", kind="model", name="dualspec", sha256=configs)
    write_result(tmp_path / "r", "foreign", kind="unknown")
    shelf = Shelf(results=read_results(tmp_path / "r"), weights=[Weights(sha256=hash_weights(folder))])
    for text in (table_1(shelf), table_2(shelf), table_3(shelf)):
        assert "12.35" not in text and "97.5" not in text and NOT_AT_HAND in text


def test_paper_sizes_need_no_weights() -> None:
    sizes = {"dualspec": Size(parameters=1_541_120_000, gflops=952.4, gflops_full=94_663.6)}
    cells = row(table_2(Shelf(results=[], paper_sizes=sizes)), "DualSpec, our recipe of its size")
    assert cells[2:5] == ["1541", "952", "94664"] and cells[6] == NOT_AT_HAND


def test_cascades_recordings_and_best_of_are_rows_of_their_own(model: Any, tmp_path: Path) -> None:
    folder, sha256 = model
    write_result(tmp_path / "r", "chosen", kind="model", name="dualspec", sha256=sha256, best_of=4)
    write_result(tmp_path / "r", "mid", kind="cascade", name="dualspec", sha256=sha256)
    write_result(tmp_path / "r", "lost", kind="cascade", name="tango", sha256={"x.bin": "0" * 64})
    write_result(tmp_path / "r", "real", kind="recordings", name="another of its label")
    text = table_2(Shelf(results=read_results(tmp_path / "r"), weights=[Weights(sha256=hash_weights(folder))]))
    assert row(text, "DualSpec, ours (chosen), best of 4")[6] == "12.35"
    assert row(text, "cascade with a head: DualSpec, ours (mid)")[6] == "12.35"
    assert row(text, "cascade with a head: TANGO, ours (lost)")[6] == NOT_AT_HAND
    assert row(text, "held-out recordings through a head: another of its label, ours (real)")[6] == "12.35"


def test_round_trips_and_wordings(model: Any, tmp_path: Path) -> None:
    folder, sha256 = model
    write_result(tmp_path / "r", "trip", kind="round trip", name="stft_base", sha256=sha256)
    write_result(tmp_path / "r", "clock", kind="model", name="stft_base", sha256=sha256, styles={"clock": 120})
    write_result(tmp_path / "r", "all", kind="model", name="stft_base", sha256=sha256, styles={"clock": 60, "doa": 60})
    shelf = Shelf(results=read_results(tmp_path / "r"), weights=[Weights(sha256=hash_weights(folder))])
    trips = table_1(shelf)
    assert row(trips, "STFT-VAE, ours (trip)")[2:5] == ["20.00", "0.700", "12.35"]
    assert row(trips, "STFT-VAE, paper")[2:4] == ["31.93", "0.929"] and row(trips, "Mel-VAE, ours")[2] == NOT_AT_HAND
    wordings = table_3(shelf)
    assert row(wordings, "STFT-base, ours (clock)")[1:4] == ["clock", "120", "12.35"]
    assert "(all)" not in wordings and wordings.count("STFT-base, paper") == 3


def test_sweeps_hold_one_setting_apart(model: Any, tmp_path: Path) -> None:
    folder, sha256 = model
    for guidance, fd in ((1.0, 30.0), (5.0, 25.0), (3.0, 20.0)):
        sampling = {"sampler": "dpmpp", "num_inference_steps": 25, "guidance_scale": guidance}
        source = {"kind": "model", "name": "dualspec", "sha256": sha256, "sampling": sampling}
        write_result(tmp_path / "r", f"g{guidance}", fd=fd, **source)
    shelf = Shelf(results=read_results(tmp_path / "r"), weights=[Weights(sha256=hash_weights(folder))])
    ((name, points),) = sweep(shelf, "fig6").items()
    assert [(value, result.value("fd")) for value, result in points] == [(1.0, 30.0), (3.0, 20.0), (5.0, 25.0)]
    assert "num_inference_steps 25" in name and sweep(shelf, "fig7") == {}
    assert "| 3 | 120 | 20.00 |" in sweep_table({name: points}, "fig6")
    assert sweep(Shelf(results=shelf.results), "fig6") == {}, "no weights, no sweep"
    compat = tmp_path / "r" / "g5.0" / "result.json"
    compat.write_text(compat.read_text().replace('"ears"', '"compat"'))
    ((_, points),) = sweep(Shelf(results=read_results(tmp_path / "r"), weights=shelf.weights), "fig6").items()
    assert len(points) == 2, "what was measured in another way is no point of this curve"
    write_result(tmp_path / "r", "again", **source)
    with pytest.raises(ValueError, match=r"must differ in guidance_scale, got again and g3\.0 alike"):
        sweep(Shelf(results=read_results(tmp_path / "r"), weights=shelf.weights), "fig6")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of results"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(ValueError, match=r"settings\.json must be a result"):
        read_results(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights folder"):
        hash_weights(tmp_path / "nowhere")


def test_events_least_like_their_references_come_first() -> None:
    rows = [
        {"event": "Dog", "azimuth_deg": 90.0, "heard_deg": 90.0, "kl": 1.0, "itd_error_us": 4.0},
        {"event": "dog", "azimuth_deg": 90.0, "heard_deg": 60.0, "kl": 3.0, "itd_error_us": 8.0},
        {"event": "rain", "azimuth_deg": 0.0, "heard_deg": 0.0, "kl": 5.0},
    ]
    lines = event_table(rows).splitlines()
    assert lines[2:] == ["| rain | 1 | 5.000 | 100.0 | – | – |", "| dog | 2 | 2.000 | 50.0 | 6 | – |"]
