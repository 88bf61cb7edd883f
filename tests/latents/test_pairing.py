from dataclasses import replace

import pytest
import torch

from dualspec.audio.hrir import spherical_head
from dualspec.data.datasets import ClipBank
from dualspec.latents.pairing import LatentPairing, PairingConfig
from dualspec.latents.vae import SpectrogramVae
from dualspec.recipes import get_recipe, vae_configs
from dualspec.text.encoder import build_text_encoder
from dualspec.training.diffusion_task import DiffusionTask
from dualspec.training.task import BinauralSource, StepRandom


@pytest.mark.parametrize(
    ("layout", "shapes", "packed"),
    [
        ("frequency", [(8, 64, 8), (8, 80, 64)], (8, 80, 72)),  # `table`: paper-notes decision 9
        ("frequency", [(8, 128, 16), (8, 128, 16), (8, 80, 64)], (8, 128, 96)),  # DualSpec-P
        ("time", [(8, 64, 8), (8, 80, 64)], (8, 88, 64)),
        ("channel", [(8, 80, 16), (8, 80, 16)], (16, 80, 16)),
    ],
)
def test_unpack_inverts_pack(layout, shapes, packed):
    pairing = LatentPairing(PairingConfig(layout=layout), shapes)
    parts = [torch.randn(3, *shape) for shape in shapes]
    latents = pairing.pack(parts)
    assert tuple(latents.shape) == (3, *packed) == (3, *pairing.packed_shape)
    for part, back in zip(parts, pairing.unpack(latents), strict=True):
        assert torch.equal(part, back)


def test_padding_is_zero_and_leaves_no_trace():
    pairing = LatentPairing(PairingConfig(layout="frequency"), [(1, 2, 1), (1, 4, 2)])
    latents = pairing.pack([torch.ones(1, 1, 2, 1), torch.ones(1, 1, 4, 2)])
    assert latents.sum() == 2 + 8
    latents[:, :, 2:, :1] = 9.0
    assert all(bool((part == 1).all()) for part in pairing.unpack(latents))


def test_grids_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="must share one grid"):
        LatentPairing(PairingConfig(layout="channel"), [(8, 64, 8), (8, 80, 64)])
    with pytest.raises(ValueError, match="must share their channels"):
        LatentPairing(PairingConfig(layout="frequency"), [(8, 64, 8), (16, 80, 64)])
    with pytest.raises(ValueError, match="must fold"):
        LatentPairing(PairingConfig(layout="time"), [(8, 3, 5), (8, 80, 64)])
    pairing = LatentPairing(PairingConfig(), [(8, 64, 8)])
    with pytest.raises(ValueError, match="must have the shapes"):
        pairing.pack([torch.zeros(1, 8, 64, 9)])
    with pytest.raises(ValueError, match="latents must be"):
        pairing.unpack(torch.zeros(1, 8, 64, 9))


def test_dualspec_p_lays_left_mel_right_mel_and_stft_side_by_side():
    """Section VI-B: two mono mel latents and the STFT's, 8 x 128 x 96 at paper size; the STFT is padded in time."""
    paper = get_recipe("paper/dualspec_p").task.variant
    shapes = paper.latent_shapes(vae_configs("paper/dualspec_p", "dualspec_p"))
    assert shapes == [(8, 128, 16), (8, 128, 16), (8, 80, 64)] and paper.pairing.layout == "frequency"
    assert LatentPairing(paper.pairing, shapes).packed_shape == paper.denoiser.latent_shape == (8, 128, 96)

    config = get_recipe("tiny/dualspec_p").task
    vaes = {part: SpectrogramVae(own).eval() for part, own in vae_configs("tiny/dualspec_p", "dualspec_p").items()}
    noise = torch.randint(-9_000, 9_000, (3, 10_240), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    lengths = torch.full((3,), 10_240)
    bank = ClipBank(noise, lengths, [("dog",)] * 3, ["a", "b", "c"], [], 16_000)
    source = BinauralSource(bank, spherical_head(), config.render)
    config = replace(config, sample_posterior=False)
    task = DiffusionTask(config, source, source, vaes, build_text_encoder(config.variant.text_encoder))
    latents = task.make_batch(torch.arange(3), StepRandom(0, 0, slice(None), 3))["latents"]
    ears, _ = source.draw(torch.arange(3), StepRandom(0, 0, slice(None), 3))
    assert not torch.allclose(ears[:, 0], ears[:, 1])
    mel, stft = vaes["mono_mel_vae"], vaes["stft_vae"]
    with torch.no_grad():
        (left, left_again), (right, _) = (mel.encode(ear[:, None].expand(-1, 2, -1)) for ear in ears.unbind(1))
        (both,) = stft.encode(ears)
    assert torch.equal(left, left_again) and left.shape[2] > both.shape[2]
    width = left.shape[3]
    torch.testing.assert_close(latents[..., :width], left)
    torch.testing.assert_close(latents[..., width : 2 * width], right)
    torch.testing.assert_close(latents[:, :, : both.shape[2], 2 * width :], both)
    assert not latents[:, :, both.shape[2] :, 2 * width :].any()
