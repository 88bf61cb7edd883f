"""Model folders: `model_index.json` beside one weights folder per part, and the model that is embedded here."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dualspec.audio.waveform import audio_info, read_waveform
from dualspec.bundle import (
    EVENTS_NAME,
    HEAD_NAME,
    INDEX_NAME,
    LOCALIZERS,
    PROBES,
    embedded_bundle,
    judge_facts,
    localizer_folder,
    localizer_notes,
    probe_folder,
    read_events,
    read_head,
    read_index,
    target_head,
    write_events,
    write_head,
    write_index,
)
from dualspec.config import override
from dualspec.diffusion.variant import VariantConfig
from dualspec.evaluation.probe import LoadedProbe, Probe, ProbeConfig
from dualspec.files import check_new, read_text, whole_folder, write_text_atomic
from dualspec.hearing.localizer import Localizer, LocalizerConfig
from dualspec.hearing.proof import DirectionJudge, HeadCues
from dualspec.latents.vae import VaeConfig
from dualspec.synthesis.reconstruct import shares_framing
from dualspec.synthesis.vocoder import GriffinLimConfig, HifiGanConfig, IstftHeadConfig
from dualspec.training.weights import load_module, read_config, read_notes, read_state, save_state
from dualspec.training.weights_folder import read_hashes

__all__ = [
    "HEAD_NAME",
    "INDEX_NAME",
    "LOCALIZERS",
    "PROBES",
    "LoadedLocalizer",
    "assemble",
    "embedded_bundle",
    "load_judge",
    "load_localizer",
    "load_probe",
    "localizer_folder",
    "needs_vocoder",
    "read_events",
    "read_head",
    "read_index",
    "write_events",
    "write_head",
    "write_index",
]

CARD_NAME = "README.md"
CREDITS_NAME = "CREDITS.tsv"
DOCUMENTS = (CARD_NAME, CREDITS_NAME)
_MAX_DOCUMENT_BYTES = 64 * 2**20
HUB_FILES = ["*.json", "*.safetensors", EVENTS_NAME, *DOCUMENTS]
VOCODER_CONFIGS: dict[str, type] = {
    "HifiGanConfig": HifiGanConfig,
    "IstftHeadConfig": IstftHeadConfig,
    "GriffinLimConfig": GriffinLimConfig,
}
PART_CONFIGS: dict[str, type] = {"VaeConfig": VaeConfig, **VOCODER_CONFIGS}


CARD = """---
library_name: dualspec
pipeline_tag: text-to-audio
language: en
tags: [audio, binaural, spatial-audio, text-to-audio, hrtf]
---

# {name}

Words in, {seconds:g} s of two-ear (binaural) sound at {rate} Hz out: variant `{variant}` of DualSpec
(arXiv:2502.18952). The text encoder, `{encoder}`, {whence}.

| part | values |
|---|---|
{rows}

```python
from dualspec import DualSpecPipeline, write_waveform

pipeline = DualSpecPipeline.from_pretrained("{name}")  # this folder, or its name on a hub
output = pipeline("EVENT: Dog bark & LOCATION: 3 o'clock direction", seed=0)
write_waveform("dog.wav", output.audios[0], output.sample_rate)
```

## Before you share it

