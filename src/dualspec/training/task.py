"""What the loop and the tasks share: phases, per-step randomness, and two-eared clips made on the device."""

import hashlib
import math
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualspec.audio.azimuth import sector_grid_deg
from dualspec.audio.binaural import normalize_peak, render
from dualspec.audio.hrir import HrirMethod, HrirSet
from dualspec.audio.waveform import resample
from dualspec.data.datasets import ClipBank, batch_indices
from dualspec.data.selection import Pair

Batch = MutableMapping[str, Any]
Logs = dict[str, Tensor]
_RESAMPLED_AT_ONCE = 256
"""Clips whose copies at other speeds are made together."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Adam when `weight_decay` is 0) of one phase."""

    lr: float = 3e-4  # peak learning rate
    weight_decay: float = 0.0  # decoupled weight decay
    betas: tuple[float, float] = (0.9, 0.99)  # moment decays
    clip_norm: float = 1.0  # gradient norm is clipped to this; 0: never


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """How mono clips become two-eared training clips."""

    num_samples: int = 81_920  # samples of a clip that reaches the network
    num_azimuths: int = 12  # directions drawn, evenly spaced from 0
    random_crop: bool = False  # crop anywhere in the sound, else its beginning
    max_shift_s: float = 0.0  # silence of up to this many seconds is put before the sound
    gain_range_db: float = 0.0  # the level is lowered by up to this much after normalising
    peak: float = 0.5  # peak of the louder ear (decision 7)
    speeds: tuple[float, ...] = (1.0,)  # each visit plays the clip at one of them, pitch and all, before rendering
    repeats: dict[str, int] = field(
        default_factory=dict, hash=False
    )  # visits of a corpus's clips while others have one

    def __post_init__(self) -> None:
        """Refuse speeds at which nothing would be heard as what it is."""
        if not self.speeds or not all(0.5 <= speed <= 2.0 for speed in self.speeds):
            raise ValueError(f"speeds must be one or more of 0.5 to 2, got {self.speeds}; 1 is the clip as it is")
        if not all(1 <= count <= 100 for count in self.repeats.values()):
            raise ValueError(f"repeats must be 1 to 100 for each corpus, got {self.repeats}; leave out what is 1")

    @property
    def longest_part(self) -> int:
        """Samples of a recording that a clip may take, at the highest speed."""
        return math.ceil(self.num_samples * max(self.speeds))


