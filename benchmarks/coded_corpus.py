"""What Opus does to training clips, beside the FLAC that they come from: size, log-mel, cues once they are rendered.

    python benchmarks/coded_corpus.py CORPUS --hrir FABIAN.sofa --clips 120

Clips of 5.12 s from the training split, coded in mono, then rendered at the 12 azimuths in turn. The log-mel is the
mini models' and its distance a mean in neper: over everything, and over what lies within 60 dB of the clip's loudest
band and frame. One JSON object per rate; the ITD's error is given as median and mean.
"""

import argparse
import json
from pathlib import Path

import torch

from dualspec.audio.binaural import normalize_peak, render
from dualspec.audio.codec import code_and_decode, opus_clip
from dualspec.audio.hrir import load_sofa, spherical_head
from dualspec.audio.waveform import to_pcm16
from dualspec.data.datasets import load_clips
from dualspec.features.mel import MelConfig, log_mel
from dualspec.hearing.cues import cue_errors, interaural_cues

RATE, MEL = 16_000, MelConfig(n_fft=512, win_length=512, hop_length=256, framing="centered")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--hrir", type=Path, help="head (SOFA); a computed sphere without")
    parser.add_argument("--clips", type=int, default=120)
    parser.add_argument("--kbps", type=int, nargs="+", default=[12, 16, 24, 32])
    options = parser.parse_args()
    torch.set_num_threads(1)
    bank = load_clips(options.corpus, "train", max_clips=options.clips)
    mono, azimuths = bank.float_waveforms(torch.arange(len(bank))), 30.0 * (torch.arange(len(bank)) % 12)
    head = load_sofa(options.hrir, sample_rate=RATE) if options.hrir else spherical_head(sample_rate=RATE)
    hrirs = head.at(azimuths.double())

    def heard(clips: torch.Tensor) -> torch.Tensor:
        return normalize_peak(render(clips, hrirs), 0.5)

    reference = heard(mono)
    cues, level = interaural_cues(reference, RATE), log_mel(reference, MEL)
    near = level > level.amax(dim=(1, 2, 3), keepdim=True) - 60 / 20 * 2.302585
    seconds = float(bank.lengths.sum()) / RATE
    for kbps in options.kbps:
        cut = [clip[:length] for clip, length in zip(mono, bank.lengths.tolist(), strict=True)]
        num_bytes = sum(len(opus_clip(to_pcm16(clip), RATE, 1000 * kbps)) for clip in cut)
        coded = torch.stack([code_and_decode(clip[None], RATE, "opus", 1000 * kbps)[0] for clip in mono])
        estimate = heard(coded)
        errors = cue_errors(cues, interaural_cues(estimate, RATE))
        distance = (log_mel(estimate, MEL) - level).abs()
        itd_us = errors.itd_error_us.abs()
        result = {
            "kbps": kbps,
            "clips": len(bank),
            "bytes_a_second": round(num_bytes / seconds),
            "log_mel_neper": round(float(distance.mean()), 3),
            "log_mel_neper_within_60_db": round(float(distance[near].mean()), 3),
            "timed_clips": int((~itd_us.isnan()).sum()),  # the others are silent where waves can be timed
            "itd_error_us": [round(float(value), 2) for value in (itd_us.nanmedian(), itd_us.nanmean())],
            "ild_error_db_mean": round(float(errors.ild_error_db.abs().nanmean()), 3),
            "coherence_error_mean": round(float(errors.coherence_error.abs().nanmean()), 4),
        }
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
