"""Judging a folder: ideal values, resumption, processes, and every kind of folder that cannot be judged as it is."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.binaural import normalize_peak, render
from dualspec.audio.hrir import HrirSet, load_sofa, spherical_head
from dualspec.audio.waveform import crop_or_pad, read_waveform, write_waveform
from dualspec.evaluation.clip_scores import COLUMNS, read_clip_scores
from dualspec.evaluation.clips import Clip, Conversion, list_clips
from dualspec.evaluation.distribution_metrics import frechet_distance
from dualspec.evaluation.embedders import Embedding, load_embedder
from dualspec.evaluation.measure import Cache, EmbedderSource, Measurer, _Worker
from dualspec.evaluation.probe import LoadedProbe, Probe, ProbeConfig
from dualspec.evaluation.report import judge, markdown, write_judgement
from dualspec.hearing.cues import interaural_cues, target_cues
from dualspec.hearing.localizer import LocalizerConfig, LocalizerResult, result_of
from dualspec.model_folder import load_localizer


class Bands:
    """An embedder that can be computed by hand: log energies of eight bands; scores are the first five."""

    name, weights_sha256 = "bands", "b" * 64

    def __call__(self, waveform: torch.Tensor, sample_rate: int) -> Embedding:
        power = torch.nn.functional.adaptive_avg_pool1d(torch.fft.rfft(waveform).abs().square(), 8)
        return Embedding(embeddings=(power + 1e-9).log(), logits=(power + 1e-9).log()[:, :5])


class Ear:
    """A localizer that takes the front sector with the nearest time difference; it hears nothing behind."""

    config = LocalizerConfig()

    def __init__(self) -> None:
        centres = torch.tensor(sector_grid_deg(), dtype=torch.float64)
        self.known = target_cues(spherical_head(), centres).itd_us
        self.known[(centres > 90) & (centres < 270)] = 1e6

    def predict(self, waveform: torch.Tensor, sample_rate: int) -> LocalizerResult:
        return result_of(-0.1 * (interaural_cues(waveform, sample_rate).itd_us[:, None] - self.known).abs())


def measurer(**changes: Any) -> Measurer:
    bands = EmbedderSource(load=Bands, sha256="b" * 64)
    return Measurer(**({"localizer": Ear, "localizer_sha256": "e", "embedders": {"bands": bands}} | changes))


@pytest.fixture(scope="module")
def rendered() -> tuple[HrirSet, torch.Tensor, torch.Tensor]:
    """The 12 azimuths of the analytic head, two noise clips each."""
    head = spherical_head()
    azimuths = torch.tensor(sector_grid_deg(), dtype=torch.float64).repeat(2)
    mono = torch.randn(24, 16_000, generator=torch.Generator().manual_seed(0))
    return head, azimuths, normalize_peak(render(mono, head.at(azimuths)), 0.5)


def write_folder(folder: Path, azimuths: torch.Tensor, waveform: torch.Tensor, **extra: Any) -> Path:
    folder.mkdir(parents=True)
    for index, (azimuth, clip) in enumerate(zip(azimuths.tolist(), waveform, strict=True)):
        write_waveform(folder / f"clip{index:02d}.wav", clip, 16_000)
        record = {"azimuth": {"azimuth_deg": azimuth, "style": "doa"}, "rendered": False} | extra
        (folder / f"clip{index:02d}.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def clips_folder(rendered: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("judged") / "clips", rendered[1], rendered[2])


def test_true_clips_against_themselves_give_the_ideal_values(clips_folder: Path) -> None:
    clips = list_clips(clips_folder)
    result = judge(clips, clips, measurer=measurer())
    for ear in ("left", "right", "mean"):
        quality = result["quality"][ear]
        assert quality["fd"] == pytest.approx(0.0, abs=1e-9) and quality["kl"] == 0.0 and quality["ssim"] == 1.0
        assert 1.0 <= quality["inception_score"] <= 5.0 and "psnr_db" not in quality
    assert result["absent"] == {
        "psnr_db": "every clip equals its reference",
        "recognised by bands": "there is no probe for these weights",
    }
    direction = result["direction"]
    assert direction["num_asked"] == direction["num_heard"] == direction["num_localized"] == 24
    assert direction["median_itd_error_us"] == direction["median_ild_error_db"] == 0.0
    assert direction["share_louder_and_earlier_at_the_correct_ear"] == 1.0
    assert direction["agreement_with_reference"] == 1.0
    assert result["source"] == {"kind": "unknown"} and result["styles"] == {"doa": 24}
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_real_clips_against_themselves_and_in_two_halves(shared_data: Path, tmp_path: Path) -> None:
    """Held-out recordings through a measured head, judged by the embedded judge and the published classifier."""
    head = load_sofa(shared_data / "hrir" / "fabian.sofa")
    paths = sorted((shared_data / "esc50" / "audio").glob("4-*.opus"))[::8][:48]
    sounds = [crop_or_pad(read_waveform(path, sample_rate=16_000, mono=True)[0][0], 32_000) for path in paths]
    azimuths = torch.tensor(sector_grid_deg(), dtype=torch.float64).repeat(4)
    ears = normalize_peak(render(torch.stack(sounds), head.at(azimuths)), 0.5)
    clips = list_clips(write_folder(tmp_path / "true", azimuths, ears))
    spec, judged_by = f"mn04_as={shared_data / 'embedders' / 'mn04_as_mAP_432.pt'}", load_localizer("robust")
    mn04 = EmbedderSource(load=partial(load_embedder, spec), sha256="a")
    how, cache = measurer(embedders={"mn04_as": mn04}, localizer=lambda: judged_by.localizer), Cache(None)
    same = judge(clips, clips, measurer=how, cache=cache, hrir_set=head)
    quality, direction = same["quality"]["mean"], same["direction"]
    assert quality["fd"] == pytest.approx(0, abs=1e-6) and quality["kl"] == 0 and quality["ssim"] == 1
    assert direction["azimuth_accuracy"] >= 0.97 and direction["share_louder_and_earlier_at_the_correct_ear"] >= 0.97
    assert direction["median_itd_error_us"] < 20 and direction["median_ild_error_db"] < 0.3
    by_kind = sorted(
        range(48), key=lambda index: int(paths[index].stem.rpartition("-")[2])
    )  # animals, water, people, …
    mixed = torch.randperm(48, generator=torch.Generator().manual_seed(0)).tolist()
    far, near = (
        judge([clips[i] for i in order[:24]], [clips[i] for i in order[24:]], measurer=how, cache=cache, paired=False)
        for order in (by_kind, mixed)
    )
    assert 0 < near["quality"]["mean"]["fd"] < 0.9 * far["quality"]["mean"]["fd"]


def test_directions_are_scored_as_by_hand(rendered: Any, clips_folder: Path) -> None:
    """The ear above hears the seven front sectors right and mirrors the five behind."""
    result = judge(list_clips(clips_folder), measurer=measurer(), hrir_set=rendered[0])
    direction = result["direction"]
    assert direction["azimuth_accuracy"] == pytest.approx(7 / 12)
    assert direction["front_back_rate"] == pytest.approx(5 / 10)  # 90 and 270 have no mirror image
    assert direction["azimuth_mae_deg"] == pytest.approx((180 + 2 * 120 + 2 * 60) / 12, abs=1e-6)
    counts = torch.tensor(result["confusion"])
    assert int(counts.sum()) == 24 and int(counts.trace()) == 14 and counts[6].tolist() == [2] + 11 * [0]
    assert direction["median_itd_error_us"] < 20 and direction["median_ild_error_db"] < 1.0
    assert direction["num_lateral"] == 20 and len(result["rows"]) == 12
    names = ("fd", "kl", "psnr_db")
    assert all(name in result["absent"] for name in names) and result["quality"].keys() == {"left", "right", "mean"}


def test_level_target_is_that_of_the_clips_own_spectrum(rendered: Any, tmp_path: Path) -> None:
    """Dull sound has a smaller level difference than noise, and is right so."""
    head, azimuths, waveform = rendered
    dull = torch.nn.functional.avg_pool1d(waveform, 9, stride=1, padding=4)
    result = judge(list_clips(write_folder(tmp_path / "dull", azimuths, dull)), measurer=measurer(), hrir_set=head)
    assert result["direction"]["median_ild_error_db"] < 0.3
    left = next(row for row in result["rows"] if row["azimuth_deg"] == 90)
    assert float(target_cues(head, [90.0]).ild_db) - left["target_ild_db"] > 1.0


def test_two_halves_differ_little_and_other_sounds_much(rendered: Any, clips_folder: Path, tmp_path: Path) -> None:
    clips = list_clips(clips_folder)
    halves = judge(clips[:12], clips[12:], measurer=measurer(), paired=False)
    _, azimuths, waveform = rendered
    dull = torch.nn.functional.avg_pool1d(waveform, 9, stride=1, padding=4)
    others = list_clips(write_folder(tmp_path / "dull", azimuths, dull))
    apart = judge(others, clips, measurer=measurer())
    assert halves["quality"]["mean"]["fd"] < 0.1 * apart["quality"]["mean"]["fd"]
    assert {"kl", "psnr_db", "ssim"} <= set(halves["absent"]) and halves["reference"]["paired"] is False
    assert apart["quality"]["mean"]["psnr_db"] < 40 and apart["quality"]["mean"]["ssim"] < 1
    assert apart["direction"]["agreement_with_reference"] > 0.9, "dull sound is where it was"


def test_ears_are_judged_apart_and_compat_is_the_left_one(rendered: Any, clips_folder: Path, tmp_path: Path) -> None:
    """A change of the right ear alone: compat does not see it, the default does."""
    _, azimuths, waveform = rendered
    changed = waveform.clone()
    changed[:, 1] = changed[:, 1].flip(-1) * 0.5
    estimates, references = list_clips(write_folder(tmp_path / "half", azimuths, changed)), list_clips(clips_folder)
    ours = judge(estimates, references, measurer=measurer())
    assert ours["quality"]["left"]["fd"] == pytest.approx(0, abs=1e-9) and ours["quality"]["right"]["fd"] > 1
    both = (ours["quality"]["left"]["fd"] + ours["quality"]["right"]["fd"]) / 2
    assert ours["quality"]["mean"]["fd"] == pytest.approx(both, abs=1e-5)
    own, theirs = (Bands()(ears[:, 1], 16_000).embeddings for ears in (changed, waveform))
    assert ours["quality"]["right"]["fd"] == pytest.approx(frechet_distance(theirs, own), rel=1e-2)  # 16-bit files
    assert ours["absent"]["psnr_db"] == "every clip equals its reference at the left ear"
    assert "psnr_db" in ours["quality"]["right"] and "psnr_db" not in ours["quality"]["mean"]
    compat = judge(estimates, references, measurer=measurer(mode="compat"))
    assert compat["quality"].keys() == {"left"} and compat["quality"]["left"]["fd"] == pytest.approx(0, abs=1e-9)
    assert not {"psnr_db", "ssim"} & set(compat["quality"]["left"]), "audioldm_eval leaves equal clips out of both"


def test_judging_goes_on_where_it_was(clips_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = list_clips(clips_folder)
    whole = judge(clips, clips, measurer=measurer(batch_size=4), cache=Cache(tmp_path / "whole"))
    original = _Worker.__call__
    seen: list[int] = []

    def counting(self: _Worker, chunk: Any) -> Any:
        seen.append(len(chunk.tasks))
        if len(seen) == 4 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return original(self, chunk)

    monkeypatch.setattr(_Worker, "__call__", counting)
    with pytest.raises(KeyboardInterrupt):
        judge(clips, clips, measurer=measurer(batch_size=4), cache=Cache(tmp_path / "cut"))
    assert sum(seen[:3]) == 12
    (tmp_path / "again").mkdir()
    seen.clear()
    resumed = judge(clips, clips, measurer=measurer(batch_size=4), cache=Cache(tmp_path / "cut"))
    assert sum(seen) == 12 + 24, "12 clips were kept; the others and the pairs are measured"
    assert resumed == whole
    seen.clear()
    assert judge(clips, clips, measurer=measurer(), cache=Cache(tmp_path / "cut")) == whole and not seen
    changed = measurer(embedders={"bands": EmbedderSource(load=Bands, sha256="c")})
    other = judge(clips, clips, measurer=changed, cache=Cache(tmp_path / "cut"))
    assert sum(seen) == 24 and other["quality"] == whole["quality"], "another embedder measures anew, cues stay"


def test_clips_of_several_lengths_do_not_change_each_other(rendered: Any, clips_folder: Path, tmp_path: Path) -> None:
    _, azimuths, waveform = rendered
    folder = write_folder(tmp_path / "mixed", azimuths[:4], waveform[:4])
    write_waveform(folder / "clip00.wav", waveform[0, :, :9_000], 16_000)
    mixed = judge(list_clips(folder), list_clips(clips_folder), measurer=measurer())
    same = judge(list_clips(clips_folder)[1:4], list_clips(clips_folder), measurer=measurer())
    rows = {row["azimuth_deg"]: row for row in mixed["rows"]}
    assert [rows[row["azimuth_deg"]] for row in same["rows"]] == same["rows"]
    assert mixed["num_clips"] == 4 and "psnr_db" in mixed["quality"]["mean"]


def test_silent_clips_are_counted_and_have_no_direction(rendered: Any, tmp_path: Path) -> None:
    head, azimuths, waveform = rendered
    silent = waveform.clone()
    silent[3] = 0.0
    result = judge(list_clips(write_folder(tmp_path / "s", azimuths, silent)), measurer=measurer(), hrir_set=head)
    direction = result["direction"]
    assert (direction["num_asked"], direction["num_heard"], direction["num_localized"]) == (24, 23, 23)
    (row,) = [row for row in result["rows"] if row["azimuth_deg"] == 90]
    assert (row["num_clips"], row["num_heard"]) == (2, 1)
    nothing = list_clips(write_folder(tmp_path / "nothing", azimuths[:2], 0 * waveform[:2]))
    result = judge(nothing, measurer=measurer(), hrir_set=head)
    assert result["direction"]["num_localized"] == 0 and "azimuth_accuracy" not in result["direction"]
    assert "–" in markdown(result)


def test_rendered_clips_never_count(rendered: Any, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "clips", rendered[1][:2], rendered[2][:2], rendered=True)
    with pytest.raises(ValueError, match="got none"):
        list_clips(folder)


def test_any_systems_output_is_judged(rendered: Any, tmp_path: Path) -> None:
    """Without records a manifest says what was asked; without either there is quality, and no direction."""
    _, azimuths, waveform = rendered
    folder = write_folder(tmp_path / "foreign", azimuths[:2], waveform[:2])
    for record in folder.glob("*.json"):
        record.unlink()
    result = judge(list_clips(folder), measurer=measurer())
    assert result["absent"]["direction"] == "no record or manifest says where a clip was asked for"
    lines = [{"file": f"clip0{index}.wav", "azimuth_deg": float(azimuths[index])} for index in range(2)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert judge(list_clips(folder), measurer=measurer())["direction"]["num_asked"] == 2
    (folder / "manifest.jsonl").write_text('{"file": "clip09.wav"}\n')
    with pytest.raises(FileNotFoundError, match=r"manifest\.jsonl:1 names clip09\.wav"):
        list_clips(folder)
    (folder / "manifest.jsonl").write_text('{"azimuth_deg": 30}\n')
    with pytest.raises(ValueError, match="with the name of a file"):
        list_clips(folder)
    (folder / "manifest.jsonl").write_text('{"file": "clip00.wav", "azimuth_deg": 400}\n')
    with pytest.raises(ValueError, match=r"record of .*: azimuth_deg must"):
        list_clips(folder)


def test_mono_and_other_rates_are_refused_or_converted_in_sight(rendered: Any, tmp_path: Path) -> None:
    _, azimuths, waveform = rendered
    folder = write_folder(tmp_path / "odd", azimuths[:2], waveform[:2])
    write_waveform(folder / "clip00.wav", waveform[0, :1], 16_000)
    with pytest.raises(ValueError, match=r"must have two channels, got 1; allow copies by --copy-mono"):
        judge(list_clips(folder), measurer=measurer())
    mono = judge(list_clips(folder), measurer=measurer(conversion=Conversion(copy_mono=True)))
    assert mono["num_copied_mono"] == 1 and mono["direction"]["num_asked"] == 2
    write_waveform(folder / "clip01.wav", waveform[1, :1], 16_000)
    both = judge(list_clips(folder), measurer=measurer(conversion=Conversion(copy_mono=True)))
    assert "direction" not in both and both["absent"]["direction"] == "a mono signal at both ears has none"
    write_waveform(folder / "clip00.wav", waveform[0], 22_050)
    with pytest.raises(ValueError, match="must be at 16000 Hz, got 22050; allow it by --resample"):
        judge(list_clips(folder)[:1], measurer=measurer())
    resampled = judge(list_clips(folder)[:1], measurer=measurer(conversion=Conversion(resample=True)))
    assert resampled["num_resampled"] == 1 and "num_resampled 1" in markdown(resampled)
    write_waveform(folder / "clip00.wav", waveform[0, :, :900], 16_000)
    with pytest.raises(ValueError, match=r"clip00\.wav must last 0\.1 s or more, got 900 samples"):
        judge(list_clips(folder)[:1], measurer=measurer())


def test_leave_to_convert_is_not_kept(rendered: Any, tmp_path: Path) -> None:
    """What one judgement was allowed to convert, the next one must be allowed again."""
    folder = write_folder(tmp_path / "mono", rendered[1][:1], rendered[2][:1, :1])
    allowed = measurer(conversion=Conversion(copy_mono=True))
    assert judge(list_clips(folder), measurer=allowed, cache=Cache(tmp_path / "kept"))["num_copied_mono"] == 1
    with pytest.raises(ValueError, match="must have two channels"):
        judge(list_clips(folder), measurer=measurer(), cache=Cache(tmp_path / "kept"))


def test_folders_that_cannot_be_judged_get_one_clear_line(rendered: Any, clips_folder: Path, tmp_path: Path) -> None:
    _, azimuths, waveform = rendered
    with pytest.raises(FileNotFoundError, match="no folder"):
        list_clips(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"must hold clips \(\.wav, \.flac\), got none"):
        list_clips(tmp_path / "empty")
    clips = list_clips(clips_folder)
    with pytest.raises(ValueError, match=r"got none for 2 of 24: clip00, clip01; add them, or .* --unpaired"):
        judge(clips, clips[2:], measurer=measurer())
    one = judge(clips[:1], clips[:1], measurer=measurer())
    assert one["absent"]["fd"] == "a covariance needs 2 clips or more, got 1 and 1 references"
    assert "fd" not in one["quality"]["mean"] and "kl" in one["quality"]["mean"]
    few = judge(clips[:3], clips[:3], measurer=measurer(mode="compat"))
    assert few["absent"]["inception_score"] == "10 parts need as many clips, got 3"
    folder = write_folder(tmp_path / "half", azimuths[:2], waveform[:2])
    (folder / "clip01.json").unlink()
    with pytest.raises(ValueError, match=r"a record beside every sound or beside none, got none for clip01\.wav"):
        list_clips(folder)
    folder = write_folder(tmp_path / "lost", azimuths[:2], waveform[:2])
    write_waveform(folder / "clip00.flac", waveform[0], 16_000)
    (folder / "clip00.json").unlink()
    (folder / "clip01.json").unlink()
    with pytest.raises(ValueError, match="one sound of every name, got two called clip00"):
        list_clips(folder)
    for file in folder.glob("clip0*.*"):
        file.unlink()
    (folder / "clip00.json").write_text('{"azimuth": null}')
    with pytest.raises(FileNotFoundError, match="no sound beside"):
        list_clips(folder)


def test_what_chose_may_not_judge(rendered: Any, tmp_path: Path) -> None:
    chosen = {"best_of": 4, "chooser": {"name": "paper", "sha256": "e"}, "model": {"variant": "dualspec", "sha256": {}}}
    clips = list_clips(write_folder(tmp_path / "chosen", rendered[1][:2], rendered[2][:2], **chosen))
    with pytest.raises(ValueError, match=r"another than the one that chose clip00\.wav"):
        judge(clips, measurer=measurer())
    result = judge(clips, measurer=measurer(localizer_sha256="other"))
    assert result["source"]["best_of"] == 4 and result["source"]["name"] == "dualspec"


def test_the_judgement_is_written_with_its_warning(clips_folder: Path, tmp_path: Path) -> None:
    facts = {"name": "ear", "sha256": "e" * 64, "warning": "the judge itself is right on only 58.3 % of true clips"}
    clips = list_clips(clips_folder)
    write_judgement(tmp_path, judge(clips, clips, measurer=measurer(), localizer=facts))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("clips.csv", "confusion.png", "cues.png", "result.json", "result.md")
    ]
    text = (tmp_path / "result.md").read_text()
    assert "**the judge itself is right on only 58.3 %" in text and "embedder: bands, SHA-256 bbbbbbbbbbbb" in text
    assert text.count("\n| ") > 12 and "psnr_db: absent, every clip equals its reference" in text
    assert (tmp_path / "cues.png").read_bytes().startswith(b"\x89PNG")


class Halves(Bands):
    """Another embedder: two bands."""

    def __call__(self, waveform: torch.Tensor, sample_rate: int) -> Embedding:
        found = super().__call__(waveform, sample_rate)
        return Embedding(embeddings=found.embeddings.unflatten(1, (2, 4)).mean(2), logits=found.logits[:, :3])


def probe_for(name: str, sha256: str, weight: torch.Tensor) -> LoadedProbe:
    config = ProbeConfig(
        embedder=name, embedder_sha256=sha256, num_features=weight.shape[1], classes=("hiss", "rumble")
    )
    probe = Probe(config)
    probe.load_state_dict({"linear.weight": weight, "linear.bias": torch.zeros(2)})
    return LoadedProbe(probe=probe.requires_grad_(False), facts={"sha256": "f" * 64, "held_out_top1": 0.875})


def noises(folder: Path) -> list[Clip]:
    """Four clips with power above or below 4 kHz, much louder at one ear, which the right ear contradicts softly."""
    tone = torch.sin(2 * torch.pi * torch.tensor([[1_000.0], [6_000.0]]) * torch.arange(8_000) / 16_000)
    low, high = (torch.stack([loud, 1e-3 * soft]) for loud, soft in ((tone[0], tone[1]), (tone[1], tone[0])))
    write_folder(folder, torch.zeros(4), 0.3 * torch.stack([low, high, low, low]))
    for index, label in enumerate(("Rumble", "hiss", "hiss", "a whale sings")):
        file = folder / f"clip{index:02d}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"event": label}))
    return list_clips(folder)


def test_every_embedder_gives_its_quality_and_counts_the_clips_that_it_recognises(tmp_path: Path) -> None:
    clips = noises(tmp_path / "clips")
    sources = {
        "bands": EmbedderSource(load=Bands, sha256="b" * 64),
        "halves": EmbedderSource(load=Halves, sha256="h" * 64),
    }
    up, down = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])
    probes = {"halves": probe_for("halves", "h" * 64, torch.stack([down, up]))}
    how = measurer(embedders=sources)
    result = judge(clips, clips, measurer=how, probes=probes)
    first, second = result["embedders"]["bands"], result["embedders"]["halves"]
    assert result["embedder"] == {"name": "bands", "sha256": "b" * 64} and second["sha256"] == "h" * 64
    assert set(first["quality"]) == {"left", "right", "mean"}
    assert {name: result["quality"]["mean"][name] for name in first["quality"]["mean"]} == first["quality"]["mean"]
    assert second["quality"]["mean"]["inception_score"] != first["quality"]["mean"]["inception_score"]
    assert result["absent"]["recognised by bands"] == "there is no probe for these weights"
    found = second["recognised"]
    assert (found["num_clips"], found["num_left_out"], found["probe"]["sha256"]) == (3, 1, "f" * 64)
    assert {label: own["top1"] for label, own in found["classes"].items()} == {"rumble": 1.0, "hiss": 0.5}
    lonely = judge(clips[3:], measurer=how, probes=probes)
    assert lonely["absent"]["recognised by halves"] == "no clip was asked for one of the classes of its probe"
    write_judgement(tmp_path, result)
    text = (tmp_path / "result.md").read_text()
    assert "| 66.7 [21, 94] | 100.0 [44, 100] | 3 | 1 | 87.5 |" in text
    assert "| hiss | 2 | 50.0 [9, 91] | 100.0 [34, 100] |" in text and text.index("| hiss") < text.index("| rumble")


def test_the_mean_of_both_ears_is_recognised_and_in_compat_the_left_one(tmp_path: Path) -> None:
    """One low tone at the left ear, three high ones at the right: together they are no rumble."""
    tones = torch.sin(2 * torch.pi * torch.tensor([500.0, 4_500, 5_500, 6_500])[:, None] * torch.arange(8_000) / 16_000)
    ears = 0.2 * torch.stack([tones[0], tones[1:].sum(0)])
    clips = list_clips(write_folder(tmp_path / "clips", torch.zeros(1), ears[None], event="rumble"))
    probes = {"halves": probe_for("halves", "h" * 64, torch.tensor([[-1.0, 1.0], [1.0, -1.0]]))}
    for mode, share in (("ears", 0.0), ("compat", 1.0)):
        how = measurer(mode=mode, embedders={"halves": EmbedderSource(load=Halves, sha256="h" * 64)})
        found = judge(clips, measurer=how, probes=probes)["embedders"]["halves"]["recognised"]
        assert found["top1"] == share


def test_a_probe_of_other_weights_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    clips, cache = noises(tmp_path / "clips"), Cache(None)
    for name, sha256 in (("bands", "c" * 64), ("halves", "b" * 64)):
        probes = {name: probe_for(name, sha256, torch.zeros(2, 8))}
        with pytest.raises(ValueError, match=f"an embedder that is used, got one for {name} with the SHA-256 "):
            judge(clips, measurer=measurer(), cache=cache, probes=probes)
    assert not cache.values


def test_a_damaged_cache_is_named(clips_folder: Path, tmp_path: Path) -> None:
    clips = list_clips(clips_folder)[:2]
    judge(clips, measurer=measurer(), cache=Cache(tmp_path))
    (tmp_path / "embeddings.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"embeddings\.safetensors must be whole"):
        Cache(tmp_path)
    (tmp_path / "clips.jsonl").write_text('{"sha256": "a"}\n')
    with pytest.raises(ValueError, match=r"clips\.jsonl:1 must be a measurement"):
        Cache(tmp_path)


def test_scores_of_clips_add_up_to_the_judgement(rendered: Any, tmp_path: Path) -> None:
    head, azimuths, ears = rendered
    noise = 0.05 * torch.randn(ears.shape, generator=torch.Generator().manual_seed(1))
    asked = azimuths.roll(1)  # most clips lie a sector beside what was asked for
    true = list_clips(write_folder(tmp_path / "true", asked, ears))
    own = list_clips(write_folder(tmp_path / "own", asked, ears + noise, event="Rain"))
    for hrir_set in (None, head):
        result = judge(own, true, measurer=measurer(), hrir_set=hrir_set)
        write_judgement(tmp_path, result)
        rows = read_clip_scores(tmp_path / "clips.csv")
        assert [row["file"] for row in rows] == [clip.path.name for clip in own] and {"Rain"} == {
            row["event"] for row in rows
        }
        column = {name: torch.tensor([row[name] for row in rows]).double() for name in COLUMNS[3:]}
        for name in ("psnr_db", "ssim", "kl"):
            assert column[name].mean().item() == pytest.approx(result["quality"]["mean"][name], rel=1e-4)
        for name in ("itd_error_us", "ild_error_db"):
            assert column[name].median().item() == pytest.approx(result["direction"][f"median_{name}"], rel=1e-4)
        right = (column["heard_deg"] == column["azimuth_deg"]).double().mean().item()
        assert right == pytest.approx(result["direction"]["azimuth_accuracy"], abs=1e-6) and 1 - right > 0
        assert "clips" not in json.loads((tmp_path / "result.json").read_text())


def test_damaged_scores_of_clips_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="dualspec evaluate"):
        read_clip_scores(tmp_path / "clips.csv")
    for text, words in (("file,event\n", "columns"), (",".join(COLUMNS) + "\na.wav,dog,doa,left\n", "line 2")):
        (tmp_path / "clips.csv").write_text(text)
        with pytest.raises(ValueError, match=words):
            read_clip_scores(tmp_path / "clips.csv")
