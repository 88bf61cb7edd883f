"""`dualspec spatialize`: the classic renderer, one recording through one head."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dualspec.cli.door import refuse, usage


def spatialize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Recording; several channels are mixed to one.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Sound file (.wav, .flac); replaced if it exists.")],
    azimuth: Annotated[float, typer.Option(help="Degrees counter-clockwise: 0 front, 90 left, 180 behind, 270 right.")],
    sofa: Annotated[Path | None, typer.Option(help="Head (SOFA file).  [default: a computed sphere]")] = None,
    peak: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Peak of the louder ear, full scale 1; one gain for both.")
    ] = 0.5,
    subtype: Annotated[Literal["PCM_16", "PCM_24"], typer.Option(help="Sample format.")] = "PCM_16",
) -> None:
    """Put a recording in a direction by convolution with a head: no model, no words."""
    from dualspec.audio.azimuth import check_azimuth_deg
    from dualspec.audio.binaural import spatialize as place
    from dualspec.audio.hrir import load_sofa, spherical_head
    from dualspec.audio.waveform import read_waveform, write_waveform

    with usage():
        azimuth = check_azimuth_deg(azimuth)
    if output.suffix.lower() not in (".wav", ".flac"):
        refuse(f"output must end in .wav or .flac, got {str(output)!r}; rename it")
    waveform, sample_rate = read_waveform(source, mono=True)
    if sofa is not None:
        head = load_sofa(sofa, sample_rate=sample_rate)
    else:
        head = spherical_head(sample_rate=sample_rate, num_taps=max(128, sample_rate // 125))
    silent = not bool(waveform.abs().max() > 0)
    ears = place(waveform, azimuth, head, method="interpolate", peak=None if silent else peak)
    replaced = output.exists()
    output.parent.mkdir(parents=True, exist_ok=True)
    write_waveform(output, ears, sample_rate, subtype=subtype)
    print(
        f"{output}: {ears.shape[-1] / sample_rate:g} s, azimuth {azimuth:g}, rendered through {head.name}"
        f"{', silent' if silent else ''}{', replaced' if replaced else ''}"
    )
