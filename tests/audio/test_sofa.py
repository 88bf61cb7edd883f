"""SOFA files: read as sofar reads them, and refused with a reason when damaged, hostile or swapped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dualspec.audio.azimuth import LEFT, RIGHT
from dualspec.audio.hrir import HrirSet, load_sofa, spherical_head

sofar = pytest.importorskip("sofar", reason="sofar writes the test files (extra dev)")


@pytest.fixture(scope="module")
def sphere() -> HrirSet:
    return spherical_head(num_directions=36, num_taps=64)


@pytest.fixture(scope="module")
def template(sphere: HrirSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SOFA file of the sphere, with one more direction above the horizontal plane, unsorted."""
    sofa = sofar.Sofa("SimpleFreeFieldHRIR")
    order = np.random.default_rng(0).permutation(37)
    positions = np.c_[np.append(sphere.azimuths_deg.numpy(), 90.0), np.append(np.zeros(36), 30.0), np.full(37, 1.5)]
    responses = np.concatenate([sphere.impulse_responses.double().numpy(), np.ones((1, 2, 64))])
    sofa.SourcePosition, sofa.Data_IR = positions[order], responses[order]
    sofa.Data_SamplingRate, sofa.Data_Delay = 16000, np.zeros((1, 2))
    sofa.GLOBAL_License, sofa.GLOBAL_ListenerShortName = "CC0\x1b[31m\nsecond line", "sphere"
    path = tmp_path_factory.mktemp("sofa") / "sphere.sofa"
    sofar.write_sofa(str(path), sofa)
    return path


@pytest.fixture
def edited(template: Path, tmp_path: Path) -> Callable[[Callable[[h5py.File], object]], Path]:
    def edit(change: Callable[[h5py.File], object]) -> Path:
        path = tmp_path / "edited.sofa"
        path.write_bytes(template.read_bytes())
        with h5py.File(path, "r+") as sofa:
            change(sofa)
        return path

    return edit


def swap(sofa: h5py.File, name: str, data: object, **options: object) -> None:
    """Put another dataset in place of one, keeping its attributes Type and Units."""
    attributes = {key: sofa[name].attrs[key] for key in ("Type", "Units") if key in sofa[name].attrs}
    del sofa[name]
    sofa.create_dataset(name, data=data, **options)
    sofa[name].attrs.update(attributes)


# --- the file as it should be -------------------------------------------------------------------------------------


def test_reads_what_was_written(template: Path, sphere: HrirSet) -> None:
    loaded = load_sofa(template)
    assert loaded.name == "sphere" and loaded.sample_rate == 16000
    assert loaded.licence == "CC0 [31m second line", "control characters must not reach a terminal"
    torch.testing.assert_close(loaded.azimuths_deg, sphere.azimuths_deg)
    torch.testing.assert_close(loaded.impulse_responses, sphere.impulse_responses)
    assert torch.equal(load_sofa(template, isolate=False).impulse_responses, loaded.impulse_responses)


def test_empty_texts_as_netcdf_writes_them_are_absent(edited: Callable[..., Path], sphere: HrirSet) -> None:
    def clear(sofa: h5py.File) -> None:
        sofa.attrs["Organization"] = h5py.Empty("S1")
        sofa.attrs["ListenerShortName"] = h5py.Empty("S1")

    read = load_sofa(edited(clear))
    assert "sphere" not in read.source and torch.equal(read.azimuths_deg, sphere.azimuths_deg)


@pytest.mark.parametrize(("head", "num_directions"), [("fabian", 180), ("hutubs_pp91", 36)])
def test_real_heads_equal_sofar(shared_data: Path, head: str, num_directions: int) -> None:
    path = shared_data / "hrir" / f"{head}.sofa"
    oracle = sofar.read_sofa(str(path), verify=False, verbose=False)
    rows = np.flatnonzero(np.abs(oracle.SourcePosition[:, 1]) < 0.5)
    rows = rows[np.argsort(oracle.SourcePosition[rows, 0])]
    loaded = load_sofa(path, sample_rate=None)
    assert loaded.sample_rate == 44100 and len(rows) == num_directions
    np.testing.assert_allclose(loaded.azimuths_deg.numpy(), oracle.SourcePosition[rows, 0], atol=1e-5)
    np.testing.assert_allclose(loaded.impulse_responses.numpy(), oracle.Data_IR[rows], atol=2e-7)
    assert "CC" in loaded.licence.upper() and loaded.source
    at_16k = load_sofa(path)
    assert at_16k.sample_rate == 16000 and at_16k.num_taps == 93
    for azimuth in range(0, 360, 30):
        assert float(at_16k.azimuths_deg[at_16k.nearest_index(azimuth)]) == azimuth


