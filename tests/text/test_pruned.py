"""The text encoder cut down to the words of the closed prompts: the same states, and no others."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from dualspec.cli.pack import _prompts_with_all_words
from dualspec.text.encoder import TextEncoder, TextEncoderConfig, TransformerTextEncoder, build_text_encoder
from dualspec.text.encoder_files import MINILM_MODULE
from dualspec.text.prompts import closed_prompts
from dualspec.text.pruned import check_words, known_words, prune_encoder

LABELS = ("church bells", "vacuum_cleaner", "Crackling fire", "tambourine", "T-Rex's roar, 3x")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, TextEncoder, Path]:
    if importlib.util.find_spec(MINILM_MODULE) is None:
        pytest.skip(f"package {MINILM_MODULE} is not installed")
    folder = tmp_path_factory.mktemp("text") / "pruned"
    assert prune_encoder(_prompts_with_all_words(set(LABELS)), folder) < 200
    whole = build_text_encoder(TextEncoderConfig())
    return whole, build_text_encoder(TextEncoderConfig(name_or_path=str(folder))), folder


def test_the_closed_prompts_have_the_states_of_the_whole_encoder(
    encoders: tuple[TextEncoder, TextEncoder, Path],
) -> None:
    whole, pruned, folder = encoders
    closed = closed_prompts(LABELS, lexicon="wide", split="all") + closed_prompts(LABELS, lexicon="paper_like")
    prompts = ["", *closed[::23], "Left behind the bells: fire"]  # other prompts of the same words too
    (expected, mask), (states, own_mask) = whole.encode(prompts), pruned.encode(prompts)
    assert torch.equal(mask, own_mask), "cut into as many pieces"
    assert float((states - expected).norm() / expected.norm()) < 1e-3
    assert not torch.equal(states, expected), "half precision shows: these are other weights"
    assert (folder / "model.safetensors").stat().st_size < 23e6


def test_all_closed_prompts_are_of_known_words_and_others_are_refused(
    encoders: tuple[TextEncoder, TextEncoder, Path],
) -> None:
    _, pruned, folder = encoders
    words = known_words(folder)
    assert words is not None and isinstance(pruned, TransformerTextEncoder)
    for prompt in closed_prompts(LABELS, lexicon="wide", split="all") + closed_prompts(LABELS, lexicon="paper_like"):
        check_words(pruned.tokenizer, words, prompt)
    assert "tambourine" in words and "tamb" not in words
    for other in ("EVENT: Zebra & LOCATION: DOA 30", "tamb", "EVENT: Bells & LOCATION: DOA 31", "bells 鐘"):
        with pytest.raises(ValueError, match="cut down to for training"):
            pruned.encode([other])


def test_a_folder_that_is_there_stays(encoders: tuple[TextEncoder, TextEncoder, Path]) -> None:
    with pytest.raises(ValueError, match="exists"):
        prune_encoder(["dog"], encoders[2])
