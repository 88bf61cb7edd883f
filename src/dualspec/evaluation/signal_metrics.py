"""How far sound is from its reference, and from everything the model was trained on.

PSNR and SSIM compare mel images as audioldm_eval makes them: 16 kHz, the mean taken out, 64 bands from 50 to 8000 Hz of
512/160 magnitudes, 20 log10, the 100 dB from -80 dB up to 20 dB mapped to 0..1. Its `compat` numbers are those of
the left ear; ours are those of each ear. Clips are compared with the clip of the same name; float64.

The log-mel distance is the mean absolute difference of log-mel spectrograms (64 bands, natural logarithm), in nepers;
1 neper is 8.7 dB. Levels are floored 60 dB below the loudest band of the clip, so that silence is silence.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dualspec.data.datasets import ClipBank
from dualspec.features.mel import MelConfig, log_mel, magnitude_to_log_mel
from dualspec.features.stft import framed_spectrum

IMAGE = MelConfig(n_fft=512, win_length=512, hop_length=160, f_min=50.0, f_max=8000.0, framing="centered")
SSIM_WINDOW = 7  # side of the square window of scikit-image's SSIM, pixels
MEL = MelConfig(n_fft=1024, win_length=1024, hop_length=512, framing="centered")
FLOOR_NEPER = 6.9  # 60 dB


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """The training clip nearest to a sound."""

    distance: float  # nepers, after both were brought to one level
    clip_id: str
    label: str


def mel_image(waveform: Tensor) -> Tensor:
    """Draw waveforms (..., S) at 16 kHz as audioldm_eval does: (..., 64, T) float64 in [0, 1], T = S // 160 + 1.

    Raises:
        ValueError: waveform is 256 samples or shorter.
    """
    centred = waveform.double() - waveform.double().mean(dim=-1, keepdim=True)
    spectrum = framed_spectrum(
        centred.clamp(-1.0, 1.0),
        n_fft=IMAGE.n_fft,
        win_length=IMAGE.win_length,
        hop_length=IMAGE.hop_length,
        padding=IMAGE.padding,
        num_frames=waveform.shape[-1] // IMAGE.hop_length + 1,
    )
    magnitude = (spectrum.real.square() + spectrum.imag.square()).sqrt()  # several times faster than abs()
    level_db = magnitude_to_log_mel(magnitude, IMAGE) * (20.0 / math.log(10.0))
    return ((level_db + 80.0) / 100.0).clamp(0.0, 1.0).transpose(-1, -2)


def validate(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """Check a pair of images (..., H, W) of one shape and bring them to float64.

    Raises:
        ValueError: shapes that differ, images smaller than the SSIM window, or values that are not finite.
    """
    if reference.shape != estimate.shape or reference.ndim < 2 or min(reference.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"images must have one shape (..., H, W) of {SSIM_WINDOW} pixels or more, got {tuple(reference.shape)} and "
            f"{tuple(estimate.shape)}; crop both to the shorter one"
        )
    if not bool(torch.isfinite(reference).all() and torch.isfinite(estimate).all()):
        raise ValueError("images must be finite, got NaN or infinity; look for the clip that gives it")
    return reference.double(), estimate.double()


def psnr_db(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio (...) in dB of images (..., H, W) in [0, 1]; infinite where they are equal.

    Paper Eq. (17) with MAX = 1.
    """
    reference, estimate = validate(reference, estimate)
    return -10.0 * (reference - estimate).square().mean(dim=(-2, -1)).log10()


def ssim(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the mean structural similarity (...) of images (..., H, W); 1 where they are equal.

    As scikit-image: uniform 7 x 7 windows wholly inside, unbiased variances, constants (0.01 L)² and (0.03 L)². L is
    the range of the values of both images together, as in audioldm_eval.

    Paper Eq. (18).
    """
    reference, estimate = validate(reference, estimate)
    both = torch.stack([reference, estimate]).flatten(-2)
    extent = both.amax(dim=(0, -1)) - both.amin(dim=(0, -1))
    extent = torch.where(extent > 0, extent, 1.0)[..., None, None]  # equal, constant images

    def local_mean(values: Tensor) -> Tensor:
        along = values.unfold(-1, SSIM_WINDOW, 1).sum(dim=-1)
        return along.unfold(-2, SSIM_WINDOW, 1).sum(dim=-1) / SSIM_WINDOW**2

    mean_x, mean_y = local_mean(reference), local_mean(estimate)
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    variances = (local_mean(reference.square() + estimate.square()) - mean_x.square() - mean_y.square()) * unbiased
    covariance = (local_mean(reference * estimate) - mean_x * mean_y) * unbiased
    c1, c2 = (0.01 * extent).square(), (0.03 * extent).square()
    likeness = (2.0 * mean_x * mean_y + c1) * (2.0 * covariance + c2)
    return (likeness / ((mean_x.square() + mean_y.square() + c1) * (variances + c2))).mean(dim=(-2, -1))


def evaluate(reference: Tensor, estimate: Tensor) -> dict[str, Tensor]:
    """Compare clips (..., S) at 16 kHz with their references, such as (B, 2, S), up to the end of the shorter one.

    Returns:
        "psnr_db" and "ssim", each (...). audioldm_eval leaves clips of infinite PSNR out of both means.
    """
    first, second = mel_image(reference), mel_image(estimate)
    num_frames = min(first.shape[-1], second.shape[-1])
    first, second = first[..., :num_frames], second[..., :num_frames]
    return {"psnr_db": psnr_db(first, second), "ssim": ssim(first, second)}


def nearest_clips(waveform: Tensor, bank: ClipBank, *, chunk: int = 64) -> list[Neighbour]:
    """Find the training clip nearest to each mono sound (B, S) of the bank's length, whatever their levels."""
    queries = _level_free(log_mel(waveform, MEL))
    best = [Neighbour(distance=float("inf"), clip_id="", label="") for _ in queries]
    for rows in torch.arange(len(bank)).split(chunk):
        clips = _level_free(log_mel(bank.float_waveforms(rows), MEL))
        for index, query in enumerate(queries):
            distance, at = (clips - query).abs().flatten(1).mean(dim=1).min(dim=0)
            if float(distance) < best[index].distance:
                clip = int(rows[at])
                best[index] = Neighbour(distance=float(distance), clip_id=bank.ids[clip], label=bank.labels[clip][0])
    return best


def _level_free(mel: Tensor) -> Tensor:
    """Bring log-mels (B, T, M) to a loudest band of 0 and floor them."""
    return (mel - mel.amax(dim=(1, 2), keepdim=True)).clamp(min=-FLOOR_NEPER)
