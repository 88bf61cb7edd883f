"""One reader per corpus, each for the layout in which the corpus is published.

A reader yields every clip that its corpus lists, also those whose audio is absent: what is unusable is rejected, with a
reason, when the corpus is prepared. Recordings from Freesound share one namespace, because several corpora cut the same
recordings; a recording must never lie in two splits.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dualspec.audio.suffixes import find_sounds, is_sound_name, without_sound_suffix
from dualspec.data.listings import (
    LabelOrder,
    clean_label,
    clip_info,
    esc50_credits,
    find_audio,
    freesound_credit,
    licence_code,
    read_csv,
    read_number,
    read_vocabulary,
)
from dualspec.data.manifest import SPLITS, RejectRow, Split

URBANSOUND8K_CLASSES = (
    "air_conditioner",
    "car_horn",
    "children_playing",
    "dog_bark",
    "drilling",
    "engine_idling",
    "gun_shot",
    "jackhammer",
    "siren",
    "street_music",
)


@dataclass(frozen=True, kw_only=True)
class SourceClip:
    """One clip as a corpus lists it."""

    path: Path
    """Audio file; it may be absent."""
    corpus: str
    """Name of the reader."""
    clip_id: str
    """Name of the clip, unique in its corpus."""
    recording: str
    """"<namespace>:<id>" of the recording that the clip was cut from."""
    labels: tuple[str, ...]
    """Class labels in plain lower-case words, the most specific first."""
    licence: str
    """Licence code of the recording."""
    attribution: str
    """Whom to credit, and where the recording is found."""
    split_hint: Split | None = None
    """Split that the corpus' own partition gives; None leaves it to the rule on the recording."""


@dataclass(frozen=True, kw_only=True)
class CorpusSpec:
    """A corpus on disk."""

    name: str
    """Reader: one of the keys of READERS."""
    root: Path
    """Folder of the corpus in its original layout."""


def read_corpus(spec: CorpusSpec) -> Iterator[SourceClip]:
    """Yield the clips of a corpus.

    Args:
        spec: Reader and folder.

    Raises:
        FileNotFoundError: The folder or its list of clips is absent.
        ValueError: The reader is unknown, or a list has wrong columns or values; the message names the line.
    """
    if spec.name not in READERS:
        raise ValueError(
            f"corpus must be one of {', '.join(READERS)}, got {spec.name!r}; use folder for your own clips"
        )
    if not Path(spec.root).is_dir():
        raise FileNotFoundError(f"{spec.root} must be the folder of {spec.name}, got none; check the path")
    return READERS[spec.name](Path(spec.root))


def read_esc50(root: Path, *, corpus: str = "esc50") -> Iterator[SourceClip]:
    """ESC-50: `meta/esc50.csv` and `audio/<fold>-<source>-<take>-<target>.<suffix>`.

    Folds 1 to 3 train, 4 and 5 test. Each recording's licence is read from a `licence` column where there is one, else
    from the collection's LICENSE file, else it is the collection's CC BY-NC.
    """
    credits = esc50_credits(root / "LICENSE")
    for where, row in read_csv(
        root / "meta" / "esc50.csv", ("filename", "fold", "target", "category", "esc10", "src_file")
    ):
        if corpus == "esc10" and row["esc10"].strip().lower() != "true":
            continue
        if row["fold"] not in ("1", "2", "3", "4", "5"):
            raise ValueError(f"{where}: fold must be 1 to 5, got {row['fold']!r}; restore the original file")
        stem = without_sound_suffix(PurePosixPath(row["filename"]).name)
        licence, author = credits.get(stem.rpartition("-")[0], ("CC-BY-NC", ""))
        yield SourceClip(
            path=find_audio(root / "audio", row["filename"], where),
            corpus=corpus,
            clip_id=stem,
            recording=f"freesound:{read_number(row['src_file'], 'src_file', where)}",
            labels=(clean_label(row["category"]),),
            licence=licence_code(row["licence"]) if row.get("licence") else licence,
            attribution=freesound_credit(row["src_file"], author, "ESC-50"),
            split_hint="train" if row["fold"] in "123" else "test",
        )