def test_cartesian_radian_and_turned_listener_give_the_same_directions(
    edited: Callable[..., Path], template: Path
) -> None:
    expected = load_sofa(template, isolate=False)

    def cartesian(sofa: h5py.File) -> None:
        azimuth, elevation, distance = sofa["SourcePosition"][()].T
        azimuth, elevation = np.deg2rad(azimuth), np.deg2rad(elevation)
        flat = distance * np.cos(elevation)
        sofa["SourcePosition"][...] = np.c_[
            flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)
        ]
        sofa["SourcePosition"].attrs.update({"Type": "cartesian", "Units": "metre"})

    def radian(sofa: h5py.File) -> None:
        sofa["SourcePosition"][...] = sofa["SourcePosition"][()] * [np.pi / 180, np.pi / 180, 1.0]
        sofa["SourcePosition"].attrs["Units"] = "radian, radian, metre"

    def turned(sofa: h5py.File) -> None:
        sofa["SourcePosition"][:, 0] = (sofa["SourcePosition"][:, 0] + 90.0) % 360.0
        sofa["ListenerView"][...] = [[0.0, 1.0, 0.0]]

    def moved(sofa: h5py.File) -> None:
        cartesian(sofa)
        sofa["SourcePosition"][...] = sofa["SourcePosition"][()] + [1.0, 2.0, 3.0]
        sofa["ListenerPosition"][...] = [[1.0, 2.0, 3.0]]

    for change in (cartesian, radian, turned, moved):
        loaded = load_sofa(edited(change), isolate=False)
        torch.testing.assert_close(loaded.azimuths_deg, expected.azimuths_deg, msg=change.__name__)
        assert torch.equal(loaded.impulse_responses, expected.impulse_responses), change.__name__


def test_data_delay_is_put_before_the_responses(edited: Callable[..., Path], sphere: HrirSet) -> None:
    whole = load_sofa(edited(lambda sofa: sofa["Data.Delay"].write_direct(np.array([[3.0, 3.0]]))), isolate=False)
    assert whole.num_taps == 67
    torch.testing.assert_close(whole.impulse_responses[..., 3:], sphere.impulse_responses)
    assert not whole.impulse_responses[..., :3].any()

    half = load_sofa(edited(lambda sofa: sofa["Data.Delay"].write_direct(np.array([[0.0, 0.5]]))), isolate=False)
    torch.testing.assert_close(half.impulse_responses[:, LEFT, :64], sphere.impulse_responses[:, LEFT])
    spectrum = torch.fft.rfft(sphere.impulse_responses[:, RIGHT].double(), n=256)
    moved = torch.fft.rfft(half.impulse_responses[:, RIGHT].double(), n=256)
    phase = torch.exp(-1j * torch.pi * torch.arange(129) / 128 * 0.5)
    torch.testing.assert_close(moved[:, :110], (spectrum * phase)[:, :110], atol=0.07, rtol=0)


# --- what must be refused -----------------------------------------------------------------------------------------