Say here which recordings and which head it was trained with, under which licences, with credits (`CREDITS.tsv`);
give the model a licence that these allow, above as `license:` too; and say how it was judged (`dualspec evaluate`).
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedLocalizer:
    """A localizer with the facts that every score of it must name."""

    localizer: Localizer
    name: str  # "paper", "robust" or what its weights or folder are called
    sha256: str  # of its weights
    held_out_accuracy: float | None  # share of true clips of unseen recordings that it places; None: never measured

    @property
    def facts(self) -> dict[str, Any]:
        """Return what a record says of this localizer: JSON values, with the warning only where there is one."""
        return judge_facts(self.name, self.sha256, self.held_out_accuracy)

    @property
    def warning(self) -> str | None:
        """Return the line that a score of this judge must carry, if any."""
        return self.facts.get("warning")

    def listen(self, file: Path, *, max_seconds: float = 600.0) -> dict[str, Any]:
        """Say from where a recording is heard.

        Args:
            file: two channels, left first.
            max_seconds: longest duration accepted, seconds.

        Returns:
            JSON values: azimuths in degrees, confidence, probabilities of the sectors, the localizer.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it has not two channels, or cannot be used.
        """
        rate, num_channels = self.localizer.config.sample_rate, audio_info(file).num_channels
        if num_channels != 2:
            raise ValueError(
                f"{file} must have two channels, got {num_channels}; a direction takes the sound of both ears"
            )
        waveform, _ = read_waveform(file, sample_rate=rate, max_seconds=max_seconds)
        result = self.localizer.predict_long(waveform, rate)
        return {
            "azimuth_deg": float(result.azimuth_deg[0]),
            "expectation_deg": round(float(result.expectation_deg[0]), 2),
            "confidence": round(float(result.confidence[0]), 6),
            "probabilities": [round(value, 6) for value in result.probabilities[0].tolist()],
            "localizer": self.facts,
        }


def load_localizer(name_or_folder: str | Path = "robust") -> LoadedLocalizer:
    """Load a localizer, one of `LOCALIZERS` or a weights folder, frozen and in evaluation mode, its hashes checked.

    Raises:
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: the weights are damaged or no localizer's.
    """
    folder = localizer_folder(name_or_folder)
    localizer, _ = load_module(folder, {"LocalizerConfig": LocalizerConfig}, Localizer)
    name, sha256, accuracy = localizer_notes(folder)
    return LoadedLocalizer(localizer=localizer, name=name, sha256=sha256, held_out_accuracy=accuracy)


def load_probe(embedder_or_folder: str | Path) -> LoadedProbe:
    """Load a probe, the embedded one of an embedder of `PROBES` or a weights folder, its hashes checked.

    Raises:
        FileNotFoundError: there is no such folder, or a file of it is missing.
        ValueError: the weights are damaged or no probe's.
    """
    embedded = str(embedder_or_folder) in PROBES
    folder = probe_folder(str(embedder_or_folder)) if embedded else Path(embedder_or_folder)
    probe, _ = load_module(folder, {"ProbeConfig": ProbeConfig}, Probe)
    return LoadedProbe(probe=probe, facts={"sha256": "+".join(read_hashes(folder).values()), **read_notes(folder)})


def find_model(name_or_folder: str | Path, *, revision: str | None = None, local_files_only: bool = False) -> Path:
    """Return the folder of a model: the one that is named, or a copy of OWNER/NAME from the Hugging Face hub.

    Raises:
        FileNotFoundError: it is no folder, and the hub cannot be reached, has no such model, or does not give it.
    """
    name, folder = str(name_or_folder), Path(name_or_folder)
    if folder.is_dir() or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    options: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, **options))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        words = str(error).strip().splitlines()[0]
        raise FileNotFoundError(f"no model {name}: there is no such folder, and the hub gave none ({words})") from error


def read_documents(folder: Path) -> dict[str, str]:
    """Return the card and the credits of a model, by file name.

    Raises:
        ValueError: one is too large or no UTF-8.
    """
    found = [folder / name for name in DOCUMENTS if (folder / name).is_file()]
    return {path.name: read_text(path, max_bytes=_MAX_DOCUMENT_BYTES) for path in found}


def write_documents(
    folder: Path, name: str, config: VariantConfig, sizes: dict[str, int], documents: dict[str, str]
) -> None:
    """Write a model's card and credits; where it came with no card, one that asks for what the weights cannot tell."""
    chosen = config.text_encoder
    embedded = chosen.kind == "minilm" and not chosen.name_or_path
    card = CARD.format(
        name=name,
        seconds=config.num_samples / config.sample_rate,
        rate=config.sample_rate,
        variant=config.variant,
        encoder=chosen.name_or_path or chosen.kind,
        whence="comes with dualspec" if embedded else "is not in this folder",
        rows="\n".join(f"| `{part}` | {size:,} |" for part, size in sizes.items()),
    )
    for file, text in ({CARD_NAME: card} | documents).items():
        write_text_atomic(folder / file, text)