def read_esc10(root: Path) -> Iterator[SourceClip]:
    """ESC-10: the rows of ESC-50 marked `esc10`."""
    return read_esc50(root, corpus="esc10")


def read_berklee(root: Path) -> Iterator[SourceClip]:
    """OLPC / Berklee sound library: `labels.csv` (file, label, category, keep) and `audio/`; rows with keep = 1.

    The recording is found by `berklee_recording`.
    """
    for where, row in read_csv(root / "labels.csv", ("file", "label", "category", "keep")):
        if row["keep"].strip() != "1":
            continue
        stem = without_sound_suffix(PurePosixPath(row["file"]).name)
        yield SourceClip(
            path=find_audio(root / "audio", row["file"], where),
            corpus="berklee",
            clip_id=stem,
            recording=f"berklee:{berklee_recording(stem)}",
            labels=(clean_label(row["label"]),),
            licence="CC-BY",
            attribution=f"{stem}, OLPC / Berklee College of Music sound library, http://wiki.laptop.org/go/Sound_samples",
        )


_BERKLEE_SUFFIXES = tuple(
    re.compile(pattern)
    for pattern in (
        r"\.wav.*$",  # marble_drop1.wav_09.35
        r"[_\-]*!?$",  # elevator_!, hallwaytalking_
        r"\([A-Za-z]+\)$",  # Slam(loud)
        r"\+[b#]?\d\w*$",  # casiohorn1+b3, Arp_note+2wholesteps
        r"(?:[_\-][A-Ga-g]|(?<=[a-z])[A-G])[#b]?\d+$",  # piano_Eb3, bamboo_a#4, prep_pianoC4
        r"[_\-](?:[Ll]ow|[Hh]igh)?[A-G]string$",  # guitar_LowEstring
        r"(?<=[a-z\d\-])[A-Z]{3,}(?:[a-z]{2,3})?$",  # hollowhitLOUD, woodblock_pitched-LOWERsol
        r"[_\-](?:do|re|mi|fa|sol|la|ti)$",  # woodblock_pitched-mi
        r"[_\-](?:high|higher|highmid|mid|lowmid|low|long|short|loud|soft|fast|slow|light|big|small|plural)$",
        r"(?<=[A-Za-z_\-])[_\-]*\d+(?:[_\-]?[A-Za-z]+)*$",  # bell_1a, bell2, iron_bell4_fast_harmonics
    )
)


def berklee_recording(stem: str) -> str:
    """Name the recording session that a Berklee file belongs to.

    The rule: take the file stem and remove from its end, as long as one is found, a take (number with an optional
    letter and remark), a pitch (note name, guitar string, solfège syllable, transposition) or a register, length or
    loudness word; a name that is one word twice counts once; lower case. Merging too much is harmless, too little would
    put one session into two splits.

    Args:
        stem: File name without suffix, for example "bell_2b".

    Returns:
        Recording id, for example "bell".
    """
    name, before = stem, ""
    while name != before:
        before = name
        for pattern in _BERKLEE_SUFFIXES:
            name = pattern.sub("", name, count=1) or name
    return re.sub(r"^(.+)_\1$", r"\1", name.lower())


_URBANSOUND8K_TABLE = Path("metadata", "UrbanSound8K.csv")


