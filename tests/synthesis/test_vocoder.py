import math

import pytest
import torch

from dualspec.config import from_dict, to_dict
from dualspec.features.mel import MelConfig, log_mel
from dualspec.synthesis.vocoder import (
    GriffinLimConfig,
    HifiGan,
    HifiGanConfig,
    IstftHeadConfig,
    build_vocoder,
)

CENTERED = MelConfig(n_fft=512, win_length=512, hop_length=256, framing="centered")
SMALL_HIFIGAN = HifiGanConfig(initial_channels=32, resblock_kernels=(3,), resblock_dilations=((1, 3),))
CONFIGS = {
    "hifigan": SMALL_HIFIGAN,
    "istft_head": IstftHeadConfig(dim=16, num_layers=2),
    "istft_head_centered": IstftHeadConfig(dim=16, num_layers=2, mel=CENTERED),
    "griffin_lim": GriffinLimConfig(num_iterations=4),
    "griffin_lim_centered": GriffinLimConfig(num_iterations=4, mel=CENTERED),
}


def tone(num_samples: int = 16000) -> torch.Tensor:
    return 0.3 * torch.sin(2 * math.pi * 440 * torch.arange(num_samples) / 16000)


def test_audioldm_shape_has_its_published_size_and_length() -> None:
    with torch.device("meta"):
        vocoder = HifiGan(HifiGanConfig())
        waveform = vocoder(torch.zeros(2, 512, 64))
    assert sum(parameter.numel() for parameter in vocoder.parameters()) == 55_264_897  # paper: 55.26 M
    assert waveform.shape == (2, 81952)
    assert HifiGanConfig().num_samples(512) == 81952
    assert not vocoder.generator.config.normalize_before
    assert {"conv_pre.weight", "upsampler.4.weight", "resblocks.14.convs2.2.bias", "conv_post.bias"} <= set(
        vocoder.generator.state_dict()
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_vocoder_keeps_the_interface(name) -> None:
    config = CONFIGS[name]
    torch.manual_seed(0)
    vocoder = build_vocoder(config).eval()
    mel = log_mel(tone().expand(2, -1), config.mel)
    waveform = vocoder(mel)
    assert waveform.shape == (2, config.num_samples(mel.shape[1]))
    assert waveform.shape[1] >= config.mel.num_frames(16000) * config.mel.hop_length
    assert waveform.isfinite().all()
    torch.testing.assert_close(vocoder(mel[:1]), waveform[:1], atol=1e-5, rtol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(vocoder(mel), waveform)
    assert from_dict(type(config), to_dict(config)) == config
    with pytest.raises(ValueError, match=r"log_mel must be of shape \(B, T, 64\), got \(2, 2, 100, 64\)"):
        vocoder(torch.zeros(2, 2, 100, 64))


@pytest.mark.parametrize("name", ["istft_head", "istft_head_centered", "hifigan"])
def test_every_parameter_of_a_trainable_vocoder_learns(name) -> None:
    torch.manual_seed(0)
    vocoder = build_vocoder(CONFIGS[name])
    waveform = vocoder(log_mel(torch.stack([tone(4096), torch.zeros(4096)]), CONFIGS[name].mel))
    log_mel(waveform, CENTERED).square().mean().backward()
    for parameter_name, parameter in vocoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("mel", [MelConfig(), CENTERED], ids=["hifigan", "centered"])
def test_griffin_lim_vocoder_returns_the_mel_in_place(mel) -> None:
    waveform = torch.cat([torch.zeros(8000), tone(8000)])
    config = GriffinLimConfig(mel=mel)
    back = build_vocoder(config)(log_mel(waveform, mel)[None])[0]
    wanted = log_mel(waveform, mel)
    assert (log_mel(back, mel) - wanted)[:, 5:12].abs().mean() < 0.7
    onset = (back.abs() > 0.1).nonzero()[0].item()
    assert abs(onset - 8000) < mel.n_fft


@pytest.mark.parametrize("mel", [MelConfig(), CENTERED], ids=["hifigan", "centered"])
def test_the_light_vocoder_puts_its_frames_where_the_mel_has_them(mel) -> None:
    """Its magnitude starts from the mel's inverse: an untrained one already sounds when the mel does."""
    torch.manual_seed(0)
    vocoder = build_vocoder(IstftHeadConfig(mel=mel, dim=16, num_layers=1)).eval()
    waveform = torch.zeros(16000)
    waveform[8000:8400] = 0.5 * torch.randn(400, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        energy = vocoder(log_mel(waveform, mel)[None])[0].square()
    centre = (energy * torch.arange(len(energy))).sum() / energy.sum()
    assert abs(centre.item() - 8200) < mel.hop_length


def test_the_light_vocoder_learns_a_tone() -> None:
    torch.manual_seed(0)
    vocoder = build_vocoder(IstftHeadConfig(mel=CENTERED, dim=32, num_layers=2))
    waveform = tone(8192)[None]
    mel = log_mel(waveform, CENTERED)
    optimizer = torch.optim.AdamW(vocoder.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        loss = (log_mel(vocoder(mel), CENTERED) - mel).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: HifiGanConfig(mel=CENTERED), "upsample_rates must multiply to the hop length 256"),
        (lambda: HifiGanConfig(upsample_kernels=(16, 16)), "upsample_kernels must be as many as upsample_rates"),
        (lambda: HifiGanConfig(resblock_kernels=(3,)), "resblock_dilations must be as many as resblock_kernels"),
        (lambda: HifiGanConfig(initial_channels=16), "initial_channels must be at least 32"),
        (lambda: IstftHeadConfig(kernel_size=4), "kernel_size must be odd"),
        (lambda: IstftHeadConfig(dim=0), "dim must be positive"),
        (lambda: GriffinLimConfig(num_iterations=-1), "num_iterations must be 0 or more"),
    ],
)
def test_sizes_without_meaning_are_refused(make, match) -> None:
    with pytest.raises(ValueError, match=match):
        make()
