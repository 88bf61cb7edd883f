"""YAMNet: the layers and the spectrogram that its published weights want.

Plakal and Ellis, YAMNet (TensorFlow model garden, research/audioset/yamnet): MobileNet v1 after Howard et al.,
"MobileNets", 2017, over patches of 0.96 s. The weights are those of an ONNX graph whose batch norms are folded into the
convolutions; its quantise and dequantise nodes are left out, the weights between them are stored as float32.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualspec.evaluation.efficientat import mel_filters

SAMPLE_RATE = 16_000
WIN_LENGTH, HOP_LENGTH, N_FFT, NUM_MELS = 400, 160, 512, 64  # windows of 25 ms, every 10 ms
F_MIN_HZ, F_MAX_HZ = 125.0, 7_500.0
LOG_OFFSET = 0.001
PATCH_FRAMES, PATCH_HOP_FRAMES = 96, 48
PATCH_SAMPLES = WIN_LENGTH + (PATCH_FRAMES - 1) * HOP_LENGTH
NUM_CLASSES = 521  # of AudioSet
# Channels out and stride of the thirteen pairs of convolutions after the first.
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
_FIRST_NUMBER = 241  # of a convolution in the published graph


class Yamnet(nn.Module):
    """Tag 16 kHz clips with 521 classes of AudioSet."""

    sample_rate = SAMPLE_RATE
    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        layers, channels = [nn.Conv2d(1, 32, 3, 2)], 32
        for out, stride in _BLOCKS:
            layers += [nn.Conv2d(channels, channels, 3, stride, groups=channels), nn.Conv2d(channels, out, 1)]
            channels = out
        self.convolutions = nn.ModuleList(layers)
        self.classifier = nn.Linear(channels, NUM_CLASSES)
        filters = mel_filters(NUM_MELS, N_FFT, SAMPLE_RATE, F_MIN_HZ, F_MAX_HZ)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(WIN_LENGTH), persistent=False)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Turn waveforms (B, S) at 16 kHz into patches of log-mels (B, P, 96, 64).

        Zeros fill the last patch, as in the published code.
        """
        hop = PATCH_HOP_FRAMES * HOP_LENGTH
        missing = PATCH_SAMPLES - waveform.shape[1]
        padded = functional.pad(waveform, (0, missing if missing > 0 else missing % hop))
        frames = padded.unfold(1, WIN_LENGTH, HOP_LENGTH) * self.window
        mel = torch.fft.rfft(frames, N_FFT).abs() @ self.filters.T
        return (mel + LOG_OFFSET).log().unfold(1, PATCH_FRAMES, PATCH_HOP_FRAMES).transpose(2, 3)

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, 1024) and logits (B, 521), to be read by the sigmoid, of waveforms (B, S).

        Embeddings are means over the patches, and so are the probabilities behind the logits, as in the published code:
        a bark in one patch is not outvoted by the silence of the others.
        """
        patches = self.log_mel(waveform)
        features = patches.flatten(0, 1)[:, None].to(memory_format=torch.channels_last)
        for layer in self.convolutions:
            features = layer(_padded(features, layer)).relu()  # type: ignore[arg-type]
        embeddings = features.mean((2, 3)).unflatten(0, patches.shape[:2])
        scores = self.classifier(embeddings)
        yes, no = (functional.logsigmoid(own).logsumexp(1) for own in (scores, -scores))  # probabilities may underflow
        return embeddings.mean(1), yes - no


def published_name(name: str) -> str:
    """Return the name in the published graph of a tensor of `Yamnet`."""
    part, _, kind = name.rpartition(".")
    if part == "classifier":
        return f"model.classifier.{kind}"
    number = _FIRST_NUMBER + 3 * int(part.removeprefix("convolutions.")) + (kind == "bias")
    return f"onnx::Conv_{number}"


def _padded(features: Tensor, layer: nn.Conv2d) -> Tensor:
    """Pad as TensorFlow's "SAME" does for even sizes: where the stride is 2, all at the end."""
    if layer.kernel_size == (1, 1):
        return features
    return functional.pad(features, (1, 1, 1, 1) if layer.stride == (1, 1) else (0, 1, 0, 1))
