"""What a recipe builds, without building it: shapes at every door, parameters and operations on the meta device."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import nn

from dualspec.diffusion.denoiser import build_denoiser
from dualspec.diffusion.variant import VariantConfig
from dualspec.hearing.localizer import Localizer
from dualspec.latents.adversary import PatchDiscriminator, PatchDiscriminatorConfig
from dualspec.latents.pairing import LatentPairing
from dualspec.latents.vae import SpectrogramVae, VaeConfig
from dualspec.model_folder import needs_vocoder
from dualspec.pipeline import DualSpecPipeline
from dualspec.recipes import Recipe, get_recipe, vae_configs
from dualspec.synthesis.vocoder import GriffinLimConfig, HifiGanConfig, VocoderConfig, build_vocoder
from dualspec.text.bert import BertEncoder
from dualspec.text.bert_files import BertConfig
from dualspec.text.encoder import TextEncoderConfig, t5_large_encoder_config
from dualspec.training.diffusion_task import DiffusionTaskConfig
from dualspec.training.localizer_task import LocalizerTaskConfig
from dualspec.training.vae_task import VaeTaskConfig
from dualspec.training.vocoder_task import Adversaries, VocoderTaskConfig

Shape = tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Account:
    """What one recipe amounts to."""

    doors: dict[str, Shape]  # axes at every door, in the order of the data; texts are lengths that depend on the words
    parameters: dict[str, int]  # of every part that generates or judges
    training_only: dict[str, int] = field(default_factory=dict)  # of the adversaries, which no trained folder holds
    uncounted: tuple[str, ...] = ()  # parts whose size only their own files tell

    @property
    def total(self) -> int:
        """Parameters of all parts together: a row of Table II for the variants."""
        return sum(self.parameters.values())


@cache
def _size(build: Callable[[Any], nn.Module], config: Any) -> int:
    """Count what `build` makes of a config, once per process."""
    return count_parameters(build(config))


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters, each once; trained or frozen, on any device."""
    return sum(parameter.numel() for parameter in module.parameters())


def account(recipe: Recipe) -> Account:
    """Say what a recipe builds: for real, but on the meta device, where parameters have no memory. Table II."""
    with torch.device("meta"):
        match recipe.task:
            case VaeTaskConfig() as task:
                return _vae_account(task)
            case VocoderTaskConfig() as task:
                return _vocoder_account(task)
            case LocalizerTaskConfig() as task:
                return _localizer_account(task)
            case task:
                return _variant_account(recipe, task)


def _vae_account(task: VaeTaskConfig) -> Account:
    vae, num_samples = task.vae, task.render.num_samples
    adversary = PatchDiscriminatorConfig(in_channels=vae.num_channels, base_channels=task.discriminator_channels)
    weighs = bool(task.loss.adversarial_weight)
    return Account(
        doors={"waveform (ear, sample)": (2, num_samples), **_vae_doors("", vae, num_samples)},
        parameters={"vae": _size(SpectrogramVae, vae)},
        training_only={"discriminator": _size(PatchDiscriminator, adversary)} if weighs else {},
    )


def _vae_doors(name: str, vae: VaeConfig, num_samples: int) -> dict[str, Shape]:
    times = " of each ear" if vae.num_latents == 2 else ""
    prefix = f"{name} " if name else ""
    return {
        f"{prefix}channels{times} (channel, frame, bin)": vae.input_shape(num_samples),
        f"{prefix}latent{times} (channel, frame, row)": vae.latent_shape(num_samples),
    }


def _vocoder_account(task: VocoderTaskConfig) -> Account:
    config, num_samples = task.vocoder, task.render.num_samples
    num_frames = config.mel.num_frames(num_samples)
    return Account(
        doors={
            "waveform of one ear (sample)": (num_samples,),
            "log-mel (frame, band)": (num_frames, config.mel.n_mels),
            "vocoded (sample)": (config.num_samples(num_frames),),
        },
        parameters={"vocoder": _size(build_vocoder, config)},
        training_only={"adversaries": _size(Adversaries, task)} if task.adversarial_weight else {},
    )


