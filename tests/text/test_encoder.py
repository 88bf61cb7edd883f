"""The frozen text encoders: exact masks, no influence between prompts, damaged files refused."""

import hashlib
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dualspec.text import encoder as encoder_module
from dualspec.text.encoder import (
    HASH_WIDTH,
    TextEncoderConfig,
    build_text_encoder,
    t5_large_encoder_config,
)
from dualspec.text.encoder_files import embedded_encoder
from dualspec.text.prompts import closed_prompts, prompt_for

PROMPTS = [
    "",
    "EVENT: Dog bark & LOCATION: 3 o'clock direction",
    "a very long description of a dog that barks, and barks, and never stops barking, somewhere to the left of me",
    "EVENT: Organ",
]


def write_tiny_t5(folder: Path, **changes) -> Path:
    """Write a random T5 in the layout of FLAN-T5: decoder and lm_head in the file, a tokenizer.json beside it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import T5Config, T5ForConditionalGeneration

    pieces = ("\u2581a", "\u2581dog", "\u2581bark", "ing", "\u2581on", "\u2581the", "\u2581left", "\u2581right")
    pieces += ("\u2581", "e", "v", "n", "t", ":")
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((piece, -2.0) for piece in pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    config = T5Config(
        **{"vocab_size": 24, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, **changes},
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    return write_tiny_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def minilm():
    return build_text_encoder(TextEncoderConfig(kind="minilm"))


@pytest.fixture(scope="module")
def t5(t5_folder):
    return build_text_encoder(TextEncoderConfig(kind="t5", name_or_path=str(t5_folder)))


@pytest.fixture(scope="module")
def hashed():
    return build_text_encoder(TextEncoderConfig(kind="hash"))


@pytest.fixture(params=["minilm", "t5", "hashed"])
def encoder(request):
    return request.getfixturevalue(request.param)


def test_shapes_mask_and_zero_padding(encoder):
    prompt_embeds, prompt_mask = encoder.encode(PROMPTS)
    assert prompt_embeds.shape == (*prompt_mask.shape, encoder.width)
    assert (prompt_embeds.dtype, prompt_mask.dtype) == (torch.float32, torch.bool)
    assert len(PROMPTS) == len(prompt_embeds)
    assert prompt_mask[:, 0].all()
    assert prompt_mask.sum(dim=1).max() == prompt_mask.shape[1]
    assert torch.equal(prompt_mask, prompt_mask.sort(dim=1, descending=True).values)
    assert prompt_embeds[~prompt_mask].abs().max() == 0
    assert prompt_embeds.isfinite().all()


def test_a_prompt_does_not_feel_its_batch_mates(encoder):
    prompt_embeds, prompt_mask = encoder.encode(PROMPTS)
    for index, prompt in enumerate(PROMPTS):
        alone, alone_mask = encoder.encode([prompt])
        num_tokens = int(prompt_mask[index].sum())
        assert alone.shape[1] == num_tokens == int(alone_mask.sum())
        assert (alone[0] - prompt_embeds[index, :num_tokens]).abs().max() <= 1e-5


def test_a_pooled_vector_is_the_mean_over_tokens(encoder):
    states, mask = encoder.encode(PROMPTS)
    expected = [own[seen].mean(dim=0) for own, seen in zip(states, mask, strict=True)]
    torch.testing.assert_close(encoder.pool(PROMPTS), torch.stack(expected))


def test_encoding_twice_gives_the_same_bits(encoder):
    assert torch.equal(encoder.encode(PROMPTS)[0], encoder.encode(PROMPTS)[0])


def test_the_encoder_is_frozen_and_stays_in_eval_mode(encoder):
    torch.nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    with torch.enable_grad():
        assert not encoder.encode(["dog"])[0].requires_grad


def test_word_order_and_direction_show(encoder):
    states = encoder.encode(["the dog on the left", "the left on the dog", "the dog on the right"])[0]
    assert (states[0] - states[1]).abs().max() > 1e-3
    assert (states[0] - states[2]).abs().max() > 1e-3


def test_truncation_is_told_to_the_caller(encoder):
    long = "a dog! " * 70
    with pytest.warns(UserWarning, match=r"prompt has \d+ tokens, only the first 128 are read") as caught:
        prompt_embeds, prompt_mask = encoder.encode([long, "a dog"])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert prompt_embeds.shape[1] == prompt_mask[0].sum() == encoder.max_tokens == 128
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["a dog"])


@pytest.mark.parametrize(
    ("prompts", "match"),
    [
        ([], "prompts must be a non-empty list"),
        ("dog", "prompts must be a non-empty list"),
        (["x" * 501], "at most 500 characters, got 501"),
        (["dog \udfff"], "lone surrogate"),
        ([None], "prompt must be str, got NoneType"),
    ],
)
def test_bad_prompts_are_refused(encoder, prompts, match):
    with pytest.raises(ValueError, match=match):
        encoder.encode(prompts)


def test_odd_characters_are_encoded(encoder):
    assert encoder.encode(["\x00 \u202e \U0001f415 \u0661 \u0130"])[0].isfinite().all()


def test_minilm_is_the_published_one(minilm):
    assert (minilm.width, minilm.max_tokens) == (384, 128)
    # The published 22.7 M less the pooler of 384 x 384 + 384 that we leave out.
    assert sum(parameter.numel() for parameter in minilm.parameters()) == 22_713_216 - 384 * 385
    # [CLS] and [SEP] alone; and a sentence of five words, each of them one word piece.
    assert [int(mask.sum()) for mask in minilm.encode(["", "a dog barking very loudly"])[1]] == [2, 7]


def test_minilm_tells_the_sectors_apart(minilm):
    prompts = closed_prompts(["dog"], ["doa", "clock"])
    states, mask = minilm.encode(prompts)
    pooled = (states.sum(1) / mask.sum(1, keepdim=True)).double()
    assert torch.pdist(pooled).min() > 1e-2
    assert minilm.encode([prompt_for("dog", 90, "doa")])[0].shape[2] == 384


@pytest.fixture
def minilm_copy(tmp_path):
    """A folder with a tiny BERT of MiniLM's layout and MiniLM's own tokenizer, to be damaged."""
    from transformers import BertConfig, BertModel

    folder = tmp_path / "minilm"
    BertModel(
        BertConfig(vocab_size=30522, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    ).save_pretrained(folder)
    shutil.copy(embedded_encoder() / "tokenizer.json", folder)
    return folder


def minilm_from(folder, **options):
    return build_text_encoder(TextEncoderConfig(kind="minilm", name_or_path=str(folder), **options))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_an_undamaged_folder_loads(minilm_copy, capfd):
    sha256 = hashlib.sha256((minilm_copy / "model.safetensors").read_bytes()).hexdigest()
    assert minilm_from(minilm_copy, sha256=sha256.upper()).width == 8
    assert capfd.readouterr() == ("", "")


def test_another_file_than_promised_is_refused(minilm_copy):
    with pytest.raises(ValueError, match=r"SHA-256 of .*model.safetensors must be 53aa"):
        minilm_from(minilm_copy, sha256="53aa")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda weights: weights.pop("embeddings.LayerNorm.bias"), "got missing.*LayerNorm.bias"),
        (lambda weights: weights.update(spam=torch.zeros(1)), "got unexpected.*spam"),
        (lambda weights: weights["embeddings.LayerNorm.weight"].fill_(float("nan")), "must be finite.*LayerNorm"),
        (
            lambda weights: weights.update({"embeddings.LayerNorm.bias": torch.zeros(9)}),
            "got misshapen.*LayerNorm.bias",
        ),
    ],
)
def test_damaged_weights_are_refused(minilm_copy, change, match):
    edit_weights(minilm_copy, change)
    with pytest.raises(ValueError, match=match) as caught:
        minilm_from(minilm_copy)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(minilm_copy):
    weights = minilm_copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors of .* must be a whole file"):
        minilm_from(minilm_copy)


def test_pickled_weights_are_never_read(minilm_copy):
    (minilm_copy / "model.safetensors").rename(minilm_copy / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickled weights"):
        minilm_from(minilm_copy)


def test_code_beside_weights_is_refused(minilm_copy):
    (minilm_copy / "modeling.py").write_text("raise SystemExit('canary')")
    with pytest.raises(ValueError, match=r"must hold no code, got modeling\.py"):
        minilm_from(minilm_copy)


def test_a_missing_folder_is_named(tmp_path):
    for kind in ("minilm", "t5"):
        with pytest.raises(FileNotFoundError, match="gone does not exist"):
            build_text_encoder(TextEncoderConfig(kind=kind, name_or_path=str(tmp_path / "gone")))


def test_damaged_config_and_tokenizer_are_refused(minilm_copy):
    (minilm_copy / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json must be JSON") as caught:
        minilm_from(minilm_copy)
    assert "\n" not in str(caught.value)
    (minilm_copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json must be JSON") as caught:
        minilm_from(minilm_copy)
    assert "\n" not in str(caught.value)


def test_more_tokens_than_positions_are_refused(minilm_copy):
    with pytest.raises(ValueError, match="max_tokens must be at most 512"):
        minilm_from(minilm_copy, max_tokens=513)


def test_t5_loads_only_the_encoder(t5, t5_folder):
    saved = load_file(t5_folder / "model.safetensors")
    assert any(name.startswith("decoder.") for name in saved)
    assert not any("decoder" in name for name in t5.state_dict())
    assert torch.equal(t5.model.state_dict()["shared.weight"], saved["shared.weight"])
    assert t5.width == 16


def test_t5_with_a_broken_file_is_refused(t5_folder, tmp_path):
    folder = tmp_path / "t5"
    shutil.copytree(t5_folder, folder)
    edit_weights(folder, lambda weights: weights.pop("encoder.final_layer_norm.weight"))
    with pytest.raises(ValueError, match=r"got missing.*final_layer_norm"):
        build_text_encoder(TextEncoderConfig(kind="t5", name_or_path=str(folder)))


def test_t5_with_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    folder = write_tiny_t5(tmp_path / "small", vocab_size=8)
    with pytest.raises(ValueError, match=r"tokenizer of .* must match the model's 8 words"):
        build_text_encoder(TextEncoderConfig(kind="t5", name_or_path=str(folder)))


def test_t5_with_other_token_numbers_is_refused(t5_folder, monkeypatch):
    monkeypatch.setattr(encoder_module, "_T5_VOCABULARY", 17)
    with pytest.raises(ValueError, match="must number its tokens as T5 does"):
        build_text_encoder(TextEncoderConfig(kind="t5", name_or_path=str(t5_folder)))


@pytest.mark.parametrize("sha256", [None, "00"])
def test_t5_that_is_not_on_the_disk_is_named_in_one_line(sha256):
    with pytest.raises(FileNotFoundError, match="nobody/nothing") as caught:
        build_text_encoder(TextEncoderConfig(kind="t5", name_or_path="nobody/nothing", sha256=sha256))
    assert "\n" not in str(caught.value)


def test_flan_t5_large_has_the_papers_size():
    from transformers import T5EncoderModel

    with torch.device("meta"):
        model = T5EncoderModel(t5_large_encoder_config())
    # Table II: 341.23 M with its embedding, counted layer by layer.
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 2) == 341.23


def test_hash_vectors_are_the_same_everywhere(hashed):
    assert hashed.width == HASH_WIDTH
    # From Python alone: SHAKE-256 of the word, four bytes per number, big-endian, scaled to unit variance.
    digest = hashlib.shake_256(b"dog").digest(8)
    expected = [(int.from_bytes(digest[i : i + 4], "big") / 2**31 - 1) * 3**0.5 for i in (0, 4)]
    assert hashed._vector("dog")[:2].tolist() == pytest.approx(expected, abs=1e-6)
    assert hashed._vector("dog").shape == (HASH_WIDTH,)
    assert build_text_encoder(TextEncoderConfig(kind="hash", width=7)).encode(["a dog"])[0].shape == (1, 3, 7)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "bert"}, "kind must be one of"),
        ({"max_tokens": 1}, "max_tokens must be at least 2"),
        ({"kind": "t5"}, "name_or_path must be set for kind 't5'"),
        ({"kind": "hash", "name_or_path": "x"}, "must be empty for kind 'hash'"),
        ({"kind": "hash", "sha256": "x"}, "must be empty for kind 'hash'"),
        ({"kind": "hash", "width": 0}, "width must be positive"),
        ({"kind": "minilm", "width": 64}, "width must be positive and only set for kind 'hash'"),
    ],
)
def test_config_refuses_settings_without_effect(options, match):
    with pytest.raises(ValueError, match=match):
        TextEncoderConfig(**options)


@pytest.mark.parametrize("kind", ["hash", "minilm"])
def test_transformers_is_imported_for_t5_alone(kind):
    code = (
        "import sys, dualspec.text.encoder as e, dualspec.text.prompts;"
        f"e.build_text_encoder(e.TextEncoderConfig(kind='{kind}')).encode(['dog']);"
        "sys.exit('transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
