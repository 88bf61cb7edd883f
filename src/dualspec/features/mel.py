"""Log-mel spectrograms and the way back to a linear magnitude."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dualspec.features.stft import Framing, StftConfig, check_framing, end_padding, framed_spectrum

_POWER_FLOOR = 1e-18
_BAND_FLOOR = 1e-12
_ACCELERATION = 1.5
_LINEAR_MEL_HZ = 200.0 / 3.0
_LOG_START_HZ = 1000.0
_LOG_START_MEL = _LOG_START_HZ / _LINEAR_MEL_HZ
_LOG_STEP = math.log(6.4) / 27.0


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """Settings of the mel spectrogram; the defaults are those of AudioLDM's 16 kHz vocoder."""

    sample_rate: int = 16000
    """Sampling frequency, Hz."""
    n_fft: int = 1024
    """Transform length, samples."""
    win_length: int = 1024
    """Hann window length, samples."""
    hop_length: int = 160
    """Distance between frames, samples."""
    n_mels: int = 64
    """Number of mel bands."""
    f_min: float = 0.0
    """Lower edge of the lowest band, Hz."""
    f_max: float = 8000.0
    """Upper edge of the highest band, Hz."""
    log_floor: float = 1e-5
    """Smallest mel magnitude before the natural logarithm."""
    framing: Framing = "hifigan"
    """How many samples are reflected at each end."""

    def __post_init__(self) -> None:
        """Refuse settings without a meaning."""
        check_framing(self.n_fft, self.win_length, self.hop_length, self.framing)
        if self.sample_rate < 1:
            raise ValueError(f"sample_rate must be a positive number of Hz, got {self.sample_rate}; use 16000")
        if not 1 < self.n_mels <= self.n_fft // 2:
            raise ValueError(f"n_mels must be in 2..n_fft/2 ({self.n_fft // 2}), got {self.n_mels}; use 64")
        if not 0.0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"f_min and f_max must satisfy 0 <= f_min < f_max <= sample_rate/2, got {self.f_min} and {self.f_max} "
                f"at {self.sample_rate} Hz; lower f_max"
            )
        if not self.log_floor > 0.0:
            raise ValueError(f"log_floor must be positive, got {self.log_floor}; use 1e-5")

    @property
    def padding(self) -> int:
        """Samples reflected at each end before framing."""
        return end_padding(self.n_fft, self.hop_length, self.framing)

    def num_frames(self, num_samples: int) -> int:
        """Number of mel frames of a waveform of ``num_samples`` samples."""
        return num_samples // self.hop_length


def log_mel(waveform: Tensor, config: MelConfig) -> Tensor:
    """Compute the natural-log mel spectrogram of magnitudes.

    Args:
        waveform: (..., S) samples in [-1, 1].
        config: framing and bands.

    Returns:
        (..., T, M) natural logarithm of the mel magnitude, at least ln(log_floor); T = S // hop_length.

    Raises:
        ValueError: waveform must be float32 or float64 and longer than the padding.

    Paper section V-B.
    """
    spectrum = framed_spectrum(
        waveform,
        n_fft=config.n_fft,
        win_length=config.win_length,
        hop_length=config.hop_length,
        padding=config.padding,
        num_frames=config.num_frames(waveform.shape[-1]),
    )
    power = spectrum.real.square() + spectrum.imag.square()
    return magnitude_to_log_mel(power.clamp(min=_POWER_FLOOR).sqrt(), config)


def magnitude_to_log_mel(magnitude: Tensor, config: MelConfig) -> Tensor:
    """Sum a magnitude spectrogram into mel bands and take the natural logarithm.

    Args:
        magnitude: (..., T, n_fft // 2 + 1) non-negative, DC first.
        config: bands.

    Returns:
        (..., T, M) natural logarithm of the mel magnitude.

    Raises:
        ValueError: magnitude must have n_fft // 2 + 1 bins.
    """
    num_bins = config.n_fft // 2 + 1
    if magnitude.shape[-1] != num_bins:
        raise ValueError(f"magnitude must have {num_bins} bins with DC, got {magnitude.shape[-1]}; prepend a zero bin")
    bank = _bank(config, magnitude.device, magnitude.dtype)
    with torch.autocast(magnitude.device.type, enabled=False):  # features keep their numbers in mixed precision
        return (magnitude @ bank.T).clamp(min=config.log_floor).log()


