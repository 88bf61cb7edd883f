import json

import pytest
import torch

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.binaural import normalize_peak, render
from dualspec.audio.hrir import spherical_head
from dualspec.audio.waveform import write_waveform
from dualspec.evaluation.report import judge_direction, markdown_table, read_clips
from dualspec.evaluation.spatial_metrics import azimuth_accuracy, azimuth_mae_deg, front_back_rate, on_correct_side
from dualspec.hearing.cues import interaural_cues
from dualspec.hearing.localizer import Localizer, LocalizerConfig


def degrees(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_accuracy_and_error_by_hand():
    reference, estimate = degrees(0, 330, 90, 180), degrees(0, 0, 270, 150)
    assert azimuth_accuracy(reference, estimate) == 0.25
    assert azimuth_mae_deg(reference, estimate) == (0 + 30 + 180 + 30) / 4
    assert azimuth_mae_deg(reference, estimate) == azimuth_mae_deg(estimate, reference)


def test_front_back_rate_counts_mirrors_off_the_interaural_axis():
    """90 and 270 are their own mirror image and do not count."""
    assert front_back_rate(degrees(30, 30, 0, 90), degrees(150, 30, 180, 90)) == pytest.approx(2 / 3)
    assert front_back_rate(degrees(30, 60), degrees(60, 30)) == 0.0


@pytest.fixture(scope="module")
def rendered():
    """The 12 azimuths of the analytic head, two noise clips each."""
    head = spherical_head()
    azimuths = torch.tensor(sector_grid_deg(), dtype=torch.float64).repeat(2)
    mono = torch.randn(24, 16_000, generator=torch.Generator().manual_seed(0))
    return head, azimuths, normalize_peak(render(mono, head.at(azimuths)), 0.5)


def test_true_renders_are_on_the_correct_side_and_swapped_ears_are_not(rendered):
    _, azimuths, waveform = rendered
    cues = interaural_cues(waveform, 16_000)
    side = on_correct_side(azimuths, cues)
    assert int(side.isnan().sum()) == 4  # 0 and 180, twice
    assert float(side.nanmean()) == 1.0
    assert float(on_correct_side(azimuths, interaural_cues(waveform.flip(1), 16_000)).nanmean()) == 0.0


def test_louder_but_later_is_not_correct(rendered):
    """Level of the right side, delay of the wrong one: a level-panned sound must not pass."""
    _, azimuths, waveform = rendered
    left = waveform[3:4].clone()  # 90 degrees
    late = torch.stack([torch.roll(left[:, 0], 40, -1), left[:, 1]], dim=1)
    assert float(on_correct_side(azimuths[3:4], interaural_cues(late, 16_000))) == 0.0


def write_folder(folder, azimuths, waveform, **extra):
    folder.mkdir()
    for index, (azimuth, clip) in enumerate(zip(azimuths.tolist(), waveform, strict=True)):
        write_waveform(folder / f"clip{index}.wav", clip, 16_000)
        record = {"azimuth": {"azimuth_deg": azimuth}, "rendered": False} | extra
        (folder / f"clip{index}.json").write_text(json.dumps(record))


def test_folder_of_true_clips_gives_the_ideal_values(rendered, tmp_path):
    head, azimuths, waveform = rendered
    write_folder(tmp_path / "clips", azimuths, waveform)
    clips = read_clips(tmp_path / "clips")
    itself = judge_direction(clips, references={clip.name: clip for clip in clips})
    assert itself["median_itd_error_us"] == itself["median_ild_error_db"] == 0.0
    result = judge_direction(
        clips, hrir_set=head, localizer=Localizer(LocalizerConfig(branch_channels=(2, 2, 2))).eval()
    )
    assert result["num_clips"] == result["num_heard"] == result["num_localized"] == 24
    assert result["num_lateral"] == 20
    assert result["share_louder_and_earlier_at_the_correct_ear"] == 1.0
    assert result["median_itd_error_us"] < 20
    assert result["median_ild_error_db"] < 1.0
    assert markdown_table(result["rows"]).count("\n") == 13


def test_silent_clips_are_counted_and_left_out(rendered, tmp_path):
    head, azimuths, waveform = rendered
    silent = waveform.clone()
    silent[3] = 0.0
    write_folder(tmp_path / "clips", azimuths, silent)
    result = judge_direction(read_clips(tmp_path / "clips"), hrir_set=head)
    assert (result["num_clips"], result["num_heard"]) == (24, 23)
    (row,) = [row for row in result["rows"] if row["azimuth_deg"] == 90]
    assert (row["num_clips"], row["num_heard"]) == (2, 1)


def test_rendered_clips_never_count(rendered, tmp_path):
    _, azimuths, waveform = rendered
    write_folder(tmp_path / "clips", azimuths, waveform, rendered=True)
    with pytest.raises(ValueError, match="got none"):
        read_clips(tmp_path / "clips")


def test_bad_folders_are_refused(rendered, tmp_path):
    _, azimuths, waveform = rendered
    with pytest.raises(FileNotFoundError, match="no folder"):
        read_clips(tmp_path / "nowhere")
    write_folder(tmp_path / "clips", azimuths, waveform)
    clips = read_clips(tmp_path / "clips")
    with pytest.raises(ValueError, match="a target must be given"):
        judge_direction(clips)
    with pytest.raises(ValueError, match="got none for clip0"):
        judge_direction(clips, references={clip.name: clip for clip in clips[1:]})
    (tmp_path / "clips" / "clip0.wav").unlink()
    with pytest.raises(FileNotFoundError, match="no sound beside"):
        read_clips(tmp_path / "clips")
    write_waveform(tmp_path / "clips" / "clip0.wav", waveform[0, :1], 16_000)
    with pytest.raises(ValueError, match="two channels at 16000 Hz"):
        read_clips(tmp_path / "clips")
