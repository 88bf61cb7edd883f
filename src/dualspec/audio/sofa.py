"""Strict reader of SOFA head responses: the only file that opens HDF5.

A SOFA file is an HDF5 container, and HDF5 can point into other files, load plugins and declare arrays far larger
than the file. This reader takes only what the SimpleFreeFieldHRIR convention needs, checks limits before it reads,
and imports nothing but h5py and numpy, so that it can also run as a child process with limited memory and time:
``python sofa.py FILE TOLERANCE`` answers one JSON line and the arrays on standard output.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

MAX_FILE_BYTES = 64 * 2**20
MAX_POSITIONS = 20_000
MAX_DIRECTIONS = 1_440
MAX_TAPS = 8_192
MAX_CHUNK_BYTES = 256 * 2**20
MIN_SAMPLE_RATE = 8_000
MAX_SAMPLE_RATE = 384_000
CHILD_MEMORY_BYTES = 2 * 2**30
CHILD_CPU_SECONDS = 20
CHILD_WALL_SECONDS = 120  # generous: a busy machine is no damaged file
EXIT_BAD_DATA = 65

_ALLOWED_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}
_DAMAGED = (OSError, RuntimeError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, UnicodeError)


@dataclass(frozen=True, kw_only=True)
class SofaContent:
    """The horizontal plane of one SOFA file, as stored: own sample rate, all delays applied by nobody yet."""

    azimuths_deg: np.ndarray
    """(A,) float64, degrees in [0, 360), ascending."""
    impulse_responses: np.ndarray
    """(A, 2, K) float64."""
    delays: np.ndarray
    """(A, 2) float64, samples to be put before each response."""
    sample_rate: int
    """Hz."""
    attributes: dict[str, str]
    """Texts of the file: License, DatabaseName, ListenerShortName, Organization, References, Title."""


def read_sofa(
    path: str | os.PathLike[str], *, elevation_tolerance_deg: float = 0.5, isolate: bool = True
) -> SofaContent:
    """Read the directions at elevation 0 from a SimpleFreeFieldHRIR file.

    Args:
        path: the SOFA file.
        elevation_tolerance_deg: largest |elevation| that counts as the horizontal plane, degrees.
        isolate: parse in a child process with limited memory and time, so that a damaged or hostile file can harm
            nothing; about 0.3 s. False parses here.

    Returns:
        The horizontal plane.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: the file is damaged, of another convention, or beyond a limit.
        OSError: the file cannot be opened.
    """
    file = Path(path)
    _check_file(file)
    if not 0.0 <= elevation_tolerance_deg <= 10.0:
        raise ValueError(
            f"elevation_tolerance_deg must be between 0 and 10, got {elevation_tolerance_deg}; 0.5 fits measured grids"
        )
    return _read_in_child(file, elevation_tolerance_deg) if isolate else _read_here(file, elevation_tolerance_deg)


def _check_file(file: Path) -> None:
    """Refuse what is no plain file of sensible size before HDF5 sees it."""
    try:
        status = file.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"SOFA file {str(file)!r} must exist, got none; check the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"SOFA file {str(file)!r} must be a regular file, got a folder or device; name one file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(
            f"SOFA file {str(file)!r} must be at most {MAX_FILE_BYTES >> 20} MiB, got {status.st_size >> 20} MiB; "
            "use a set with fewer directions or taps"
        )
    with file.open("rb"):  # no right to read is an OSError that says so
        pass


def _read_here(file: Path, elevation_tolerance_deg: float) -> SofaContent:
    """Parse in this process; every way in which HDF5 fails on a damaged file becomes one ValueError."""
    try:
        with h5py.File(file, "r", locking="best-effort") as sofa:
            return _read_content(sofa, elevation_tolerance_deg)
    except ValueError as error:
        reason = _one_line(error)
    except _DAMAGED as error:
        reason = f"must be an undamaged HDF5 file, got {type(error).__name__} ({_one_line(error)}); fetch it again"
    raise ValueError(f"SOFA file {str(file)!r}: {reason}")


def _read_content(sofa: h5py.File, elevation_tolerance_deg: float) -> SofaContent:
    attributes = _read_attributes(sofa)
    convention = attributes.pop("SOFAConventions", "none")
    if convention != "SimpleFreeFieldHRIR":
        raise ValueError(f"SOFAConventions must be SimpleFreeFieldHRIR, got {convention!r:.60}; use an HRIR export")
    responses = _dataset(sofa, "Data.IR")
    if responses.ndim != 3 or responses.shape[1] != 2:
        raise ValueError(f"Data.IR must have shape (M, 2, N), got {responses.shape}; use a set with one pair of ears")
    num_positions, _, num_taps = responses.shape
    if not (1 <= num_positions <= MAX_POSITIONS and 1 <= num_taps <= MAX_TAPS):
        raise ValueError(
            f"Data.IR must hold 1 to {MAX_POSITIONS} positions of 1 to {MAX_TAPS} taps, got {responses.shape}; "
            "shorten the set"
        )
    azimuths_deg, elevations_deg = _read_directions(sofa, num_positions)
    rows = np.flatnonzero(np.abs(elevations_deg) <= elevation_tolerance_deg)
    if not 1 <= len(rows) <= MAX_DIRECTIONS:
        raise ValueError(
            f"SourcePosition must hold 1 to {MAX_DIRECTIONS} directions within {elevation_tolerance_deg:g} degrees of "
            f"elevation 0, got {len(rows)}; use a set with a horizontal plane"
        )
    delays = _read_delays(sofa, num_positions)[rows]
    impulse_responses = _floats(responses, np.s_[rows, :, :])
    if not impulse_responses.any(axis=-1).all():
        raise ValueError("Data.IR must not be silent, got a response of zeros at elevation 0; fetch the file again")
    order = _distinct_order(azimuths_deg[rows], impulse_responses, delays)
    return SofaContent(
        azimuths_deg=azimuths_deg[rows][order],
        impulse_responses=impulse_responses[order],
        delays=delays[order],
        sample_rate=_read_sample_rate(sofa, num_positions),
        attributes=attributes,
    )


def _distinct_order(azimuths_deg: np.ndarray, impulse_responses: np.ndarray, delays: np.ndarray) -> np.ndarray:
    """Sort by azimuth and drop exact repeats; two different responses for one direction are refused."""
    order = np.argsort(azimuths_deg, kind="stable")
    keep = [order[0]]
    for row in order[1:]:
        last = keep[-1]
        if azimuths_deg[row] - azimuths_deg[last] > 1e-4:
            keep.append(row)
        elif not (
            np.array_equal(impulse_responses[row], impulse_responses[last])
            and np.array_equal(delays[row], delays[last])
        ):
            raise ValueError(
                f"SourcePosition must name each direction once, got azimuth {azimuths_deg[row]:g} degrees twice with "
                "different responses; use a set with one distance and one head orientation"
            )
    return np.asarray(keep)


def _read_attributes(sofa: h5py.File) -> dict[str, str]:
    names = ("SOFAConventions", "License", "DatabaseName", "ListenerShortName", "Organization", "References", "Title")
    return {name: text for name in names if (text := _attribute(sofa, name))}


def _attribute(owner: h5py.File | h5py.Dataset, name: str, default: str = "") -> str:
    """Read one text attribute: short, printable, on one line."""
    if name not in owner.attrs:
        return default
    identity = owner.attrs.get_id(name)
    if identity.get_space().get_simple_extent_type() == h5py.h5s.NULL:  # how NetCDF writes an empty text
        return default
    if identity.get_storage_size() > 2**16:
        raise ValueError(f"attribute {name} must be at most 64 KiB, got more; fetch the file again")
    value = owner.attrs[name]
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        raise ValueError(f"attribute {name} must be a text, got {type(value).__name__}; fetch the file again")
    printable = "".join(character if character.isprintable() else " " for character in value[:2000])
    return " ".join(printable.split())[:500]


def _dataset(sofa: h5py.File, name: str) -> h5py.Dataset:
    """Open one numeric dataset whose bytes lie in this file, packed by nothing but the standard filters."""
    link = sofa.get(name, getlink=True)
    if link is None:
        raise ValueError(f"{name} must be present, got a file without it; use a complete SimpleFreeFieldHRIR file")
    if not isinstance(link, h5py.HardLink):
        raise ValueError(f"{name} must lie in the file, got a {type(link).__name__}; links are not followed")
    dataset = sofa[name]
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"{name} must be a dataset, got {type(dataset).__name__}; fetch the file again")
    if dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} must lie in the file, got external or virtual storage; copy the data into the file")
    if dataset.dtype.kind not in "fiu" or dataset.dtype.itemsize > 8:
        raise ValueError(f"{name} must hold numbers of at most 64 bit, got {dataset.dtype}; fetch the file again")
    if dataset.shape is None:
        raise ValueError(f"{name} must hold numbers, got an empty dataset; fetch the file again")
    properties = dataset.id.get_create_plist()
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    if not filters <= _ALLOWED_FILTERS:
        raise ValueError(
            f"{name} must be stored plain or with gzip, got HDF5 filters {sorted(filters)}; repack the file"
        )
    if dataset.chunks and np.prod(dataset.chunks, dtype=np.float64) * dataset.dtype.itemsize > MAX_CHUNK_BYTES:
        raise ValueError(f"{name} must have chunks of at most {MAX_CHUNK_BYTES >> 20} MiB, got more; repack the file")
    return dataset


def _floats(dataset: h5py.Dataset, selection: object = np.s_[...]) -> np.ndarray:
    values = np.asarray(dataset[selection], dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{dataset.name.lstrip('/')} must be finite, got NaN or infinity; fetch the file again")
    return values


def _read_vectors(sofa: h5py.File, name: str, num_positions: int, default: tuple[float, float, float]) -> np.ndarray:
    """Read (1 or M, 3) coordinates as cartesian vectors; spherical ones are converted."""
    if name not in sofa and name != "SourcePosition":
        return np.asarray([default], dtype=np.float64)
    dataset = _dataset(sofa, name)
    if dataset.shape not in ((1, 3), (num_positions, 3)):
        raise ValueError(f"{name} must have shape (1, 3) or ({num_positions}, 3), got {dataset.shape}; fetch it again")
    return _to_cartesian(dataset, *_coordinate_type(sofa, name, dataset))


def _coordinate_type(sofa: h5py.File, name: str, dataset: h5py.Dataset) -> tuple[str, str]:
    """Find coordinate system and units; ListenerUp borrows those of ListenerView, as the standard has it."""
    if name == "ListenerUp" and "Type" not in dataset.attrs and "ListenerView" in sofa:
        dataset = _dataset(sofa, "ListenerView")
    kind = _attribute(dataset, "Type", "" if name == "SourcePosition" else "cartesian").lower()
    units = _attribute(dataset, "Units", "metre" if kind == "cartesian" and name != "SourcePosition" else "").lower()
    return kind, units


def _to_cartesian(dataset: h5py.Dataset, kind: str, units: str) -> np.ndarray:
    name = dataset.name.lstrip("/")
    words = [word.strip().rstrip("s") for word in units.replace(",", " ").split()]
    words = [{"meter": "metre", "m": "metre", "deg": "degree", "rad": "radian"}.get(word, word) for word in words]
    values = _floats(dataset)
    if kind == "cartesian" and words in (["metre"], ["metre"] * 3):
        return values
    if kind == "spherical" and words in (["degree", "degree", "metre"], ["radian", "radian", "metre"]):
        angles = np.deg2rad(values[:, :2]) if words[0] == "degree" else values[:, :2]
        if (np.abs(angles[:, 1]) > np.pi / 2 + 1e-6).any() or (np.abs(angles[:, 0]) > 4 * np.pi + 1e-6).any():
            raise ValueError(f"{name} must hold angles within one turn, got larger ones for {units!r}; check the units")
        flat = np.cos(angles[:, 1])
        directions = [flat * np.cos(angles[:, 0]), flat * np.sin(angles[:, 0]), np.sin(angles[:, 1])]
        return np.stack(directions, axis=-1) * values[:, 2:]
    raise ValueError(
        f"{name} must be cartesian in metre or spherical in degree/radian and metre, got Type {kind!r:.40} and "
        f"Units {units!r:.60}; correct the attributes"
    )


def _read_directions(sofa: h5py.File, num_positions: int) -> tuple[np.ndarray, np.ndarray]:
    """Give azimuth and elevation (M,), degrees, of each source as seen by the listener's head."""
    offset = _read_vectors(sofa, "SourcePosition", num_positions, (0, 0, 0)) - _read_vectors(
        sofa, "ListenerPosition", num_positions, (0, 0, 0)
    )
    view = _unit(_read_vectors(sofa, "ListenerView", num_positions, (1, 0, 0)), "ListenerView")
    up = _read_vectors(sofa, "ListenerUp", num_positions, (0, 0, 1))
    up = _unit(up - view * (up * view).sum(-1, keepdims=True), "ListenerUp")
    offset = _unit(np.broadcast_to(offset, (num_positions, 3)), "SourcePosition")
    front, left, top = (offset * view).sum(-1), (offset * np.cross(up, view)).sum(-1), (offset * up).sum(-1)
    azimuths_deg = np.round(np.rad2deg(np.arctan2(left, front)), 5) % 360.0
    return azimuths_deg, np.rad2deg(np.arctan2(top, np.hypot(front, left)))


