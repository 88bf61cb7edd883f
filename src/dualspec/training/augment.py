"""What a localizer must not mind, and what it must not believe, done to batches on their device.

What keeps a direction: other heads, recordings, rooms, equalisers, small faults of the ears, noise, codecs, vocoders.
What has none: unrelated ears, and ears without delay; their targets say so.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dualspec.audio.azimuth import LEFT, NUM_SECTORS, RIGHT
from dualspec.audio.binaural import render
from dualspec.audio.codec import code_and_decode
from dualspec.features.stft import StftConfig, istft, stft
from dualspec.training.task import StepRandom

_FRAMING = StftConfig()
_EARLIEST_S, _LATEST_S = 0.001, 0.040  # early reflections
_NUM_EARLY = 6


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Chance per clip of each change, in [0, 1], and how far it goes; the defaults change nothing."""

    mixture: float = 0.0  # a second recording from the same direction
    mixture_db: tuple[float, float] = (-12.0, 3.0)  # its level against the first
    equalizer: float = 0.0  # a smooth response common to both ears
    equalizer_db: float = 5.0  # its standard deviation
    band_limit: float = 0.0  # a low-pass and a high-pass common to both ears
    low_pass_hz: tuple[float, float] = (2_500.0, 8_000.0)
    high_pass_hz: tuple[float, float] = (20.0, 400.0)
    head: float = 0.0  # another head: other size, pinnae, asymmetry
    head_size: tuple[float, float] = (0.85, 1.15)  # responses are stretched in time by this
    pinna_db: float = 4.0  # standard deviation of each ear's response above 3 kHz, for each direction
    delay_jitter_us: float = 25.0  # standard deviation of the ears' delay
    room: float = 0.0  # reflections and reverberation from all directions, through the same head
    room_db: tuple[float, float] = (0.0, 20.0)  # direct sound against reflected
    room_s: tuple[float, float] = (0.1, 0.8)  # reverberation time
    ear_errors: float = 0.0  # each ear gets a gain and a ripple of its own
    ear_error_db: float = 3.0  # largest gain; the ripple has a third of it as standard deviation
    vocoder: float = 0.0  # magnitudes smoothed over frequency, phases disturbed
    quantizer: float = 0.0  # spectral quantisation with holes, as codecs make
    codec: float = 0.0  # real Opus or MP3: on the CPU, about 0.1 s for 1 s of sound
    codec_bit_rates: tuple[int, int] = (24_000, 96_000)  # bit/s for both ears
    noise: float = 0.0  # white to pink, independent at the ears, equal at both, or partly
    noise_snr_db: tuple[float, float] = (0.0, 40.0)  # signal-to-noise ratio
    no_direction: float = 0.0  # lateral clips whose ears are made unrelated or lose their delay; target changed

    def __post_init__(self) -> None:
        """Check the chances.

        Raises:
            ValueError: a chance is outside [0, 1].
        """
        for name, value in vars(self).items():
            if isinstance(value, float) and not name.endswith(("_db", "_us")) and not 0.0 <= value <= 1.0:
                raise ValueError(f"augment.{name} must be a chance in [0, 1], got {value}; 0 is never, 1 always")