def mel_filterbank(config: MelConfig) -> Tensor:
    """Return the Slaney mel filterbank, each triangle of unit area in Hz.

    Returns:
        (M, n_fft // 2 + 1) float64 weights, equal to librosa's ``filters.mel`` with its defaults.
    """
    with torch.inference_mode(False):
        bins_hz = torch.linspace(0.0, config.sample_rate / 2, config.n_fft // 2 + 1, dtype=torch.float64)
        edges_hz = _edges_hz(config)
        widths_hz = edges_hz.diff()
        ramps = edges_hz[:, None] - bins_hz[None, :]
        rising = -ramps[:-2] / widths_hz[:-1, None]
        falling = ramps[2:] / widths_hz[1:, None]
        triangles = torch.minimum(rising, falling).clamp(min=0.0)
        return triangles * (2.0 / (edges_hz[2:] - edges_hz[:-2]))[:, None]


def mel_to_magnitude(log_mel: Tensor, config: MelConfig, *, num_iterations: int = 16) -> Tensor:
    """Find a non-negative magnitude spectrogram with the given mel spectrogram.

    With ``num_iterations`` 0, the least-squares solution of smallest norm, clamped to be non-negative. It leaks into
    quiet bands beside loud ones; so by default the bands' geometric interpolation, capped by what each band alone
    allows, is refined by multiplicative updates (Richardson and Lucy's) until its mel is the given one.

    Args:
        log_mel: (..., T, M) natural logarithm of mel magnitudes.
        config: framing and bands.
        num_iterations: multiplicative updates; 0 for clamped least squares.

    Returns:
        (..., T, n_fft // 2 + 1) non-negative magnitude, DC first; bins that no band reaches are zero.

    Raises:
        ValueError: log_mel must have n_mels bands, num_iterations must not be negative.

    Paper section VI-A, DualSpec-D ("least squares").
    """
    if log_mel.shape[-1] != config.n_mels:
        raise ValueError(f"log_mel must have {config.n_mels} bands, got {log_mel.shape[-1]}; use its own MelConfig")
    if num_iterations < 0:
        raise ValueError(f"num_iterations must be 0 or more, got {num_iterations}; use 16")
    with torch.autocast(log_mel.device.type, enabled=False):
        mel = log_mel.exp()
        if num_iterations == 0:
            return (mel @ _inverse_bank(config, log_mel.device, log_mel.dtype).T).clamp(min=0.0)
        bank = _bank(config, log_mel.device, log_mel.dtype)
        sharing = _sharing(config, log_mel.device, log_mel.dtype)
        magnitude = _interpolated_magnitude(log_mel, mel, bank, sharing)
        for _ in range(num_iterations):
            ratio = mel / (magnitude @ bank.T).clamp(min=_BAND_FLOOR)
            magnitude = magnitude * (ratio @ sharing) ** _ACCELERATION
        return magnitude


def _interpolated_magnitude(log_mel: Tensor, mel: Tensor, bank: Tensor, sharing: Tensor) -> Tensor:
    """Average the bands over each bin in the log domain, never above what one band alone allows the bin."""
    between = ((log_mel - bank.sum(dim=1).log()) @ sharing).exp()
    weights, bands = bank.topk(2, dim=0)  # a bin lies in two triangles at most
    cap = torch.minimum(*(mel[..., bands[k]] / weights[k].clamp(min=_BAND_FLOOR) for k in range(2)))
    return torch.minimum(between, cap) * (weights[0] > 0)


def spread_bands(values: Tensor, config: MelConfig, stft_config: StftConfig, num_samples: int) -> Tensor:
    """Bring values that change slowly over bands and frames onto the grid of the STFT, linearly between neighbours.

    Args:
        values: (..., T, M) one value for each mel band and frame, such as a gain in nepers.
        config: framing and bands of the values.
        stft_config: framing of the result.
        num_samples: length of the waveform behind both, samples.

    Returns:
        (..., T', F) values at the STFT's frames and bins, without DC; held beyond the outermost bands and frames.

    Raises:
        ValueError: values must have the frames and bands that the framing gives for num_samples.
    """
    expected = (config.num_frames(num_samples), config.n_mels)
    if tuple(values.shape[-2:]) != expected:
        raise ValueError(
            f"values must have {expected[0]} frames and {expected[1]} bands for {num_samples} samples, "
            f"got {tuple(values.shape[-2:])}; check num_samples and the mel settings"
        )
    over_time, over_frequency = _spreading(config, stft_config, num_samples, values.device, values.dtype)
    with torch.autocast(values.device.type, enabled=False):
        return over_time @ values @ over_frequency.T


@lru_cache(maxsize=32)
def _spreading(
    config: MelConfig, stft_config: StftConfig, num_samples: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        first = config.n_fft // 2 - config.padding
        frames = torch.arange(config.num_frames(num_samples), dtype=torch.float64) * config.hop_length + first
        stft_first = stft_config.n_fft // 2 - stft_config.padding
        stft_frames = torch.arange(stft_config.num_frames(num_samples), dtype=torch.float64) * stft_config.hop_length
        bins_hz = (
            torch.arange(1, stft_config.num_bins + 1, dtype=torch.float64) * config.sample_rate / stft_config.n_fft
        )
        over_time = _interpolation(stft_frames + stft_first, frames)
        over_frequency = _interpolation(bins_hz, _edges_hz(config)[1:-1])
        return over_time.to(device=device, dtype=dtype), over_frequency.to(device=device, dtype=dtype)


def _interpolation(targets: Tensor, sources: Tensor) -> Tensor:
    """Return the matrix (targets, sources) of linear interpolation, held at both ends."""
    if len(sources) == 1:
        return torch.ones(len(targets), 1, dtype=sources.dtype)
    above = torch.searchsorted(sources, targets).clamp(1, len(sources) - 1)
    share = ((targets - sources[above - 1]) / (sources[above] - sources[above - 1])).clamp(0.0, 1.0)
    rows = torch.arange(len(targets))
    matrix = torch.zeros(len(targets), len(sources), dtype=sources.dtype)
    matrix[rows, above - 1] = 1.0 - share
    matrix[rows, above] = share
    return matrix


@lru_cache(maxsize=32)
def _bank(config: MelConfig, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # a cached inference tensor could not take part in training later
        return mel_filterbank(config).to(device=device, dtype=dtype)


@lru_cache(maxsize=32)
def _sharing(config: MelConfig, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return (M, n_fft // 2 + 1) shares of each bin in the bands; they sum to one over the bands that reach it."""
    with torch.inference_mode(False):
        bank = mel_filterbank(config)
        shares = bank / bank.sum(dim=0).clamp(min=torch.finfo(bank.dtype).tiny)
        return shares.to(device=device, dtype=dtype)


@lru_cache(maxsize=32)
def _inverse_bank(config: MelConfig, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.linalg.pinv(mel_filterbank(config)).to(device=device, dtype=dtype)


def _edges_hz(config: MelConfig) -> Tensor:
    low, high = _hz_to_mel(config.f_min), _hz_to_mel(config.f_max)
    return _mel_to_hz(torch.linspace(low, high, config.n_mels + 2, dtype=torch.float64))


def _hz_to_mel(frequency_hz: float) -> float:
    if frequency_hz < _LOG_START_HZ:
        return frequency_hz / _LINEAR_MEL_HZ
    return _LOG_START_MEL + math.log(frequency_hz / _LOG_START_HZ) / _LOG_STEP


def _mel_to_hz(mels: Tensor) -> Tensor:
    logarithmic = _LOG_START_HZ * torch.exp(_LOG_STEP * (mels - _LOG_START_MEL))
    return torch.where(mels < _LOG_START_MEL, _LINEAR_MEL_HZ * mels, logarithmic)
