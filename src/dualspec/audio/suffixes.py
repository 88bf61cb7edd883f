"""What names of sound files end in: the one list for everything that looks for sound in folders and lists."""

import os
from pathlib import Path

_WAV = ("WAV", "WAVEX", "RF64")
CONTAINERS = {
    ".wav": _WAV,
    ".wave": _WAV,
    ".bwf": _WAV,
    ".rf64": _WAV,
    ".aif": ("AIFF",),
    ".aiff": ("AIFF",),
    ".aifc": ("AIFF",),
    ".flac": ("FLAC",),
    ".ogg": ("OGG",),
    ".oga": ("OGG",),
    ".opus": ("OGG",),
    ".mp3": ("MP3",),
}
"""Containers, as libsndfile calls them, that each suffix may stand for."""
READABLE_SUFFIXES = tuple(CONTAINERS)
"""Sound that can be read."""
OTHER_SUFFIXES = (
    *(".aac", ".amr", ".ape", ".au", ".caf", ".m4a", ".mp2"),
    *(".pcm", ".raw", ".snd", ".voc", ".w64", ".wma", ".wv"),
)
"""Sound that cannot be read: refused with its reason, and never passed over."""
CLIP_SUFFIXES = (".wav", ".flac")
"""Sound that is written here."""


def without_sound_suffix(name: str) -> str:
    """Take the suffix of a sound file from a name; what else follows a dot, as in "bark.1", belongs to the name."""
    stem, dot, suffix = name.rpartition(".")
    is_sound = dot + suffix.lower() in READABLE_SUFFIXES + OTHER_SUFFIXES
    return stem if is_sound and stem.rpartition("/")[2] else name


def is_sound_name(name: str) -> bool:
    """Tell by its end whether a file should be sound, whether it can be read or not."""
    return without_sound_suffix(name) != name


def find_sounds(folder: Path) -> list[tuple[Path, str | None]]:
    """List all below a folder by name: None beside what is named as sound, else why it is left out.

    "hidden" begins with a dot, as do the companions ("._name") that macOS writes on foreign disks, and a hidden folder
    counts as one; "not_sound" is any other file. What is named as sound may still be a pipe or a folder. Links to
    folders are not followed.

    Raises:
        OSError: a folder cannot be listed; it is named.
    """

    def refuse(error: OSError) -> None:
        raise error

    found: list[tuple[Path, str | None]] = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        named = [name for name in folders if name.startswith(".") or is_sound_name(name)]
        for name in (*named, *files):
            reason = "hidden" if name.startswith(".") else None if is_sound_name(name) else "not_sound"
            found.append((Path(parent, name), reason))
        folders[:] = [name for name in folders if not name.startswith(".")]
    return sorted(found, key=lambda pair: pair[0])
