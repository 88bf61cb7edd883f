"""Prompt → two-ear waveform, in a few visible lines.

Nothing here knows of azimuths or rendering: the direction comes out of the diffusion model, from words alone. The cues
of a head are carried along for whoever judges, and never read.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

import torch
from torch import Tensor

from dualspec.arithmetic import own_arithmetic
from dualspec.audio.delivery import samples_of_length
from dualspec.compiled import Precision, compile_methods
from dualspec.diffusion.denoiser import build_denoiser
from dualspec.diffusion.sampler import SamplerName, SamplingConfig, sample
from dualspec.diffusion.variant import VariantConfig
from dualspec.features.mel import MelConfig
from dualspec.features.stft import StftConfig
from dualspec.hearing.proof import HeadCues
from dualspec.latents.vae import Spectra, SpectrogramVae, VaeConfig
from dualspec.memory import memory_watched
from dualspec.model_folder import (
    VOCODER_CONFIGS,
    embedded_bundle,
    find_model,
    read_documents,
    read_events,
    read_head,
    read_index,
    write_documents,
    write_events,
    write_head,
    write_index,
)
from dualspec.synthesis.reconstruct import reconstruct
from dualspec.synthesis.vocoder import build_vocoder
from dualspec.text.encoder import TextEncoder, build_text_encoder
from dualspec.text.location_words import Reading
from dualspec.text.prompt_cache import PromptCache
from dualspec.training.weights import load_module, save_weights

if TYPE_CHECKING:
    from dualspec.pipeline_call import BinauralOutput, CallOptions, Generators, OutputType

MAX_CACHED_PROMPTS = 128
"""Texts whose states stay in memory: at most 25 MB of the small encoder, 67 MB of FLAN-T5-large."""
Texts = str | Sequence[str]
StepEnd = Callable[["DualSpecPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]


class DualSpecPipeline:
    """A text-to-binaural system: text encoder, denoiser, VAEs, vocoder.

    Args:
        config: the variant.
        denoiser: predicts noise or velocity.
        vaes: the VAEs by part name.
        vocoder: log-mel to waveform, or None where the variant needs none.
        text_encoder: words to token states.
        head: cues of the head that the training clips were rendered with; what the proof of direction aims at.
        events: labels that the model was trained on, the commonest first.
        documents: its card and credits, by file name.

    Use `DualSpecPipeline.from_pretrained()`. Paper Fig. 1.
    """

    engine: Literal["torch"] = "torch"

    def __init__(
        self,
        config: VariantConfig,
        denoiser: torch.nn.Module,
        vaes: dict[str, SpectrogramVae],
        vocoder: torch.nn.Module | None,
        text_encoder: TextEncoder,
        head: HeadCues | None = None,
        events: Sequence[str] = (),
        documents: dict[str, str] | None = None,
    ) -> None:
        """Check that the parts fit."""
        if text_encoder.width != config.denoiser.cross_attention_dim:
            raise ValueError(
                f"the text encoder must be {config.denoiser.cross_attention_dim} wide, got {text_encoder.width}; "
                "use the one that the denoiser was trained with"
            )
        self.config, self.vaes, self.vocoder, self.text_encoder = config, vaes, vocoder, text_encoder
        self.denoiser, self.head, self.events = denoiser, head, list(events)
        self.documents = documents or {}
        self._prompts, self._rounded, self._num_tokens = PromptCache(MAX_CACHED_PROMPTS), False, 0
        self.pairing = config.latent_pairing({part: vaes[part].config for part in config.parts})
        for module in self._modules():  # frozen: the choice of kernels, and so the last bits, depend on it
            module.eval().requires_grad_(False)
        self.device = torch.device("cpu")

    @property
    def num_threads(self) -> int:
        """Threads that share one operation on the CPU."""
        return torch.get_num_threads()

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def max_duration_s(self) -> float:
        """Length of a generated clip in seconds."""
        return self.config.num_samples / self.config.sample_rate

    def to(self, device: torch.device | str) -> "DualSpecPipeline":
        """Move all parts to a device."""
        self.device = torch.device(device)
        for module in self._modules():
            module.to(self.device)
        return self

    def _modules(self) -> list[torch.nn.Module]:
        vocoder = [self.vocoder] if self.vocoder is not None else []
        return [self.denoiser, *self.vaes.values(), self.text_encoder, *vocoder]

    def compile(self, *, mode: str | None = None, precision: Precision = "auto") -> "DualSpecPipeline":
        """Compile denoiser, decoders and vocoder: slow calls at first (minutes), then faster ones.

        Batches are filled up to a power of two, prompts to the longest that is read: few graphs serve all calls. Say
        where it runs, by `to`, before. A deepcopy of a compiled network still computes with the original's weights.

        Args:
            mode: of `torch.compile`; None is "reduce-overhead" (CUDA graphs) on a GPU, "default" elsewhere.
            precision: "auto" is bf16 on a GPU and fp32 elsewhere. With bf16 the pipeline cannot be saved any more.

        Returns:
            The pipeline itself.

        Raises:
            ValueError: no such mode or precision, or fp32 after bf16, which rounded the weights: load the model again.
        """
        owners = [(self.denoiser, "forward"), *((vae, "decode_channels") for vae in self.vaes.values())]
        if self.vocoder is not None and any(True for _ in self.vocoder.parameters()):
            owners.append((self.vocoder, "forward"))
        self._rounded |= compile_methods(owners, mode=mode, precision=precision, device=self.device)
        self._num_tokens = self.text_encoder.max_tokens
        return self

    @overload
    def __call__(
        self, prompt: Texts | None = ..., *, return_dict: Literal[True] = ..., **options: "Unpack[CallOptions]"
    ) -> "BinauralOutput": ...

    @overload
    def __call__(
        self, prompt: Texts | None = ..., *, return_dict: Literal[False], **options: "Unpack[CallOptions]"
    ) -> tuple[Tensor]: ...

    @own_arithmetic()
    @torch.no_grad()
    def __call__(
        self,
        prompt: Texts | None = None,
        *,
        audio_length_in_s: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: Texts | None = None,
        num_waveforms_per_prompt: int = 1,
        generator: "Generators | None" = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        attention_mask: Tensor | None = None,
        negative_attention_mask: Tensor | None = None,
        output_type: "OutputType" = "pt",
        return_dict: bool = True,
        callback_on_step_end: StepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        sampler: SamplerName | None = None,
        seed: int | Sequence[int] | None = None,
        batch_size: int = 8,
        location_words: Reading = "known",
    ) -> "BinauralOutput | tuple[Tensor]":
        """Generate two-ear sound from words.

        Args:
            prompt: such as "EVENT: Dog bark & LOCATION: 3 o'clock direction", or a list.
            audio_length_in_s: seconds, at most the model's own length; shorter clips are cut with a short fade.
            num_inference_steps: evaluations of the denoiser, 1 to 1000; the model's own default if None.
            guidance_scale: w of equation (16), 0 to 20; the model's own default if None.
            negative_prompt: what guidance leads away from, one or one per prompt; the empty text, as in training,
                if None.
            num_waveforms_per_prompt: clips per prompt, with seeds seed, seed + 1, …
            generator: draws the noise instead of `seed`: one for all clips, or one per clip.
            latents: (B, C, T, F) standard normal noise to start from.
            prompt_embeds: (P, L, D) from `encode_prompt`, instead of `prompt`.
            negative_prompt_embeds: (P, L, D) or (1, L, D), instead of `negative_prompt`.
            attention_mask: (P, L) of `prompt_embeds`, true at words; all of them if None.
            negative_attention_mask: the same of `negative_prompt_embeds`.
            output_type: "pt" (tensor on the CPU), "np", or "latent" for what `decode_latents` takes.
            return_dict: False returns a tuple with the clips alone.
            callback_on_step_end: called with (pipeline, index, timestep, {"latents": …}) after every step of every
                batch; may return {"latents": …} to go on with, or raise to stop.
            callback_on_step_end_tensor_inputs: what the callback is given: "latents", or nothing.
            sampler: "ddpm", "ddim", "dpmpp" or "unipc"; the model's own default if None.
            seed: of the first clip of each prompt, or one per clip; 0 if neither it nor a generator is given.
            batch_size: clips denoised at once; it does not change the result beyond rounding.
            location_words: "known": other words for a direction than trained ones are read as `DOA`; "typed": as typed.

        Returns:
            The clips, in prompt order.

        Raises:
            ValueError: an argument is out of its range, or does not go with another.
            MemoryError: the clips of a batch do not fit; a call with a smaller batch may follow.
        """
        from dualspec import pipeline_call as call

        call.check_output(output_type, audio_length_in_s, callback_on_step_end_tensor_inputs)
        batch_size = call.whole_number("batch_size", batch_size)
        num_samples = self.num_samples(audio_length_in_s)
        sampling = self.sampling_config(num_inference_steps, guidance_scale, sampler)
        words = call.read_words(
            (prompt, prompt_embeds, attention_mask),
            (negative_prompt, negative_prompt_embeds, negative_attention_mask),
            repeats=num_waveforms_per_prompt,
            width=self.text_encoder.width,
        )
        if generator is not None and seed is not None:
            raise ValueError(f"seed must be left out beside a generator, got {seed}; give one of them")
        read_as = [self.config.location_words.read(text, location_words) for text in words[0].texts]
        asked, words = words[0].texts, (replace(words[0], texts=read_as), words[1])
        count = len(words[0])
        seeds = call.read_seeds(seed, num_waveforms_per_prompt, count) if generator is None else []
        shape = (count, *self.pairing.packed_shape)
        noise, steps = call.draw_start(shape, seeds=seeds, generator=generator, latents=latents, device=self.device)

        def on_step(index: int, timestep: Tensor, now: Tensor) -> Tensor:
            shown = {"latents": now} if callback_on_step_end_tensor_inputs else {}
            changed = callback_on_step_end(self, index, timestep, shown) if callback_on_step_end else None
            return (changed or {}).get("latents", now)

        made = []
        for start in range(0, count, batch_size):
            rows = slice(start, start + batch_size)
            with memory_watched(len(noise[rows]), "a batch size of {} (batch_size, --batch-size)"):
                clean = sample(
                    self.denoiser,
                    self.config.schedule,
                    sampling,
                    noise=noise[rows],
                    **call.text_states(self._prompts, self.text_encoder, *words, rows, self.device, self._num_tokens),
                    step_generators=steps[rows],
                    callback=on_step,
                    apart=self.device.type == "cpu" and not self._num_tokens,
                )
                made.append(clean if output_type == "latent" else self.decode_latents(clean).cpu())
        audios: Any = call.check_finite(torch.cat(made))
        gains: list[float] = []
        if output_type != "latent":
            audios, gains = call.within_full_scale(call.cut(audios, num_samples))
        audios = audios.numpy() if output_type == "np" else audios
        if not return_dict:
            return (audios,)
        return call.BinauralOutput(audios, self.sample_rate, seeds, asked, gains, read_as)

    @own_arithmetic()
    @torch.no_grad()
    def encode_prompt(self, prompt: Texts) -> tuple[Tensor, Tensor]:
        """Return `prompt_embeds` (P, L, D) and `attention_mask` (P, L) of texts."""
        from dualspec.pipeline_call import texts_of

        return self._prompts.encode(self.text_encoder, texts_of("prompt", prompt), self.device)

    @own_arithmetic()
    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Return waveforms (B, 2, S), not limited in level, of packed latents (B, C, T, F)."""
        spectra, vae_configs, parts = Spectra(), [], self.pairing.unpack(latents)
        for part in self.config.parts:
            vae = self.vaes[part]
            own, parts = parts[: vae.config.num_latents], parts[vae.config.num_latents :]
            decoded = vae.decode(own)
            spectra.log_mel = decoded.log_mel if decoded.log_mel is not None else spectra.log_mel
            spectra.stft = decoded.stft if decoded.stft is not None else spectra.stft
            vae_configs.append(vae.config)
        return self._reconstruct(spectra, vae_configs)

    def _reconstruct(self, spectra: Spectra, vae_configs: list[VaeConfig]) -> Tensor:
        mel = next((config.mel for config in vae_configs if config.mel is not None), MelConfig())
        stft = next((config.stft for config in vae_configs if config.stft is not None), StftConfig())
        return reconstruct(
            self.config.variant,
            log_mel=spectra.log_mel,
            stft=spectra.stft,
            mode=self.config.merge_mode,
            mid_phase=self.config.mid_phase,
            vocoder=self.vocoder,
            stft_config=stft,
            mel_config=mel,
            num_samples=self.config.num_samples,
        )

    @own_arithmetic()
    @torch.no_grad()
    def round_trip(self, waveform: Tensor) -> Tensor:
        """Encode and decode two-ear clips (B, 2, S) without diffusion: the upper bound of what the parts can do."""
        parts = [latent for part in self.config.parts for latent in self.vaes[part].encode(waveform.to(self.device))]
        return self.decode_latents(self.pairing.pack(parts))

    def sampling_config(
        self,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: SamplerName | None = None,
    ) -> SamplingConfig:
        """Return the model's own sampling settings with some of them replaced.

        Raises:
            ValueError: a setting is out of its range.
        """
        return self.config.sampling.changed(num_inference_steps, guidance_scale, sampler)

    def num_samples(self, audio_length_in_s: float | None) -> int:
        """Return the samples of a clip of a length in seconds; None is the model's own length.

        Raises:
            ValueError: the model cannot do that length.
        """
        return samples_of_length(audio_length_in_s, self.config.num_samples, self.sample_rate)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> None:
        """Write all parts as a folder that `from_pretrained` reads, here or elsewhere.

        The text encoder is named, not copied. Card and credits are those the model came with, or a card is begun.

        Raises:
            ValueError: compiling rounded the weights.
        """
        if self._rounded:
            raise ValueError("weights must be whole to be saved, got some that compile() rounded; save before it")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        modules: dict[str, tuple[torch.nn.Module, Any]] = {"denoiser": (self.denoiser, self.config)}
        modules |= {part: (self.vaes[part], self.vaes[part].config) for part in self.config.parts}
        if self.vocoder is not None:
            modules["vocoder"] = (self.vocoder, self.vocoder.config)
        for name, (module, config) in modules.items():
            save_weights(folder / name, module, config, dtype=dtype)
        sizes = {name: sum(v.numel() for v in module.state_dict().values()) for name, (module, _) in modules.items()}
        write_head(folder, self.head)
        write_events(folder, self.events)
        write_documents(folder, folder.resolve().name, self.config, sizes, self.documents)
        write_index(folder, self.config.variant, list(modules))

    @classmethod
    @own_arithmetic()
    def from_pretrained(
        cls,
        name_or_folder: str | Path | None = None,
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> "DualSpecPipeline":
        """Load a pipeline.

        Args:
            name_or_folder: what `save_pretrained` wrote, or OWNER/NAME of such a folder on the Hugging Face hub;
                None loads the embedded model.
            device: where to put it.
            revision: branch, tag or commit on the hub.
            local_files_only: take a hub's model only from what was downloaded before.

        Raises:
            FileNotFoundError: the folder or a file of it is missing, or the hub gives no such model.
            ValueError: a file is damaged or does not fit.
        """
        folder = embedded_bundle()
        if name_or_folder is not None:
            folder = find_model(name_or_folder, revision=revision, local_files_only=local_files_only)
        parts = read_index(folder)
        denoiser, config = load_module(
            folder / "denoiser", {"VariantConfig": VariantConfig}, lambda own: build_denoiser(own.denoiser)
        )
        missing = [part for part in config.parts if part not in parts]
        if missing:
            raise ValueError(f"{folder} must hold the parts of {config.variant}, got none called {', '.join(missing)}")
        vaes = {part: load_module(folder / part, {"VaeConfig": VaeConfig}, SpectrogramVae)[0] for part in config.parts}
        vocoder = None
        if "vocoder" in parts:
            vocoder, _ = load_module(folder / "vocoder", VOCODER_CONFIGS, build_vocoder)
        text_encoder = build_text_encoder(config.text_encoder)
        facts: dict[str, Any] = {
            "head": read_head(folder),
            "events": read_events(folder),
            "documents": read_documents(folder),
        }
        return cls(config, denoiser, vaes, vocoder, text_encoder, **facts).to(device)
