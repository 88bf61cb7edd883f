import pytest
import torch

from dualspec.latents.pairing import LatentPairing, PairingConfig


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