def test_missing_file_folder_and_foreign_bytes(tmp_path: Path, template: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^SOFA file '.*absent.sofa' must exist, got none; check the path$"):
        load_sofa(tmp_path / "absent.sofa")
    with pytest.raises(ValueError, match="must be a regular file"):
        load_sofa(tmp_path)
    content = template.read_bytes()
    for name, data in (("empty", b""), ("html", b"<html>not found</html>" * 99), ("cut", content[: len(content) // 2])):
        path = tmp_path / f"{name}.sofa"
        path.write_bytes(data)
        for isolate in (True, False):
            with pytest.raises(ValueError, match="must be an undamaged HDF5 file, got") as caught:
                load_sofa(path, isolate=isolate)
            assert "\n" not in str(caught.value)


def test_swapped_ears_and_reversed_azimuths_are_refused(edited: Callable[..., Path]) -> None:
    path = edited(lambda sofa: sofa["Data.IR"].write_direct(np.ascontiguousarray(sofa["Data.IR"][()][:, ::-1])))
    with pytest.raises(ValueError, match=r"must be earlier and louder in the left ear at 90 degrees, got .* swapped"):
        load_sofa(path)

    def clockwise(sofa: h5py.File) -> None:
        sofa["SourcePosition"][:, 0] = -sofa["SourcePosition"][:, 0] % 360.0

    with pytest.raises(ValueError, match="ears or azimuth sense are swapped"):
        load_sofa(edited(clockwise), isolate=False)


def external_bytes(sofa: h5py.File) -> None:
    shape = sofa["Data.IR"].shape
    canary = Path(sofa.filename).with_name("canary")
    canary.write_bytes(np.ones(shape).tobytes())
    del sofa["Data.IR"]
    sofa.create_dataset("Data.IR", shape=shape, dtype="f8", external=[(str(canary), 0, h5py.h5f.UNLIMITED)])


def external_link(sofa: h5py.File) -> None:
    other = Path(sofa.filename).with_name("other.h5")
    with h5py.File(other, "w") as target:
        target["secret"] = sofa["Data.IR"][()]
    del sofa["Data.IR"]
    sofa["Data.IR"] = h5py.ExternalLink(str(other), "/secret")


def virtual(sofa: h5py.File) -> None:
    shape = sofa["Data.IR"].shape
    layout = h5py.VirtualLayout(shape=shape, dtype="f8")
    layout[...] = h5py.VirtualSource("other.h5", "secret", shape=shape)
    del sofa["Data.IR"]
    sofa.create_virtual_dataset("Data.IR", layout)


def soft_link_loop(sofa: h5py.File) -> None:
    del sofa["Data.IR"]
    sofa["Data.IR"] = h5py.SoftLink("/Data.IR")


def declared_64_gib(sofa: h5py.File) -> None:
    del sofa["Data.IR"]
    sofa.create_dataset("Data.IR", shape=(2**20, 2, 4096), dtype="f8", chunks=(1, 2, 4096))


def big_chunk(sofa: h5py.File) -> None:
    del sofa["Data.IR"]
    sofa.create_dataset("Data.IR", shape=(37, 2, 8192), maxshape=(None, 2, 8192), dtype="f8", chunks=(4000, 2, 8192))


def not_finite(sofa: h5py.File) -> None:
    sofa["Data.IR"][:, 1, 5] = np.nan


def silent(sofa: h5py.File) -> None:
    sofa["Data.IR"][:, 1] = 0.0


def no_horizontal_plane(sofa: h5py.File) -> None:
    sofa["SourcePosition"][:, 1] = 20.0


def twice(sofa: h5py.File) -> None:
    sofa["SourcePosition"][:, :2] = 0.0


CRAFTED: dict[str, tuple[Callable[[h5py.File], object], str]] = {
    "external_bytes": (external_bytes, "Data.IR must lie in the file, got external or virtual storage"),
    "external_link": (external_link, "Data.IR must lie in the file, got a ExternalLink"),
    "virtual": (virtual, "Data.IR must lie in the file, got external or virtual storage"),
    "soft_link_loop": (soft_link_loop, "Data.IR must lie in the file, got a SoftLink"),
    "64_gib": (declared_64_gib, "Data.IR must hold 1 to 20000 positions of 1 to 8192 taps"),
    "big_chunk": (big_chunk, "Data.IR must have chunks of at most 256 MiB"),
    "lzf": (lambda s: swap(s, "Data.IR", s["Data.IR"][()], compression="lzf"), "stored plain or with gzip"),
    "text": (lambda s: swap(s, "Data.IR", "text"), "Data.IR must hold numbers"),
    "mono": (lambda s: swap(s, "Data.IR", s["Data.IR"][:, :1]), r"Data.IR must have shape \(M, 2, N\)"),
    "nan": (not_finite, "Data.IR must be finite"),
    "silent": (silent, "Data.IR must not be silent"),
    "no_ir": (lambda s: s.__delitem__("Data.IR"), "Data.IR must be present"),
    "no_positions": (lambda s: s.__delitem__("SourcePosition"), "SourcePosition must be present"),
    "no_rate": (lambda s: s.__delitem__("Data.SamplingRate"), "Data.SamplingRate must be present"),
    "group": (lambda s: (s.__delitem__("Data.IR"), s.create_group("Data.IR")), "Data.IR must be a dataset, got Group"),
    "no_unit": (lambda s: s["SourcePosition"].attrs.__delitem__("Units"), "SourcePosition must be cartesian"),
    "feet": (lambda s: s["SourcePosition"].attrs.update(Units="degree, degree, feet"), "SourcePosition must be cart"),
    "mixed_up": (lambda s: s["SourcePosition"].attrs.update(Units="radian, radian, metre"), "within one turn"),
    "0_hz": (lambda s: swap(s, "Data.SamplingRate", [0.0]), "one whole number of 8000 to 384000 Hz"),
    "1e9_hz": (lambda s: swap(s, "Data.SamplingRate", [1e9]), "one whole number of 8000 to 384000 Hz"),
    "many_hz": (lambda s: swap(s, "Data.SamplingRate", np.arange(37) + 16000.0), "one whole number of"),
    "khz": (lambda s: s["Data.SamplingRate"].attrs.update(Units="kilohertz"), "must be in hertz"),
    "no_plane": (no_horizontal_plane, "elevation 0, got 0; use a set with a horizontal plane"),
    "twice": (twice, "must name each direction once, got azimuth 0 degrees twice"),
    "delay": (lambda s: swap(s, "Data.Delay", [[-1.0, 0.0]]), "Data.Delay must lie between 0 and 8192"),
    "long_delay": (lambda s: swap(s, "Data.Delay", [[8190.0, 0.0]]), "Data.Delay must leave at most 8192 taps"),
    "view": (lambda s: swap(s, "ListenerView", [[0.0, 0.0, 0.0]]), "ListenerView must point somewhere"),
    "hrtf": (lambda s: s.attrs.update(SOFAConventions="SimpleFreeFieldHRTF"), "must be SimpleFreeFieldHRIR, got"),
    "number": (lambda s: s.attrs.update(License=5.0), "attribute License must be a text"),
}


@pytest.mark.parametrize("case", CRAFTED)
def test_crafted_files_are_refused_with_a_reason(edited: Callable[..., Path], case: str) -> None:
    change, reason = CRAFTED[case]
    with pytest.raises(ValueError, match=reason) as caught:
        load_sofa(edited(change), isolate=False)
    assert "\n" not in str(caught.value)


def test_child_process_gives_the_same_reason(edited: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"^SOFA file '.*': Data.IR must lie in the file, got external"):
        load_sofa(edited(external_bytes))


def test_flipped_bytes_never_raise_anything_else(template: Path, tmp_path: Path) -> None:
    """A short form of a run of 3,000 mutations that found nothing."""
    content, rng = template.read_bytes(), np.random.default_rng(0)
    for _ in range(80):
        damaged = bytearray(content)
        for position in rng.integers(0, 12000, size=int(rng.integers(1, 30))):
            damaged[position] = int(rng.integers(0, 256))
        path = tmp_path / "damaged.sofa"
        path.write_bytes(damaged)
        try:
            load_sofa(path, isolate=False)
        except ValueError as error:
            assert "\n" not in str(error)


def test_limits_are_checked_before_hdf5_sees_the_file(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "huge.sofa"
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(ValueError, match="must be at most 64 MiB, got 65 MiB"):
        load_sofa(path)
    for tolerance in (float("nan"), -1.0, 45.0):
        with pytest.raises(ValueError, match="elevation_tolerance_deg must be between 0 and 10"):
            load_sofa(template, elevation_tolerance_deg=tolerance)
