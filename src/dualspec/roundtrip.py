"""What the autoencoders and the vocoder alone do to true two-ear clips: the upper bound of generation.

Held-out recordings are rendered through a head, written as references, encoded, decoded and written as estimates.
"""

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
    systems = {
        "reference": {"kind": "recordings", "name": "the references"},
        "estimate": {"kind": "round trip", "name": model["variant"], "sha256": used},
    }
    bank = load_clips(manifest_dir, "test", num_samples=pipeline.config.num_samples)
    chosen = torch.linspace(0, len(bank) - 1, min(num_clips, len(bank))).long()
    azimuths = torch.tensor(sector_grid_deg(), dtype=torch.float64)[torch.arange(len(chosen)) % 12]
    for name in ("reference", "estimate"):
        (output / name).mkdir(parents=True, exist_ok=True)
    done = 0
    for rows in torch.arange(len(chosen)).split(batch_size):
        mono = bank.float_waveforms(chosen[rows])
        reference = normalize_peak(render(mono, hrir_set.at(azimuths[rows])), PEAK)
        estimate = pipeline.round_trip(reference).cpu()
        estimate = estimate / estimate.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1.0)
        for index, row in enumerate(rows.tolist()):
            clip = int(chosen[row])
            azimuth_deg = float(azimuths[row])
            name = f"{bank.ids[clip].replace('/', '-')}^{azimuth_deg:.0f}.wav"
            facts = {"prompt": f"{bank.labels[clip][0]}, true clip", "seed": 0, "rendered": False}
            facts |= {
                "azimuth": {"azimuth_deg": azimuth_deg},
                "event": bank.labels[clip][0],
                "recording": bank.ids[clip],
            }
            for kind, waveform in (("reference", reference[index]), ("estimate", estimate[index])):
                write_clip(
                    output / kind / name, waveform, pipeline.sample_rate, facts | {"system": systems[kind]}, options
                )
            done += 1
        yield done
