"""PANNs' CNN14 for 16 kHz: the layers and the spectrogram that its published checkpoint wants.

Kong et al., "PANNs: large-scale pretrained audio neural networks for audio pattern recognition", 2020. The checkpoint
carries its own windowed Fourier kernels and mel filters; they are used as they are.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIN_LENGTH, HOP_LENGTH, NUM_MELS = 512, 160, 64
MIN_SAMPLES = 32_000
NUM_CLASSES = 527  # of AudioSet
_FLOOR = 1e-10
WIDTHS = (64, 128, 256, 512, 1024, 2048)


class Cnn14(nn.Module):
    """Tag 16 kHz clips with AudioSet's 527 classes; state dict as published in `Cnn14_16k_mAP=0.438.pth`.

    Args:
        widths: channels of the six blocks.
    """

    sample_rate = 16_000

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        """Build the layers under their published names."""
        super().__init__()
        num_bins = WIN_LENGTH // 2 + 1
        kernels = {
            name: nn.Conv1d(1, num_bins, WIN_LENGTH, HOP_LENGTH, bias=False) for name in ("conv_real", "conv_imag")
        }
        self.spectrogram_extractor = nn.ModuleDict({"stft": nn.ModuleDict(kernels)})
        self.logmel_extractor = nn.ParameterDict({"melW": torch.zeros(num_bins, NUM_MELS)})
        self.bn0 = nn.BatchNorm2d(NUM_MELS)
        for index, (channels, out) in enumerate(pairwise((1, *widths))):
            setattr(self, f"conv_block{index + 1}", _Block(channels, out))
        self.fc1 = nn.Linear(widths[-1], widths[-1])
        self.fc_audioset = nn.Linear(widths[-1], NUM_CLASSES)

    def log_mel(self, waveform: Tensor) -> Tensor:
        """Turn waveforms (B, S) at 16 kHz into log-mels (B, 1, T, 64), dB of power."""
        padded = functional.pad(waveform[:, None], (WIN_LENGTH // 2, WIN_LENGTH // 2), mode="reflect")
        stft = self.spectrogram_extractor["stft"]
        power = stft["conv_real"](padded).square() + stft["conv_imag"](padded).square()  # type: ignore[index]
        mel = power.transpose(1, 2) @ self.logmel_extractor["melW"]
        return 10.0 * mel.clamp(min=_FLOOR).log10()[:, None]

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (B, 2048) and logits (B, 527), to be read by the sigmoid, of waveforms (B, S).

        The mean of each clip is taken out, and clips under 2 s are padded with zeros, as audioldm_eval does.
        """
        waveform = waveform - waveform.mean(dim=1, keepdim=True)
        waveform = functional.pad(waveform, (0, max(0, MIN_SAMPLES - waveform.shape[1])))
        features = self.bn0(self.log_mel(waveform).transpose(1, 3)).transpose(1, 3)
        for index in range(6):
            features = getattr(self, f"conv_block{index + 1}")(features)
            if index < 5:
                features = functional.avg_pool2d(features, 2)
        over_time = features.mean(dim=3)
        embeddings = self.fc1(over_time.amax(dim=2) + over_time.mean(dim=2)).relu()
        return embeddings, self.fc_audioset(embeddings)


class _Block(nn.Module):
    """Two convolutions, each with batch normalisation and ReLU."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.bn2 = nn.BatchNorm2d(out)

    def forward(self, features: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(features)).relu())).relu()
