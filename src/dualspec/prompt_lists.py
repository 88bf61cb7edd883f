"""Prompts and lists of them: what is asked for, and the files that the answers go to.

A list is all that generation, baselines and the judge share: clips of one list have one name in every folder.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualspec.audio.azimuth import NUM_SECTORS, azimuth_name, check_azimuth_deg, circular_error_deg, sector_grid_deg
from dualspec.audio.suffixes import CLIP_SUFFIXES
from dualspec.data.manifest import Split, json_lines
from dualspec.data.selection import draw_pairs, split_rows
from dualspec.files import parse_json, read_json, read_text, write_text_atomic
from dualspec.text.lexicon import LexiconSplit, LocationStyle, num_directions
from dualspec.text.location_parser import clean_text
from dualspec.text.prompts import ParsedPrompt, blank_location, draw_location_style, parse_prompt, prompt_for

MAX_PROMPT_FILE_BYTES = 1 << 20
MAX_ROWS = 100_000
MAX_NAME_BYTES = 240  # of the 255 that file systems allow: "-rendered" and another suffix must fit, too
_SLUG_CHARS = 48
_NO_NAME = re.compile("[\0\ud800-\udfff]")  # what no file system takes


@dataclass(frozen=True, kw_only=True)
class ClipRequest:
    """One clip that is wanted."""

    prompt: str  # what the model reads
    parsed: ParsedPrompt  # what our parser makes of it; only reported, never given to the network
    seed: int  # of noise; of the first candidate
    path: Path  # sound file; picture and JSON have its name with another suffix
    best_of: int = 1  # candidates, with seeds counting up; the best placed is kept
    location_blanked: bool = False  # the LOCATION was taken out of what the model reads (control experiment)

    @property
    def rendered_path(self) -> Path:
        """Sound file of the clip as heard through another head."""
        return self.path.with_stem(f"{self.path.stem}-rendered")


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """One clip that is asked for."""

    file: str  # name of the sound file in every folder of answers
    prompt: str  # template or free words
    azimuth_deg: float | None = None  # asked direction; what the prompt's words mean when None
    style: str | None = None  # doa, clock or general
    label: str | None = None  # class of the sound
    recording: str | None = None  # id of the held-out clip that is the reference
    seed: int = 0  # of noise, added to the seed of the command

    def __post_init__(self) -> None:
        """Refuse names that lead elsewhere and impossible numbers."""
        can_be = isinstance(self.file, str) and not _NO_NAME.search(self.file)
        if (
            not can_be
            or len(self.file.encode()) > MAX_NAME_BYTES
            or Path(self.file).name != self.file
            or Path(self.file).suffix.lower() not in CLIP_SUFFIXES
        ):
            raise ValueError(
                f"file must be a plain name of at most {MAX_NAME_BYTES} bytes ending in .wav or .flac, "
                f"got {self.file!r:.80}; correct the list"
            )
        if self.azimuth_deg is not None:
            check_azimuth_deg(self.azimuth_deg)
        if not isinstance(self.prompt, str) or type(self.seed) is not int or not 0 <= self.seed < 2**53:
            raise ValueError(
                f"prompt must be words and seed 0 to 2^53, got {self.prompt!r:.80}, {self.seed!r:.80}; correct it"
            )


def write_prompt_list(path: Path, rows: Sequence[PromptRow]) -> None:
    """Write rows as JSON lines; the file appears whole or not at all."""
    lines = [json.dumps({k: v for k, v in asdict(row).items() if v is not None}, ensure_ascii=False) for row in rows]
    write_text_atomic(path, "\n".join(lines) + "\n")


def read_manifest_prompts(path: Path, *, allow_no_direction: bool = False) -> list[tuple[PromptRow, ParsedPrompt]]:
    """Read a prompt list strictly: JSON lines with `prompt`, and optionally the other fields of `PromptRow`.

    Returns:
        Rows, with numbered names where they had none, and what our parser makes of their prompts (reported, never given
        to the network).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty, or a line is no row, repeats a name, or contradicts its own words; the line is named.
    """
    rows: list[tuple[PromptRow, ParsedPrompt]] = []
    seen: set[str] = set()
    for number, (where, line) in enumerate(json_lines(path), start=1):
        data: Any = parse_json(line, where)
        if not isinstance(data, dict) or "prompt" not in data or not set(data) <= set(PromptRow.__dataclass_fields__):
            raise ValueError(
                f"{where} must hold a prompt and only {', '.join(PromptRow.__dataclass_fields__)}, "
                f"got {line.strip()[:80]!r}; correct it"
            )
        try:
            data.setdefault("file", f"{number:05d}.wav")
            row = PromptRow(**data)
            parsed = check_prompt(row.prompt, allow_no_direction=allow_no_direction)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {error}") from error
        if row.azimuth_deg is not None and parsed.azimuth is not None:
            error_deg = circular_error_deg(row.azimuth_deg, parsed.azimuth.azimuth_deg)
            if error_deg > 180 / NUM_SECTORS + 1e-6:
                raise ValueError(
                    f"{where}: azimuth_deg must be what the prompt says, got {row.azimuth_deg:g} beside {row.prompt!r}"
                )
        if Path(row.file).stem in seen or number > MAX_ROWS:  # records are named after the sound, whatever its format
            raise ValueError(f"{where}: file must be unique among at most {MAX_ROWS} rows, got {row.file!r:.80} again")
        seen.add(Path(row.file).stem)
        rows.append((row, parsed))
    if not rows:
        raise ValueError(f"{path} must hold prompts, got none; write them by `dualspec prompts`")
    return rows


def check_prompt(prompt: str, *, allow_no_direction: bool = False, as_typed: bool = False) -> ParsedPrompt:
    """Read a prompt and refuse one that names no direction.

    Args:
        prompt: template or free words.
        allow_no_direction: take one without, too.
        as_typed: the model reads it as it is typed; what `parse_prompt` refuses then counts as words without direction.

    Raises:
        ValueError: as `parse_prompt`, or the direction is missing or not understood.
    """
    try:
        parsed = parse_prompt(prompt)
    except ValueError:
        if not (as_typed and allow_no_direction):
            raise
        return ParsedPrompt(event=clean_text(prompt), location=None, azimuth=None)
    if parsed.azimuth is None and not allow_no_direction:
        got = "none" if parsed.location is None else f"{parsed.location!r}"
        raise ValueError(
            f'prompt must say where the sound is, got {got}; write for example "EVENT: {parsed.event[:60]} & LOCATION: '
            "3 o'clock direction\", or pass --allow-no-direction"
        )
    return parsed


def read_prompt_file(
    path: Path, *, allow_no_direction: bool = False, as_typed: bool = False
) -> list[tuple[str, ParsedPrompt]]:
    """Read prompts, one per line, as `check_prompt`; empty lines and lines that begin with # are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no UTF-8 text, too large or empty, or a line is no usable prompt; it is named.
    """
    prompts = []
    for number, line in enumerate(read_text(path, max_bytes=MAX_PROMPT_FILE_BYTES).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            parsed = check_prompt(line, allow_no_direction=allow_no_direction, as_typed=as_typed)
            prompts.append((line.strip(), parsed))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
    if not prompts:
        raise ValueError(f"{path} must hold prompts, got none; write one per line")
    return prompts


def plan_clips(
    prompts: Sequence[tuple[str, ParsedPrompt]],
    output: Path,
    *,
    seed: int,
    per_prompt: int = 1,
    best_of: int = 1,
    blank: bool = False,
) -> list[ClipRequest]:
    """Give every clip its seed and its file.

    One clip takes the name that was asked for. Several get the number of their prompt, azimuth and seed into theirs.

    Args:
        prompts: prompts and what they mean.
        output: a sound file, or a folder (anything without a suffix, or that is a folder).
        seed: of the first clip of each prompt; the next ones count up.
        per_prompt: clips per prompt.
        best_of: candidates per clip, each with a seed of its own; the name then holds the first and the last.
        blank: take the LOCATION out of what the model reads; what was asked for stays on record.

    Raises:
        ValueError: the output has a suffix that is no sound format.
    """
    is_folder = output.is_dir() or not output.suffix
    if not is_folder and output.suffix.lower() not in CLIP_SUFFIXES:
        raise ValueError(
            f"output must end in {' or '.join(CLIP_SUFFIXES)}, or be a folder, got {str(output)!r}; rename it"
        )
    requests = []
    digits = len(str(len(prompts)))
    for number, (prompt, parsed) in enumerate(prompts, start=1):
        place = f"{number:0{digits}d}" if len(prompts) > 1 else ""
        for first in range(seed, seed + per_prompt * best_of, best_of):
            seeds = f"seed{first}" if best_of == 1 else f"seeds{first}-{first + best_of - 1}"
            by_seed = seeds if is_folder or per_prompt > 1 else ""
            place_deg = azimuth_name(parsed.azimuth.azimuth_deg) if by_seed and parsed.azimuth is not None else ""
            named = parsed.event if parsed.azimuth is not None else prompt
            stem, suffix = (_slug(named), ".wav") if is_folder else (output.stem, output.suffix)
            words = [place, stem, place_deg, by_seed] if is_folder else [stem, place, place_deg, by_seed]
            name = "-".join(filter(None, words)) + suffix
            path = output / name if is_folder else output.with_name(name)
            read = blank_location(prompt) if blank else prompt
            requests.append(
                ClipRequest(prompt=read, parsed=parsed, seed=first, path=path, best_of=best_of, location_blanked=blank)
            )
    return requests


def plan_manifest_clips(
    rows: Sequence[tuple[PromptRow, ParsedPrompt]], output: Path, *, seed: int = 0, blank: bool = False
) -> list[ClipRequest]:
    """Give every row of a list its file in the folder `output` and its seed; arguments as `generation.plan_clips`."""
    return [
        ClipRequest(
            prompt=blank_location(row.prompt) if blank else row.prompt,
            parsed=parsed,
            seed=seed + row.seed,
            path=output / row.file,
            location_blanked=blank,
        )
        for row, parsed in rows
    ]


def check_records(files: Iterable[Path]) -> None:
    """Refuse sound files whose record (NAME.json) would take the place of another's, or of a file that is no record.

    Raises:
        ValueError: there is one; the file is named.
        OSError: a folder bears a record's name.
    """
    records: set[Path] = set()
    for file in files:
        record = file.with_suffix(".json")
        if record in records:
            raise ValueError(f"output must be one name for each sound, got {record} twice; rename one of them")
        records.add(record)
        if record.is_dir():
            raise OSError(f"output must be a file, got the folder {record}; choose another name")
        try:
            found = read_json(record) if record.exists() else None
        except ValueError:
            found = None if file.exists() else {}  # beside its sound, it is a damaged record
        if found is not None and not (isinstance(found, dict) and {"num_samples", "sha256"} <= found.keys()):
            raise ValueError(
                f"output must leave {record} alone, got {file}, whose record it would be; rename one of them"
            )


def event_rows(
    events: Sequence[str],
    styles: Sequence[LocationStyle],
    *,
    seed: int = 0,
    wording: LexiconSplit = "train",
    num_azimuths: int = NUM_SECTORS,
) -> list[PromptRow]:
    """List every event at every azimuth of an even grid in every style that has words for it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    rows: list[PromptRow] = []
    for event in events:
        for azimuth_deg, speaking in _styles_by_azimuth(styles, num_azimuths):
            for style in speaking:
                words: dict[str, Any] = {"split": wording, "num_azimuths": num_azimuths}
                prompt = prompt_for(event, azimuth_deg, style, generator=generator, **words)
                file = f"{re.sub('[^a-z0-9]+', '-', event.lower()).strip('-')}-{style}^{azimuth_deg:g}.wav"
                facts: dict[str, Any] = {"azimuth_deg": azimuth_deg, "style": style, "label": event}
                rows.append(PromptRow(file=file, prompt=prompt, seed=len(rows), **facts))
    return rows


