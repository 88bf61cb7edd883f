"""HRIR sets: directions, convention check, resampling, the analytic head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dualspec.audio.azimuth import LEFT, RIGHT
from dualspec.audio.hrir import HrirSet, check_convention, load_sofa, spherical_head
from dualspec.hearing.cues import target_cues


@pytest.fixture(scope="module")
def sphere() -> HrirSet:
    return spherical_head(num_directions=36, num_taps=64)


def test_swapped_ears_are_refused_in_time_and_in_level(sphere: HrirSet) -> None:
    check_convention(sphere)
    with pytest.raises(ValueError, match=r"earlier and louder in the left ear at 90 degrees, got -\d+ us .* swapped"):
        check_convention(replace(sphere, impulse_responses=sphere.impulse_responses.flip(1)))
    quiet = sphere.impulse_responses.clone()
    quiet[:, LEFT] *= 0.01
    with pytest.raises(ValueError, match="louder in the left ear at 90"):
        check_convention(replace(sphere, impulse_responses=quiet))
    front_only = replace(
        sphere, azimuths_deg=sphere.azimuths_deg[:2].clone(), impulse_responses=sphere.impulse_responses[:2]
    )
    with pytest.raises(ValueError, match="without lateral directions"):
        check_convention(front_only)


@pytest.mark.parametrize("head", ["fabian", "hutubs_pp91"])
def test_real_heads_with_swapped_ears_are_refused(shared_data: Path, head: str) -> None:
    loaded = load_sofa(shared_data / "hrir" / f"{head}.sofa")
    with pytest.raises(ValueError, match="ears or azimuth sense are swapped"):
        check_convention(replace(loaded, impulse_responses=loaded.impulse_responses.flip(1)))


# --- directions ---------------------------------------------------------------------------------------------------


def test_nearest_direction_wraps_and_keeps_its_tolerance(sphere: HrirSet) -> None:
    assert [sphere.nearest_index(angle) for angle in (0.0, 359.5, 90.4, -90.0, 350.0)] == [0, 0, 9, 27, 35]
    assert torch.equal(sphere.at(torch.tensor([90.0, 0.0])), sphere.impulse_responses[[9, 0]])
    with pytest.raises(ValueError, match=r"within 1 degrees of a direction of 'spherical_head', got 94 with .* at 90"):
        sphere.nearest_index(94.0)
    assert sphere.nearest_index(94.0, tolerance_deg=5.0) == 9
    with pytest.raises(ValueError, match="azimuths_deg must be finite"):
        sphere.at([float("nan")])
    with pytest.raises(ValueError, match='method must be "nearest" or "interpolate"'):
        sphere.at([0.0], method="linear")  # type: ignore[arg-type]


def test_interpolation_returns_stored_directions_unchanged(sphere: HrirSet) -> None:
    assert torch.equal(sphere.at(sphere.azimuths_deg, method="interpolate"), sphere.impulse_responses)


def test_interpolated_sphere_is_near_the_computed_one() -> None:
    fine, coarse = spherical_head(num_directions=360), spherical_head(num_directions=36)
    angles = fine.azimuths_deg
    error = coarse.at(angles, method="interpolate") - fine.impulse_responses
    snr_db = 10 * torch.log10(fine.impulse_responses.square().sum(-1) / error.square().sum(-1).clamp_min(1e-12))
    assert float(snr_db.min()) > 20.0
    crossfade = 0.5 * (coarse.at([40.0]) + coarse.at([50.0])) - fine.at([45.0])
    aligned = coarse.at([45.0], method="interpolate") - fine.at([45.0])
    assert float(aligned.norm()) < 0.2 * float(crossfade.norm())


def test_interpolated_real_head_is_near_the_measured_one(shared_data: Path) -> None:
    head = load_sofa(shared_data / "hrir" / "fabian.sofa")
    coarse = replace(head, azimuths_deg=head.azimuths_deg[::5].clone(), impulse_responses=head.impulse_responses[::5])
    error = coarse.at(head.azimuths_deg, method="interpolate") - head.impulse_responses
    snr_db = 10 * torch.log10(head.impulse_responses.square().sum(-1) / error.square().sum(-1).clamp_min(1e-12))
    assert float(snr_db.median()) > 25.0 and float(snr_db.min()) > 10.0


@pytest.mark.parametrize(("name", "slack_db"), [("fabian", 0.02), ("hutubs_pp91", 0.5)])
def test_directions_between_those_of_a_real_head_have_cues_between_theirs(
    shared_data: Path, name: str, slack_db: float
) -> None:
    """The 36 odd multiples of 5 degrees on heads measured every 2 and every 10 degrees; ILD may leave the range a bit.

    Blended far ears lose a little of what does not fit together, the more the wider the gap.
    """
    head = load_sofa(shared_data / "hrir" / f"{name}.sofa")
    between, stored = [5.0 + 10.0 * index for index in range(36)], head.azimuths_deg
    above = torch.searchsorted(stored, torch.tensor(between, dtype=torch.float64)) % len(stored)
    own = target_cues(head, between, method="interpolate")
    sides = [target_cues(head, stored[rows]) for rows in (above - 1, above)]
    for cue, slack in (("itd_us", 1e-6), ("ild_db", slack_db)):
        values, one, other = (getattr(cues, cue) for cues in (own, *sides))
        outside = torch.maximum(torch.minimum(one, other) - values, values - torch.maximum(one, other))
        assert float(outside.max()) < slack, (cue, between[int(outside.argmax())])


def test_interpolation_refuses_wide_gaps(sphere: HrirSet) -> None:
    cross = replace(
        sphere, azimuths_deg=sphere.azimuths_deg[::9].clone(), impulse_responses=sphere.impulse_responses[::9]
    )
    assert torch.equal(cross.at([270.0], method="interpolate"), sphere.at([270.0]))
    with pytest.raises(ValueError, match="at most 30 degrees apart, got 300 in a gap of 90"):
        cross.at([90.0, 300.0], method="interpolate")


# --- resampling and the set itself --------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [16000, 22050, 48000])
def test_resampling_keeps_gain_and_onset_delays(sample_rate: int) -> None:
    head = spherical_head(num_directions=12, sample_rate=44100, num_taps=256)
    moved = head.resample(sample_rate)
    assert moved.sample_rate == sample_rate and moved.num_taps == -(-256 * sample_rate // 44100)
    frequency = np.linspace(100.0, 6500.0, 200)

    def response(hrirs: HrirSet) -> np.ndarray:
        times = np.arange(hrirs.num_taps) / hrirs.sample_rate
        return hrirs.impulse_responses.double().numpy() @ np.exp(-2j * np.pi * np.outer(times, frequency))

    np.testing.assert_allclose(response(moved), response(head), atol=0.02)
    assert head.resample(44100) is head


def test_resampling_refuses_odd_rates(sphere: HrirSet) -> None:
    for sample_rate in (0, 7999, 10**9):
        with pytest.raises(ValueError, match="sample_rate must be between 8000 and 384000"):
            sphere.resample(sample_rate)
    with pytest.raises(ValueError, match="sample_rate must be a whole number"):
        sphere.resample(16000.5)  # type: ignore[arg-type]


def test_set_refuses_broken_fields(sphere: HrirSet) -> None:
    with pytest.raises(ValueError, match="azimuths_deg must be float64"):
        replace(sphere, azimuths_deg=sphere.azimuths_deg.float())
    with pytest.raises(ValueError, match="azimuths_deg must be ascending"):
        replace(sphere, azimuths_deg=sphere.azimuths_deg.flip(0))
    with pytest.raises(ValueError, match="impulse_responses must be float32 with shape"):
        replace(sphere, impulse_responses=sphere.impulse_responses[:, :1])
    with pytest.raises(ValueError, match="impulse_responses must be finite"):
        replace(sphere, impulse_responses=sphere.impulse_responses * float("inf"))


# --- the analytic head --------------------------------------------------------------------------------------------


def test_sphere_is_mirror_symmetric_and_obeys_the_convention() -> None:
    for num_directions in (4, 12, 37, 360):
        head = spherical_head(num_directions=num_directions)
        mirrored = -torch.arange(num_directions) % num_directions
        assert torch.equal(head.impulse_responses.flip(1), head.impulse_responses[mirrored])
    check_convention(head)
    assert torch.equal(head.at([0.0])[:, LEFT], head.at([0.0])[:, RIGHT])


def test_sphere_with_ears_on_the_axis_cannot_tell_front_from_back() -> None:
    on_axis = spherical_head(num_directions=12, ear_azimuth_deg=90.0)
    torch.testing.assert_close(on_axis.at([30.0]), on_axis.at([150.0]), atol=1e-6, rtol=0)
    default = spherical_head(num_directions=12)
    assert float((default.at([30.0]) - default.at([150.0])).norm() / default.at([30.0]).norm()) > 0.1


def test_sphere_has_woodworths_delay_and_head_shadow() -> None:
    head = spherical_head(num_directions=4, sample_rate=96000, num_taps=1024, ear_azimuth_deg=90.0)
    left, right = torch.fft.rfft(head.at([90.0])[0].double(), n=8192)
    frequency = torch.fft.rfftfreq(8192, 1 / 96000, dtype=torch.float64)
    band = (frequency > 8000) & (frequency < 30000)  # far above c/a the filters add no phase
    phase = torch.from_numpy(np.unwrap(torch.angle(right * left.conj())[band].numpy()))
    slope = float(((phase - phase.mean()) * (frequency[band] - frequency[band].mean())).sum())
    slope /= float((frequency[band] - frequency[band].mean()).square().sum())
    expected_us = 0.0875 / 343.0 * (1 + np.pi / 2) * 1e6  # from the front of the ear to the ear behind the horizon
    assert -slope / (2 * np.pi) * 1e6 == pytest.approx(expected_us, abs=5.0)
    gain_db = 20 * torch.log10(left.abs() / right.abs())
    assert abs(float(gain_db[1])) < 0.1
    assert 12.0 < float(gain_db[band].mean()) < 30.0


def test_sphere_refuses_impossible_numbers() -> None:
    for name, value in (
        ("num_directions", 0), ("head_radius_m", 8.75), ("num_taps", 10), ("ear_azimuth_deg", 180.0),
        ("sample_rate", 4000),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name} must be between"):
            spherical_head(**{name: value})
