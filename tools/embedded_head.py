"""Write the embedded head anew: `python tools/embedded_head.py FABIAN.sofa src/dualspec/bundles/heads/fabian.sofa`.

The horizontal plane of a SOFA file at 16 kHz on a grid of 5 degrees, between its own directions interpolated as in
training, with its licence and credits. Its SHA-256 stands in `dualspec/bundle.py`.
"""

import sys
from pathlib import Path

import numpy as np
import sofar

from dualspec.audio.hrir import load_sofa
from dualspec.files import sha256_of

COPIED = ("License", "DatabaseName", "ListenerShortName", "Organization", "References", "Origin", "AuthorContact")
STEP_DEG = 5


def main(source: Path, target: Path) -> None:
    """Convert a head and say what it was taken from."""
    azimuths_deg = np.arange(0, 360, STEP_DEG, dtype=float)
    head = load_sofa(source)
    original, sofa = sofar.read_sofa(str(source), verbose=False), sofar.Sofa("SimpleFreeFieldHRIR")
    for name in COPIED:
        setattr(sofa, f"GLOBAL_{name}", getattr(original, f"GLOBAL_{name}"))
    sofa.GLOBAL_Title = original.GLOBAL_Title
    sofa.GLOBAL_Comment = (
        f"Changed by dualspec: horizontal plane, {len(azimuths_deg)} azimuths, between those of the source "
        f"interpolated with aligned onsets, resampled to {head.sample_rate} Hz. {original.GLOBAL_Comment}"
    )
    sofa.GLOBAL_History = f"Source: {original.GLOBAL_History}; SHA-256 {sha256_of(source)}"
    sofa.SourcePosition = np.c_[azimuths_deg, np.zeros_like(azimuths_deg), np.full_like(azimuths_deg, 1.7)]
    sofa.Data_IR = head.at(list(azimuths_deg), "interpolate").double().numpy()
    sofa.Data_SamplingRate, sofa.Data_Delay = head.sample_rate, np.zeros((1, 2))
    target.parent.mkdir(parents=True, exist_ok=True)
    sofar.write_sofa(str(target), sofa, compression=9)
    print(f"{target}: {target.stat().st_size} bytes, from {sha256_of(source)}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