def needs_vocoder(config: VariantConfig, vaes: dict[str, VaeConfig]) -> bool:
    """Tell whether a variant's last step vocodes. Paper section VI-B; decisions 20 and 21."""
    if config.variant in ("mel_base", "stft_base"):
        return config.variant == "mel_base"
    if config.merge_mode == "paper":
        return config.variant != "dualspec_d"
    mel = next(vae.mel for vae in vaes.values() if vae.mel is not None)
    stft = next(vae.stft for vae in vaes.values() if vae.stft is not None)
    return config.mid_phase == "vocoder" or not shares_framing(mel, stft)


def assemble(
    folder: str | Path,
    sources: dict[str, Path],
    *,
    settings: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    head: HeadCues | None = None,
    events: Sequence[str] = (),
    credits: str | None = None,
) -> None:
    """Put trained weights folders together into a model folder, which appears whole or not at all.

    Args:
        folder: the new model folder; must not exist.
        sources: part name ("denoiser", "mel_vae", "vocoder", …) → weights folder.
        settings: changes to the variant's own settings, such as "sampling.num_inference_steps=15".
        dtype: of the weights; torch.float16 halves them.
        head: cues of the head that the training clips were rendered with; the proof of direction aims at them.
        events: labels of the training clips, the commonest first; the page suggests them.
        credits: table of the recordings behind the weights.

    Raises:
        ValueError: the folder exists, a part is missing or belongs to no variant of this kind, or the VAEs' latents
            are not of the denoiser's shape.
        FileNotFoundError: a weights folder or a file of it is missing.
    """
    folder = Path(folder)
    check_new(folder)
    if "denoiser" not in sources:
        raise ValueError(f"sources must name the denoiser, got {sorted(sources)}; add its weights folder")
    variant: VariantConfig = read_config(sources["denoiser"], {"VariantConfig": VariantConfig})
    variant = override(variant, settings)
    for part in variant.parts:
        if part not in sources:
            raise ValueError(f"sources must name the {part} of {variant.variant}, got {sorted(sources)}")
    unknown = sorted(set(sources) - {"denoiser", "vocoder", *variant.parts})
    if unknown:
        raise ValueError(f"sources must be parts of {variant.variant}, got {unknown[0]!r}; leave it out")
    vaes = {part: read_config(sources[part], {"VaeConfig": VaeConfig}) for part in variant.parts}
    variant.latent_pairing(vaes)
    if needs_vocoder(variant, vaes) and "vocoder" not in sources:
        raise ValueError(
            f"sources must name a vocoder for {variant.variant} in mode {variant.merge_mode!r}, got {sorted(sources)}; "
            "add one, or set merge_mode=phase_delta with mid_phase=griffin_lim"
        )
    with whole_folder(folder) as temporary:
        sizes = {}
        for name, source in sources.items():
            config = variant if name == "denoiser" else read_config(source, PART_CONFIGS)
            state = read_state(source)
            sizes[name] = sum(value.numel() for value in state.values())
            save_state(temporary / name, state, config, dtype=dtype, notes=read_notes(source))
        write_index(temporary, variant.variant, list(sources))
        write_head(temporary, head)
        write_events(temporary, events)
        write_documents(temporary, folder.name, variant, sizes, {CREDITS_NAME: credits} if credits else {})


def load_judge(
    folder: str | Path | None = None, *, localizer: str | Path = "robust", target: HeadCues | None = None
) -> DirectionJudge:
    """Load who proves the directions of a model's clips.

    Args:
        folder: the model folder; None is the embedded model.
        localizer: as for `load_localizer`.
        target: cues to aim at; those of the model's own head if None, or the computed sphere's where it names none.

    Raises:
        FileNotFoundError: weights are missing.
        ValueError: a file is damaged.
    """
    loaded, target = load_localizer(localizer), target or target_head(folder)
    return DirectionJudge(localizer=loaded.localizer, facts=loaded.facts, target=target)