class StepRandom:
    """Random numbers that are a pure function of (seed, step, clip), the same for any number of processes.

    Every draw is made for the whole global batch; a process keeps its own rows.

    Args:
        seed: of the run.
        step: counts from 0.
        rows: this process's slice of the global batch.
        num_rows: size of the global batch.
        device: where tensors are drawn.
    """

    def __init__(self, seed: int, step: int, rows: slice, num_rows: int, device: torch.device | str = "cpu") -> None:
        """Seed the generator from (seed, step)."""
        digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
        self.generator = torch.Generator(device=device).manual_seed(int.from_bytes(digest[:7], "big"))
        self.cpu_generator = torch.Generator().manual_seed(int.from_bytes(digest[7:14], "big"))
        self.step, self.rows, self.num_rows, self.device = step, rows, num_rows, device

    def row_generators(self) -> list[torch.Generator]:
        """Return one CPU generator per row, for draws whose number differs from clip to clip."""
        seeds = torch.randint(2**62, (self.num_rows,), generator=self.cpu_generator)[self.rows]
        return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal values (rows, *shape) on the device."""
        return torch.randn((self.num_rows, *shape), generator=self.generator, device=self.device)[self.rows]

    def uniform(self) -> Tensor:
        """Return uniform values in [0, 1), one per row, on the CPU."""
        return torch.rand(self.num_rows, generator=self.cpu_generator)[self.rows]

    def integers(self, high: int) -> Tensor:
        """Return integers in [0, high), one per row, on the CPU."""
        return torch.randint(high, (self.num_rows,), generator=self.cpu_generator)[self.rows]


class Phase(nn.Module):
    """One optimizer's share of a step. Its parameters are what the optimizer moves.

    Subclasses set `optimizer_config` and give `forward(batch, random, step, progress) -> (loss (B,), logs)`; the loss
    is per clip, so that a clip that could not be had is weighed out and not replaced.
    """

    optimizer_config: OptimizerConfig
    averaged = True  # its weights are the result: they are averaged and, by FSDP2, sharded

    def active(self, step: int, progress: float) -> bool:
        """Say whether this phase takes part in the step."""
        return True

    def compile_networks(self) -> None:
        """Compile what `forward` calls of the networks."""
        for network in self.children():
            network.compile()


def counted(batch: Batch, values: Tensor) -> Tensor:
    """Return those rows of values (B · n, ...) whose clips count, for losses over a batch as a whole."""
    rows = batch.get("counted")
    return values if rows is None else values.unflatten(0, (len(batch["weight"]), -1))[rows].flatten(0, 1)


class Task(Protocol):
    """What the loop needs of a trainable room."""

    phases: dict[str, Phase]

    def make_batch(self, indices: Tensor, random: StepRandom) -> Batch:
        """Return the inputs of a step for clip indices (B,), including "weight" (B,)."""

    def validate(self, batch_size: int) -> dict[str, float]:
        """Return figures on held-out clips, the same clips and draws every time."""

    def export(self, folder: Any, *, dtype: torch.dtype = torch.float32, notes: dict[str, Any] | None = None) -> None:
        """Write the trained weights as a weights folder."""

    @property
    def num_clips(self) -> int:
        """Clips of the training set."""


class BinauralSource:
    """Two-eared clips, rendered on the device that holds the mono clips; the host does not wait for what it sends.

    Args:
        bank: the mono clips.
        heads: the head, or several from which one is drawn per clip, at the clips' sample rate.
        config: crop, directions, level.
        pairs: what an index means, clip and direction; without them it is a clip, and its direction is drawn.
    """

    def __init__(
        self,
        bank: ClipBank,
        heads: HrirSet | Sequence[HrirSet],
        config: RenderConfig,
        pairs: Sequence[Pair] | None = None,
    ) -> None:
        """Look up the directions once."""
        self.bank, self.config = bank, config
        self.azimuths_deg = torch.tensor(sector_grid_deg(config.num_azimuths), dtype=torch.float64)
        self.drawn_from = torch.arange(config.num_azimuths)  # direction indices, each as often as it is likely
        method: HrirMethod = "nearest" if config.num_azimuths == 12 else "interpolate"
        self.waveforms, self.lengths = _at_speeds(bank, config.speeds)  # (N · speeds, S) int16 and (N · speeds,)
        heads = [heads] if isinstance(heads, HrirSet) else heads
        responses = [head.at(self.azimuths_deg, method=method) for head in heads]
        num_taps = max(response.shape[-1] for response in responses)
        padded = [functional.pad(response, (0, num_taps - response.shape[-1])) for response in responses]
        self.hrirs = torch.stack(padded).to(bank.waveforms.device)  # (H, A, 2, K)
        self.pairs = None if pairs is None else self._places(pairs)  # (N, 2) clip and direction index
        self.visits = self._visits() if config.repeats else None  # (N,) places in the bank

    def _visits(self) -> Tensor:
        corpora = [name.split("/")[0] for name in self.bank.ids]
        unknown = sorted(self.config.repeats.keys() - set(corpora))
        if unknown or self.pairs is not None:
            raise ValueError(
                f"repeats must name corpora of the clips ({', '.join(sorted(set(corpora)))}) and come without pairs, "
                f"got {unknown[0] if unknown else 'pairs'}; correct render.repeats"
            )
        counts = torch.tensor([self.config.repeats.get(corpus, 1) for corpus in corpora])
        return torch.arange(len(corpora)).repeat_interleave(counts)

    def _places(self, pairs: Sequence[Pair]) -> Tensor:
        clips = {name: index for index, name in enumerate(self.bank.ids)}
        directions = {azimuth: index for index, azimuth in enumerate(self.azimuths_deg.tolist())}
        for pair in pairs:
            if pair.clip not in clips or pair.azimuth_deg not in directions:
                raise ValueError(
                    f"pairs must name clips of the split at {len(directions)} even azimuths, got {pair.clip} at "
                    f"{pair.azimuth_deg:g}; select them from this corpus"
                )
        return torch.tensor([(clips[pair.clip], directions[pair.azimuth_deg]) for pair in pairs])

    def __len__(self) -> int:
        """Return the visits of one round: the clips, each as often as it is repeated, or the pairs."""
        rows = self.visits if self.pairs is None else self.pairs
        return len(self.bank) if rows is None else len(rows)

    def weigh_directions(self, weights: Sequence[int]) -> None:
        """Draw each direction as often as its weight (A,), a whole number of 1 or more, says."""
        counts = torch.tensor(weights) // math.gcd(*weights)
        self.drawn_from = torch.arange(len(self.azimuths_deg)).repeat_interleave(counts)

    def clips_of(self, indices: Tensor) -> Tensor:
        """Return the places in the bank (B,) that indices (B,) stand for."""
        if self.visits is not None:
            return self.visits[indices]
        return indices if self.pairs is None else self.pairs[indices, 0]

    def weights_of(self, indices: Tensor) -> Batch:
        """Return what a batch says of the clips of indices (B,): a weight of 0 for each that could not be read."""
        device = self.bank.waveforms.device
        if not self.bank.damaged:
            return {"weight": torch.ones(len(indices), device=device)}
        names = [self.bank.ids[clip] for clip in self.clips_of(indices).tolist()]
        there = torch.tensor([name not in self.bank.damaged for name in names])
        rows = there.nonzero()[:, 0] if there.any() else torch.arange(len(there))
        return {"weight": there.to(device, torch.float32), "counted": rows.to(device)}

    def draw(self, indices: Tensor, random: StepRandom) -> tuple[Tensor, Tensor]:
        """Return two-eared clips (B, 2, S) of clip indices (B,) and the direction index (B,) drawn for each."""
        directions, heads = self.draw_directions(indices, random)
        device = self.hrirs.device
        heads, sent = (drawn.to(device, non_blocking=True) for drawn in (heads, directions))
        binaural = render(self.crop(indices, random), self.hrirs[heads, sent])
        return self.level(binaural, random.uniform()), directions

    def copies_of(self, indices: Tensor, random: StepRandom) -> Tensor:
        """Return the places (B,) in `waveforms` of the clips of indices (B,), each at a speed that is drawn."""
        clips, num_speeds = self.clips_of(indices), len(self.config.speeds)
        return clips if num_speeds == 1 else clips * num_speeds + random.integers(num_speeds)

    def beginnings(self, copies: Tensor, directions: Tensor) -> Tensor:
        """Return the beginnings of `copies_of` clips at direction indices (B,) through the first head, (B, 2, S)."""
        mono = self.waveforms[copies.to(self.waveforms.device), : self.config.num_samples].float() / 32768.0
        return normalize_peak(render(mono, self.hrirs[0, directions]), self.config.peak)

    def draw_directions(self, indices: Tensor, random: StepRandom) -> tuple[Tensor, Tensor]:
        """Return the direction index and the head index (B,) of each clip, on the CPU, where they are drawn."""
        drawn = self.drawn_from[random.integers(len(self.drawn_from))]
        directions = drawn if self.pairs is None else self.pairs[indices, 1]
        heads = random.integers(len(self.hrirs)) if len(self.hrirs) > 1 else torch.zeros_like(directions)
        return directions, heads

    def crop(self, indices: Tensor, random: StepRandom) -> Tensor:
        """Return mono clips (B, S) in [-1, 1], cropped and shifted as the config says."""
        num_samples, stored = self.config.num_samples, self.waveforms.shape[1]
        copies = self.copies_of(indices, random)
        uniform_crop, uniform_shift = random.uniform(), random.uniform()
        waveform = self.waveforms[copies.to(self.waveforms.device, non_blocking=True)]
        places = torch.arange(num_samples, device=waveform.device)
        if self.config.random_crop and stored > num_samples:
            room = (self.lengths[copies] - num_samples).clamp(min=0)
            start = (uniform_crop * (room + 1)).long().clamp(max=stored - num_samples)
            waveform = waveform.gather(1, start.to(places.device, non_blocking=True)[:, None] + places)
        else:
            waveform = waveform[:, :num_samples]
        if self.config.max_shift_s:
            shift = (uniform_shift * self.config.max_shift_s * self.bank.sample_rate).long()
            offsets = places - shift.to(places.device, non_blocking=True)[:, None]
            shifted = waveform.gather(1, offsets.clamp(min=0))
            waveform = shifted * (offsets >= 0).to(shifted)
        return waveform.float() / 32768.0

    def level(self, binaural: Tensor, uniform: Tensor) -> Tensor:
        """Return two-eared clips (B, 2, S) at the config's peak, lowered within its range by uniform (B,)."""
        binaural = normalize_peak(binaural, self.config.peak)
        if self.config.gain_range_db:
            gain = 10.0 ** (-self.config.gain_range_db * uniform / 20.0)
            binaural = binaural * gain.to(binaural, non_blocking=True)[:, None, None]
        return binaural


