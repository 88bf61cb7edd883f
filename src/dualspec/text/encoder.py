"""Frozen text encoders: prompts in, one vector per token out.

The diffusion model attends to tokens, never to a pooled sentence vector: pooled, "DOA 180" and "DOA 90" are nearly
the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dualspec.text.bert import BertEncoder, load_bert
from dualspec.text.bert_files import BertFiles
from dualspec.text.encoder_files import check_encoder_folder, check_prompt_text, check_sha256, warn_truncated

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, T5Config

HASH_WIDTH = 64
"""Width of the `hash` encoder when its config names none."""

_T5_KNOWN_TOKENS = {"</s>": 1, "\u2581to": 12, "\u2581English": 1566, "\u2581German": 2968}
_T5_VOCABULARY = 32100
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Which text encoder, and from where."""

    kind: Literal["minilm", "t5", "hash"] = "minilm"
    """`minilm` (384-d, embedded here), `t5` (FLAN-T5 of any size) or `hash` (no weights, for tests)."""
    name_or_path: str = ""
    """`minilm`: folder, empty for the embedded one. `t5`: folder or hub id. `hash`: empty."""
    sha256: str | None = None
    """SHA-256 of model.safetensors (hex), of a compact folder's config.json or of what that was made from; None checks
    nothing but the hashes that a compact folder, such as the embedded one, names itself."""
    max_tokens: int = 128
    """Longest prompt in tokens, special tokens included; the rest is cut and reported."""
    width: int | None = None
    """Vector width of `hash`; the others bring their own."""

    def __post_init__(self) -> None:
        """Refuse settings that this kind does not use."""
        if self.kind not in ("minilm", "t5", "hash"):
            raise ValueError(f"kind must be one of minilm, t5, hash, got {self.kind!r}; say 'minilm'")
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens must be at least 2, got {self.max_tokens}; say 128")
        if self.kind == "t5" and not self.name_or_path:
            raise ValueError("name_or_path must be set for kind 't5', got ''; give a folder or 'google/flan-t5-large'")
        if self.kind == "hash" and (self.name_or_path or self.sha256):
            raise ValueError(
                f"name_or_path and sha256 must be empty for kind 'hash', got {self.name_or_path!r}, {self.sha256!r}; "
                "it has no weights"
            )
        if self.width is not None and (self.kind != "hash" or self.width < 1):
            raise ValueError(f"width must be positive and only set for kind 'hash', got {self.width}; leave it out")


