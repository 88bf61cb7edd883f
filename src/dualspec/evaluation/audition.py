"""How well a localizer hears: its accuracy on true clips of known direction, through heads it knows and does not know.

A judge is only as good as this. Recordings that it never heard are rendered at all 12 directions through several heads,
with noise, through a codec, and in ways that leave no direction, where it must fail.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dualspec.audio.azimuth import LEFT, NUM_SECTORS, RIGHT, sector_grid_deg
from dualspec.audio.binaural import normalize_peak, render_directions
from dualspec.audio.codec import code_and_decode
from dualspec.audio.hrir import HrirSet
from dualspec.evaluation import spatial_metrics
from dualspec.evaluation.report import table
from dualspec.features.stft import StftConfig, istft, stft
from dualspec.hearing.cues import audible
from dualspec.hearing.localizer import Localizer

SNRS_DB = (30, 20, 10, 0)
OPUS_BIT_RATE = 32_000
CONDITIONS = ("clean", *(f"snr {snr} dB" for snr in SNRS_DB), "opus 32 kbit/s", "ears unrelated", "no delay")
"""What is done to the clips; the last two leave no direction that a judge may believe in."""
_PEAK = 0.5
_PER_PASS = 6  # clips of 5 s; more leave the processor's cache and take twice as long each
_FRAMING = StftConfig()


@dataclass(frozen=True, kw_only=True)
class AuditionRow:
    """What a localizer made of the clips of one head in one condition; shares are in [0, 1]."""

    head: str
    role: str  # "training", "held out", or what else the head or the clips are to this localizer
    condition: str
    num_clips: int  # judged; those with a silent ear are left out
    azimuth_accuracy: float  # share of clips whose sector is right; paper equation (21)
    azimuth_mae_deg: float  # mean circular error of the most probable sector; paper equation (22)
    front_back_rate: (
        float | None
    )  # share of clips off the ears' axis heard nearer to the mirror image than to the truth
    side_accuracy: float  # share of clips heard on the right side: left, right, or the median plane
    folded_within_30: float  # share of clips with an error of at most 30 degrees when front and back count as one
    mean_confidence: float  # mean probability of the most probable sector
    confusion: tuple[tuple[int, ...], ...]  # clips of each true sector (row) by sector heard (column)


def score(
    found_deg: Tensor, confidence: Tensor, wanted_deg: Tensor, *, head: str, role: str, condition: str
) -> AuditionRow:
    """Compare sector centres heard (N,), with their probabilities (N,), with the true ones (N,).

    Raises:
        ValueError: there is no clip.
    """
    if not len(wanted_deg):
        raise ValueError("clips must be audible in both ears, got none that is; take other recordings")
    wanted, found = wanted_deg.double().cpu(), found_deg.double().cpu()
    mirrored = spatial_metrics.front_back_rate(wanted, found)
    return AuditionRow(
        head=head,
        role=role,
        condition=condition,
        num_clips=len(wanted),
        azimuth_accuracy=spatial_metrics.azimuth_accuracy(wanted, found),
        azimuth_mae_deg=spatial_metrics.azimuth_mae_deg(wanted, found),
        front_back_rate=None if mirrored != mirrored else mirrored,
        side_accuracy=_mean(_side(wanted) == _side(found)),
        folded_within_30=_mean(spatial_metrics.folded_error_deg(wanted, found) <= 30 + 1e-6),
        mean_confidence=_mean(confidence),
        confusion=tuple(map(tuple, spatial_metrics.confusion_matrix(wanted, found).tolist())),
    )


def judge(localizer: Localizer, clips: Tensor, sample_rate: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hear clips (B, 2, S); return azimuth and confidence (N,) of the audible ones, and the mask (B,) of those."""
    heard = audible(clips)
    if not bool(heard.any()):
        return torch.zeros(0), torch.zeros(0), heard.cpu()
    results = [localizer.predict(part, sample_rate) for part in clips[heard].split(_PER_PASS)]
    angle = torch.cat([result.azimuth_deg for result in results])
    return angle.cpu(), torch.cat([result.confidence for result in results]).cpu(), heard.cpu()


