"""EfficientAT's MobileNetV3 for audio tagging: the layers and the spectrogram that its published weights want.

Schmid, Koutini, Widmer, "Efficient large-scale audio tagging via transformer-to-CNN knowledge distillation", 2023;
MobileNetV3-Large after Howard et al., "Searching for MobileNetV3", 2019, table 1, with one input channel.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE = 32_000
NUM_MELS, WIN_LENGTH, HOP_LENGTH, N_FFT = 128, 800, 320, 1024
F_MAX_HZ = 15_000.0
PREEMPHASIS = 0.97
NUM_CLASSES = 527  # of AudioSet
# At full width: kernel, expanded channels, channels out, squeeze-and-excitation, hard swish (else ReLU), stride.
_BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)


class EfficientAt(nn.Module):
    """Tag 32 kHz clips with AudioSet's 527 classes; state dict as published ("mn04_as" has a width of 0.4).

    Args:
        width: factor on all channel counts.
    """

    sample_rate = SAMPLE_RATE
    filters: Tensor
    window: Tensor

    def __init__(self, width: float = 0.4) -> None:
        """Build the layers under their published names."""
        super().__init__()
        channels = _multiple_of_eight(16 * width)
        layers: list[nn.Module] = [_convolution(1, channels, 3, stride=2, activation=nn.Hardswish)]
        for kernel, expanded, out, excite, swish, stride in _BLOCKS:
            sizes = (channels, _multiple_of_eight(expanded * width), _multiple_of_eight(out * width))
            layers.append(_Block(sizes, kernel, stride, excite=excite, activation=nn.Hardswish if swish else nn.ReLU))
            channels = sizes[-1]
        layers.append(_convolution(channels, 6 * channels, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        hidden = _multiple_of_eight(1280 * width)
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(1),
            nn.Linear(6 * channels, hidden),
            nn.Hardswish(),
            nn.Dropout(0.2),
            nn.Linear(hidden, NUM_CLASSES),
        )
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(WIN_LENGTH, periodic=False), persistent=False)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Turn waveforms (B, S) at 32 kHz into normalised log-mels (B, 1, 128, T)."""
        emphasised = waveform[:, 1:] - PREEMPHASIS * waveform[:, :-1]
        spectrum = torch.stft(
            emphasised, N_FFT, HOP_LENGTH, WIN_LENGTH, window=self.window, center=True, return_complex=True
        )
        mel = self.filters @ (spectrum.real.square() + spectrum.imag.square())
        return (((mel + 1e-5).log() + 4.5) / 5.0)[:, None]

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, 960 * width) and logits (B, 527), to be read by the sigmoid, of waveforms (B, S)."""
        features = self.features(self.log_mel(waveform).to(memory_format=torch.channels_last))
        return functional.adaptive_avg_pool2d(features, 1).flatten(1), self.classifier(features)


def mel_filters(
    num_mels: int = NUM_MELS,
    n_fft: int = N_FFT,
    sample_rate: int = SAMPLE_RATE,
    f_min_hz: float = 0.0,
    f_max_hz: float = F_MAX_HZ,
) -> Tensor:
    """Return HTK's mel filters (num_mels, n_fft // 2 + 1): triangles on the scale 1127 ln(1 + f / 700), peak 1.

    Kaldi and TensorFlow make the same.
    """
    low, high = _mel(torch.tensor([f_min_hz, f_max_hz], dtype=torch.float64))
    edges = low + torch.linspace(0.0, 1.0, num_mels + 2, dtype=torch.float64) * (high - low)
    bins = _mel(torch.arange(n_fft // 2 + 1, dtype=torch.float64) * sample_rate / n_fft)
    left, centre, right = (edges[start : start + num_mels, None] for start in range(3))
    triangles = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp(min=0.0)
    return triangles.float()


def _mel(frequency_hz: Tensor) -> Tensor:
    return 1127.0 * torch.log1p(frequency_hz / 700.0)


def _multiple_of_eight(number: float) -> int:
    """Round a channel count to a multiple of eight that is never under nine tenths of it."""
    rounded = max(8, int(number + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * number else rounded


def _convolution(
    channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1, activation: type[nn.Module] | None = None
) -> nn.Sequential:
    layers = [
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out, eps=1e-3),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


class _Block(nn.Module):
    """Expand, filter each channel, weigh the channels, project; the input is added where the shapes agree."""

    def __init__(
        self, sizes: tuple[int, int, int], kernel: int, stride: int, *, excite: bool, activation: type[nn.Module]
    ) -> None:
        super().__init__()
        channels, expanded, out = sizes
        layers: list[nn.Module] = []
        if expanded != channels:
            layers.append(_convolution(channels, expanded, 1, activation=activation))
        layers.append(_convolution(expanded, expanded, kernel, stride=stride, groups=expanded, activation=activation))
        if excite:
            layers.append(_ChannelWeights(expanded))
        layers.append(_convolution(expanded, out, 1))
        self.block = nn.Sequential(*layers)
        self.adds = stride == 1 and channels == out

    def forward(self, features: Tensor) -> Tensor:
        result = self.block(features)
        return result + features if self.adds else result


class _ChannelWeights(nn.Module):
    """Squeeze-and-excitation over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _multiple_of_eight(channels // 4)
        layers = {"fc1": nn.Linear(channels, squeezed), "fc2": nn.Linear(squeezed, channels)}
        self.conc_se_layers = nn.ModuleList([nn.ModuleDict(layers)])

    def forward(self, features: Tensor) -> Tensor:
        layers = self.conc_se_layers[0]
        weights = layers["fc2"](layers["fc1"](features.mean((2, 3))).relu()).sigmoid()  # type: ignore[index]
        return features * weights[:, :, None, None]
