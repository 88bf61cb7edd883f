"""Make the figures of the embedded model in docs/results.md again: `python tools/results.py measure` and `… write`.

`measure WORK` makes and judges every clip with the commands that the page names; what is there already is kept, so that
it may be stopped, and so that two of them, with other `--only`, share the work. `write WORK` puts the tables into the
page, between its `<!-- made: NAME -->` and `<!-- end -->`. All of it takes about an hour and a half of one core.
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results.md"
EVENTS = (
    *("dog", "rooster", "rain", "siren", "clapping"),
    *("church bells", "crying baby", "helicopter", "door wood knock", "keyboard typing"),
)
WORDINGS = {"doa": '"DOA 270"', "clock": '"3 o\'clock direction"', "general": "general words"}
STEPS = {
    "DDPM, 200 (the paper's)": "--sampler ddpm --steps 200",
    "DPM-Solver++, 25": "--steps 25",
    "15": "--steps 15",
    "10": "--steps 10",
    "**8, the default**": "",
    "6": "--steps 6",
    "5": "--steps 5",
    "4": "--steps 4",
    "3": "--steps 3",
    "UniPC, 5": "--sampler unipc --steps 5",
    "DPM-Solver++, 8, guidance in the first half": "--model {work}/half",
    "DPM-Solver++, 8, guidance in the first step alone": "--model {work}/first",
    "DPM-Solver++, 8, best of 4": "--best-of 4",
}
GUIDANCE = ("1", "2", "3", "6")
LEAST_FOR_FD = 768  # clips: twice the dimensions of mn04_as
PARTS = ("direction", "steps", "guidance", "target", "copies", "roundtrip")
LAST_STEPS = {
    "own": "`phase_delta`, Griffin-Lim (shipped)",
    "vocoder": "`phase_delta`, vocoder",
    "paper": "`paper`: vocoder per ear, phase of the STFT branch",
}


def slug(words: str) -> str:
    """Name the folder of a run."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def run(*command: str, log: Path, output: Path) -> None:
    """Run one command of dualspec, unless what it makes is there; keep what it prints and its processor time."""
    if log.is_file() or (output / "result.json").is_file():
        return
    print(" ".join(shlex.quote(word) for word in ("dualspec", *command)), flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    timed = ["/usr/bin/env", "bash", "-c", 'time "$@"', "-", sys.executable, "-m", "dualspec", *command]
    done = subprocess.run(timed, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    log.write_text(done.stdout + "\n--- \n" + done.stderr)


class Bench:
    """The commands, with what they need."""

    def __init__(self, said: argparse.Namespace) -> None:
        self.work, self.said = said.work, said
        self.head = ["--hrir", str(said.hrir)]
        kept = ("--cache", str(said.work / f"cache-{said.only[0]}"))
        self.judge = ["--embedder", said.embedder, *kept, "--device", "cpu"]

    def clips(self, name: str, chosen: Sequence[str], *options: str, reference: str | None = None) -> None:
        """Generate a folder of clips and judge it."""
        folder, result = self.work / "clips" / name, self.work / "results" / name
        plain = ("--no-picture", "--no-proof", "--device", "cpu")
        run("generate", *chosen, "-o", str(folder), *plain, *options, log=self.work / f"logs/{name}.txt", output=result)
        self.judged(name, folder, *(["--reference", str(self.work / reference)] if reference else []))

    def judged(self, name: str, folder: Path, *options: str, target: bool = True) -> None:
        """Judge a folder of clips; their cues against the head's, or with `target` off against the references' own."""
        result = self.work / "results" / name
        how = ("evaluate", str(folder), *(self.head if target else ()), *self.judge, *options, "-o", str(result))
        run(*how, log=self.work / f"logs/{name}.judge.txt", output=result)

    def prompts(self, name: str, *options: str) -> Path:
        """Draw a test set."""
        folder = self.work / name
        if not (folder / "prompts.jsonl").is_file():
            run("prompts", *options, "-o", str(folder), log=self.work / f"logs/{name}.txt", output=folder)
        return folder / "prompts.jsonl"

    def direction(self) -> None:
        """Ten trained events all around, in each wording, and without any direction as the control."""
        for style in WORDINGS:
            path = self.work / f"{style}.txt"
            how = ("prompts", *EVENTS, "--styles", style, "-o", str(path))
            run(*how, log=self.work / f"logs/list-{style}.txt", output=path)
            self.clips(style, ["--prompts", str(path)])
        self.clips("blank", ["--prompts", str(self.work / "doa.txt"), "--blank-location"])

    def steps(self) -> None:
        """Fig. 7, and Tables II and III at 25 steps."""
        drawn = self.prompts("set", "--data", str(self.said.data), "-n", "120", *self.head, "--others")
        for name, last in (("half", 0.5), ("first", 0.125)):
            self.changed(name, "--set", f"sampling.guidance_interval=[0.0,{last}]")
        for words, options in STEPS.items():
            how = shlex.split(options.format(work=self.work))
            self.clips(
                f"steps-{slug(words)}", ["--manifest", str(drawn)], *how, "--engine", "torch", reference="set/reference"
            )
        middle = self.work / "clips/steps-dpm-solver-25"
        for style in WORDINGS:
            self.judged(f"steps-25-{style}", middle, "--reference", str(self.work / "set/reference"), "--style", style)
        cascade = self.work / "clips/cascade"
        run("cascade", str(middle), *self.head, "-o", str(cascade), log=self.work / "logs/cascade.txt", output=cascade)
        self.judged("cascade", cascade, "--reference", str(self.work / "set/reference"))

    def changed(self, name: str, *options: str) -> str:
        """Make the embedded model with another setting or part."""
        model, denoiser = self.work / name, ROOT / "src/dualspec/bundles/default/denoiser"
        how = ("--base", "default", "--part", f"denoiser={denoiser}", *options, *self.head)
        run("assemble", str(model), *how, log=self.work / f"logs/{name}.txt", output=model)
        return str(model)

    def roundtrip(self) -> None:
        """Table I: true clips through the autoencoders alone, and with a vocoder where one is at hand."""
        models = {"own": str(ROOT / "src/dualspec/bundles/default")}
        if self.said.vocoder:
            part = ("--part", f"vocoder={self.said.vocoder}")
            models["vocoder"] = self.changed("vocoder", *part, "--set", "mid_phase=vocoder")
            models["paper"] = self.changed("paper", *part, "--set", "merge_mode=paper")
        for name, model in models.items():
            folder = self.work / "clips" / f"roundtrip-{name}"
            how = ("--model", model, "--data", str(self.said.data), *self.head, "-n", "60")
            run("roundtrip", str(folder), *how, log=self.work / f"logs/roundtrip-{name}.txt", output=folder)
            true = ("--reference", str(folder / "reference"))
            self.judged(f"roundtrip-{name}", folder / "estimate", *true, target=False)

    def guidance(self) -> None:
        """Fig. 6: the scale of guidance."""
        drawn = self.prompts("set", "--data", str(self.said.data), "-n", "120", *self.head, "--others")
        for scale in GUIDANCE:
            how = ["--manifest", str(drawn), "--guidance", scale]
            self.clips(f"guidance-{scale}", how, reference="set/reference")

    def target(self) -> None:
        """Held-out recordings of the 50 events of ESC-50 in all wordings, and wordings that were not trained."""
        corpus = self.work / "esc50"
        if not (corpus / "manifest.jsonl").is_file():
            source = f"esc50={self.said.esc50}"
            how = ("prepare", str(corpus), "--corpus", source, "--licence", "open")
            run(*how, log=self.work / "logs/esc50.txt", output=corpus)
        drawn = self.prompts("target", "--data", str(corpus), "-n", "1800", *self.head, "--others")
        unseen = self.prompts(
            "unseen", "--data", str(corpus), "-n", "600", "--styles", "general", "--wording", "heldout"
        )
        reference = self.work / "target/reference"
        self.judged("target-others", self.work / "target/others", "--reference", str(reference))
        self.clips("target", ["--manifest", str(drawn)], reference="target/reference")
        for style in WORDINGS:
            self.judged(f"target-{style}", self.work / "clips/target", "--reference", str(reference), "--style", style)
        between = self.work / "between.txt"
        degrees = [tens for tens in range(0, 360, 10) if tens % 30]
        lines = [f"EVENT: {event.capitalize()} & LOCATION: DOA {asked}" for event in EVENTS for asked in degrees]
        between.write_text("\n".join(lines) + "\n")
        for name, chosen in (("unseen", ["--manifest", str(unseen)]), ("between", ["--prompts", str(between)])):
            for reading in ("typed", "known"):
                self.clips(f"target-{name}-{reading}", chosen, "--location-words", reading)
        if self.said.mel_base:
            self.clips(
                "target-mel-base",
                ["--manifest", str(drawn)],
                "--model",
                str(self.said.mel_base),
                reference="target/reference",
            )

    def copies(self) -> None:
        """Is it copying?"""
        folder = self.work / "clips/doa"
        for name, options in (("nearest", ()), ("nearest-embedded", ("--embedder", self.said.embedder))):
            run(
                "nearest",
                str(folder),
                "--data",
                str(self.said.data),
                "-n",
                "10",
                *options,
                log=self.work / f"logs/{name}.txt",
                output=folder,
            )


def measure(said: argparse.Namespace) -> None:
    """Make and judge the clips of the parts that are wanted."""
    bench = Bench(said)
    for part in said.only:
        getattr(bench, part)()


def tables(work: Path) -> Iterator[tuple[str, str]]:
    """Yield the page's blocks that can be written from what was measured."""
    from dualspec.evaluation.clip_scores import read_clip_scores
    from dualspec.evaluation.tables import event_table

    def known(*names: str) -> bool:
        return all((work / "results" / name / "result.json").is_file() for name in names)

    if known(*WORDINGS, "blank"):
        rows = {f"EVENT and LOCATION, {words}": style for style, words in WORDINGS.items()}
        rows["EVENT alone (control: chance is 8.3 %)"] = "blank"
        yield "direction", _directions("what the model reads", rows, work)
        yield "azimuths", _azimuths(_result(work, "doa")["rows"])
    if known(*(f"steps-{slug(words)}" for words in STEPS)):
        yield "steps", _quality("steps", {words: f"steps-{slug(words)}" for words in STEPS}, work, timed=True)
    if known(*(f"guidance-{words}" for words in GUIDANCE)):
        yield "guidance", _quality("guidance scale", {words: f"guidance-{words}" for words in GUIDANCE}, work)
    names = {"all": "target", **{words: f"target-{style}" for style, words in WORDINGS.items()}}
    for name, words in (("unseen", "general words that were not trained"), ("between", "degrees between the twelve")):
        names[f"{words}, as typed"] = f"target-{name}-typed"
        names[f"{words}, read as DOA"] = f"target-{name}-known"
    if known(*names.values()):
        extra = {"Mel-base (600 steps), retrain": "target-mel-base"} if known("target-mel-base") else {}
        extra["other recordings through the head: the most that can be had"] = "target-others"
        yield "target", _quality("what the model reads", names | extra, work, least=LEAST_FOR_FD)
        yield "target-direction", _directions("what the model reads", names, work)
        lines = event_table(read_clip_scores(work / "results/target/clips.csv")).splitlines()
        yield "events", "\n".join([*lines[:12], "| … | | | | | |", *lines[-10:]])
    if known("roundtrip-own"):
        rows = {name: words for name, words in LAST_STEPS.items() if known(f"roundtrip-{name}")}
        yield "roundtrip", _round_trips(rows, work)
    if (work / "logs/nearest.txt").is_file():
        words = (work / "logs/nearest.txt").read_text().partition("\n--- \n")[0]
        yield "copies", "```\n" + "\n".join(line.rstrip() for line in words.strip().splitlines()) + "\n```"


def _result(work: Path, name: str) -> dict[str, Any]:
    return json.loads((work / "results" / name / "result.json").read_text())


def _seconds(work: Path, name: str) -> float:
    """Return the processor seconds of the command, per second of sound."""
    clock = re.findall(r"^(?:user|sys)\s+(\d+)m([\d.]+)s", (work / f"logs/{name}.txt").read_text(), re.M)
    return sum(60 * int(minutes) + float(rest) for minutes, rest in clock) / (5.12 * _result(work, name)["num_clips"])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from dualspec.evaluation.report import table

    return table(heads, rows)


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _directions(head: str, names: dict[str, str], work: Path) -> str:
    rows = []
    for words, name in names.items():
        found = _result(work, name)["direction"]
        rows.append(
            [
                *(words, str(found["num_asked"]), _share(found["share_louder_and_earlier_at_the_correct_ear"])),
                *(_number(found["median_itd_error_us"], 0), _number(found["median_ild_error_db"], 2)),
                *(_number(found["median_coherence"], 2), _share(found["azimuth_accuracy"])),
                *(_number(found["azimuth_mae_deg"], 1), _share(found.get("front_back_rate"))),
            ]
        )
    heads = [head, "clips", "louder and earlier at the correct ear", "ITD error µs", "ILD error dB", "coherence"]
    return _table([*heads, "ACC", "MAE °", "front/back"], rows)


def _azimuths(rows: Sequence[dict[str, Any]]) -> str:
    digits = {"itd_us": 0, "target_itd_us": 0, "ild_db": 1, "target_ild_db": 1, "coherence": 2}
    digits |= {"median_itd_error_us": 0, "median_ild_error_db": 1}
    cells = [
        [f"{row['azimuth_deg']:.0f}", f"{row['num_heard']} of {row['num_clips']}"]
        + [_number(row[name], count) for name, count in digits.items()]
        for row in rows
    ]
    heads = ["azimuth", "clips", "ITD µs", "head", "ILD dB", "head", "coherence", "ITD error µs", "ILD error dB"]
    return _table(heads, cells)


def _quality(head: str, names: dict[str, str], work: Path, *, timed: bool = False, least: int = 0) -> str:
    rows = []
    for words, name in names.items():
        found = _result(work, name)
        quality, place = dict(found["quality"].get("mean", {})), found["direction"]
        # other recordings of the labels are the references in another order: no distance between sets
        if found["num_clips"] < least or found.get("source", {}).get("kind") == "recordings":
            quality.pop("fd", None)
        rows.append(
            [
                *(words, str(found["num_clips"]), _number(quality.get("fd"), 2), _number(quality.get("kl"), 3)),
                *(_number(quality.get("inception_score"), 2), _number(place["azimuth_mae_deg"], 2)),
                *(f"{100 * place['azimuth_accuracy']:.1f}", _number(place["median_itd_error_us"], 0)),
                *(_number(place["median_ild_error_db"], 2), _number(place["median_coherence"], 2)),
                *([_number(_seconds(work, name), 2)] if timed else []),
            ]
        )
    heads = [
        head,
        "clips",
        "FD ↓",
        "KL ↓",
        "IS ↑",
        "MAE ° ↓",
        "ACC % ↑",
        "ITD error µs ↓",
        "ILD error dB ↓",
        "coherence",
    ]
    return _table([*heads, *(["time s/s"] if timed else [])], rows)


def _round_trips(names: dict[str, str], work: Path) -> str:
    rows = []
    for name, words in names.items():
        found = _result(work, f"roundtrip-{name}")
        quality, place = found["quality"]["mean"], found["direction"]
        rows.append(
            [
                *(words, str(found["num_clips"]), _number(place["median_itd_error_us"], 1)),
                *(_number(place["median_ild_error_db"], 2), _number(place["median_coherence"], 2)),
                *(_number(quality["psnr_db"], 2), _number(quality["ssim"], 3), _number(quality["fd"], 2)),
                *(_number(quality["kl"], 3), _number(quality["inception_score"], 2)),
                *(_share(place["azimuth_accuracy"]), _number(place["azimuth_mae_deg"], 1)),
            ]
        )
    heads = ["last step", "clips", "ITD error µs", "ILD error dB", "coherence", "PSNR dB", "SSIM"]
    return _table([*heads, "FD", "KL", "IS", "ACC", "MAE °"], rows)


def write(said: argparse.Namespace) -> None:
    """Put the tables into the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, block in tables(said.work):
        place = re.compile(rf"(?<=<!-- made: {name} -->\n).*?(?=\n<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise SystemExit(f"{PAGE} must have a place <!-- made: {name} -->, got none")
        text = place.sub(lambda _, block=block: block, text)
        print(f"{name}: written")
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    own = verbs.add_parser("measure")
    own.add_argument("work", type=Path, help="folder for clips and results")
    own.add_argument("--data", type=Path, required=True, help="the corpus that the model was trained on")
    own.add_argument("--esc50", type=Path, required=True, help="ESC-50's folder")
    own.add_argument("--hrir", type=Path, required=True, help="FABIAN.sofa")
    own.add_argument("--embedder", required=True, help="mn04_as=FILE")
    own.add_argument("--mel-base", type=Path, help="an assembled mini/mel_base, for its row")
    own.add_argument("--vocoder", type=Path, help="weights of mini/vocoder, for two round trips")
    own.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts")
    own.set_defaults(act=measure)
    page = verbs.add_parser("write")
    page.add_argument("work", type=Path)
    page.set_defaults(act=write)
    said = parser.parse_args()
    said.act(said)


if __name__ == "__main__":
    main()