def read_urbansound8k(root: Path) -> Iterator[SourceClip]:
    """UrbanSound8K: `audio/fold<k>/<fsID>-<classID>-<occurrence>-<slice>.wav`, `metadata/UrbanSound8K.csv`.

    Without the metadata file, the clips are the files of the folds; their names say the same.
    """
    table = root / _URBANSOUND8K_TABLE
    if table.is_file():
        listed = [
            (where, row["slice_file_name"], row["fold"]) for where, row in read_csv(table, ("slice_file_name", "fold"))
        ]
    else:
        inside = find_sounds(root / "audio") if (root / "audio").is_dir() else []
        files = [path for path, reason in inside if reason is None and _is_in_fold(path)]
        if not files:
            raise FileNotFoundError(f"{table} must exist, got neither it nor audio/fold*/ files; check the path")
        listed = [(str(path), path.name, path.parent.name.removeprefix("fold")) for path in files]
    for where, file_name, fold in listed:
        match = re.fullmatch(r"(\d+)-(\d)-\d+-\d+", without_sound_suffix(file_name))
        if not match:
            raise ValueError(f"{where}: file name must be fsID-classID-occurrence-slice, got {file_name!r}; restore it")
        yield SourceClip(
            path=find_audio(root / "audio" / f"fold{read_number(fold, 'fold', where)}", file_name, where),
            corpus="urbansound8k",
            clip_id=match.string,
            recording=f"freesound:{match[1]}",
            labels=(clean_label(URBANSOUND8K_CLASSES[int(match[2])]),),
            licence="CC-BY-NC",
            attribution=freesound_credit(match[1], "", "UrbanSound8K"),
        )