def _localizer_account(task: LocalizerTaskConfig) -> Account:
    config, num_samples = task.localizer, task.render.num_samples
    frames = config.stft.num_frames(num_samples)
    return Account(
        doors={
            "waveform (ear, sample)": (2, num_samples),
            "level branch (channel, frame, bin)": (2, frames, config.stft.num_bins),
            "phase branch (channel, frame, bin)": (config.num_phase_channels, frames, config.stft.num_bins),
            "scores (sector)": (config.num_sectors,),
        },
        parameters={"localizer": _size(Localizer, config)},
    )


def _variant_account(recipe: Recipe, task: DiffusionTaskConfig) -> Account:
    config = task.variant
    vaes = vae_configs(recipe.name, config.variant)
    pairing = LatentPairing(config.pairing, config.latent_shapes(vaes))
    text_shape = (f"up to {config.text_encoder.max_tokens}", config.denoiser.cross_attention_dim)
    doors: dict[str, Shape] = {"text states (token, feature)": text_shape}
    doors["packed latents (channel, frame, row)"] = pairing.packed_shape
    for part, vae in vaes.items():
        doors |= _vae_doors(part, vae, config.num_samples)
    parameters = {"denoiser": _size(build_denoiser, config.denoiser)}
    text = _text_model(config.text_encoder)
    if text is not None:
        parameters["text encoder (frozen)"] = count_parameters(text)
    parameters |= {part: _size(SpectrogramVae, vae) for part, vae in vaes.items()}
    if needs_vocoder(config, vaes):
        vocoder = _vocoder_of(recipe)
        frames = vocoder.mel.num_frames(config.num_samples)
        doors["vocoder's log-mel (frame, band)"] = (frames, vocoder.mel.n_mels)
        parameters["vocoder"] = _size(build_vocoder, vocoder)
    doors["waveform (ear, sample)"] = (2, config.num_samples)
    return Account(doors=doors, parameters=parameters, uncounted=("text encoder",) if text is None else ())


def _vocoder_of(recipe: Recipe) -> VocoderConfig:
    size = recipe.name.split("/")[0].removesuffix("-text")  # both readings of the paper share the vocoder
    task = get_recipe(f"{size}/vocoder").task
    if not isinstance(task, VocoderTaskConfig):
        raise AssertionError("the vocoder's recipe trains a vocoder")
    return task.vocoder


@cache
def _text_model(config: TextEncoderConfig) -> nn.Module | None:
    """Build a known text encoder's layers, on the meta device; None for files that only their owner knows."""
    with torch.device("meta"):
        if config.kind == "hash":
            return nn.Identity()
        if config.kind == "t5" and config.name_or_path == "google/flan-t5-large":
            from transformers import T5EncoderModel

            return T5EncoderModel(t5_large_encoder_config()).requires_grad_(False)
        if config.kind == "minilm" and not config.name_or_path:
            return BertEncoder(BertConfig()).requires_grad_(False)
    return None


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Floating-point operations of one clip, in 1e9; additions and multiplications count alike.

    Protocol: torch.utils.flop_counter on the forward passes of the real modules. Matrix products, convolutions and
    attention count, transforms (FFT) and element-wise work do not. Texts have the encoder's full length, and each step
    evaluates the denoiser twice, for guidance. Table II.
    """

    text: float  # both texts through the encoder; 0 for one whose layers are not known here
    step: float  # one denoising step
    decode: float  # decoders of all VAEs, and the vocoder for every ear it vocodes
    num_steps: int  # denoising steps of the variant
    duration_s: float  # of the clip

    def per_second(self, num_steps: int | None = None) -> float:
        """Return 1e9 operations for one second of audio with so many steps; the variant's own number when None."""
        steps = self.num_steps if num_steps is None else num_steps
        return (self.text + steps * self.step + self.decode) / self.duration_s


