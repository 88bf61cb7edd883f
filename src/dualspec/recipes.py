"""Every run as a named function, in three sizes: `paper`, `mini` (the embedded bundle) and `tiny` (tests).

A recipe is `SIZE/ROOM`, for example `mini/stft_vae` or `paper/dualspec`. The `paper` sizes are those of Table II;
its VAE layouts come in two readings of a contradiction in the paper: `table` (default) and `text` (decision 1).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from dualspec.diffusion.denoiser import UnetConfig
from dualspec.diffusion.objective import NoiseScheduleConfig
from dualspec.diffusion.sampler import SamplingConfig
from dualspec.diffusion.transformer import DitConfig
from dualspec.diffusion.variant import VARIANT_PARTS, VariantConfig, VariantName, latent_shapes
from dualspec.features.mel import MelConfig
from dualspec.features.stft import StftConfig
from dualspec.hearing.localizer import LocalizerConfig
from dualspec.latents.frame_autoencoder import FrameAutoencoderConfig
from dualspec.latents.losses import VaeLossConfig
from dualspec.latents.pairing import LatentPairing, PairingConfig
from dualspec.latents.vae import AutoencoderKlConfig, VaeConfig
from dualspec.synthesis.discriminators import PeriodDiscriminatorConfig, ResolutionDiscriminatorConfig
from dualspec.synthesis.vocoder import HifiGanConfig, IstftHeadConfig
from dualspec.text.encoder import TextEncoderConfig
from dualspec.training.augment import AugmentConfig
from dualspec.training.diffusion_task import DiffusionTaskConfig
from dualspec.training.localizer_task import LocalizerTaskConfig
from dualspec.training.loop import LoopConfig
from dualspec.training.task import OptimizerConfig, RenderConfig
from dualspec.training.vae_task import VaeTaskConfig
from dualspec.training.vocoder_task import VocoderTaskConfig

Size = Literal["paper", "mini", "tiny"]
Layout = Literal["table", "text"]
TaskConfig = VaeTaskConfig | VocoderTaskConfig | DiffusionTaskConfig | LocalizerTaskConfig

VAE_ROOMS = ("mel_vae", "stft_vae", "dual_vae", "mono_mel_vae")
LOCALIZER_ROOMS = ("localizer", "robust_localizer")
ROOMS = (*VAE_ROOMS, "vocoder", *LOCALIZER_ROOMS, *VARIANT_PARTS)
SIZES = ("paper", "mini", "tiny")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run: what is trained and how long."""

    name: str  # SIZE/ROOM
    task: TaskConfig  # model, clips, losses, optimizers
    loop: LoopConfig = field(default_factory=LoopConfig)  # length, batch, precision
    num_bank_samples: int = 81_920  # samples kept of each clip in memory


def recipe_names() -> list[str]:
    """Return all recipe names."""
    names = [f"{size}/{room}" for size in SIZES for room in ROOMS]
    return names + [f"paper-text/{room}" for room in (*VAE_ROOMS[:3], *VARIANT_PARTS)]


def get_recipe(name: str) -> Recipe:
    """Return the recipe called `name`.

    Raises:
        ValueError: there is none of that name; the nearest is named.
    """
    if name not in recipe_names():
        import difflib

        near = difflib.get_close_matches(name, recipe_names(), n=1, cutoff=0.0)
        raise ValueError(
            f"recipe must be one of SIZE/ROOM, got {name!r}; did you mean {near[0]!r}? See `dualspec show`"
        )
    size, room = name.split("/")
    layout: Layout = "text" if size == "paper-text" else "table"
    builders: dict[str, Callable[[str, Layout, str], Recipe]] = {"paper": _paper, "mini": _mini, "tiny": _tiny}
    return builders[size.removesuffix("-text")](room, layout, name)


def vae_recipe_name(name: str, part: str) -> str:
    """Return the recipe of a variant recipe's VAE, for example `mini/stft_vae` for `mini/dualspec`."""
    size = name.split("/")[0]
    return f"{'paper' if part == 'mono_mel_vae' and size == 'paper-text' else size}/{part}"