def audition(
    localizer: Localizer,
    recordings: Tensor,
    sample_rate: int,
    heads: Sequence[tuple[str, HrirSet]],
    *,
    collections: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 4,
) -> Iterator[AuditionRow]:
    """Measure a localizer: clean through every head, and through the first head in all conditions.

    Args:
        localizer: in evaluation mode.
        recordings: (N, S) mono, in [-1, 1], never used in its training.
        sample_rate: Hz.
        heads: role ("training" or "held out") and head; the first is the one whose sounds it will judge.
        collections: name of each recording's collection (N,); adds a clean row for each if there are several.
        seed: of the noise.
        batch_size: recordings at once, each at 12 directions.
    """
    for position, (role, hrir_set) in enumerate(heads):
        for condition in CONDITIONS if position == 0 else CONDITIONS[:1]:
            generator = torch.Generator().manual_seed(seed)
            angles, confidences, masks = [], [], []
            for batch in recordings.split(batch_size):
                clips = _render(batch, hrir_set, condition, sample_rate, generator)
                angle, confidence, heard = judge(localizer, clips, sample_rate)
                angles.append(angle)
                confidences.append(confidence)
                masks.append(heard)
            found, sure, heard = torch.cat(angles), torch.cat(confidences), torch.cat(masks)
            wanted = torch.tensor(sector_grid_deg(), dtype=torch.float64).repeat(len(recordings))[heard]
            yield score(found, sure, wanted, head=hrir_set.name, role=role, condition=condition)
            names = sorted(set(collections))
            if condition == "clean" and position == 0 and len(names) > 1:
                owner = torch.tensor([names.index(name) for name in collections]).repeat_interleave(NUM_SECTORS)[heard]
                for index, name in enumerate(names):
                    rows = owner == index
                    yield score(
                        found[rows], sure[rows], wanted[rows], head=hrir_set.name, role=role, condition=f"clean, {name}"
                    )


def _render(mono: Tensor, hrir_set: HrirSet, condition: str, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Render recordings (B, S) at all directions and apply a condition: (12 B, 2, S)."""
    hrirs = hrir_set.at(sector_grid_deg(), method="interpolate")
    if condition == "no delay":
        hrirs = _without_delay(hrirs)
    clips = normalize_peak(render_directions(mono, hrirs).flatten(0, 1), _PEAK)
    if condition.startswith("snr"):
        return add_noise(clips, float(condition.split()[1]), generator)
    if condition.startswith("opus"):
        return torch.stack([code_and_decode(clip, sample_rate, "opus", OPUS_BIT_RATE) for clip in clips])
    return _unrelated(clips, generator) if condition == "ears unrelated" else clips


def add_noise(clips: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
    """Add white noise, independent at the ears, of one level, to clips (B, 2, S); the ratio is of both ears' power."""
    noise = torch.randn(clips.shape, generator=generator)
    level = clips.square().mean((1, 2), keepdim=True).sqrt() * 10 ** (-snr_db / 20)
    return clips + level * noise


def _without_delay(hrirs: Tensor) -> Tensor:
    """Keep the levels of responses (A, 2, K) at every frequency; both ears hear at the same time."""
    size = 2 * hrirs.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(hrirs, n=size).abs()).roll(size // 2, -1)


def _unrelated(clips: Tensor, generator: torch.Generator) -> Tensor:
    """Replace the phases of the right ear of clips (B, 2, S) by chance; its level stays."""
    spectrum = stft(clips[:, RIGHT], _FRAMING)
    phase = 2 * math.pi * torch.rand(spectrum.shape, generator=generator)
    right = istft(torch.polar(spectrum.abs(), phase), _FRAMING, clips.shape[-1])
    lost = clips[:, RIGHT].square().sum(-1, keepdim=True) / right.square().sum(-1, keepdim=True).clamp(min=1e-12)
    return torch.stack([clips[:, LEFT], lost.sqrt() * right], dim=1)


def card(rows: Sequence[AuditionRow], facts: dict[str, Any]) -> str:
    """Write rows as Markdown: the facts, one table, and confusion matrices of the first head and of held-out ones."""
    heads = ["head", "it is", "condition", "clips", "accuracy %", "MAE °", "front/back %", "left/middle/right %"]
    blocks = ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    blocks.append(table([*heads, "folded error ≤ 30° %", "confidence"], [_cells(row) for row in rows]))
    clean = [row for row in rows if row.condition == "clean"]
    azimuths = [f"{angle:.0f}" for angle in sector_grid_deg()]
    for row in clean[:1] + [row for row in clean if row.role == "held out"]:
        blocks.append(f"True azimuth (rows) and azimuth heard, {row.head}, {row.role}, clean:")
        counts = [
            [name, *(str(count or "") for count in own)] for name, own in zip(azimuths, row.confusion, strict=True)
        ]
        blocks.append(table(["", *azimuths], counts))
    return "\n\n".join(blocks) + "\n"


def _cells(row: AuditionRow) -> list[str]:
    shares = (row.front_back_rate, row.side_accuracy, row.folded_within_30)
    percent = ["–" if share is None else f"{100 * share:.2f}" for share in shares]
    first = [row.head, row.role, row.condition, str(row.num_clips)]
    errors = [f"{100 * row.azimuth_accuracy:.2f}", f"{row.azimuth_mae_deg:.2f}"]
    return [*first, *errors, *percent, f"{row.mean_confidence:.2f}"]


def _side(angle_deg: Tensor) -> Tensor:
    """Return 1 left, -1 right, 0 in the median plane."""
    return torch.sin(torch.deg2rad(angle_deg)).mul(1e6).round().sign()


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
