"""What the lists that come with corpora have in common: CSV tables, file names, labels, licences, credits."""

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from dualspec.audio.suffixes import READABLE_SUFFIXES, without_sound_suffix
from dualspec.files import read_bytes, read_json, read_lines

OPEN_LICENCES = ("CC0", "CC-BY")
_MAX_METADATA_BYTES = 256 * 1024 * 1024


def clean_label(label: str) -> str:
    """Turn a class name into plain lower-case words of composed letters (NFC): "Dog_bark" becomes "dog bark"."""
    return " ".join(unicodedata.normalize("NFC", label).replace("_", " ").lower().split())


def licence_code(text: str) -> str:
    """Turn a licence name or URL into a code.

    Args:
        text: For example "http://creativecommons.org/licenses/by/3.0/", "Attribution Noncommercial" or "CC0".

    Returns:
        "CC0", "CC-Sampling+", "CC-BY" and its kinds with "-NC", "-SA" and "-ND"; the text itself where it is none of
        these; "unknown" where there is no text.
    """
    words = " ".join(text.lower().replace("-", " ").replace("_", " ").replace("/", " ").split())
    if not words:
        return "unknown"
    if "sampling+" in words or "sampling plus" in words:
        return "CC-Sampling+"
    if re.search(r"\bcc ?0\b|publicdomain zero|commons 0|commons zero", words):
        return "CC0"
    if not re.search(r"\bby\b|\battribution\b", words):
        return text.strip()
    code = "CC-BY"
    for pattern, part in (
        (r"\bnc\b|non ?commercial", "-NC"),
        (r"\bsa\b|share ?alike", "-SA"),
        (r"\bnd\b|no ?deriv", "-ND"),
    ):
        code += part if re.search(pattern, words) else ""
    return code


class LabelOrder:
    """Order of propagated labels, found from the label sets: a label that always comes with another is below it."""

    def __init__(self, label_sets: Sequence[Sequence[str]]) -> None:
        self._counts = Counter(label for labels in label_sets for label in labels)
        self._always: dict[str, set[str]] = {}
        for labels in label_sets:
            for label in labels:
                known = self._always.get(label)
                self._always[label] = set(labels) if known is None else known & set(labels)

    def specific_first(self, labels: Sequence[str]) -> list[str]:
        """Put leaves first, then the more general labels; ties keep the order of the corpus."""
        above = {
            other for label in labels for other in self._always[label] if self._counts[other] > self._counts[label]
        }
        return [label for label in labels if label not in above] + sorted(
            (label for label in labels if label in above), key=lambda label: self._counts[label]
        )


def read_csv(path: Path, required: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV file with the place of each, "file:line"."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must list the clips, got none; check that the folder is the corpus' own")
    reader = csv.DictReader(_csv_lines(path))
    try:
        missing = [name for name in required if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"{path} must have the columns {', '.join(required)}, got none of {missing}; restore the file"
            )
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(
                    f"{where} must have {len(reader.fieldnames or ())} fields, got another number; correct it"
                )
            yield where, row
    except csv.Error as error:
        raise ValueError(
            f"{path} must be CSV, got an error near line {reader.line_num}: {error}; correct it"
        ) from error


def _csv_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a table; they may end as on old Macs, too."""
    for _, line in read_lines(path, max_bytes=_MAX_METADATA_BYTES):
        yield from re.split(r"(?<=\r)(?!\n|$)", line)


def read_vocabulary(path: Path) -> set[str]:
    """Read the labels of a vocabulary without header: index, label, mid; empty without the file."""
    if not path.is_file():
        return set()
    try:
        rows = list(csv.reader(_csv_lines(path)))
    except csv.Error as error:
        raise ValueError(f"{path} must be CSV, got an error: {error}; restore the original file") from error
    if not rows or any(len(row) != 3 for row in rows):
        raise ValueError(f"{path} must hold index, label and mid in every line, got others; restore the original file")
    return {row[1] for row in rows}


def find_audio(folder: Path, file_name: str, where: str) -> Path:
    """Return the listed file, or one of the same name in another container; the listed path where there is none.

    Letters may be composed in the list and decomposed on the disk (NFC, NFD), or the other way round.
    """
    relative = PurePosixPath(file_name)
    too_long = any(len(part.encode()) > 255 for part in relative.parts)  # for any file system
    if not file_name or relative.is_absolute() or ".." in relative.parts or "\0" in file_name or too_long:
        raise ValueError(f"{where}: file must be a relative path inside the corpus, got {file_name!r:.80}; correct it")
    listed = folder / relative
    if listed.is_file():
        return listed
    stem = without_sound_suffix(file_name)
    names = [file_name, *(stem + suffix for suffix in READABLE_SUFFIXES)]
    forms = dict.fromkeys(folder / unicodedata.normalize(form, name) for name in names for form in ("NFC", "NFD"))
    return next((path for path in forms if _is_file(path)), listed)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # with another suffix the name may be too long
        return False


def read_number(text: str, name: str, where: str) -> str:
    """Return the digits of a field that must be a number."""
    if not re.fullmatch(r"\d{1,12}", text.strip()):
        raise ValueError(f"{where}: {name} must be a number, got {text!r}; restore the original file")
    return text.strip()


def freesound_credit(number: str, author: str, collection: str) -> str:
    """Say whom to credit for a Freesound recording, and where it is; the author may be unknown ("")."""
    who = f"by {author}, " if author else ""
    return f"Freesound {number} {who}https://freesound.org/s/{number}/, by way of {collection}"


def esc50_credits(path: Path) -> dict[str, tuple[str, str]]:
    """Read licence and author of each clip "<fold>-<source>-<take>" from ESC-50's LICENSE; empty without the file."""
    if not path.is_file():
        return {}
    pattern = re.compile(r"^- \[(\d-\d+-[A-Z])\.\w+\]:.*\) by (.+) \[([^\]]+)\]\s*$", re.MULTILINE)
    text = read_bytes(path, max_bytes=_MAX_METADATA_BYTES).decode("utf-8", "replace")
    return {match[1]: (licence_code(match[3]), match[2]) for match in pattern.finditer(text)}


def clip_info(path: Path) -> dict[str, tuple[str, str]]:
    """Read licence and author of each clip from JSON; empty without the file.

    Args:
        path: an object of infos by clip id (FSD50K), or a list of infos with "id"; each has "license", a URL or a name,
            and "uploader" (FSD50K) or "username" (Freesound's own word).
    """
    if not path.is_file():
        return {}
    data = read_json(path, max_bytes=_MAX_METADATA_BYTES)
    listed = isinstance(data, list) and all(isinstance(info, dict) and "id" in info for info in data)
    infos = {info["id"]: info for info in data} if listed else data
    if not isinstance(infos, dict) or not all(isinstance(info, dict) for info in infos.values()):
        raise ValueError(f"{path} must map clip ids to their infos, got something else; restore the original file")
    return {
        str(number): (
            licence_code(str(info.get("license", ""))),
            str(info.get("uploader") or info.get("username") or ""),
        )
        for number, info in infos.items()
    }
