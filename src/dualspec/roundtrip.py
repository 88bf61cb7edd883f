"""What the autoencoders and the vocoder alone do to true two-ear clips: the upper bound of generation.

Held-out recordings are rendered through a head, written as references, encoded, decoded and written as estimates.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.binaural import normalize_peak, render
from dualspec.audio.hrir import HrirSet
from dualspec.data.datasets import load_clips
from dualspec.generation import OutputOptions, write_clip
from dualspec.pipeline import DualSpecPipeline

PEAK = 0.5


def round_trip_clips(
    pipeline: DualSpecPipeline,
    manifest_dir: Path,
    hrir_set: HrirSet,
    output: Path,
    *,
    num_clips: int,
    options: OutputOptions,
    model: dict[str, Any],
    batch_size: int = 8,
) -> Iterator[int]:
    """Write `reference/` and `estimate/` folders of the same clips, ready to be judged.

    Args:
        pipeline: whose parts are tried.
        manifest_dir: a prepared corpus; its test split is used.
        hrir_set: the head, at the pipeline's rate.
        output: folder for both folders.
        num_clips: recordings, spread evenly over the test split; the 12 azimuths take turns.
        options: sample format, picture.
        model: what `model_facts` says of the pipeline's folder.
        batch_size: clips at once.

    Yields:
        The number of clips written so far.
    """
    used = {part: files for part, files in model["sha256"].items() if part != "denoiser"}
    true = {"kind": "recordings", "name": "the references"}
    decoded = {"kind": "round trip", "name": model["variant"], "sha256": used}
    bank = load_clips(manifest_dir, "test", num_samples=pipeline.config.num_samples)
    chosen = torch.linspace(0, len(bank) - 1, min(num_clips, len(bank))).long()
    azimuths = torch.tensor(sector_grid_deg(), dtype=torch.float64)[torch.arange(len(chosen)) % 12]
    for name in ("reference", "estimate"):
        (output / name).mkdir(parents=True, exist_ok=True)
    for rows in torch.arange(len(chosen)).split(batch_size):
        reference = normalize_peak(render(bank.float_waveforms(chosen[rows]), hrir_set.at(azimuths[rows])), PEAK)
        estimate = pipeline.round_trip(reference).cpu()
        peaks = estimate.abs().amax(dim=(1, 2)).clamp(min=1.0)  # beyond full scale, one gain for both ears
        for row, before, after, peak in zip(rows.tolist(), reference, estimate, peaks.tolist(), strict=True):
            clip, azimuth_deg = int(chosen[row]), float(azimuths[row])
            label, name = bank.labels[clip][0], f"{bank.ids[clip].replace('/', '-')}^{azimuth_deg:.0f}.wav"
            facts = {"prompt": f"{label}, true clip", "event": label, "recording": bank.ids[clip], "seed": 0}
            facts |= {"azimuth": {"azimuth_deg": azimuth_deg}, "rendered": False}
            gain = {"gain_db": round(-20 * math.log10(peak), 6) + 0.0}
            write_clip(output / "reference" / name, before, pipeline.sample_rate, facts | {"system": true}, options)
            own = facts | gain | {"system": decoded}
            write_clip(output / "estimate" / name, after / peak, pipeline.sample_rate, own, options)
        yield int(rows[-1]) + 1