def vae_configs(name: str, variant: VariantName) -> dict[str, VaeConfig]:
    """Return the VAE settings of a variant recipe by part name."""
    configs = {}
    for part in VARIANT_PARTS[variant]:
        task = get_recipe(vae_recipe_name(name, part)).task
        assert isinstance(task, VaeTaskConfig)
        configs[part] = task.vae
    return configs


def _packed_shape(name: str, variant: VariantName, pairing: PairingConfig, num_samples: int) -> tuple[int, int, int]:
    vaes = vae_configs(name, variant)
    return LatentPairing(pairing, latent_shapes(list(vaes.values()), num_samples)).packed_shape


# --- paper ------------------------------------------------------------------------------------------------------------

_T5_LARGE = TextEncoderConfig(kind="t5", name_or_path="google/flan-t5-large")
_STFT = StftConfig(framing="hifigan")
_SHARED_MEL = MelConfig(n_fft=512, win_length=512, hop_length=256)


def _paper(room: str, layout: Layout, name: str) -> Recipe:
    """Sizes of Table II, training of section VI."""
    if room in VAE_ROOMS:
        steps, batch = {"stft_vae": (1_200_000, 8), "dual_vae": (2_400_000, 4)}.get(room, (600_000, 16))
        optimizer = OptimizerConfig(lr=4.5e-6, betas=(0.5, 0.9), clip_norm=0.0)
        task: TaskConfig = VaeTaskConfig(
            vae=_paper_vae(room, layout),
            loss=VaeLossConfig(kl_weight=1e-4),
            render=RenderConfig(random_crop=True),
            optimizer=optimizer,
            discriminator_optimizer=optimizer,
        )
        loop = LoopConfig(
            max_steps=steps,
            batch_size=16 * batch,
            micro_batch=batch,
            lr_schedule="constant",
            ema_decay=0.0,
            validate_every=2_000,
            save_every=2_000,
        )
        return Recipe(name=name, task=task, loop=loop, num_bank_samples=163_840)
    if room == "vocoder":
        loop = LoopConfig(max_steps=1_000_000, batch_size=16)
        render = RenderConfig(num_samples=16_000, random_crop=True)  # whole mel frames
        return Recipe(name=name, task=VocoderTaskConfig(vocoder=HifiGanConfig(), render=render), loop=loop)
    if room in LOCALIZER_ROOMS:
        return _localizer(name, LocalizerConfig(), LoopConfig(max_steps=20_000, batch_size=64))
    variant: VariantName = room  # type: ignore[assignment]
    pairing = PairingConfig(layout="frequency")
    shape = _packed_shape(name, variant, pairing, 81_920)
    config = VariantConfig(
        variant=variant,
        denoiser=UnetConfig(latent_shape=shape),
        text_encoder=_T5_LARGE,
        pairing=pairing,
        sampling=SamplingConfig(sampler="ddpm", num_inference_steps=200),
    )
    loop = LoopConfig(
        max_steps=156_250,
        batch_size=64,
        micro_batch=2,
        ema_decay=0.0,
        warmup_steps=0,
        validate_every=2_000,
        save_every=2_000,  # a checkpoint has 10 GB
    )
    return Recipe(name=name, task=DiffusionTaskConfig(variant=config), loop=loop)


def _paper_vae(room: str, layout: Layout) -> VaeConfig:
    short, tall = (1, 2, 4), (1, 2, 4, 8)
    levels = {
        "mel_vae": tall if layout == "table" else short,
        "stft_vae": short if layout == "table" else tall,
        "dual_vae": short if layout == "table" else tall,
        "mono_mel_vae": short,
    }[room]
    return _kl2d_vae(room, AutoencoderKlConfig(in_channels=_CHANNELS_2D[room], channel_multipliers=levels))


_CHANNELS_2D = {"mel_vae": 2, "mono_mel_vae": 1, "stft_vae": 4, "dual_vae": 6}


def _kl2d_vae(room: str, autoencoder: AutoencoderKlConfig) -> VaeConfig:
    """A VAE in the paper's own forms: mel of 1024/160, complex STFT of 512/256, both on 512/256 for the Dual-VAE."""
    if room == "stft_vae":
        return VaeConfig(feature="stft", stft=_STFT, autoencoder=autoencoder, complex_scale=3.0)
    if room == "dual_vae":
        return VaeConfig(
            feature="dual",
            stft=_STFT,
            mel=_SHARED_MEL,
            autoencoder=autoencoder,
            complex_scale=3.0,
            log_mean=-7.0,
            log_std=3.0,
        )
    return VaeConfig(feature="mel" if room == "mel_vae" else "mel_mono", mel=MelConfig(), autoencoder=autoencoder)