def compute(config: VariantConfig, vaes: dict[str, VaeConfig], vocoder: VocoderConfig | None) -> Compute:
    """Count the operations of a variant with these parts, on the meta device: sizes alone matter, weights do not."""
    length, width = config.text_encoder.max_tokens, config.denoiser.cross_attention_dim
    shapes = config.latent_shapes(vaes)
    with torch.device("meta"), torch.no_grad():
        denoiser = build_denoiser(config.denoiser).eval().requires_grad_(False)
        packed = torch.zeros(2, *LatentPairing(config.pairing, shapes).packed_shape)
        states, mask = torch.zeros(2, length, width), torch.ones(2, length, dtype=torch.bool)
        step = _operations(denoiser, packed, torch.zeros(2, dtype=torch.int64), states, mask)
        decode = 0.0
        for vae in vaes.values():
            latents = torch.zeros(vae.num_latents, *vae.moment_shape(config.num_samples))
            decode += _operations(SpectrogramVae(vae).eval().requires_grad_(False).decode_channels, latents)
        text = _text_operations(config.text_encoder, length)
    if vocoder is not None and not isinstance(vocoder, GriffinLimConfig):
        # an inverse STFT looks at values, so the vocoder with one runs for real; it is small
        with torch.device("meta" if isinstance(vocoder, HifiGanConfig) else "cpu"), torch.no_grad():
            ears = 1 if config.merge_mode == "phase_delta" else 2
            frames = vocoder.mel.num_frames(config.num_samples)
            network = build_vocoder(vocoder).eval().requires_grad_(False)
            decode += _operations(network, torch.zeros(ears, frames, vocoder.mel.n_mels))
    steps, seconds = config.sampling.num_inference_steps, config.num_samples / config.sample_rate
    return Compute(text=text, step=step, decode=decode, num_steps=steps, duration_s=seconds)


def recipe_compute(recipe: Recipe) -> Compute:
    """Count the operations of a variant's recipe."""
    if not isinstance(recipe.task, DiffusionTaskConfig):
        raise ValueError(f"recipe must be of a variant, got {recipe.name}; its parts are counted within one")
    config = recipe.task.variant
    vaes = vae_configs(recipe.name, config.variant)
    return compute(config, vaes, _vocoder_of(recipe) if needs_vocoder(config, vaes) else None)


def pipeline_parameters(pipeline: DualSpecPipeline) -> int:
    """Return the number of parameters of all parts of a loaded model, the text encoder included."""
    vocoder = [pipeline.vocoder] if pipeline.vocoder is not None else []
    return sum(map(count_parameters, [pipeline.denoiser, pipeline.text_encoder, *pipeline.vaes.values(), *vocoder]))


def pipeline_compute(pipeline: DualSpecPipeline) -> Compute:
    """Count the operations of a loaded model."""
    vaes = {part: vae.config for part, vae in pipeline.vaes.items()}
    vocoder: Any = pipeline.vocoder.config if pipeline.vocoder is not None else None
    return compute(pipeline.config, vaes, vocoder)


def pipeline_seconds(pipeline: DualSpecPipeline, prompt: str, *, num_runs: int = 3) -> float:
    """Return the seconds that one second of audio takes: batch 1, all steps, the best of some runs after a first."""
    times = []
    for seed in range(num_runs + 1):
        begin = time.perf_counter()
        pipeline(prompt, seed=seed)
        if pipeline.device.type == "cuda":
            torch.cuda.synchronize(pipeline.device)
        times.append(time.perf_counter() - begin)
    return min(times[1:]) / pipeline.max_duration_s


def _operations(forward: Callable[..., Any], *inputs: torch.Tensor) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        forward(*inputs)
    return counter.get_total_flops() / 1e9


def _text_operations(config: TextEncoderConfig, length: int) -> float:
    model = _text_model(config)
    if model is None or isinstance(model, nn.Identity):
        return 0.0
    tokens = torch.zeros(2, length, dtype=torch.int64)
    if isinstance(model, BertEncoder):
        return _operations(model.read, tokens, torch.ones(2, length, dtype=torch.bool))
    return _operations(lambda ids: model(input_ids=ids), tokens)
