"""Which clips at which azimuths: the paper's 50,000 pairs for training and 5,000 for the test, as lists.

A list is JSON lines of a clip's id and an azimuth. Training and test clips are of different recordings, because the
corpus was split by recording.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dualspec.audio.azimuth import NUM_SECTORS, check_azimuth_deg, class_azimuth_deg
from dualspec.data.manifest import ManifestRow, Split, json_lines, read_manifest
from dualspec.files import parse_json, write_text_atomic


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One clip at one azimuth."""

    clip: str
    """Id of the clip in the manifest."""
    azimuth_deg: float
    """Degrees in [0, 360), 90 is left."""

    def __post_init__(self) -> None:
        """Refuse what is no id or no azimuth."""
        if not isinstance(self.clip, str) or not self.clip:
            raise ValueError(f"clip must be an id of the manifest, got {self.clip!r:.80}; select the pairs again")
        check_azimuth_deg(self.azimuth_deg)


def draw_pairs(num_clips: int, num: int, *, seed: int, num_azimuths: int = NUM_SECTORS) -> list[tuple[int, int]]:
    """Draw clips at azimuths, without a pair twice; a pure function of its arguments.

    Every clip is taken once before any is taken again, and the first pairs of a draw are those of a smaller one.
    However many are drawn, the counts of two azimuths differ by one at most.

    Args:
        num_clips: Clips to draw from.
        num: Pairs wanted, at most one for each clip and azimuth.
        seed: Seed of the draw.
        num_azimuths: Azimuths, evenly spaced from 0.

    Returns:
        Clip index and azimuth index of each pair.

    Paper section V-C.
    """
    if not 1 <= num <= num_clips * num_azimuths:
        raise ValueError(
            f"num must be 1 to {num_clips * num_azimuths} with {num_clips} clips at {num_azimuths} azimuths, "
            f"got {num}; take fewer"
        )
    import torch

    order = torch.randperm(num_clips, generator=torch.Generator().manual_seed(seed)).tolist()
    # Counting up through the azimuths meets no pair twice before their common multiple with the clips; then one on.
    period = math.lcm(num_clips, num_azimuths)
    return [(order[index % num_clips], (index + index // period) % num_azimuths) for index in range(num)]


def split_rows(manifest_dir: str | Path, split: Split) -> list[ManifestRow]:
    """Return the manifest rows of a split; an empty one is refused."""
    rows = [row for row in read_manifest(manifest_dir) if row.split == split]
    if not rows:
        raise ValueError(f"{manifest_dir} must hold {split} clips, got none; prepare a corpus with that split")
    return rows


def select_pairs(manifest_dir: str | Path, split: Split, num: int, *, seed: int) -> list[Pair]:
    """Draw pairs from one split of a prepared corpus.

    Args:
        manifest_dir: Folder of the corpus.
        split: "train", "valid" or "test".
        num: Pairs.
        seed: Seed of the draw.

    Raises:
        ValueError: The split is empty or has fewer than `num` / 12 clips.
    """
    rows = split_rows(manifest_dir, split)
    return [
        Pair(clip=rows[index].id, azimuth_deg=float(class_azimuth_deg(sector)))
        for index, sector in draw_pairs(len(rows), num, seed=seed)
    ]


def write_pairs(path: str | Path, pairs: Sequence[Pair]) -> None:
    """Write a list; the file appears whole or not at all."""
    lines = (json.dumps({"clip": pair.clip, "azimuth_deg": pair.azimuth_deg}, ensure_ascii=False) for pair in pairs)
    write_text_atomic(Path(path), "".join(f"{line}\n" for line in lines))


def read_pairs(path: str | Path) -> list[Pair]:
    """Read a list strictly.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, or a line is no pair or stands twice; the line is named.
    """
    pairs: dict[Pair, None] = {}
    for where, line in json_lines(Path(path)):
        data = parse_json(line, where)
        if not isinstance(data, dict) or set(data) != {"clip", "azimuth_deg"}:
            raise ValueError(f"{where} must hold clip and azimuth_deg alone, got {line.strip()[:80]!r}; select again")
        try:
            pair = Pair(**data)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if pair in pairs:
            raise ValueError(f"{where}: pairs must be unique, got {pair.clip} at {pair.azimuth_deg:g} twice")
        pairs[pair] = None
    if not pairs:
        raise ValueError(f"{path} must hold pairs, got none; select them by `dualspec prepare --select`")
    return list(pairs)
