"""Texts are encoded once, and what was encoded before changes nothing."""

import warnings

import pytest
import torch

from dualspec.text.encoder import HashTextEncoder
from dualspec.text.prompt_cache import PromptCache


class Counting(HashTextEncoder):
    """Notes what it is asked for; like a real one, its states depend on the batch in the last bits."""

    def __init__(self, width: int = 4) -> None:
        super().__init__(width, max_tokens=6)
        self.asked: list[list[str]] = []

    def _token_states(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.append(prompts)
        states, mask = super()._token_states(prompts)
        return states * (1 + 1e-7 * (len(prompts) - 1)), mask


def test_each_text_is_encoded_once_and_alone() -> None:
    encoder, cache = Counting(), PromptCache(8)
    states, mask = cache.encode(encoder, ["a dog", "", "a dog"], "cpu")
    assert sorted(encoder.asked) == [[""], ["a dog"]] and torch.equal(states[0], states[2])
    assert mask.tolist() == [[True] * 3, [True, False, False], [True] * 3] and not states[1, 1:].any()
    for before in ([], ["rain at night"]):
        fresh = PromptCache(8)
        if before:
            fresh.encode(encoder, before, "cpu")
        assert torch.equal(fresh.encode(encoder, ["a dog"], "cpu")[0][0], states[0])
    cache.encode(encoder, ["a dog"], "cpu")[0].zero_()  # a caller has a copy
    assert torch.equal(cache.encode(encoder, ["a dog"], "cpu")[0][0], states[0])


def test_the_longest_unused_is_forgotten() -> None:
    encoder, cache = Counting(), PromptCache(2)
    for prompt in ("a", "b", "a", "c", "a", "b"):
        cache.encode(encoder, [prompt], "cpu")
    assert [texts[0] for texts in encoder.asked] == ["a", "b", "c", "b"] and list(cache.states) == ["a", "b"]
    assert len(cache.encode(encoder, list("defg"), "cpu")[0]) == 4 and len(cache.states) == 2


def test_another_encoder_or_precision_starts_afresh() -> None:
    encoder, cache = Counting(), PromptCache(2)
    cache.encode(encoder, ["a"], "cpu")
    assert cache.encode(Counting(8), ["a"], "cpu")[0].shape[-1] == 8
    cache.encode(encoder, ["a"], "cpu")
    cache.encode(encoder.half(), ["a"], "cpu")
    assert encoder.asked == [["a"]] * 3


def test_a_cut_text_is_said_each_time_and_bad_ones_are_refused() -> None:
    encoder, cache = Counting(), PromptCache(2)
    for _ in range(2):
        with pytest.warns(UserWarning, match="only the first 6 are read"):
            cache.encode(encoder, ["one two three four five six seven"], "cpu")
    for prompts, reason in (([], "prompts must be a non-empty list"), (["a" * 501], "at most 500 characters")):
        with pytest.raises(ValueError, match=reason), warnings.catch_warnings():
            cache.encode(encoder, prompts, "cpu")
