"""The last step of the five variants: from decoded spectra to a two-ear waveform."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from dualspec.features.mel import MelConfig, mel_to_magnitude, spread_bands
from dualspec.features.mel import log_mel as mel_of
from dualspec.features.stft import StftConfig, istft, stft
from dualspec.synthesis.griffin_lim import griffin_lim, unit_phase
from dualspec.synthesis.mid_signal import mid_mel

Variant = Literal["mel_base", "stft_base", "dualspec", "dualspec_d", "dualspec_p"]
MergeMode = Literal["paper", "phase_delta"]
MidPhase = Literal["vocoder", "griffin_lim", "stft"]
MAX_LEVEL_REPAIR = 2.3
"""Largest correction of a vocoder's level in one band, nepers (20 dB)."""
Vocoder = Callable[[Tensor], Tensor]
"""(N, T, M) log-mel to (N, S) waveform."""


def reconstruct(
    variant: Variant,
    *,
    num_samples: int,
    stft_config: StftConfig,
    mel_config: MelConfig,
    log_mel: Tensor | None = None,
    stft: Tensor | None = None,
    mode: MergeMode = "paper",
    mid_phase: MidPhase = "vocoder",
    vocoder: Vocoder | None = None,
) -> Tensor:
    """Turn the decoded spectra of one variant into sound, without any change of level.

    ``paper`` takes each ear's magnitude from the mel branch and its phase from the STFT branch. ``phase_delta`` gives
    the near ear one clean phase and the far ear the same phase plus the STFT branch's whole interaural difference.

    Args:
        variant: which branches there are; ``mel_base`` has no STFT, ``stft_base`` no mel.
        num_samples: length of the result, samples.
        stft_config: framing of ``stft``.
        mel_config: framing and bands of ``log_mel``.
        log_mel: (B, 2, T, M) natural-log mel, channel 0 left.
        stft: (B, 2, T, F) complex, channel 0 left.
        mode: how magnitude and phase meet; only the three dual variants know ``phase_delta``.
        mid_phase: where ``phase_delta`` takes its one phase from: the vocoded mean of both ears, Griffin-Lim on it, or
            the near ear of the STFT branch.
        vocoder: log-mel to waveform, needed unless the mel shares the STFT's framing (and always by ``mel_base``).

    Returns:
        (B, 2, S) waveform, channel 0 left; not normalised, both ears at the level that was generated.

    Raises:
        ValueError: the inputs must be exactly those of the variant and fit the framings.

    Paper section V-A (footnote 1) and VI-A; ``phase_delta`` is our own.
    """
    _check(variant, mode, mid_phase, log_mel, stft)
    if log_mel is not None:
        _check_shape("log_mel", log_mel, (mel_config.num_frames(num_samples), mel_config.n_mels))
    if stft is not None:
        _check_shape("stft", stft, (stft_config.num_frames(num_samples), stft_config.num_bins))
    if variant == "mel_base" and log_mel is not None:
        return _vocode(vocoder, log_mel, num_samples)
    if variant == "stft_base" and stft is not None:
        return istft(stft, stft_config, num_samples)
    if log_mel is None or stft is None:
        raise AssertionError("_check lets only complete inputs pass")
    if mode == "paper":
        from_bands = variant == "dualspec_d"
        magnitude = _ear_magnitudes(from_bands, log_mel, vocoder, stft_config, mel_config, num_samples)
        return istft(magnitude * unit_phase(stft), stft_config, num_samples)
    spectra = _phase_delta(mid_phase, log_mel, stft, vocoder, stft_config, mel_config, num_samples)
    return istft(spectra, stft_config, num_samples)


def shares_framing(mel_config: MelConfig, stft_config: StftConfig) -> bool:
    """Tell whether mel frames and STFT frames are the same frames, so that no vocoder is needed between them."""
    return (mel_config.n_fft, mel_config.win_length, mel_config.hop_length, mel_config.framing) == (
        stft_config.n_fft,
        stft_config.win_length,
        stft_config.hop_length,
        stft_config.framing,
    )


def near_ear(log_mel: Tensor) -> Tensor:
    """Find the louder ear of each clip.

    Args:
        log_mel: (B, 2, T, M) natural-log mel.

    Returns:
        (B,) integer, 0 left or 1 right; left when both are equal.
    """
    energy = (2.0 * log_mel).exp().sum(dim=(-2, -1))
    return (energy[:, 1] > energy[:, 0]).long()


