"""A whole model in given minutes: its stages in order, what each of them gets, and what is done on a GPU."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dualspec.config import load_json, save_json
from dualspec.model_folder import needs_vocoder
from dualspec.recipes import get_recipe, vae_configs, vae_recipe_name
from dualspec.training.diffusion_task import DiffusionTaskConfig


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training on the way to a whole model."""

    name: str  # as --share and --set call it
    recipe: str  # SIZE/ROOM
    part: str  # of the model that its weights become
    share: float  # of the minutes, in proportion to the others'; 0 leaves it out
    settings: tuple[str, ...] = ()  # changes of the recipe
    place: str = ""  # folder within that of all runs

    def folder(self, runs: Path) -> Path:
        """Return its run folder."""
        return runs / self.place / self.recipe


SHARES = {
    "mel_vae": 2.0,
    "mono_mel_vae": 2.0,
    "stft_vae": 3.0,
    "dual_vae": 4.0,
    "sharpen": 1.0,
    "vocoder": 3.0,
    "denoiser": 9.0,
}
"""Minutes of the stages in proportion; a vocoder only where the model needs one. The division is not tuned."""
LINEAR_SHARE = 0.5
"""Share of a VAE whose encoder is had from the clips: its decoder starts near its best, and is not sharpened."""
LEAST_MINUTES = 0.005
"""What a stage may train where nothing is left: 0 would be without end."""
_SHARPEN = (
    "task.decoder_only=true",
    "task.loss.adversarial_weight=0.5",
    "task.loss.adversarial_start_step=0",
    "task.loss.adversarial_start_fraction=0.04",
    "task.discriminator_channels=24",
    "task.optimizer.lr=6e-4",
    "loop.ema_decay=0.995",
    "loop.warmup_steps=50",
)
_ON_A_GPU = (
    "loop.compile=true",
    "loop.max_steps=10000000",
    "loop.log_every=100",
    "loop.validate_every=2000",
    "loop.save_every=5000",
)
_LARGE_BATCH = {
    "vae": ("loop.batch_size=256", "task.optimizer.lr=2e-3"),
    "sharpen": ("loop.batch_size=128",),
    "vocoder": ("loop.batch_size=128", "task.optimizer.lr=1.5e-3"),
    "denoiser": ("loop.batch_size=512", "task.optimizer.lr=1e-3"),
}


def stages_of(name: str, shares: dict[str, float], *, on_gpu: bool = False, one_head: bool = True) -> list[Stage]:
    """Return the stages of a variant's recipe in the order in which they are trained.

    Args:
        name: of the recipe, such as "mini/dualspec".
        shares: what stages get instead of `SHARES`.
        on_gpu: the mini recipes, which are set for a CPU, take large batches, are compiled and keep their latents.
        one_head: the clips are rendered through one head, so that latents can be kept.

    Raises:
        ValueError: it is no variant's recipe, or a share is of no stage of it, below 0, or all are 0.
    """
    recipe = get_recipe(name)
    if not isinstance(recipe.task, DiffusionTaskConfig):
        raise ValueError(f"recipe must be a variant's, got {name}; name one such as {name.split('/')[0]}/dualspec")
    variant, size = recipe.task.variant, name.split("/")[0]
    vaes = vae_configs(name, variant.variant)
    linear = {part for part, vae in vaes.items() if getattr(vae.autoencoder, "linear", False)}
    stages = [_stage(part, vae_recipe_name(name, part)) for part in variant.parts]
    stages = [replace(stage, share=LINEAR_SHARE) if stage.part in linear else stage for stage in stages]
    stages += [
        replace(_stage("sharpen", stage.recipe), part=stage.part, settings=_SHARPEN, place="sharp")
        for stage in stages
        if stage.part in ("mel_vae", "mono_mel_vae")
    ]
    stages = [replace(stage, share=0.0) if stage.place and stage.part in linear else stage for stage in stages]
    if needs_vocoder(variant, vaes) or shares.get("vocoder"):
        stages.append(_stage("vocoder", f"{size.removesuffix('-text')}/vocoder"))
    stages.append(_stage("denoiser", name))
    own = {stage.name for stage in stages}
    for stage, share in shares.items():
        if stage not in (own if share else SHARES) or not 0 <= share < float("inf"):
            raise ValueError(f"share must be 0 or more for one of {', '.join(sorted(own))}, got {stage}={share:g}")
    stages = [replace(stage, share=shares.get(stage.name, stage.share)) for stage in stages]
    if not any(stage.share for stage in stages):
        raise ValueError("share must be above 0 for some stage, got 0 for all; nothing would be trained")
    if on_gpu and size == "mini":
        stages = [replace(stage, settings=stage.settings + _on_a_gpu(stage, one_head)) for stage in stages]
    return stages


def _stage(name: str, recipe: str) -> Stage:
    return Stage(name=name, recipe=recipe, part=name, share=SHARES[name])


def _on_a_gpu(stage: Stage, one_head: bool) -> tuple[str, ...]:
    keep = ("task.keep_latents=true",) if stage.name == "denoiser" and one_head else ()
    return _ON_A_GPU + _LARGE_BATCH["vae" if stage.name.endswith("_vae") else stage.name] + keep


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The minutes of a whole model: what all calls so far have used, and what the stage at hand was given."""

    used: float = 0.0  # minutes by the clock
    stage: str = ""  # the stage at hand
    given: float = 0.0  # minutes that it may train
    trained: float = 0.0  # minutes that it has trained
    max_minutes: float = 0.0  # of the whole model, when it was given them; 0: not known
    assembled: bool = True  # nothing was trained since the model was put together

    @staticmethod
    def read(path: Path) -> "Ledger":
        """Return the ledger in a file, or an empty one."""
        return load_json(Ledger, path, require_all=False) if path.is_file() else Ledger()

    def write(self, path: Path) -> None:
        """Keep it in a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        save_json(self, path)

    def allot(self, ahead: Sequence[Stage], max_minutes: float, overhead: float) -> float:
        """Return the minutes that the first of the stages ahead may train, those that it has trained included.

        What earlier stages took beyond their minutes is borne by all that are ahead; 4 % stay for the last export. A
        stage that was stopped keeps the minutes that it was given, unless less is left, or `max_minutes` was raised.

        Args:
            ahead: stages that are not done, with shares above 0.
            max_minutes: of the whole model.
            overhead: minutes that a stage has taken beside its training: loading, validating, exporting.
        """
        left, share = 0.96 * max_minutes - self.used, ahead[0].share / sum(stage.share for stage in ahead)
        trained = self.trained if self.stage == ahead[0].name else 0.0
        if self.stage != ahead[0].name or 0 < self.max_minutes < max_minutes:
            return max((left + trained) * share - overhead, trained + LEAST_MINUTES)
        return min(self.given, trained + max(left * share - overhead, LEAST_MINUTES))
