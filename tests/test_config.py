"""Strict dataclass ⇄ JSON: what goes out comes back, and whatever does not fit is refused by name."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualspec.config import from_dict, load_json, override, save_json, to_dict, write_text_atomic
from dualspec.files import atomic_path, whole_folder


@dataclass(frozen=True, kw_only=True)
class AdamConfig:
    kind: Literal["adam"] = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True, kw_only=True)
class SgdConfig:
    kind: Literal["sgd"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StftConfig:
    n_fft: int = 512
    hop_length: int = 256

    def __post_init__(self) -> None:
        if self.hop_length > self.n_fft:
            raise ValueError(f"hop_length must be at most n_fft, got {self.hop_length}; choose a smaller one")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    name: str
    stft: StftConfig = StftConfig()
    optimizer: AdamConfig | SgdConfig = AdamConfig()
    channels: tuple[int, ...] = (1, 2, 4)
    style: Literal["doa", "clock", "general"] = "doa"
    scale: float | None = None
    sha256: str | None = None
    resume: bool = False
    limit: int | str = "all"
    weights: dict[str, float] = field(default_factory=dict)
    ema: AdamConfig | None = None
    extra: Any = None
    derived: int = field(init=False, default=7)


def test_round_trip_adds_and_loses_nothing(tmp_path: Path) -> None:
    config = RunConfig(name="a", optimizer=SgdConfig(momentum=0.5), weights={"mel": 1.0}, ema=AdamConfig(lr=0.5))
    data = to_dict(config)
    assert data["optimizer"] == {"kind": "sgd", "lr": 0.1, "momentum": 0.5}
    assert "derived" not in data and data["channels"] == [1, 2, 4]
    assert from_dict(RunConfig, json.loads(json.dumps(data))) == config
    save_json(config, tmp_path / "run.json")
    assert load_json(RunConfig, tmp_path / "run.json") == config
    assert sorted(json.loads((tmp_path / "run.json").read_text())) == ["config", "format_version", "type"]


@given(
    st.builds(
        RunConfig,
        name=st.text(max_size=20),
        stft=st.builds(StftConfig, n_fft=st.integers(300, 2**40)),
        optimizer=st.builds(AdamConfig, lr=st.floats(allow_nan=False, allow_infinity=False)) | st.builds(SgdConfig),
        channels=st.lists(st.integers(), max_size=4).map(tuple),
        scale=st.none() | st.floats(allow_nan=False, allow_infinity=False),
        limit=st.integers() | st.text(max_size=5),
        weights=st.dictionaries(st.text(max_size=5), st.floats(0, 1), max_size=3),
    )
)
def test_any_configuration_survives_json(config: RunConfig) -> None:
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config))), require_all=True) == config


def test_defaults_fill_and_an_int_stands_for_a_float() -> None:
    config = from_dict(RunConfig, {"name": "a", "scale": 2})
    assert config.scale == 2.0 and type(config.scale) is float
    assert config.optimizer == AdamConfig()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, r"config\.name must be given"),
        ({"name": 3}, r"config\.name must be a text, got 3"),
        ([], r"config must be an object with the keys of RunConfig, got \[\]"),
        ({"name": "a", "chanels": [1]}, r"RunConfig .*got 'chanels'; did you mean 'channels'\?"),
        ({"name": "a", "lr": 1.0}, r"got 'lr'; did you mean 'optimizer\.lr'\?"),
        ({"name": "a", "stft": {"n_ftt": 4}}, r"config\.stft .*did you mean 'n_fft'"),
        ({"name": "a", "stft": {"n_fft": 512.0}}, r"config\.stft\.n_fft must be an integer, got 512\.0"),
        ({"name": "a", "stft": {"n_fft": True}}, r"n_fft must be an integer, got True"),
        ({"name": "a", "stft": {"n_fft": 4}}, r"config\.stft\.hop_length must be at most n_fft"),
        ({"name": "a", "scale": True}, r"config\.scale must be a finite number, got True"),
        ({"name": "a", "scale": float("nan")}, r"config\.scale must be a finite number, got nan"),
        ({"name": "a", "scale": "1"}, r"config\.scale must be a finite number, got '1'"),
        ({"name": "a", "resume": 1}, r"config\.resume must be true or false, got 1"),
        ({"name": "a", "style": "clok"}, r"config\.style must be one of 'doa', .*did you mean 'clock'"),
        ({"name": "a", "channels": 3}, r"config\.channels must be a list, got 3"),
        ({"name": "a", "channels": [1, "2"]}, r"config\.channels\[1\] must be an integer, got '2'"),
        ({"name": "a", "optimizer": {"lr": 1.0}}, r"config\.optimizer\.kind must be one of 'adam', 'sgd', got None"),
        ({"name": "a", "optimizer": {"kind": "adan"}}, r"did you mean 'adam'"),
        ({"name": "a", "optimizer": {"kind": "adam", "momentum": 1}}, r"AdamConfig .*got 'momentum'"),
        ({"name": "a", "optimizer": {"kind": "adam", "betas": [0.9]}}, r"betas must be a list of 2 values"),
        ({"name": "a", "optimizer": None}, r"config\.optimizer must be .*got None"),
        ({"name": "a", "limit": 1.5}, r"config\.limit must be an integer or a text, got 1\.5"),
        ({"name": "a", "weights": {"mel": "x"}}, r"config\.weights\.mel must be a finite number"),
        ({"name": "a", "derived": 3}, r"got 'derived'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(RunConfig, data)


def test_override_reads_each_value_by_its_type() -> None:
    config = override(
        RunConfig(name="a"),
        [
            "optimizer.lr=1e-4",
            "channels=1,2,8",
            "stft.n_fft=1024",
            "resume=true",
            "scale=none",
            "style=clock",
            "limit=12",
            "name=x=y",
            "weights.mel=0.5",
            "ema.lr=0.25",
            "optimizer.betas=(0.8, 0.9)",
        ],
    )
    assert config.optimizer == AdamConfig(lr=1e-4, betas=(0.8, 0.9))
    assert (config.channels, config.stft.n_fft, config.resume, config.scale) == ((1, 2, 8), 1024, True, None)
    assert (config.style, config.limit, config.name) == ("clock", 12, "x=y")
    assert config.weights == {"mel": 0.5} and config.ema == AdamConfig(lr=0.25)


def test_override_leaves_the_original_alone_and_switches_kinds() -> None:
    config = RunConfig(name="a")
    changed = override(config, ["optimizer.momentum=0.9", "optimizer.kind=sgd"])
    assert changed.optimizer == SgdConfig(momentum=0.9)
    assert config == RunConfig(name="a")
    assert override(config, []) == config
    assert override(config, ["channels="]).channels == ()
    assert override(config, ['stft={"n_fft": 300}']).stft == StftConfig(n_fft=300)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optimizer.lr", r"must be written as KEY=VALUE, got 'optimizer\.lr'"),
        ("=3", "must be written as KEY=VALUE"),
        ("lr=1", r"did you mean 'optimizer\.lr'\?"),
        ("optimizer.lrr=1", r"optimizer\.lrr must be a key of optimizer .*did you mean 'optimizer\.lr'\?"),
        ("optimiser.lr=1", r"did you mean 'optimizer'"),
        ("optimizer.lr=fast", r"optimizer\.lr must be a finite number, got 'fast'"),
        ("optimizer.lr=nan", r"optimizer\.lr must be a finite number"),
        ("optimizer.kind=sdg", r"optimizer\.kind must be one of .*did you mean 'sgd'"),
        ("stft.n_fft=1e3", r"stft\.n_fft must be an integer"),
        ("resume=yes", r"resume must be true or false, got 'yes'"),
        ("name.first=a", r"name must be a setting with parts of its own"),
        ("channels=1,x", r"channels\[1\] must be an integer, got 'x'"),
        ("stft={", "stft must be JSON"),
        ("stft.hop_length=1024", "hop_length must be at most n_fft"),
    ],
)
def test_override_refuses(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(RunConfig(name="a"), [assignment])


def test_override_refuses_a_path_set_twice() -> None:
    with pytest.raises(ValueError, match="name must be set once"):
        override(RunConfig(name="a"), ["name=b", "name=c"])


def test_to_dict_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError, match=r"RunConfig\.extra must be a value that JSON can hold, got object"):
        to_dict(RunConfig(name="a", extra=object()))
    with pytest.raises(ValueError, match=r"RunConfig\.scale must be finite"):
        to_dict(RunConfig(name="a", scale=float("inf")))
    with pytest.raises(TypeError, match="config must be a dataclass instance"):
        to_dict(RunConfig)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be JSON"),
        (b"\xff\xfe", "must be UTF-8 text"),
        (b"[" * 100_000, "must be JSON"),
        (b" " * (1 << 20) + b"{}", "must be at most 1048576 bytes"),
        (b'{"a": 1, "a": 2}', "a key stands twice"),
        (b'{"format_version": 1, "type": "StftConfig", "config": {"n_fft": NaN}}', "NaN is no number"),
        (b'{"format_version": 2, "type": "StftConfig", "config": {}}', "format_version must be 1, got 2"),
        (b'{"format_version": true, "type": "StftConfig", "config": {}}', "format_version must be 1, got True"),
        (b'{"format_version": 1, "type": "MelConfig", "config": {}}', "type must be 'StftConfig', got 'MelConfig'"),
        (b'{"format_version": 1, "type": "StftConfig"}', "must be an object with format_version"),
        (b'{"format_version": 1, "type": "StftConfig", "config": {"n_fft": 512}}', "hop_length must be given"),
        (b"[]", "must be an object with format_version"),
    ],
)
def test_load_json_names_the_file_and_the_fault(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "stft.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_json(StftConfig, path)
    assert "stft.json" in str(caught.value)


def test_load_json_of_a_hand_written_file_and_of_none(tmp_path: Path) -> None:
    path = tmp_path / "stft.json"
    path.write_text('{"format_version": 1, "type": "StftConfig", "config": {"n_fft": 300}}')
    assert load_json(StftConfig, path, require_all=False) == StftConfig(n_fft=300)
    with pytest.raises(FileNotFoundError, match="absent"):
        load_json(StftConfig, tmp_path / "absent.json")


def test_a_failed_write_leaves_the_former_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text_atomic(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    write_text_atomic(path, "new\n")
    assert path.read_bytes() == b"new\n"
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_atomic_writes_need_a_folder_and_a_regular_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make it first"):
        write_text_atomic(tmp_path / "absent" / "a.txt", "x")
    with pytest.raises(OSError, match="must be a regular file"):
        write_text_atomic(tmp_path, "x")


def test_a_folder_is_whole_or_absent(tmp_path: Path) -> None:
    left = tmp_path / "deep" / f".tmp-dualspec-{'0' * 16}"
    left.mkdir(parents=True)
    target = tmp_path / "deep" / "target"
    with pytest.raises(KeyboardInterrupt), whole_folder(target) as temporary:
        (temporary / "half").write_text("")
        raise KeyboardInterrupt
    assert not list((tmp_path / "deep").iterdir()), "what a dead process left went first"
    with whole_folder(target) as temporary:
        (temporary / "inner").mkdir()
        with whole_folder(temporary / "part") as part:  # one process, two folders
            (part / "file").write_text("whole")
        assert not target.exists()
    assert {path.name for path in target.rglob("*")} == {"inner", "part", "file"}
    with pytest.raises(ValueError, match="must be new"), whole_folder(target):
        pass
    with pytest.raises(OSError, match=r"No space left on device, \d+ bytes are free"), whole_folder(tmp_path / "full"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not (tmp_path / "full").exists() and (target / "part" / "file").read_text() == "whole"