def _at_speeds(bank: ClipBank, speeds: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Return a bank's clips at each speed, the speeds of a clip side by side, and their lengths on the CPU."""
    lengths = bank.lengths.cpu()
    if speeds == (1.0,):
        return bank.waveforms, lengths
    num_clips, stored = bank.waveforms.shape
    waveforms = torch.zeros(num_clips, len(speeds), stored, dtype=torch.int16, device=bank.waveforms.device)
    for start in range(0, num_clips, _RESAMPLED_AT_ONCE):
        clips = bank.waveforms[start : start + _RESAMPLED_AT_ONCE]
        for place, speed in enumerate(speeds):
            played = resample(clips.float(), round(bank.sample_rate * speed), bank.sample_rate)[..., :stored]
            played = played.round().clamp(-32_768, 32_767).to(clips)
            waveforms[start : start + len(clips), place, : played.shape[1]] = played
    rates = torch.tensor([round(bank.sample_rate * speed) / bank.sample_rate for speed in speeds])
    return waveforms.flatten(0, 1), (lengths[:, None] / rates).ceil().long().clamp(max=stored).flatten()


def fixed_indices(num_clips: int, count: int) -> Tensor:
    """Return up to `count` clip indices, spread evenly over the bank."""
    return torch.linspace(0, num_clips - 1, min(count, num_clips)).long()


def held_out_batches(source: BinauralSource, count: int, batch_size: int) -> Iterator[tuple[Tensor, StepRandom]]:
    """Yield clip indices and randomness of up to `count` clips, the same clips and draws every time."""
    chosen = fixed_indices(len(source), count)
    for step, indices in enumerate(chosen.split(batch_size)):
        yield indices, StepRandom(1, step, slice(None), len(indices), source.hrirs.device)


def global_batch(num_clips: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Return the clip indices (batch_size,) of a step, for all processes together."""
    return batch_indices(num_clips, batch_size, step, seed)
