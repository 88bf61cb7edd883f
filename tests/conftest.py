"""What every test starts from: one thread, no network, the same random examples, and where real data may lie."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before torch is imported anywhere: two threads on a busy machine are many times slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import settings

settings.register_profile("dualspec", deadline=None, derandomize=True, database=None)
settings.load_profile("dualspec")

# A suite that a script starts in the background is told to ignore Ctrl-C, and so would be what it tests.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu`, with the reason, where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A function that takes what a test counted; all of it is printed at the end, for docs/reliability.md."""
    return request.config.stash.setdefault(FIGURES, []).append


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the figures of the tests that counted something."""
    if lines := config.stash.get(FIGURES, []):
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine: the tests must pass without a network."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(host)):
            raise OSError(f"a test tried to reach {address!r}; tests must work without a network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


def _is_loopback(host: str) -> bool:
    return host.startswith("127.") or host in ("::1", "localhost", "")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings and head responses, where a folder of them lies; the test is skipped where it does not."""
    named = os.environ.get("DUALSPEC_SHARED_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data; name one by DUALSPEC_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of the tiny recipes: both VAEs, a vocoder, a denoiser, all with random weights."""
    import torch

    from dualspec.diffusion.denoiser import build_denoiser
    from dualspec.latents.vae import SpectrogramVae
    from dualspec.pipeline import DualSpecPipeline
    from dualspec.recipes import get_recipe, vae_configs
    from dualspec.synthesis.vocoder import build_vocoder
    from dualspec.text.encoder import build_text_encoder
    from dualspec.training.diffusion_task import DiffusionTaskConfig
    from dualspec.training.vocoder_task import VocoderTaskConfig

    task, vocoder = get_recipe("tiny/dualspec").task, get_recipe("tiny/vocoder").task
    assert isinstance(task, DiffusionTaskConfig) and isinstance(vocoder, VocoderTaskConfig)
    torch.manual_seed(0)
    pipeline = DualSpecPipeline(
        task.variant,
        build_denoiser(task.variant.denoiser),
        {part: SpectrogramVae(config) for part, config in vae_configs("tiny/dualspec", "dualspec").items()},
        build_vocoder(vocoder.vocoder),
        build_text_encoder(task.variant.text_encoder),
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def page_blocks() -> Any:
    """A function that reads a page's fenced blocks of a language, in order; `sh` ones as words of commands."""

    def read(page: str, *languages: str) -> list[tuple[str, Any]]:
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        found: list[tuple[str, Any]] = []
        for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            if language in languages and language == "sh":
                found += [("sh", shlex.split(line)) for line in block.replace("\\\n", " ").splitlines()]
            elif language in languages:
                found.append((language, block))
        return found

    return read


@pytest.fixture(scope="session")
def write_sofa(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function that writes the computed sphere as a SOFA file and returns its path."""
    sofar = pytest.importorskip("sofar", reason="sofar writes the test files (extra dev)")
    import numpy as np

    from dualspec.audio.hrir import spherical_head

    def write(*, swap_ears: bool = False, convention: str = "SimpleFreeFieldHRIR", num_directions: int = 12) -> Path:
        head = spherical_head(num_directions=num_directions, num_taps=64)
        responses = head.impulse_responses.double().numpy()
        sofa = sofar.Sofa(convention)
        if convention == "SimpleFreeFieldHRIR":
            sofa.SourcePosition = np.c_[
                head.azimuths_deg.numpy(), np.zeros(num_directions), np.full(num_directions, 1.5)
            ]
            sofa.Data_IR = responses[:, ::-1] if swap_ears else responses
            sofa.Data_SamplingRate, sofa.Data_Delay = 16_000, np.zeros((1, 2))
        path = tmp_path_factory.mktemp("heads") / "sphere.sofa"
        sofar.write_sofa(str(path), sofa)
        return path

    return write