_ROBUST = AugmentConfig(
    mixture=0.3,
    equalizer=0.7,
    band_limit=0.4,
    head=0.85,
    room=0.3,
    ear_errors=0.6,
    vocoder=0.25,
    quantizer=0.2,
    codec=0.02,
    noise=0.6,
    no_direction=0.1,
)


def _localizer(name: str, model: LocalizerConfig, loop: LoopConfig, num_samples: int = 16_384) -> Recipe:
    """Clean clips for comparison with the paper, or the judge that is to be believed."""
    robust = name.endswith("robust_localizer")
    render = RenderConfig(
        num_samples=num_samples,
        random_crop=True,
        gain_range_db=20.0,
        max_shift_s=0.2 if robust else 0.0,
    )
    augment = _ROBUST if robust else AugmentConfig()
    return Recipe(name=name, task=LocalizerTaskConfig(localizer=model, render=render, augment=augment), loop=loop)


# --- mini -------------------------------------------------------------------------------------------------------------


def _mini(room: str, layout: Layout, name: str) -> Recipe:
    """The embedded bundle: one 80 × 16 latent grid, frame-wise VAEs, a one-dimensional transformer."""
    if room in VAE_ROOMS:
        optimizer = OptimizerConfig(lr=1e-3)
        task: TaskConfig = VaeTaskConfig(
            vae=_mini_vae(room),
            render=RenderConfig(num_samples=20_480, random_crop=True),
            loss=VaeLossConfig(
                kl_weight=1e-2,
                interaural_phase_weight=1.5,
                common_phase_weight=0.2,
                adversarial_weight=0.0,  # not yet measured at this size
            ),
            discriminator_channels=16,
            optimizer=optimizer,
            discriminator_optimizer=OptimizerConfig(lr=3e-4, betas=(0.5, 0.9)),
            decoder_only=room in ("mel_vae", "mono_mel_vae"),  # their encoder is had from the clips
        )
        return Recipe(name=name, task=task, loop=LoopConfig(max_steps=40_000, batch_size=32, ema_decay=0.998))
    if room == "vocoder":
        task = VocoderTaskConfig(
            vocoder=IstftHeadConfig(mel=_SHARED_MEL),  # in equal minutes far ahead of a narrow HiFi-GAN
            periods=PeriodDiscriminatorConfig(base_channels=8),
            resolutions=ResolutionDiscriminatorConfig(base_channels=8),
            optimizer=OptimizerConfig(lr=8e-4, betas=(0.8, 0.99)),
            adversarial_start_fraction=0.4,
        )
        return Recipe(name=name, task=task, loop=LoopConfig(max_steps=40_000, batch_size=16))
    if room == "localizer":
        return _localizer(name, LocalizerConfig(), LoopConfig(max_steps=3_000, batch_size=32, validate_every=250))
    if room == "robust_localizer":
        model = LocalizerConfig(
            phase_input="interaural",
            branch_channels=(16, 32, 32),
            fused_channels=64,
            hidden_features=(256, 256),
            time_stride=2,
        )
        return _localizer(name, model, LoopConfig(max_steps=6_000, batch_size=32), num_samples=12_288)
    variant: VariantName = room  # type: ignore[assignment]
    pairing = PairingConfig(layout="channel")
    config = VariantConfig(
        variant=variant,
        denoiser=DitConfig(
            latent_shape=_packed_shape(name, variant, pairing, 81_920), patch_frames=2, input_gains=True
        ),
        text_encoder=TextEncoderConfig(kind="minilm"),
        pairing=pairing,
        schedule=NoiseScheduleConfig(prediction_type="v_prediction", zero_terminal_snr=True),
        sampling=SamplingConfig(sampler="dpmpp", num_inference_steps=8),
        merge_mode="paper" if variant in ("mel_base", "stft_base") else "phase_delta",
        mid_phase="griffin_lim",
    )
    task = DiffusionTaskConfig(
        variant=config,
        optimizer=OptimizerConfig(lr=5e-4, weight_decay=1e-2, betas=(0.9, 0.98)),
        snr_gamma=None,  # with min-SNR weights the noisiest steps, where the event is decided, hardly count
        sample_posterior=False,
        lexicon="wide",
    )
    return Recipe(
        name=name, task=task, loop=LoopConfig(max_steps=100_000, batch_size=32, warmup_steps=200, ema_decay=0.999)
    )


