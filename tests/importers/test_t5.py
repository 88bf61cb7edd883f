"""The encoder of a T5 in every form that hubs have, into a folder that the text encoder reads."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from dualspec.importers.t5 import import_t5
from dualspec.text.encoder import TextEncoderConfig, build_text_encoder

PROMPTS = ["a dog on the left", "", "the right"]


def write_t5(folder: Path) -> Any:
    """Write a random T5 as the hub has FLAN-T5: decoder and head in the file; return its encoder."""
    words = ("\u2581a", "\u2581dog", "\u2581on", "\u2581the", "\u2581left", "\u2581right", "\u2581")
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), *((word, -2.0) for word in words)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names | {"unk_token": "<unk>"}))
    torch.manual_seed(0)
    sizes = {"vocab_size": 16, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4}
    config = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    model = transformers.T5ForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    return model


def as_pickle(folder: Path, model: Any) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")  # one table under three names


def in_pieces(folder: Path, model: Any) -> None:
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = list(state)
    for index, part in enumerate((names[::2], names[1::2])):
        save_file({name: state[name] for name in part}, folder / f"model-{index + 1:05d}-of-00002.safetensors")


def one_table_name(folder: Path, model: Any) -> None:
    state = load_file(folder / "model.safetensors")
    state["encoder.embed_tokens.weight"] = state.pop("shared.weight")
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize("form", [None, as_pickle, in_pieces, one_table_name])
@torch.no_grad()
def test_every_form_gives_the_librarys_own_states(form, tmp_path):
    model = write_t5(tmp_path / "published")
    if form is not None:
        form(tmp_path / "published", model)
    kept, left = import_t5(tmp_path / "published", tmp_path / "t5", {"licence": "Apache-2.0"})
    own = transformers.T5EncoderModel.from_pretrained(tmp_path / "t5")
    assert left > 0 and kept == len(own.state_dict()) - (form is not as_pickle)
    encoder = build_text_encoder(TextEncoderConfig(kind="t5", name_or_path=str(tmp_path / "t5")))
    embeds, mask = encoder.encode(PROMPTS)
    tokens = encoder.tokenizer(PROMPTS, padding="longest", return_tensors="pt")
    expected = model.encoder(**tokens).last_hidden_state
    torch.testing.assert_close(embeds[mask], expected[mask])
    assert not any("decoder" in name for name in load_file(tmp_path / "t5" / "model.safetensors"))
    notes = json.loads((tmp_path / "t5" / "import.json").read_text())
    assert notes["licence"] == "Apache-2.0" and all(len(digest) == 64 for digest in notes["files"].values())


def test_wrong_or_partial_folders_are_refused_by_name(tmp_path):
    folder = tmp_path / "published"
    model = write_t5(folder)
    state = load_file(folder / "model.safetensors")
    for change, words in (
        ({"encoder.final_layer_norm.weight": None}, r"missing encoder\.final_layer_norm\.weight"),
        ({"encoder.surplus": torch.ones(1)}, r"unknown encoder\.surplus"),
        ({"shared.weight": torch.ones(8, 16)}, r"shared\.weight is \(8, 16\), not \(16, 16\)"),
        ({"encoder.final_layer_norm.weight": torch.full((16,), torch.nan)}, "NaN or infinity in encoder.final_layer"),
    ):
        changed = {name: value for name, value in (state | change).items() if value is not None}
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(ValueError, match=words):
            import_t5(folder, tmp_path / "t5", {})
        with pytest.raises(ValueError, match=r"must fit T5EncoderModel|must be finite"):  # nor by the encoder itself
            build_text_encoder(TextEncoderConfig(kind="t5", name_or_path=str(folder)))
    save_file(state, folder / "model.safetensors")
    (folder / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json in"):
        import_t5(folder, tmp_path / "t5", {})
    (tmp_path / "tokenizer.json").rename(folder / "tokenizer.json")
    as_pickle(folder, model)
    with pytest.raises(FileNotFoundError, match="`dualspec import flan-t5` converts"):
        build_text_encoder(TextEncoderConfig(kind="t5", name_or_path=str(folder)))
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"model_type of .* must be 't5', got 'bert'"):
        import_t5(folder, tmp_path / "t5", {})
    assert not (tmp_path / "t5").exists() and not list(tmp_path.glob(".tmp*"))
