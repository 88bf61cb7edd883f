"""The two-branch azimuth classifier that judges where a two-eared sound is."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from dualspec.arithmetic import own_arithmetic
from dualspec.audio.azimuth import NUM_SECTORS, class_azimuth_deg, wrap_deg
from dualspec.features.stft import StftConfig, StftRepresentation, stft, stft_to_channels
from dualspec.hearing.cues import audible

PhaseInput = Literal["ears", "interaural"]


@dataclass(frozen=True, kw_only=True)
class LocalizerConfig:
    """Sizes and input of the localizer; the defaults are decision 24."""

    sample_rate: int = 16_000  # Hz; other rates are refused
    stft: StftConfig = field(default_factory=StftConfig)  # framing of both branches
    num_sectors: int = NUM_SECTORS  # azimuth classes on the circle
    phase_input: PhaseInput = "ears"  # cosine and sine of each ear's phase, or of their difference ("interaural")
    branch_channels: tuple[int, int, int] = (32, 64, 64)  # of each branch's convolutions; frequency halves in each
    fused_channels: int = 128  # of the convolution after the branches are joined; frequency halves once more
    hidden_features: tuple[int, int] = (512, 512)  # widths of the two fully connected layers before the class scores
    time_stride: int = 1  # step of each branch's first convolution along the frames; 2 halves the work
    frame_range_db: float = 60.0  # frames this far below the clip's loudest one count as silence and are left out

    def __post_init__(self) -> None:
        """Refuse sizes that break their rule."""
        sizes = (*self.branch_channels, self.fused_channels, *self.hidden_features, self.sample_rate, self.time_stride)
        if min(sizes) < 1 or self.num_sectors < 2:
            raise ValueError(
                f"sizes must be at least 1 and num_sectors at least 2, got {sizes} and {self.num_sectors}; "
                "the defaults are the paper's form"
            )
        if not 0.0 < self.frame_range_db < math.inf:
            raise ValueError(f"frame_range_db must be greater than 0, got {self.frame_range_db}; 60 is the usual one")
        if self.phase_input not in ("ears", "interaural"):
            raise ValueError(f'phase_input must be "ears" or "interaural", got {self.phase_input!r}; choose one')

    @property
    def num_phase_channels(self) -> int:
        """Channels that enter the phase branch."""
        return 4 if self.phase_input == "ears" else 2

    @property
    def num_fused_bins(self) -> int:
        """Frequency rows that are left after all four convolutions."""
        bins = self.stft.num_bins
        for _ in range(4):
            bins = (bins + 1) // 2
        return bins


@dataclass(frozen=True, kw_only=True, eq=False)
class LocalizerResult:
    """What the localizer heard in each of B clips; degrees counter-clockwise, 0 front, 90 left."""

    azimuth_deg: Tensor  # (B,) centre of the most probable sector; the paper's estimate
    expectation_deg: Tensor  # (B,) direction of the mean of all sectors' unit vectors, weighted by probability
    confidence: Tensor  # (B,) probability of the most probable sector
    probabilities: Tensor  # (B, num_sectors), sum 1; sector 0 is the front


class Localizer(nn.Module):
    """Classify the azimuth from the log-magnitudes and the phases of both ears.

    Two branches of three convolutions, joined on the channel axis, one more convolution, the mean over the frames that
    hold sound, three fully connected layers. Paper section IV, Fig. 3; there the time axis is flattened, here it is
    averaged, so that clips of any length can be judged.
    """

    def __init__(self, config: LocalizerConfig | None = None) -> None:
        """Build the layers."""
        super().__init__()
        self.config = config = config or LocalizerConfig()
        self.magnitude_branch = _branch(2, config.branch_channels, config.time_stride)
        self.phase_branch = _branch(config.num_phase_channels, config.branch_channels, config.time_stride)
        self.fusion = _convolution(2 * config.branch_channels[-1], config.fused_channels)
        first, second = config.hidden_features
        self.classifier = nn.Sequential(
            nn.Linear(config.fused_channels * config.num_fused_bins, first),
            nn.BatchNorm1d(first),
            nn.ReLU(),
            nn.Linear(first, second),
            nn.BatchNorm1d(second),
            nn.ReLU(),
            nn.Linear(second, config.num_sectors),
        )

    def forward(self, waveform: Tensor) -> Tensor:
        """Score the sectors of clips (B, 2, S), channel 0 left, at the config's rate, longer than half a frame.

        Returns:
            Unnormalised log-probabilities (B, num_sectors). A silent clip gets scores, too, which mean nothing.

        Raises:
            ValueError: the waveform has no two ears or is too short.
        """
        if waveform.ndim != 3 or waveform.shape[1] != 2:
            raise ValueError(f"waveform must have shape (B, 2, S), got {tuple(waveform.shape)}; give both ears")
        return self.classify(*self.features(waveform))

    def classify(self, magnitude: Tensor, phase: Tensor, heard: Tensor) -> Tensor:
        """Score the sectors (B, num_sectors) of what `features` returns."""
        joined = torch.cat([self.magnitude_branch(magnitude), self.phase_branch(phase)], dim=1)
        refined = self.fusion(joined)  # (B, C, T, F)
        weight = heard[:, None, :: self.config.time_stride, None].to(refined.dtype)
        pooled = (refined * weight).sum(2) / weight.sum(2).clamp(min=1)
        return self.classifier(pooled.flatten(1))

    def features(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the inputs of both branches from clips (B, 2, S), channel 0 left.

        Returns:
            Log-magnitudes (B, 2, T, F), natural, with the mean over both ears of the heard frames taken out (one number
            per clip: the level of the clip goes, the level difference stays); phases as cosine and sine (B, 4 or 2, T,
            F), in [-1, 1]; the mask (B, T) of frames that hold sound. What is not heard is zero in both.
        """
        spectrum = stft(waveform.float(), self.config.stft)
        power = (spectrum.real.square() + spectrum.imag.square()).mean((1, 3))
        floor = power.amax(1, keepdim=True) * 10.0 ** (-self.config.frame_range_db / 10.0)
        heard = (power >= floor) & (power > 0)
        level = power.sum(1, keepdim=True) / heard.sum(1, keepdim=True).clamp(min=1)
        gain = torch.where(level > 0, level, 1.0).rsqrt()  # the floor of the logarithm then follows the clip's level
        scaled = spectrum * gain[:, :, None, None]
        representation: StftRepresentation = "logmag_cossin" if self.config.phase_input == "ears" else "interaural"
        channels = stft_to_channels(scaled, representation)
        mask = heard[:, None, :, None].to(channels.dtype)
        magnitude, phase = channels[:, :2], channels[:, 2 : 2 + self.config.num_phase_channels] * mask
        count = mask.sum((1, 2, 3), keepdim=True).clamp(min=1) * 2 * magnitude.shape[-1]
        mean = (magnitude * mask).sum((1, 2, 3), keepdim=True) / count
        return (magnitude - mean) * mask, phase, heard

    @own_arithmetic()
    @torch.inference_mode()
    def predict(self, waveform: Tensor, sample_rate: int) -> LocalizerResult:
        """Say where each clip is; call `eval()` once before, so that clips do not influence each other.

        Args:
            waveform: (B, 2, S) or (2, S), channel 0 left, in [-1, 1].
            sample_rate: Hz, must be the config's.

        Returns:
            The result, on the waveform's device; B = 1 for a waveform (2, S).

        Raises:
            ValueError: wrong sample rate or shape, a clip with a silent ear, or the module is in training mode.
        """
        if self.training:
            raise ValueError("localizer must be in evaluation mode, got training mode; call .eval() first")
        if sample_rate != self.config.sample_rate:
            raise ValueError(
                f"sample_rate must be {self.config.sample_rate} Hz, got {sample_rate} Hz; resample the clip first"
            )
        batch = (waveform[None] if waveform.ndim == 2 else waveform).float()
        heard = audible(batch)
        if not bool(heard.all()):
            clip = int((~heard).nonzero()[0])
            raise ValueError(
                f"waveform must be audible in both ears, got silence in clip {clip} of {len(heard)}; "
                "leave silent clips out: they have no direction"
            )
        return result_of(self(batch))

    @own_arithmetic()
    @torch.inference_mode()
    def predict_long(self, waveform: Tensor, sample_rate: int, *, window_s: float = 10.24) -> LocalizerResult:
        """Say where one recording of any length is: windows are judged one by one, and weighed by their length.

        Silent windows do not count. Arguments and errors are those of `predict`, for (2, S) that lasts 50 ms; B = 1.
        """
        shortest, window = round(0.05 * sample_rate), round(window_s * sample_rate)
        if waveform.ndim != 2 or waveform.shape[-1] < shortest:
            raise ValueError(
                f"waveform must be (2, S), S at least {shortest}, got {tuple(waveform.shape)}; make it longer"
            )
        windows = [part for part in waveform.split(window, dim=-1) if part.shape[-1] >= shortest]
        heard = [part for part in windows if bool(audible(part).all())] or windows[:1]
        weighed = [part.shape[-1] * self.predict(part, sample_rate).probabilities for part in heard]
        return result_of(torch.cat(weighed).sum(0, keepdim=True).clamp(min=1e-30).log())