def _mini_vae(room: str) -> VaeConfig:
    if room in ("stft_vae", "dual_vae"):
        return VaeConfig(
            feature="stft" if room == "stft_vae" else "dual",
            stft=_STFT,
            mel=None if room == "stft_vae" else _SHARED_MEL,
            autoencoder=FrameAutoencoderConfig(in_channels=6 if room == "stft_vae" else 8, num_bins=256),
            representation="interaural",
            log_floor=1e-3,
            log_mean=-4.0,
            log_std=2.5,
            complex_scale=2.0,
            latent_scaling="principal",
            principal_channels=2 if room == "stft_vae" else 8,  # the STFT's other components hold nothing
        )
    channels = 2 if room == "mel_vae" else 1
    network = FrameAutoencoderConfig(in_channels=channels, num_bins=64, encoder_layers=0, linear=True)
    return VaeConfig(
        feature="mel" if channels == 2 else "mel_mono",
        mel=_SHARED_MEL,
        autoencoder=network,
        log_mean=-5.0,
        log_std=2.8,
        latent_scaling="principal",
        principal_channels=8,
    )


# --- tiny -------------------------------------------------------------------------------------------------------------


def _tiny(room: str, layout: Layout, name: str) -> Recipe:
    """The paper's forms at the size of a test: seconds on a CPU, short clips, no pretrained weights."""
    loop = LoopConfig(max_steps=20, batch_size=4, warmup_steps=2, log_every=5, validate_every=10, save_every=10)
    render = RenderConfig(num_samples=_TINY_SAMPLES, random_crop=False)
    if room in VAE_ROOMS:
        network = AutoencoderKlConfig(
            in_channels=_CHANNELS_2D[room],
            base_channels=8,
            channel_multipliers=(1, 2, 2, 2),
            mid_attention=False,
            layers_per_block=1,
            norm_groups=4,
        )
        loss = VaeLossConfig(adversarial_start_step=10)
        task: TaskConfig = VaeTaskConfig(
            vae=_kl2d_vae(room, network), render=render, loss=loss, discriminator_channels=4, scale_clips=16
        )
    elif room == "vocoder":
        vocoder = HifiGanConfig(
            initial_channels=32,
            upsample_rates=(5, 4, 2, 2, 2),
            upsample_kernels=(16, 16, 8, 4, 4),
            resblock_kernels=(3,),
            resblock_dilations=((1, 3),),
        )
        task = VocoderTaskConfig(
            vocoder=vocoder,
            render=RenderConfig(num_samples=8_000),
            periods=PeriodDiscriminatorConfig(periods=(2, 3), base_channels=2),
            resolutions=ResolutionDiscriminatorConfig(n_ffts=(256,), base_channels=2),
        )
    elif room in LOCALIZER_ROOMS:
        model = LocalizerConfig(branch_channels=(4, 8, 8), fused_channels=8, hidden_features=(16, 16))
        task = replace(_localizer(name, model, loop).task, render=render)
    else:
        variant: VariantName = room  # type: ignore[assignment]
        pairing = PairingConfig(layout="frequency")
        network_shape = _packed_shape(name, variant, pairing, _TINY_SAMPLES)
        denoiser = UnetConfig(
            latent_shape=network_shape,
            cross_attention_dim=16,
            block_channels=(8, 16),
            layers_per_block=1,
            num_heads=(1, 2),
            norm_groups=4,
        )
        config = VariantConfig(
            variant=variant,
            denoiser=denoiser,
            text_encoder=TextEncoderConfig(kind="hash", width=16),
            pairing=pairing,
            sampling=SamplingConfig(sampler="ddim", num_inference_steps=4),
            num_samples=_TINY_SAMPLES,
        )
        task = DiffusionTaskConfig(variant=config, render=render)
    return Recipe(name=name, task=task, loop=loop, num_bank_samples=_TINY_SAMPLES)


_TINY_SAMPLES = 10_240