class TextEncoder(nn.Module):
    """A frozen encoder of prompts; subclasses say how text becomes padded token states.

    Always in eval mode, without gradients: `train()` changes nothing.

    Attributes:
        width: Size D of one token vector.
        max_tokens: Longest prompt in tokens.
    """

    def __init__(self, width: int, max_tokens: int) -> None:
        """Set the sizes; see the class."""
        super().__init__()
        self.width = width
        self.max_tokens = max_tokens

    def train(self, mode: bool = True) -> TextEncoder:
        """Stay in eval mode, whatever the model around it does."""
        del mode
        super().train(False)
        return self

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode prompts into token states, padded to the longest of them.

        The states of a prompt do not depend on the other prompts; padded places hold zeros.

        Args:
            prompts: B prompts; "" is allowed (the prompt of guidance).

        Returns:
            prompt_embeds: (batch, token, width) float32.
            prompt_mask: (batch, token) bool, True where a token is.

        Raises:
            ValueError: If there is no prompt, or one is too long or not valid Unicode.

        Paper: section III-C (text encoder), FLAN-T5.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"prompts must be a non-empty list of str, got {prompts!r}; say [prompt]")
        for prompt in prompts:
            check_prompt_text(prompt)
        prompt_embeds, prompt_mask = self._token_states(list(prompts))
        prompt_embeds = prompt_embeds.float().masked_fill(~prompt_mask.unsqueeze(-1), 0.0)
        return prompt_embeds, prompt_mask

    def pool(self, prompts: Sequence[str]) -> Tensor:
        """Return one vector (batch, width) float32 per prompt: the mean of its token states.

        Raises:
            ValueError: As for `encode`.
        """
        prompt_embeds, prompt_mask = self.encode(prompts)
        return prompt_embeds.sum(dim=1) / prompt_mask.sum(dim=1, keepdim=True)

    def _token_states(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Return (batch, token, width) states and the (batch, token) bool mask."""
        raise NotImplementedError

    def _warn_truncated(self, prompt: str, num_tokens: int) -> None:
        """Tell the user that the end of a prompt was not read."""
        if num_tokens > self.max_tokens:
            warn_truncated(prompt, num_tokens, self.max_tokens)


class BertTextEncoder(TextEncoder):
    """A BERT with its tokenizer, such as the embedded MiniLM; it computes in float32."""

    def __init__(self, files: BertFiles) -> None:
        """Load the network of a checked folder."""
        super().__init__(files.config.hidden_size, files.max_tokens)
        self.model: BertEncoder = load_bert(files)
        self.files = files
        self.eval()

    def _token_states(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(row) for row in self.files.tokenize(prompts)]
        device = next(self.model.parameters()).device
        tokens = pad_sequence(rows, batch_first=True).to(device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(tokens.shape[1], device=device) < lengths[:, None]
        return self.model.read(tokens, mask), mask


class TransformerTextEncoder(TextEncoder):
    """A transformers encoder with its tokenizer: T5."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        """Freeze the model, whose output must have `last_hidden_state`."""
        super().__init__(int(model.config.hidden_size), max_tokens)
        self.model = model
        self.tokenizer = tokenizer
        self.requires_grad_(False)
        self.eval()

    def _token_states(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        full = self.tokenizer(prompts, padding=False, truncation=False, verbose=False)["input_ids"]
        for prompt, tokens in zip(prompts, full, strict=True):
            self._warn_truncated(prompt, len(tokens))
        batch = self.tokenizer(
            prompts, padding="longest", truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        device = next(self.model.parameters()).device
        mask = batch["attention_mask"].to(device)
        states = self.model(input_ids=batch["input_ids"].to(device), attention_mask=mask).last_hidden_state
        return states, mask.bool()


class HashTextEncoder(TextEncoder):
    """A deterministic stand-in without weights: each word's vector comes from a hash of the word and its place.

    Words are told apart and word order shows, but nothing is understood. The numbers are the same on every platform.
    """

    def __init__(self, width: int, max_tokens: int) -> None:
        """Set the sizes; see `TextEncoder`."""
        super().__init__(width, max_tokens)
        self._device_anchor: Tensor
        self.register_buffer("_device_anchor", torch.empty(0), persistent=False)
        self.eval()

    def _token_states(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        rows = [["<s>", *_WORD.findall(prompt.lower())] for prompt in prompts]
        for prompt, row in zip(prompts, rows, strict=True):
            self._warn_truncated(prompt, len(row))
        rows = [row[: self.max_tokens] for row in rows]
        num_tokens = max(map(len, rows))
        states = torch.zeros(len(rows), num_tokens, self.width)
        mask = torch.zeros(len(rows), num_tokens, dtype=torch.bool)
        for index, row in enumerate(rows):
            states[index, : len(row)] = torch.stack(
                [self._vector(word) + 0.25 * self._vector(f"@{place}") for place, word in enumerate(row)]
            )
            mask[index, : len(row)] = True
        device = self._device_anchor.device
        return states.to(device), mask.to(device)

    def _vector(self, word: str) -> Tensor:
        """Return (width,) numbers, uniform with unit variance, made from the SHAKE-256 of the word."""
        digest = bytearray(hashlib.shake_256(word.encode()).digest(4 * self.width))
        integers = torch.frombuffer(digest, dtype=torch.uint8).reshape(self.width, 4).double()
        fractions = (integers * torch.tensor([2.0**-8, 2.0**-16, 2.0**-24, 2.0**-32], dtype=torch.float64)).sum(-1)
        return ((2.0 * fractions - 1.0) * 3.0**0.5).float()


def build_text_encoder(config: TextEncoderConfig, device: str | torch.device = "cpu") -> TextEncoder:
    """Load the frozen text encoder of a config.

    Args:
        config: Which encoder, and from where.
        device: Where it runs.

    Returns:
        Encoder in eval mode.

    Raises:
        FileNotFoundError: If weights are absent.
        ValueError: If the files are damaged or not what the config says.
    """
    if config.kind == "hash":
        return HashTextEncoder(config.width or HASH_WIDTH, config.max_tokens).to(device)
    if config.kind == "minilm":
        folder = Path(config.name_or_path) if config.name_or_path else None
        return BertTextEncoder(BertFiles(folder, config.sha256, config.max_tokens)).to(device)
    return _build_t5(config).to(device)


def t5_large_encoder_config() -> T5Config:
    """Describe the encoder of FLAN-T5-large, for parameter counts on the meta device.

    Paper: section V-D, Table II (FLAN-T5-large).
    """
    from transformers import T5Config

    return T5Config(
        vocab_size=32128,
        d_model=1024,
        d_kv=64,
        d_ff=2816,
        num_layers=24,
        num_heads=16,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )


def _build_t5(config: TextEncoderConfig) -> TextEncoder:
    """Load the encoder half of a T5 or FLAN-T5 from a folder or the hub."""
    from transformers import T5EncoderModel

    source: str | Path = config.name_or_path
    if Path(source).is_dir() or str(source).startswith((".", "/", "~")):
        source = Path(source).expanduser()
        check_encoder_folder(source, config.sha256)
    elif config.sha256:
        from transformers.utils import cached_file

        with _one_line_errors(source):
            weights = Path(str(cached_file(str(source), "model.safetensors")))
        check_sha256(weights, config.sha256)
    model = _load_strictly(T5EncoderModel, source, ("decoder.", "lm_head."))
    tokenizer = _load_tokenizer(source)
    _check_tokenizer(tokenizer, int(model.config.vocab_size), source)
    if len(tokenizer) == _T5_VOCABULARY:
        got = {token: tokenizer.convert_tokens_to_ids(token) for token in _T5_KNOWN_TOKENS}
        if got != _T5_KNOWN_TOKENS:
            raise ValueError(f"tokenizer of {source} must number its tokens as T5 does, got {got}; save tokenizer.json")
    return TransformerTextEncoder(model, tokenizer, config.max_tokens)


def _load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer; one that comes with code of its own is refused, and nobody is asked about it."""
    from transformers import AutoTokenizer

    try:
        with _one_line_errors(source):
            return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (ValueError, KeyError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"tokenizer of {source} must be one that transformers has, got: {reason:.200}") from error


def _load_strictly(model_class: Any, source: str | Path, expected_extra: tuple[str, ...]) -> PreTrainedModel:
    """Load safetensors weights; any missing, extra, misshapen, absent or non-finite tensor is an error."""
    with _one_line_errors(source), _quiet_transformers():
        model, info = model_class.from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are listed and raised below, by name
            dtype=torch.float32,
        )
    extra = [key for key in info["unexpected_keys"] if not key.startswith(expected_extra)]
    for problem, keys in (
        ("missing", info["missing_keys"]),
        ("unexpected", extra),
        ("misshapen", info["mismatched_keys"]),
    ):
        if keys:
            raise ValueError(f"weights of {source} must fit {model_class.__name__}, got {problem} {sorted(keys)[:3]}")
    for name, tensor in model.state_dict().items():
        if tensor.is_meta or (tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())):
            raise ValueError(f"weights of {source} must be finite, got NaN, Inf or nothing in {name}; fetch them again")
    return model


@contextlib.contextmanager
def _one_line_errors(source: str | Path) -> Iterator[None]:
    """Say in one line, with the name of the model, what the library says in many."""
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(f"text encoder {source} is neither a folder nor reachable: {reason}") from error
    except SafetensorError as error:
        raise ValueError(f"model.safetensors of {source} must be a whole file, got: {error}; fetch it again") from error


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence the library's load report and progress bar: what they would say is checked here and raised."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, vocab_size: int, source: str | Path) -> None:
    """Refuse a tokenizer that knows no words or more of them than the model."""
    tokens = tokenizer("a dog barking on the left", add_special_tokens=False)["input_ids"]
    if len(tokenizer) > vocab_size or all(token == tokenizer.unk_token_id for token in tokens):
        raise ValueError(
            f"tokenizer of {source} must match the model's {vocab_size} words, got {len(tokenizer)} of which a plain "
            "sentence uses none; ship its tokenizer.json"
        )
