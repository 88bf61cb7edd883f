"""Where published weights lie, and how names are matched."""

import pytest
import torch
from safetensors.torch import save_file

from dualspec.importers.layouts import latent_diffusion_name, modern_attention, without_weight_norm
from dualspec.importers.published import locate, match, read_tensors

OWN = {"a.weight": torch.empty(2, 3, device="meta"), "b": torch.empty(4, device="meta")}


def test_a_path_wins_and_an_absent_one_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert locate("owner/name", ["*"]).is_dir()
    for absent in ("./owner/other", "nowhere", "/no/such/place", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="no file or folder"):
            locate(absent, ["*"])


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0"}])
def test_a_hub_id_without_a_network_is_told_in_one_line(environment, tmp_path):
    """In a process of its own, as the hub's library reads its settings once; the address answers nobody."""
    import os
    import subprocess
    import sys

    code = "from dualspec.importers.published import locate\ntry: locate('declare-lab/tango2', ['*.bin'])\n"
    code += "except FileNotFoundError as error: print(error)"
    settings = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", **environment}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**os.environ, **settings}
    )
    (line,) = result.stdout.splitlines()
    assert line.startswith("declare-lab/tango2 is no path here, nor reachable as a hub id: ")
    assert line.endswith("Fetch it elsewhere and name its folder")


def test_every_difference_is_counted_and_the_first_are_named():
    state = {"a.weight": torch.ones(2, 3, 1, 1), "b": torch.ones(4), "steps.num_batches_tracked": torch.tensor(3)}
    found = match(OWN, state, "file")
    assert found["a.weight"].shape == (2, 3) and set(found) == {"a.weight", "b"}
    with pytest.raises(ValueError, match="2 differences: missing x-b; unknown b"):
        match(OWN, {"x-a.weight": torch.ones(2, 3), "b": torch.ones(4)}, "file", lambda name: f"x-{name}")
    with pytest.raises(ValueError, match=r"1 differences: b is \(5,\), not \(4,\)"):
        match(OWN, {"a.weight": torch.ones(2, 3), "b": torch.ones(5)}, "file")
    tied = [{"a.weight", "b"}]
    assert set(match(OWN, {"b": torch.ones(4)}, "file", tied=tied)) == {"b"}
    with pytest.raises(ValueError, match=r"missing a\.weight; missing b"):
        match(OWN, {}, "file", tied=tied)


def test_names_of_other_times_and_programs():
    assert modern_attention("decoder.mid_block.attentions.0.proj_attn.bias") == (
        "decoder.mid_block.attentions.0.to_out.0.bias"
    )
    assert modern_attention("encoder.key.weight") == "encoder.key.weight"
    assert latent_diffusion_name("decoder.up_blocks.0.resnets.2.conv_shortcut.bias", 3) == (
        "decoder.up.2.block.2.nin_shortcut.bias"
    )
    direction, size = torch.tensor([[3.0, 4.0]]), torch.tensor([[10.0]])
    plain = without_weight_norm({"a.weight_g": size, "a.weight_v": direction, "b.weight_v": size})
    assert torch.equal(plain["a.weight"], torch.tensor([[6.0, 8.0]])) and set(plain) == {"a.weight", "b.weight_v"}


def test_tensors_are_found_inside_what_a_training_wrote(tmp_path):
    weights = {"w": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)}
    for name, content in (
        ("flat.bin", weights),
        ("lightning.ckpt", {"epoch": 1, "state_dict": weights}),
        ("vocoder.ckpt", {"generator": weights}),
    ):
        torch.save(content, tmp_path / name)
        read = read_tensors(tmp_path / name)
        assert read["w"].dtype == torch.float32 and read["n"].dtype == torch.int64
    save_file(weights, tmp_path / "weights.safetensors")
    assert torch.equal(read_tensors(tmp_path / "weights.safetensors")["w"], torch.ones(2))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes()[:-1])
    with pytest.raises(ValueError, match="whole safetensors file"):
        read_tensors(tmp_path / "cut.safetensors")