class Augmenter:
    """Draws and applies the changes; a change of chance 0 draws nothing.

    Args:
        config: chances and ranges.
        sample_rate: of the clips, Hz.
    """

    def __init__(self, config: AugmentConfig, sample_rate: int) -> None:
        """Keep the settings."""
        self.config, self.sample_rate = config, sample_rate

    def change_source(self, mono: Tensor, others: Tensor | None, random: StepRandom) -> Tensor:
        """Return clips (B, S) mixed, equalised and limited in band: all before a head, so alike at both ears.

        Args:
            mono: (B, S).
            others: (B, S) recordings to mix in; None when the chance of a mixture is 0.
            random: of this step.
        """
        config, num_samples = self.config, mono.shape[-1]
        if others is not None:
            gain = _decibel(_uniform(random, config.mixture_db)) * _mask(random, config.mixture)
            mono = mono + others * gain.to(mono)[:, None]
        gain_db = torch.zeros(1, num_samples // 2 + 1, device=mono.device)
        frequency = torch.fft.rfftfreq(num_samples, 1.0 / self.sample_rate, device=mono.device)
        if config.equalizer:
            response = config.equalizer_db * self.smooth_responses(random, (), frequency, 4)
            gain_db = gain_db + _mask(random, config.equalizer).to(mono)[:, None] * response
        if config.band_limit:
            low, high = (_uniform(random, r).to(mono) for r in (config.low_pass_hz, config.high_pass_hz))
            slope_db = 48.0 * ((frequency / low[:, None]).clamp(min=1).log2())
            slope_db = slope_db + 24.0 * ((high[:, None] / frequency.clamp(min=1)).clamp(min=1).log2())
            gain_db = gain_db - _mask(random, config.band_limit).to(mono)[:, None] * slope_db
        if not (config.equalizer or config.band_limit):
            return mono
        return torch.fft.irfft(torch.fft.rfft(mono) * _decibel(gain_db.clamp(min=-120)), n=num_samples)

    def change_heads(self, hrirs: Tensor, random: StepRandom) -> Tensor:
        """Return the responses (B, A, 2, K') of some rows as those of other heads, longer by up to a fifth.

        Args:
            hrirs: (B, A, 2, K) of each row's head for all directions.
            random: of this step.
        """
        config = self.config
        if not config.head:
            return hrirs
        num_taps = math.ceil(1.2 * hrirs.shape[-1])
        changed = functional.pad(hrirs, (0, num_taps - hrirs.shape[-1]))
        size = _uniform(random, config.head_size)
        frequency = torch.fft.rfftfreq(_power_of_two(2 * num_taps), 1.0 / self.sample_rate, device=hrirs.device)
        pinna = self.smooth_responses(random, tuple(hrirs.shape[1:3]), frequency, 12)
        pinna = config.pinna_db * pinna * (frequency / 2000.0 - 0.5).clamp(0, 1)  # nothing below 1 kHz
        jitter_s = config.delay_jitter_us * 1e-6 * random.normal((hrirs.shape[1], 2)) / math.sqrt(2)
        rows = _rows(random, config.head).to(hrirs.device)
        if rows.numel():
            spectrum = stretched_spectrum(hrirs[rows], size.to(hrirs)[rows], len(frequency))
            turn = torch.polar(_decibel(pinna[rows]), -2 * math.pi * frequency * jitter_s[rows][..., None])
            changed[rows] = torch.fft.irfft(spectrum * turn)[..., :num_taps]
        return changed

    def render(self, mono: Tensor, hrirs: Tensor, directions: Tensor, random: StepRandom) -> Tensor:
        """Return two-eared clips (B, 2, S) of mono clips (B, S), some of them in a room.

        Args:
            mono: (B, S).
            hrirs: (B, A, 2, K) of each row's head for all directions.
            directions: (B,) direction of each source, on the device.
            random: of this step.
        """
        config = self.config
        direct = hrirs[torch.arange(len(mono), device=mono.device), directions]
        binaural = render(mono, direct)
        if not config.room:
            return binaural
        length = round(0.375 * self.sample_rate)  # what comes later is below the noise of most rooms
        reflected = self._reflections(hrirs.shape[1], length, random).to(mono.device)
        ratio = _decibel(_uniform(random, config.room_db)).to(mono)
        rows = _rows(random, config.room).to(mono.device)
        if rows.numel():
            size = _power_of_two(length + hrirs.shape[-1])
            spectrum = torch.fft.rfft(reflected[rows], n=size)[:, :, None] * torch.fft.rfft(hrirs[rows], n=size)
            tail = torch.fft.irfft(spectrum.sum(1), n=size)[..., :length]
            energy = direct[rows].square().sum((1, 2)) / tail.square().sum((1, 2)).clamp(min=1e-12)
            tail = tail * (energy.sqrt() / ratio[rows])[:, None, None]
            binaural[rows] += render(mono[rows], tail)
        return binaural

    def _reflections(self, num_directions: int, length: int, random: StepRandom) -> Tensor:
        """Return what arrives from each direction (B, A, L): six early reflections and a decaying diffuse tail."""
        time = torch.arange(length, device=random.device) / self.sample_rate
        decay_s = _uniform(random, self.config.room_s).to(random.device)
        envelope = torch.exp(-6.9 * time / decay_s[:, None]) * (time > _EARLIEST_S * 5)
        late = random.normal((num_directions, length)) * envelope[:, None]
        late_share = 10 ** (torch.rand(random.num_rows, generator=random.cpu_generator)[random.rows] - 1)
        late = late * (late_share.to(late) / late.square().sum((1, 2)).clamp(min=1e-12)).sqrt()[:, None, None]
        shape = (random.num_rows, _NUM_EARLY)
        delay, where, gain = (torch.rand(shape, generator=random.cpu_generator)[random.rows] for _ in range(3))
        sample = ((_EARLIEST_S + (_LATEST_S - _EARLIEST_S) * delay) * self.sample_rate).long()
        flat = (where * num_directions).long() * length + sample
        gain = (gain - 0.5) * (1 - delay)
        gain = gain * ((1 - late_share) / gain.square().sum(1).clamp(min=1e-12)).sqrt()[:, None]
        return late.flatten(1).scatter_add(1, flat.to(late.device), gain.to(late)).view_as(late)

    def change_ears(self, binaural: Tensor, random: StepRandom) -> Tensor:
        """Return two-eared clips (B, 2, S) after faults of the ears, a vocoder, a codec and noise, in this order."""
        config, num_samples = self.config, binaural.shape[-1]
        frequency = torch.fft.rfftfreq(num_samples, 1.0 / self.sample_rate, device=binaural.device)
        if config.ear_errors:
            gain_db = config.ear_error_db * (2 * _uniform(random, (0.0, 1.0), (2,)).to(binaural) - 1)[..., None]
            gain_db = gain_db + config.ear_error_db / 3 * self.smooth_responses(random, (2,), frequency, 8)
            gain_db = gain_db * _mask(random, config.ear_errors).to(binaural)[:, None, None]
            binaural = torch.fft.irfft(torch.fft.rfft(binaural) * _decibel(gain_db), n=num_samples)
        if config.vocoder or config.quantizer:
            binaural = self._change_spectra(binaural, random)
        if config.codec:
            binaural = self._code(binaural, random)
        return self._add_noise(binaural, frequency, random) if config.noise else binaural

    def _change_spectra(self, binaural: Tensor, random: StepRandom) -> Tensor:
        """Apply what vocoders and codecs do to the frames of some rows."""
        config, num_samples = self.config, binaural.shape[-1]
        shape = (3, _FRAMING.num_frames(num_samples), _FRAMING.num_bins)
        for chance, vocodes in ((config.vocoder, True), (config.quantizer, False)):
            if chance:
                strength = _uniform(random, (0.0, 1.0), (3,)).to(binaural)
                noise = random.normal(shape) if vocodes else strength
                rows = _rows(random, chance).to(binaural.device)
                if rows.numel():
                    spectrum = stft(binaural[rows], _FRAMING)
                    spectrum = (
                        vocode(spectrum, strength[rows], noise[rows]) if vocodes else quantize(spectrum, strength[rows])
                    )
                    binaural = binaural.index_copy(0, rows, istft(spectrum, _FRAMING, num_samples))
        return binaural

    def _code(self, binaural: Tensor, random: StepRandom) -> Tensor:
        """Send some rows through Opus or MP3."""
        bit_rate = _uniform(random, self.config.codec_bit_rates).tolist()
        use_mp3 = (random.uniform() < 0.3).tolist()
        for row in _rows(random, self.config.codec).tolist():
            clip = binaural[row]
            peak = clip.abs().amax().clamp(min=1e-6)
            coded = code_and_decode(
                (0.5 * clip / peak).cpu(), self.sample_rate, "mp3" if use_mp3[row] else "opus", int(bit_rate[row])
            )
            binaural[row] = coded.to(clip) * peak * 2
        return binaural

    def _add_noise(self, binaural: Tensor, frequency: Tensor, random: StepRandom) -> Tensor:
        config = self.config
        noise = torch.fft.rfft(random.normal(tuple(binaural.shape[1:])))
        common = random.integers(3).to(binaural)[:, None] / 2  # 0 independent, 1/2 partly, 1 equal at both ears
        noise = torch.stack([noise[:, LEFT], common * noise[:, LEFT] + (1 - common) * noise[:, RIGHT]], dim=1)
        color = random.uniform().to(binaural)[:, None, None]  # 0 white, 1 pink
        noise = torch.fft.irfft(noise * (frequency.clamp(min=50) / 1000) ** (-0.5 * color), n=binaural.shape[-1])
        ratio = _decibel(-_uniform(random, config.noise_snr_db)).to(binaural)
        level = binaural.square().mean((1, 2)) / noise.square().mean((1, 2))
        gain = level.sqrt() * ratio * _mask(random, config.noise).to(binaural)
        return binaural + gain[:, None, None] * noise

    def remove_direction(self, binaural: Tensor, directions: Tensor, random: StepRandom) -> tuple[Tensor, Tensor]:
        """Take the direction out of some lateral clips, and say in the targets what is left to hear.

        Ears that are unrelated point nowhere: all sectors are equal. Ears without delay but with a level difference
        contradict themselves; the delay of the low frequencies decides (F. L. Wightman and D. J. Kistler, J. Acoust.
        Soc. Am., vol. 91, 1992), so the sound is in the median plane or anywhere.

        Args:
            binaural: (B, 2, S).
            directions: (B,) sector of each clip.
            random: of this step.

        Returns:
            Clips (B, 2, S) and targets (B, 12): the probability of each sector.
        """
        targets = functional.one_hot(directions, NUM_SECTORS).to(binaural)
        if not self.config.no_direction:
            return binaural, targets
        phases = math.pi * random.normal((_FRAMING.num_frames(binaural.shape[-1]), _FRAMING.num_bins))
        unrelated = random.uniform() < 0.5
        flipped = (random.uniform() < 0.5).to(binaural.device)
        chosen = _mask(random, self.config.no_direction) & (directions % (NUM_SECTORS // 2) != 0).cpu()
        for kind, rows in ((True, chosen & unrelated), (False, chosen & ~unrelated)):
            index = rows.nonzero()[:, 0].to(binaural.device)
            if index.numel():
                clips = binaural[index]
                spectrum = stft(clips, _FRAMING)
                kept = flipped[index][:, None, None]  # the ear whose phase stays
                stays = torch.where(kept, spectrum[:, RIGHT], spectrum[:, LEFT]).angle()
                phase = stays + phases[index] if kind else stays
                both = torch.where(torch.stack([~kept, kept], dim=1), stays[:, None], phase[:, None])
                changed = istft(torch.polar(spectrum.abs(), both), _FRAMING, clips.shape[-1])
                lost = clips.square().sum(-1, keepdim=True) / changed.square().sum(-1, keepdim=True).clamp(min=1e-12)
                binaural = binaural.index_copy(0, index, changed * lost.sqrt())  # disturbed frames lose level
                targets[index] = 1.0 / NUM_SECTORS if kind else 0.2 / (NUM_SECTORS - 2)
                if not kind:
                    targets[index, 0] = targets[index, NUM_SECTORS // 2] = 0.4
        return binaural, targets

    def smooth_responses(self, random: StepRandom, shape: tuple[int, ...], frequency: Tensor, num_waves: int) -> Tensor:
        """Draw smooth curves (B, *shape, F) of standard deviation 1: cosines over the logarithm of frequency."""
        place = (1 + frequency / 700.0).log() / (1 + frequency[-1] / 700.0).log()
        order = torch.arange(1, num_waves + 1, device=frequency.device)
        weight = order.rsqrt() / order.reciprocal().sum().sqrt() * math.sqrt(2)
        waves = torch.cos(math.pi * order[:, None] * place) * weight[:, None]
        return random.normal((*shape, num_waves)) @ waves


def stretched_spectrum(responses: Tensor, factor: Tensor, num_bins: int) -> Tensor:
    """Transform responses as if their head were larger: h(t / factor), band-limited.

    Args:
        responses: (B, A, 2, K).
        factor: (B,) stretch of time; above 1 the top of the band, which was never measured, is empty.
        num_bins: F, evenly from 0 to half of the sample rate.

    Returns:
        (B, A, 2, F) complex. A delay of d becomes factor * d, a level stays.
    """
    omega = torch.linspace(0, math.pi, num_bins, device=responses.device) * factor[:, None]  # (B, F)
    angle = omega[:, None] * torch.arange(responses.shape[-1], device=responses.device)[:, None]  # (B, K, F)
    flat = responses.flatten(1, 2)
    spectrum = torch.complex(flat @ angle.cos(), -(flat @ angle.sin()))
    edge = ((math.pi - omega) / (0.05 * math.pi)).clamp(0, 1)
    inside = torch.where(factor[:, None] > 1, edge, 1.0) * factor[:, None]
    return (spectrum * inside[:, None]).unflatten(1, responses.shape[1:3])


def vocode(spectrum: Tensor, strength: Tensor, noise: Tensor) -> Tensor:
    """Make spectra (B, 2, T, F) as a vocoder might have: smooth magnitudes, one strange phase, small errors per ear.

    Args:
        spectrum: (B, 2, T, F) complex.
        strength: (B, 3) in [0, 1]: smoothing, phase common to both ears, phase of each ear.
        noise: (B, 3, T, F) standard normal.
    """
    magnitude = spectrum.abs()
    smooth = functional.avg_pool2d(magnitude, (1, 9), stride=1, padding=(0, 4))
    magnitude = magnitude + strength[:, 0, None, None, None] * (smooth - magnitude)
    phase = strength[:, 1, None, None, None] * math.pi * noise[:, :1]
    phase = phase + 0.5 * strength[:, 2, None, None, None] ** 2 * noise[:, 1:]
    return torch.polar(magnitude, spectrum.angle() + phase)


def quantize(spectrum: Tensor, strength: Tensor) -> Tensor:
    """Round magnitudes (B, 2, T, F) to a step that follows the neighbourhood; weak bins fall into holes.

    Args:
        spectrum: (B, 2, T, F) complex.
        strength: (B, 3) in [0, 1]: coarseness; above 1/2 in the second, sum and difference are rounded, not the ears.
    """
    half = math.sqrt(0.5)
    paired = (strength[:, 1] > 0.5)[:, None, None, None]
    turned = torch.stack([spectrum[:, 0] + spectrum[:, 1], spectrum[:, 0] - spectrum[:, 1]], dim=1) * half
    chosen = torch.where(paired, turned, spectrum)
    magnitude = chosen.abs()
    level = functional.avg_pool2d(magnitude, (1, 17), stride=1, padding=(0, 8)).amax(1, keepdim=True)
    step = level * 10 ** (1.2 * strength[:, 0, None, None, None] - 1.2) + 1e-9
    rounded = chosen * ((magnitude / step).round() * step / magnitude.clamp(min=1e-9))
    back = torch.stack([rounded[:, 0] + rounded[:, 1], rounded[:, 0] - rounded[:, 1]], dim=1) * half
    return torch.where(paired, back, rounded)


def _mask(random: StepRandom, chance: float) -> Tensor:
    return random.uniform() < chance


def _rows(random: StepRandom, chance: float) -> Tensor:
    """Draw the rows that are changed; nothing is drawn for chance 0."""
    hit = _mask(random, chance).tolist() if chance else []
    return torch.tensor([row for row, yes in enumerate(hit) if yes], dtype=torch.long)


def _uniform(random: StepRandom, limits: tuple[float, float], shape: tuple[int, ...] = ()) -> Tensor:
    drawn = torch.rand((random.num_rows, *shape), generator=random.cpu_generator)[random.rows]
    return limits[0] + (limits[1] - limits[0]) * drawn


def _decibel(value_db: Tensor) -> Tensor:
    return 10.0 ** (value_db / 20.0)


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()