def read_fsd50k(root: Path) -> Iterator[SourceClip]:
    """FSD50K: `FSD50K.ground_truth/{dev,eval,vocabulary}.csv`, `FSD50K.{dev,eval}_audio/<id>.wav`.

    dev.csv holds fname, labels, mids and split (train, val), eval.csv the first three, vocabulary.csv, which has no
    header, index, label and mid. Licences (URLs) and uploaders come from
    `FSD50K.metadata/{dev,eval}_clips_info_FSD50K.json`. Labels are propagated upwards in the ontology; they are put
    into an order from specific to general.
    """
    truth = root / "FSD50K.ground_truth"
    columns = {"dev": ("fname", "labels", "split"), "eval": ("fname", "labels")}
    tables = {part: list(read_csv(truth / f"{part}.csv", columns[part])) for part in columns}
    order = LabelOrder([row["labels"].split(",") for table in tables.values() for _, row in table])
    known = read_vocabulary(truth / "vocabulary.csv")
    splits: dict[str, Split] = {"train": "train", "val": "valid", "eval": "test"}
    for part, table in tables.items():
        info = clip_info(root / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json")
        for where, row in table:
            number, split, labels = read_number(row["fname"], "fname", where), row.get("split", part), row["labels"]
            unknown = sorted(set(labels.split(",")) - known) if known else []
            if split not in splits or unknown:
                raise ValueError(
                    f"{where}: split must be train or val and labels be in vocabulary.csv, got {split!r}, {unknown}; "
                    "restore the original file"
                )
            licence, author = info.get(number, ("unknown", ""))
            yield SourceClip(
                path=find_audio(root / f"FSD50K.{part}_audio", f"{number}.wav", where),
                corpus="fsd50k",
                clip_id=number,
                recording=f"freesound:{number}",
                labels=tuple(clean_label(label) for label in order.specific_first(labels.split(","))),
                licence=licence,
                attribution=freesound_credit(number, author, "FSD50K"),
                split_hint=splits[split],
            )


def read_arca23k(root: Path) -> Iterator[SourceClip]:
    """ARCA23K: `ARCA23K.ground_truth/train.csv` (fname, label, mid), `ARCA23K.audio/<id>.wav`.

    These are the clips that are its own. Its validation and test lists name clips of FSD50K, whose audio is not part of
    it: the reader of FSD50K has them. Licences and authors come from the JSON files of clip infos in
    `ARCA23K.metadata`; without them the licence is "unknown".
    """
    info: dict[str, tuple[str, str]] = {}
    for path in sorted((root / "ARCA23K.metadata").glob("*.json")):
        info |= clip_info(path)
    for where, row in read_csv(root / "ARCA23K.ground_truth" / "train.csv", ("fname", "label")):
        number = read_number(row["fname"], "fname", where)
        licence, author = info.get(number, ("unknown", ""))
        yield SourceClip(
            path=find_audio(root / "ARCA23K.audio", f"{number}.wav", where),
            corpus="arca23k",
            clip_id=number,
            recording=f"freesound:{number}",
            labels=(clean_label(row["label"]),),
            licence=licence,
            attribution=freesound_credit(number, author, "ARCA23K"),
            split_hint="train",
        )


def read_folder(root: Path) -> Iterator[SourceClip]:
    """Clips of your own: folders named by label, `<label>/**/<clip>`, or any tree with `labels.csv`.

    The list has the columns file, label, and as wanted licence, recording, split, attribution. Several labels are
    separated by semicolons. Without `recording` every file is its own recording; "freesound:<id>" joins it with the
    same recording in other corpora.

    Raises:
        FileNotFoundError: There is neither a list nor a sound in a folder of its own.
    """
    if (root / "labels.csv").exists():
        yield from _listed_folder(root)
        return
    files = [path for path, reason in _own_files(root) if reason is None]
    if not files:
        raise FileNotFoundError(f"{root} must hold LABEL/CLIP.wav files or labels.csv, got neither; check the path")
    for path in files:
        file = path.relative_to(root).as_posix()
        yield _own_clip(path, file, {"label": path.relative_to(root).parts[0]}, file)


def _own_files(root: Path) -> list[tuple[Path, str | None]]:
    """List the files of a folder without a list, and why some are left out; folders of labels may be links."""
    found: list[tuple[Path, str | None]] = []
    for entry in sorted(root.iterdir()):
        if entry.name.startswith("."):
            found.append((entry, "hidden"))
        elif entry.is_dir():
            found += find_sounds(entry)
        else:
            found.append((entry, "no_label" if is_sound_name(entry.name) else "not_sound"))
    return found


def left_out(spec: CorpusSpec) -> list[RejectRow]:
    """List the files of a folder that its reader passes over, each with the reason; a list decides for itself.

    Raises:
        OSError: a folder cannot be listed.
    """
    root = Path(spec.root)
    if spec.name == "folder" and not (root / "labels.csv").exists():
        found = _own_files(root)
    elif spec.name == "urbansound8k" and not (root / _URBANSOUND8K_TABLE).is_file():
        found = find_sounds(root / "audio")
        found = [(path, reason if reason or _is_in_fold(path) else "no_label") for path, reason in found]
    else:
        return []
    words = {"hidden": "its name begins with a dot", "not_sound": "its name is not that of a sound file"}
    words["no_label"] = "it lies in no folder that names its label"
    rows = []
    for path, reason in found:
        if reason is not None:
            name = path.relative_to(root).as_posix().encode(errors="backslashreplace").decode()
            rows.append(RejectRow(id=f"{spec.name}/{name}", corpus=spec.name, reason=reason, detail=words[reason]))
    return rows


def _is_in_fold(path: Path) -> bool:
    return re.fullmatch(r"fold\d+", path.parent.name) is not None


def _listed_folder(root: Path) -> Iterator[SourceClip]:
    for where, row in read_csv(root / "labels.csv", ("file", "label")):
        yield _own_clip(find_audio(root, row["file"], where), row["file"], row, where)


def _own_clip(path: Path, file: str, row: Mapping[str, str], where: str) -> SourceClip:
    clip_id = without_sound_suffix(PurePosixPath(file).as_posix())
    labels = tuple(label for label in (clean_label(part) for part in row["label"].split(";")) if label)
    split = row.get("split", "").strip() or None
    if not labels or (split is not None and split not in SPLITS):
        raise ValueError(
            f"{where}: label must not be empty and split be one of {SPLITS}, got {dict(row)}; correct the line"
        )
    recording = row.get("recording", "").strip() or clip_id
    return SourceClip(
        path=path,
        corpus="folder",
        clip_id=clip_id,
        recording=recording if re.fullmatch(r"\w+:.+", recording) else f"folder:{recording}",
        labels=labels,
        licence=licence_code(row.get("licence", "")),
        attribution=row.get("attribution", "").strip() or f"{file}, own collection",
        split_hint=split,  # type: ignore[arg-type]  # checked above
    )


READERS: Mapping[str, Callable[[Path], Iterator[SourceClip]]] = {
    "arca23k": read_arca23k,
    "urbansound8k": read_urbansound8k,
    "esc50": read_esc50,
    "esc10": read_esc10,
    "fsd50k": read_fsd50k,
    "berklee": read_berklee,
    "folder": read_folder,
}
