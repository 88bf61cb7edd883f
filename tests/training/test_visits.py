"""What a training step sees of a clip: which pair, which crop, which words; all of it from (seed, step) alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dualspec.audio.binaural import normalize_peak, render
from dualspec.data.datasets import ClipBank, batch_indices, load_clips
from dualspec.data.manifest import MANIFEST_NAME, read_manifest, write_manifest
from dualspec.data.selection import Pair, select_pairs, write_pairs
from dualspec.diffusion.variant import VariantConfig
from dualspec.latents.vae import SpectrogramVae
from dualspec.recipes import VAE_ROOMS, get_recipe, vae_configs
from dualspec.text.encoder import HashTextEncoder, TextEncoderConfig, build_text_encoder
from dualspec.text.lexicon import LOCATION_STYLES
from dualspec.text.location_words import LocationWords
from dualspec.text.prompts import parse_prompt
from dualspec.training.diffusion_task import DiffusionTask, DiffusionTaskConfig
from dualspec.training.prompt_bank import PromptBank
from dualspec.training.run import build_task
from dualspec.training.task import BinauralSource, RenderConfig, StepRandom
from dualspec.training.weights import read_config

VARIANTS = ("mel_base", "stft_base", "dualspec", "dualspec_d", "dualspec_p")


def step(number: int, count: int, rows: slice = slice(None), seed: int = 0) -> StepRandom:
    return StepRandom(seed, number, rows, count)


def long_bank(num_clips: int = 4, num_samples: int = 30_000, heard: int = 25_000) -> ClipBank:
    """Clips whose samples count up, so that a crop tells where it began; zeros follow what is heard."""
    ramp = torch.arange(1, num_samples + 1, dtype=torch.int16)
    ramp[heard:] = 0
    ids = [str(index) for index in range(num_clips)]
    return ClipBank(
        waveforms=ramp.expand(num_clips, -1).clone(),
        lengths=torch.full((num_clips,), heard),
        labels=[("dog", "animal", "pet")] * num_clips,
        ids=ids,
        rows=[],
        sample_rate=16_000,
    )


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_a_pair_is_heard_from_its_own_direction(corpus: Path, head: Any) -> None:
    bank = load_clips(corpus, "train", num_samples=10_240)
    pairs = [Pair(clip=bank.ids[index % len(bank)], azimuth_deg=30.0 * (5 * index % 12)) for index in range(24)]
    source = BinauralSource(bank, head, RenderConfig(num_samples=10_240), pairs)
    assert len(source) == 24
    indices = torch.tensor([3, 17, 8, 23])
    clips, directions = source.draw(indices, step(0, 4))
    assert torch.equal(directions, 5 * indices % 12)
    mono = bank.float_waveforms(indices % len(bank))
    expected = render(mono, head.at(30.0 * directions.double()))
    assert torch.allclose(clips, normalize_peak(expected), atol=1e-5)
    assert torch.equal(source.draw(indices, step(99, 4))[1], directions), "another step, the same directions"


def test_a_corpus_is_visited_as_often_as_it_is_repeated(head: Any) -> None:
    bank = replace(long_bank(), ids=["a/0", "b/0", "a/1", "c/0"])
    source = BinauralSource(bank, head, RenderConfig(num_samples=4_000, repeats={"a": 3, "c": 2}))
    assert source.clips_of(torch.arange(len(source))).tolist() == [0, 0, 0, 1, 2, 2, 2, 3, 3]
    once = BinauralSource(bank, head, RenderConfig(num_samples=4_000))
    clips, _ = source.draw(torch.tensor([1, 3, 8]), step(0, 3))
    assert torch.equal(clips, once.draw(torch.tensor([0, 1, 3]), step(0, 3))[0])
    for repeats, pairs in (({"d": 2}, None), ({"a": 2}, [Pair(clip="a/0", azimuth_deg=0.0)])):
        with pytest.raises(ValueError, match=r"repeats must name corpora of the clips \(a, b, c\)"):
            BinauralSource(bank, head, RenderConfig(num_samples=4_000, repeats=repeats), pairs)
    with pytest.raises(ValueError, match="repeats must be 1 to 100"):
        RenderConfig(repeats={"a": 0})


def test_a_list_is_trained_on_as_it_stands(corpus: Path, head: Any, tmp_path: Path) -> None:
    """Every pair once in an epoch; only the clips of the list are read; pairs of elsewhere are refused."""
    pairs = select_pairs(corpus, "train", 20, seed=1)
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    recipe = get_recipe("tiny/mel_vae")
    options: dict[str, Any] = {"device": "cpu", "num_bank_samples": 10_240, "vae_folders": {}, "held_out": 0.0}
    task: Any = build_task(recipe.task, corpus, head, pairs=tmp_path / "pairs.jsonl", **options)
    assert task.num_clips == 20 and set(task.source.bank.ids) == {pair.clip for pair in pairs}
    seen = Counter()
    for number in range(5):
        indices = batch_indices(task.num_clips, 4, number, seed=0)
        names = [task.source.bank.ids[place] for place in task.source.clips_of(indices)]
        azimuths = task.source.azimuths_deg[task.source.draw(indices, step(number, 4))[1]].tolist()
        seen.update(Pair(clip=name, azimuth_deg=azimuth) for name, azimuth in zip(names, azimuths, strict=True))
    assert seen == Counter(pairs)
    held = build_task(recipe.task, corpus, head, pairs=tmp_path / "pairs.jsonl", **options | {"held_out": 0.2})
    left = set(held.source.bank.ids)  # type: ignore[attr-defined]
    assert held.num_clips == sum(pair.clip in left for pair in pairs) < 20, "what validates is not trained on"
    for wrong in (Pair(clip="folder/none", azimuth_deg=0.0), select_pairs(corpus, "test", 1, seed=0)[0]):
        write_pairs(tmp_path / "pairs.jsonl", [*pairs, wrong])
        with pytest.raises(ValueError, match=f"must name train clips of .*{wrong.clip}"):
            build_task(recipe.task, corpus, head, pairs=tmp_path / "pairs.jsonl", **options)
    write_pairs(tmp_path / "pairs.jsonl", [replace(pairs[0], azimuth_deg=15.0)])
    with pytest.raises(ValueError, match=r"12 even azimuths, got .* at 15"):
        build_task(recipe.task, corpus, head, pairs=tmp_path / "pairs.jsonl", **options)


def test_a_corpus_with_a_valid_split_is_validated_on_it(corpus: Path, head: Any, tmp_path: Path) -> None:
    rows = read_manifest(corpus)
    moved = next(row for row in rows if row.split == "train")
    write_manifest(tmp_path / MANIFEST_NAME, [replace(row, split="valid") if row is moved else row for row in rows])
    (tmp_path / "shards").symlink_to(corpus / "shards")
    options: dict[str, Any] = {"device": "cpu", "num_bank_samples": 10_240, "vae_folders": {}}
    task: Any = build_task(get_recipe("tiny/mel_vae").task, tmp_path, head, **options)
    assert task.held_out.bank.ids == [moved.id] and task.num_clips == 11, "no share of the training clips is held out"


# --- crops ------------------------------------------------------------------------------------------------------------


def test_vaes_hear_crops_from_anywhere_and_everything_else_the_beginning(head: Any) -> None:
    bank, indices = long_bank(), torch.arange(4)
    anywhere = BinauralSource(bank, head, RenderConfig(num_samples=10_000, random_crop=True))
    starts = torch.cat([anywhere.crop(indices, step(number, 4))[:, 0] * 32_768 for number in range(500)])
    assert starts.min() >= 1 and starts.max() <= 15_001, "no crop reaches into the padding"
    assert starts.min() < 150 and starts.max() > 14_850 and starts.mean() == pytest.approx(7_500, rel=0.05)
    for part in (slice(0, 2), slice(2, 4)):  # the same crops on two processes
        whole = anywhere.crop(indices, step(7, 4))
        assert torch.equal(anywhere.crop(indices[part], step(7, 4, part)), whole[part])
    assert not torch.equal(anywhere.crop(indices, step(7, 4)), anywhere.crop(indices, step(8, 4)))
    beginning = BinauralSource(bank, head, RenderConfig(num_samples=10_000))
    assert torch.equal(beginning.crop(indices, step(7, 4)), bank.float_waveforms(indices)[:, :10_000])


# --- speed ------------------------------------------------------------------------------------------------------------


def tones() -> ClipBank:
    """Two clips of 0.5 s, tones of 500 and 800 Hz, in banks of a second."""
    time_s = torch.arange(8_000) / 16_000
    sounding = [(20_000 * torch.sin(2 * torch.pi * hz * time_s)).to(torch.int16) for hz in (500, 800)]
    waveforms = torch.stack([torch.cat((tone, torch.zeros(8_000, dtype=torch.int16))) for tone in sounding])
    return replace(long_bank(2), waveforms=waveforms, lengths=torch.full((2,), 8_000))


def pitch_hz(clips: torch.Tensor) -> torch.Tensor:
    """Loudest frequency of each (B, S), to 2 Hz."""
    return torch.fft.rfft(clips, n=8_000).abs().argmax(dim=1) * 2.0


def test_a_clip_is_played_at_each_speed_pitch_and_all(head: Any) -> None:
    """Drawn anew at each visit, from (seed, step) alone; the direction of a visit stays what it was without."""
    config = RenderConfig(num_samples=6_000, speeds=(0.8, 1.0, 1.25))
    source, plain = BinauralSource(tones(), head, config), BinauralSource(tones(), head, replace(config, speeds=(1.0,)))
    indices, heard = torch.tensor([0, 1, 0, 1]), Counter()
    for number in range(40):
        crops = source.crop(indices, step(number, 4))
        assert torch.equal(crops, source.crop(indices, step(number, 4)))
        factors = pitch_hz(crops) / torch.tensor([500.0, 800.0, 500.0, 800.0])
        heard.update(factors.mul(20).round().div(20).tolist())
        waveforms, directions = source.draw(indices, step(number, 4))
        assert torch.equal(directions, plain.draw(indices, step(number, 4))[1])
        assert float(waveforms.abs().max()) == pytest.approx(0.5, abs=1e-6)
    assert sorted(heard) == pytest.approx([0.8, 1.0, 1.25]) and min(heard.values()) > 30
    assert source.lengths.tolist() == [10_000, 8_000, 6_400] * 2
    assert torch.equal(source.waveforms[1::3], plain.waveforms), "as it is at speed 1"
    assert source.waveforms[0, 10_100:].abs().max() < 200 < 19_000 < source.waveforms[2, 6_300:6_400].abs().max()


def test_a_crop_of_a_faster_clip_ends_where_it_ends(head: Any) -> None:
    config = RenderConfig(num_samples=6_000, random_crop=True, speeds=(1.25,))
    crops = BinauralSource(tones(), head, config).crop(torch.zeros(200, dtype=torch.int64), step(3, 200))
    assert (crops[:, -50:].abs().amax(dim=1) > 0.1).all(), "no crop reaches into the silence behind 6,400 samples"


def test_validation_hears_clips_as_they_are(corpus: Path, head: Any) -> None:
    recipe = get_recipe("tiny/mel_vae")
    render = replace(recipe.task.render, speeds=(0.9, 1.1))
    task: Any = build_task(
        replace(recipe.task, render=render), corpus, head, device="cpu", num_bank_samples=1, vae_folders={}
    )
    assert task.held_out.config.speeds == (1.0,) and task.source.config.speeds == (0.9, 1.1)
    assert task.source.waveforms.shape == (2 * len(task.source), render.longest_part)
    assert render.longest_part == pytest.approx(1.1 * render.num_samples, abs=1)


@pytest.mark.parametrize("speeds", [(), (0.4,), (1.0, 2.5), (float("nan"),)])
def test_speeds_are_checked(speeds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"speeds must be one or more of 0\.5 to 2"):
        RenderConfig(speeds=speeds)


@pytest.mark.parametrize("size", ["paper", "paper-text", "mini"])
def test_recipes_crop_as_the_paper_does(size: str) -> None:
    """Section V-C: VAEs on crops of 5 s, diffusion on the first 5 s; 5.12 s are 81,920 samples."""
    for room in VAE_ROOMS[:3]:
        recipe = get_recipe(f"{size}/{room}")
        assert recipe.task.render.random_crop
        assert size == "mini" or (recipe.task.render.num_samples, recipe.num_bank_samples) == (81_920, 163_840)
    for room in VARIANTS:
        render_config = get_recipe(f"{size}/{room}").task.render
        assert not render_config.random_crop and render_config.num_samples == 81_920
        assert render_config.max_shift_s == 0.0


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def task(head: Any) -> DiffusionTask:
    config = get_recipe("tiny/dualspec").task
    assert isinstance(config, DiffusionTaskConfig)
    vaes = {part: SpectrogramVae(own) for part, own in vae_configs("tiny/dualspec", "dualspec").items()}
    source = BinauralSource(long_bank(12), head, config.render)
    return DiffusionTask(config, source, source, vaes, build_text_encoder(config.variant.text_encoder))


def words(task: DiffusionTask, number: int, rows: slice = slice(None), seed: int = 0) -> list[str]:
    indices, random = torch.arange(12)[rows], step(number, 12, rows, seed)
    _, directions = task.source.draw(indices, random)
    return task._write_prompts(task.source, indices, directions, random)


def test_words_are_a_function_of_seed_and_step(task: DiffusionTask) -> None:
    whole = words(task, 5)
    assert words(task, 5) == whole and words(task, 6) != whole and words(task, 5, seed=1) != whole
    assert words(task, 5, slice(0, 5)) + words(task, 5, slice(5, 12)) == whole, "two processes write what one does"
    state = torch.get_rng_state()
    words(task, 7)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_export_says_which_words_were_trained(task: DiffusionTask, head: Any, tmp_path: Path) -> None:
    render = replace(task.config.render, num_azimuths=72)
    config = replace(task.config, render=render, lexicon="paper_like")
    vaes = dict(zip(config.variant.parts, task.vaes, strict=True))
    source = BinauralSource(long_bank(12), head, render)
    other = DiffusionTask(config, source, source, vaes, build_text_encoder(config.variant.text_encoder))
    for one, words in ((task, LocationWords()), (other, LocationWords(num_azimuths=72, lexicon="paper_like"))):
        folder = tmp_path / words.lexicon
        one.export(folder)
        assert read_config(folder, {"VariantConfig": VariantConfig}).location_words == words


def test_each_visit_draws_style_label_and_direction_evenly(task: DiffusionTask) -> None:
    """Section V-C: one of several labels at random, one of three descriptors at random."""
    parsed = [parse_prompt(prompt) for number in range(150) for prompt in words(task, number)]
    total = len(parsed)
    labels = Counter(one.event.lower() for one in parsed)
    styles = Counter(one.azimuth.style for one in parsed if one.azimuth is not None)
    azimuths = Counter(one.azimuth.azimuth_deg for one in parsed if one.azimuth is not None)
    assert (
        set(labels) == {"dog", "animal", "pet"} and set(styles) == {"doa", "clock", "general"} and len(azimuths) == 12
    )
    for counts in (labels, styles, azimuths):
        share = total / len(counts)
        chi_square = sum((count - share) ** 2 / share for count in counts.values())
        assert chi_square < 35, counts  # 11 degrees of freedom exceed it once in 4,000 draws; the draw is fixed
    both = Counter((one.event, one.azimuth.style) for one in parsed if one.azimuth is not None)
    assert len(both) == 9 and max(both.values()) < 1.3 * min(both.values()), "label and style do not hang together"


def test_twelve_directions_are_drawn_as_ever(task: DiffusionTask) -> None:
    """One whole number below 12 for the direction, one below 3 for the style: models of before are made again."""
    indices = torch.arange(12)
    for number in range(20):
        random, plain = step(number, 12), step(number, 12)
        directions, _ = task.source.draw_directions(indices, random)
        assert torch.equal(directions, plain.integers(12))
        prompts = task._write_prompts(task.source, indices, directions, random)
        for prompt, generator in zip(prompts, plain.row_generators(), strict=True):
            torch.randint(3, (1,), generator=generator)  # of three labels
            azimuth = parse_prompt(prompt).azimuth
            assert azimuth is not None
            assert azimuth.style == LOCATION_STYLES[int(torch.randint(3, (1,), generator=generator))]


@pytest.fixture(scope="module")
def fine_task(task: DiffusionTask, head: Any) -> DiffusionTask:
    config = replace(task.config, render=replace(task.config.render, num_azimuths=72), lexicon="rich")
    source = BinauralSource(long_bank(12), head, config.render)
    vaes = dict(zip(config.variant.parts, task.vaes, strict=True))
    return DiffusionTask(config, source, source, vaes, build_text_encoder(config.variant.text_encoder))


def test_of_72_directions_each_style_has_a_third_and_names_its_own_evenly(fine_task: DiffusionTask) -> None:
    counts: dict[str, Counter[float]] = {style: Counter() for style in LOCATION_STYLES}
    for number in range(1000):
        random = step(number, 12)
        directions, _ = fine_task.source.draw_directions(torch.arange(12), random)
        prompts = fine_task._write_prompts(fine_task.source, torch.arange(12), directions, random)
        for prompt, azimuth_deg in zip(prompts, fine_task.source.azimuths_deg[directions].tolist(), strict=True):
            azimuth = parse_prompt(prompt).azimuth
            assert azimuth is not None and azimuth.azimuth_deg == azimuth_deg, "the words say where it is heard"
            counts[azimuth.style][azimuth_deg] += 1
    assert {style: len(own) for style, own in counts.items()} == {"doa": 72, "clock": 24, "general": 12}
    for own in ({style: sum(own.values()) for style, own in counts.items()}, *counts.values()):
        share = sum(own.values()) / len(own)
        chi_square = sum((count - share) ** 2 / share for count in own.values())
        freedom = len(own) - 1
        assert chi_square < freedom + 4 * (2 * freedom) ** 0.5, own


def test_the_words_of_72_directions_are_a_function_of_seed_and_step(fine_task: DiffusionTask) -> None:
    whole = words(fine_task, 5)
    assert words(fine_task, 5, slice(0, 5)) + words(fine_task, 5, slice(5, 12)) == whole
    assert words(fine_task, 6) != whole


def test_where_a_list_fixes_the_directions_the_styles_that_can_name_one_are_alike(
    fine_task: DiffusionTask, head: Any
) -> None:
    azimuths = (5.0, 15.0, 30.0)
    pairs = [Pair(clip=str(index), azimuth_deg=azimuths[index % 3]) for index in range(12)]
    render = fine_task.config.render
    source = BinauralSource(long_bank(12), head, render, pairs)
    vaes = dict(zip(fine_task.config.variant.parts, fine_task.vaes, strict=True))
    encoder = build_text_encoder(fine_task.config.variant.text_encoder)
    listed = DiffusionTask(fine_task.config, source, fine_task.held_out, vaes, encoder)
    styles: dict[float, Counter[str]] = {azimuth: Counter() for azimuth in azimuths}
    for number in range(100):
        for prompt in words(listed, number):
            azimuth = parse_prompt(prompt).azimuth
            assert azimuth is not None
            styles[azimuth.azimuth_deg][azimuth.style] += 1
    assert [set(styles[azimuth]) for azimuth in azimuths] == [{"doa"}, {"doa", "clock"}, set(LOCATION_STYLES)]
    for own in styles.values():
        assert max(own.values()) < 1.3 * min(own.values()), own


def test_kept_prompts_are_what_the_encoder_says_whatever_was_asked_before() -> None:
    encoder = build_text_encoder(TextEncoderConfig(kind="hash", width=8))
    kept = PromptBank(encoder, 5)
    for prompts in (["a", "b b"], ["b b", "a", "a"], ["c c c c", ""], ["d", "e e", "f"], ["a", "f", "b b"]):
        states, mask = kept.encode(prompts, "cpu")
        expected, own_mask = encoder.encode(prompts)
        assert states.shape[:2] == mask.shape == (len(prompts), 16)  # padded: a compiled network meets few lengths
        length = own_mask.shape[1]
        assert torch.equal(mask[:, :length], own_mask) and not mask[:, length:].any()
        assert torch.equal(states[:, :length], expected.half().float()) and not states[:, length:].any()
        assert len(kept.spans) <= 5


class Uneven(HashTextEncoder):
    """Like a real one, its states depend on the batch: here far beyond the last bits of half precision."""

    def _token_states(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        states, mask = super()._token_states(prompts)
        return states * (1 + 0.01 * mask.numel()), mask


def test_on_a_cpu_prompts_are_kept_as_if_each_came_alone() -> None:
    """Whatever stood beside a prompt when it was new, as before and after a training was resumed."""
    encoder = Uneven(8, max_tokens=6)
    whole, resumed = PromptBank(encoder, 9), PromptBank(encoder, 9)
    whole.encode(["a", "b b", "c c c"], "cpu")
    for prompts in (["b b", "d d d d d"], ["", "a", "b b"]):
        states, mask = whole.encode(prompts, "cpu")
        assert torch.equal(states, resumed.encode(prompts, "cpu")[0])
        for row, prompt in enumerate(prompts):
            assert torch.equal(states[row, mask[row]], encoder.encode([prompt])[0][0].half().float())


def test_a_long_prompt_widens_no_other() -> None:
    """Room is for the tokens that there are, at most twice over."""
    encoder = build_text_encoder(TextEncoderConfig(kind="hash", width=8))
    kept = PromptBank(encoder, 99)
    kept.encode(["x " * 100, *"abcdefghij"], "cpu")
    num_tokens = int(encoder.encode(["x " * 100, *"abcdefghij"])[1].sum())
    assert num_tokens < len(kept.states) <= 2 * (num_tokens + 1) and kept.num_used == num_tokens + 1