def _check(variant: str, mode: str, mid_phase: str, log_mel: Tensor | None, stft: Tensor | None) -> None:
    for name, value, kind in (
        ("variant", variant, Variant),
        ("mode", mode, MergeMode),
        ("mid_phase", mid_phase, MidPhase),
    ):
        if value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}; pick one of these")
    for name, given, needed in (
        ("log_mel", log_mel is not None, variant != "stft_base"),
        ("stft", stft is not None, variant != "mel_base"),
    ):
        if given != needed:
            rule = "given" if needed else "None"
            raise ValueError(
                f"{name} must be {rule} for {variant}, got {'a tensor' if given else 'None'}; check the variant"
            )
    if mode == "phase_delta" and variant in ("mel_base", "stft_base"):
        raise ValueError(f"mode must be 'paper' for {variant}, got 'phase_delta'; it merges two branches")


def _check_shape(name: str, value: Tensor, expected: tuple[int, int]) -> None:
    if value.dim() != 4 or value.shape[1] != 2 or tuple(value.shape[-2:]) != expected:
        raise ValueError(
            f"{name} must be of shape (B, 2, {expected[0]}, {expected[1]}), got {tuple(value.shape)}; "
            "check num_samples and the framing"
        )


def _vocode(vocoder: Vocoder | None, log_mel: Tensor, num_samples: int) -> Tensor:
    """Vocode (..., T, M) item by item into (..., S), trimmed to ``num_samples``."""
    if vocoder is None:
        raise ValueError(
            "vocoder must be given here, got None; or use dualspec_d with mid_phase 'griffin_lim' or 'stft'"
        )
    waveform = vocoder(log_mel.flatten(0, -3)).float()
    missing = num_samples - waveform.shape[-1]
    if missing > 0:
        raise ValueError(
            f"vocoder must return at least {num_samples} samples, got {waveform.shape[-1]}; use one of the same hop"
        )
    return waveform[..., :num_samples].unflatten(0, log_mel.shape[:-2])


def _ear_magnitudes(
    from_bands: bool,
    log_mel: Tensor,
    vocoder: Vocoder | None,
    stft_config: StftConfig,
    mel_config: MelConfig,
    num_samples: int,
) -> Tensor:
    """Return each ear's magnitude (B, 2, T, F) on the STFT grid: from the bands directly, or by vocoding each ear."""
    if not from_bands:
        return stft(_vocode(vocoder, log_mel, num_samples), stft_config).abs()
    if not shares_framing(mel_config, stft_config):
        raise ValueError(
            "mel_config must share the STFT's framing for dualspec_d, got "
            f"{mel_config.n_fft}/{mel_config.hop_length} {mel_config.framing}; "
            f"use {stft_config.n_fft}/{stft_config.hop_length} {stft_config.framing}"
        )
    return mel_to_magnitude(log_mel, mel_config)[..., 1:]


def _phase_delta(
    mid_phase: str,
    log_mel: Tensor,
    stft_branch: Tensor,
    vocoder: Vocoder | None,
    stft_config: StftConfig,
    mel_config: MelConfig,
    num_samples: int,
) -> Tensor:
    """Return two-ear spectra (B, 2, T, F) with one phase and the STFT branch's interaural difference.

    A vocoded mid also gives the fine structure of the magnitude, brought to each ear's level in every band; otherwise
    each ear's magnitude comes straight from its bands.
    """
    near = near_ear(log_mel)
    near_stft, far_stft = _pick(stft_branch, near), _pick(stft_branch, 1 - near)
    if mid_phase == "vocoder":
        mid = mid_mel(log_mel)
        waveform = _vocode(vocoder, mid[:, 0], num_samples)
        vocoded = stft(waveform, stft_config)
        start = unit_phase(vocoded)
        miss = mid - mel_of(waveform, mel_config)[:, None]
        gain = log_mel - mid + miss.clamp(-MAX_LEVEL_REPAIR, MAX_LEVEL_REPAIR)
        gain = spread_bands(gain, mel_config, stft_config, num_samples).exp()
        magnitude = vocoded.abs()[:, None] * gain
    else:
        from_bands = shares_framing(mel_config, stft_config)
        magnitude = _ear_magnitudes(from_bands, log_mel, vocoder, stft_config, mel_config, num_samples)
        start = unit_phase(near_stft)
        if mid_phase == "griffin_lim":
            waveform = griffin_lim(magnitude.mean(dim=1), stft_config, num_samples, initial_phase=start.angle())
            start = unit_phase(stft(waveform, stft_config))
    far_phase = start * unit_phase(far_stft) * unit_phase(near_stft).conj()
    left_is_near = (near == 0)[:, None, None]
    left, right = torch.where(left_is_near, start, far_phase), torch.where(left_is_near, far_phase, start)
    return magnitude * torch.stack([left, right], dim=1)


def _pick(spectrum: Tensor, ear: Tensor) -> Tensor:
    """Take one ear per clip from (B, 2, T, F)."""
    return spectrum[torch.arange(len(spectrum), device=spectrum.device), ear]