def _unit(vectors: np.ndarray, name: str) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not ((lengths > 1e-6) & np.isfinite(lengths)).all():
        raise ValueError(f"{name} must point somewhere, got a vector without length; correct the file's geometry")
    return vectors / lengths


def _read_delays(sofa: h5py.File, num_positions: int) -> np.ndarray:
    if "Data.Delay" not in sofa:
        return np.zeros((num_positions, 2))
    dataset = _dataset(sofa, "Data.Delay")
    if dataset.shape not in ((1, 2), (num_positions, 2)):
        raise ValueError(
            f"Data.Delay must have shape (1, 2) or ({num_positions}, 2), got {dataset.shape}; fetch it again"
        )
    delays = _floats(dataset)
    if delays.min() < 0 or delays.max() > MAX_TAPS:
        raise ValueError(
            f"Data.Delay must lie between 0 and {MAX_TAPS} samples, got {delays.min():g} to {delays.max():g}; "
            "correct the file"
        )
    return np.broadcast_to(delays, (num_positions, 2))


def _read_sample_rate(sofa: h5py.File, num_positions: int) -> int:
    dataset = _dataset(sofa, "Data.SamplingRate")
    if dataset.shape not in ((), (1,), (num_positions,)):
        raise ValueError(f"Data.SamplingRate must have shape (1,), got {dataset.shape}; fetch the file again")
    units = _attribute(dataset, "Units", "hertz").lower()
    if units not in ("hertz", "hz"):
        raise ValueError(f"Data.SamplingRate must be in hertz, got {units!r:.40}; correct the attribute")
    rates = np.unique(_floats(dataset))
    if len(rates) != 1 or not MIN_SAMPLE_RATE <= rates[0] <= MAX_SAMPLE_RATE or rates[0] != round(rates[0]):
        raise ValueError(
            f"Data.SamplingRate must be one whole number of {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz, got "
            f"{rates[:3].tolist()}; correct the file"
        )
    return int(rates[0])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def _read_in_child(file: Path, elevation_tolerance_deg: float) -> SofaContent:
    """Run this file as a script on the SOFA file and take over what it prints."""
    # The child needs h5py and numpy only, and finds them where this process finds them.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-B", __file__, str(file), repr(float(elevation_tolerance_deg))]
    try:
        child = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHILD_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"SOFA file {str(file)!r} must be readable in {CHILD_WALL_SECONDS} s, got no end; fetch it again"
        ) from None
    message = child.stderr.decode("utf-8", errors="replace").strip()
    if child.returncode == EXIT_BAD_DATA:
        raise ValueError(message)
    if child.returncode < 0:
        raise ValueError(
            f"SOFA file {str(file)!r} must be an undamaged HDF5 file, got a reader stopped by signal "
            f"{-child.returncode}; fetch it again"
        )
    if child.returncode != 0:
        raise RuntimeError(f"SOFA reader process ended with exit code {child.returncode}: {message}")
    header, _, payload = child.stdout.partition(b"\n")
    fields = json.loads(header)
    num_directions, num_taps = fields["num_directions"], fields["num_taps"]
    numbers = np.frombuffer(payload, dtype="<f8").astype(np.float64)
    azimuths_deg, delays, responses = np.split(numbers, [num_directions, 3 * num_directions])
    return SofaContent(
        azimuths_deg=azimuths_deg,
        impulse_responses=responses.reshape(num_directions, 2, num_taps),
        delays=delays.reshape(num_directions, 2),
        sample_rate=fields["sample_rate"],
        attributes=fields["attributes"],
    )


def _limit_resources() -> None:
    """Bound memory and processor time of this process where the system can."""
    try:
        import resource
    except ImportError:  # not on Windows; the parent's time limit remains
        return
    limits = {resource.RLIMIT_AS: CHILD_MEMORY_BYTES, resource.RLIMIT_CPU: CHILD_CPU_SECONDS, resource.RLIMIT_CORE: 0}
    for kind, limit in limits.items():
        try:
            resource.setrlimit(kind, (limit, limit))
        except (ValueError, OSError):  # a stricter limit is in force already
            continue


def _main(path: str, elevation_tolerance_deg: str) -> int:
    _limit_resources()
    try:
        content = _read_here(Path(path), float(elevation_tolerance_deg))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_BAD_DATA
    num_directions, _, num_taps = content.impulse_responses.shape
    header = {
        "num_directions": num_directions,
        "num_taps": num_taps,
        "sample_rate": content.sample_rate,
        "attributes": content.attributes,
    }
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
    for array in (content.azimuths_deg, content.delays, content.impulse_responses):
        sys.stdout.buffer.write(np.ascontiguousarray(array, dtype="<f8").tobytes())
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2]))
