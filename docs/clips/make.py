"""Make the listening examples again with the embedded model, by `python docs/clips/make.py`.

Writes the sounds (Ogg Vorbis), small pictures, clips.json, and the table of docs/clips.md.
"""

import json
import re
import tempfile
from pathlib import Path

import soundfile
import torch
from PIL import Image

from dualspec.audio.waveform import read_waveform
from dualspec.features.stft import StftConfig, stft
from dualspec.generation import OutputOptions, generate_clips, model_facts
from dualspec.model_folder import embedded_bundle, load_judge
from dualspec.pipeline import DualSpecPipeline
from dualspec.prompt_lists import plan_clips
from dualspec.text.prompts import parse_prompt

HERE = Path(__file__).parent
PAGE = HERE.parent / "clips.md"
# Six sounds, each twice with one seed: only the words for the place differ. Together they go once around the head.
PAIRS = (
    ("rain", "9 o'clock direction", "3 o'clock direction"),
    ("siren", "DOA 60", "DOA 240"),
    ("church bells", "2 o'clock direction", "8 o'clock direction"),
    ("helicopter", "DOA 0", "DOA 180"),
    ("clapping", "ahead and slightly to the left", "behind and slightly to the right"),
    ("vacuum cleaner", "DOA 150", "DOA 330"),
)
PROMPTS = [f"EVENT: {event} & LOCATION: {place}" for event, *places in PAIRS for place in places]
TABLE = re.compile(r"(?<=<!-- clips -->\n).*(?=<!-- end -->)", re.DOTALL)
MAX_ILD_CHANGE_DB = 0.28
QUALITIES = [
    hundredths / 100 for hundredths in range(64, 38, -2)
]  # 0 is the best, 1 the smallest; the first that keeps the level


def main() -> None:
    """Make everything."""
    torch.set_num_threads(1)
    pipeline, judge = DualSpecPipeline.from_pretrained(), load_judge()
    model = model_facts(pipeline, embedded_bundle())
    with tempfile.TemporaryDirectory() as folder:
        requests = plan_clips([(text, parse_prompt(text)) for text in PROMPTS], Path(folder), seed=0)
        options = {"sampling": pipeline.sampling_config(), "options": OutputOptions(picture=False, judge=judge)}
        clips = []
        for number, clip in enumerate(generate_clips(pipeline, requests, model=model, batch_size=1, **options), 1):
            waveform, rate = read_waveform(clip.path)
            event = PAIRS[(number - 1) // 2][0]
            stem = f"{number:02d}-{event.replace(' ', '-')}-{clip.record['azimuth']['azimuth_deg']:.0f}"
            sound = HERE / f"{stem}.ogg"
            draw(waveform, HERE / f"{stem}.png")
            proof = clip.record["direction"]
            for quality in QUALITIES:
                written = {"format": "OGG", "subtype": "VORBIS", "compression_level": quality}
                soundfile.write(sound, waveform.T.numpy(), rate, **written)
                again = judge.hear(*read_waveform(sound), proof["asked_deg"])
                if abs(again["ild_db"] - proof["ild_db"]) < MAX_ILD_CHANGE_DB:
                    break
            names = ("asked_deg", "heard_deg", "confidence", "itd_us", "ild_db", "itd_error_us", "ild_error_db")
            clips.append({"file": stem, "prompt": clip.record["prompt"], "seed": clip.record["seed"]})
            clips[-1] |= {name: proof[name] for name in names} | {"ogg": {name: again[name] for name in names[1:5]}}
    document = {"model": model, "localizer": judge.facts, "clips": clips}
    (HERE / "clips.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: table_of(clips), text), encoding="utf-8")


def table_of(clips: list[dict]) -> str:
    """Return the clips as rows of a table."""
    rows = ["| words | left and right ear | heard | in the file | ITD, ILD |", "|---|---|---|---|---|"]
    for clip, (event, place) in zip(clips, ((event, place) for event, *two in PAIRS for place in two), strict=True):
        file = f"clips/{clip['file']}"
        player = f'<audio controls preload="none" style="width: 240px" src="{file}.ogg"></audio>'
        sound = f"[![Spectrograms of both ears]({file}.png)]({file}.ogg)<br>{player}"
        heard, after = (f"{of['heard_deg']:.0f}° ({100 * of['confidence']:.0f} %)" for of in (clip, clip["ogg"]))
        cues = f"{clip['itd_us']:.0f} µs, {clip['ild_db']:.1f} dB"
        rows.append(f"| {event}, *{place}* ({clip['asked_deg']:.0f}°) | {sound} | {heard} | {after} | {cues} |")
    return "\n".join(rows) + "\n"


def draw(waveform: torch.Tensor, path: Path) -> None:
    """Draw the levels of both ears, left above, the low tones in the middle, in sixteen colours over 60 dB."""
    power = stft(waveform, StftConfig()).abs().square()  # (2, T, F)
    power = torch.nn.functional.adaptive_avg_pool2d(power, (240, 56))
    level = (1 + 10 * (power / power.max()).clamp(min=1e-6).log10() / 60) * 15
    left, right = level.round().byte().transpose(1, 2)
    picture = Image.fromarray(torch.cat((left.flip(0), torch.zeros(2, 240, dtype=torch.uint8), right)).numpy(), "P")
    shades = [(index / 15) for index in range(16)]
    picture.putpalette([round(255 * shade**power) for shade in shades for power in (0.7, 1.6, 3.0)])
    picture.save(path, optimize=True, bits=4)


if __name__ == "__main__":
    main()