def result_of(logits: Tensor) -> LocalizerResult:
    """Turn unnormalised log-probabilities (B, num_sectors) into directions.

    Paper Eq. (22) takes the arg-max; the expectation, which is the arg-max where the sectors balance out, is extra
    (decision 25).
    """
    probabilities = logits.double().softmax(-1)
    confidence, winner = probabilities.max(-1)
    azimuth_deg = class_azimuth_deg(winner, logits.shape[-1]).double()
    centres = torch.deg2rad(class_azimuth_deg(torch.arange(logits.shape[-1], device=logits.device), logits.shape[-1]))
    east = (probabilities * centres.double().cos()).sum(-1)
    north = (probabilities * centres.double().sin()).sum(-1)
    mean_deg = wrap_deg(torch.rad2deg(torch.atan2(north, east)))
    return LocalizerResult(
        azimuth_deg=azimuth_deg,
        expectation_deg=torch.where(torch.hypot(east, north) > 1e-6, mean_deg, azimuth_deg),
        confidence=confidence,
        probabilities=probabilities,
    )


def _convolution(num_inputs: int, num_outputs: int, time_stride: int = 1) -> nn.Sequential:
    """3x3 over (time, frequency); the frequency axis halves."""
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_outputs, kernel_size=3, stride=(time_stride, 2), padding=1, bias=False),
        nn.BatchNorm2d(num_outputs),
        nn.ReLU(),
    )


def _branch(num_inputs: int, channels: tuple[int, int, int], time_stride: int) -> nn.Sequential:
    sizes = (num_inputs, *channels)
    strides = (time_stride, 1, 1)
    return nn.Sequential(*(_convolution(sizes[index], sizes[index + 1], strides[index]) for index in range(3)))