def _styles_by_azimuth(styles: Sequence[LocationStyle], num_azimuths: int) -> list[tuple[float, list[LocationStyle]]]:
    """List the azimuths of an even grid, degrees, each with those of the styles that have words for it.

    Raises:
        ValueError: a style is unknown.
    """
    named = {style: sector_grid_deg(num_directions(style, num_azimuths)) for style in styles}
    return [
        (azimuth, [style for style in styles if azimuth in named[style]]) for azimuth in sector_grid_deg(num_azimuths)
    ]


def standard_test_set(
    manifest_dir: Path,
    num: int,
    *,
    styles: Sequence[LocationStyle],
    seed: int = 0,
    split: Split = "test",
    wording: LexiconSplit = "train",
    num_azimuths: int = NUM_SECTORS,
) -> list[PromptRow]:
    """Draw a test set: held-out clips at azimuths, each prompt in one style. Paper sections V-C and V-D.

    The draw of clips and azimuths does not depend on the styles, so sets of one seed hold the same sounds in every
    wording (Table III); `dualspec prepare --test` lists the same. Azimuths are balanced; no clip stands twice at one
    azimuth; each prompt draws one of the styles that have words for its azimuth, and its general phrases are those seen
    in training or the others (`wording`). The paper has 5,000 clips at 12 azimuths.

    Raises:
        ValueError: the split holds fewer than `num` / `num_azimuths` clips, or no style has words for some azimuth.
    """
    import torch

    clips, generator = split_rows(manifest_dir, split), torch.Generator().manual_seed(seed)
    places, rows = _styles_by_azimuth(styles, num_azimuths), []
    if mute := [f"{azimuth:g}" for azimuth, speaking in places if not speaking]:
        raise ValueError(
            f"styles must have words for all {num_azimuths} azimuths, got {', '.join(styles)} without any for "
            f"{mute[0]} degrees; add doa, or take fewer azimuths"
        )
    for index, (clip_index, direction) in enumerate(draw_pairs(len(clips), num, seed=seed, num_azimuths=num_azimuths)):
        clip, (azimuth_deg, speaking) = clips[clip_index], places[direction]
        style = draw_location_style(generator, speaking)
        words: dict[str, Any] = {"split": wording, "num_azimuths": num_azimuths}
        prompt = prompt_for(clip.labels[0], azimuth_deg, style, generator=generator, **words)
        file = f"{clip.id.replace('/', '-')}^{azimuth_deg:g}.wav"
        facts: dict[str, Any] = {"azimuth_deg": azimuth_deg, "style": style, "label": clip.labels[0]}
        rows.append(PromptRow(file=file, prompt=prompt, seed=index, recording=clip.id, **facts))
    return rows


def _slug(prompt: str) -> str:
    """Turn a prompt into a short, safe file name."""
    words = re.sub(r"\b(event|location)\s*:", " ", prompt, flags=re.IGNORECASE).lower().replace("'", "")
    return "-".join(re.findall(r"[a-z0-9]+", words))[:_SLUG_CHARS].strip("-") or "clip"
