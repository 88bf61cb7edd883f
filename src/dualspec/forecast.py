"""What a training run will ask for: parts of the batch, clips seen, and the memory of each GPU.

Weights and what follows them are counted exactly. Activations are the tensors that autograd keeps in one forward pass
of the real phase with one part of the batch; the pass is made on fake tensors, which have sizes and no values. Not
counted: CUDA's own context, the work space of its kernels, and the frozen encoders' passes, which keep nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dualspec.accounting import account, count_parameters
from dualspec.features import mel, stft
from dualspec.latents.pairing import LatentPairing
from dualspec.recipes import Recipe, vae_configs
from dualspec.training.diffusion_task import DenoiserPhase, DiffusionTaskConfig
from dualspec.training.localizer_task import LocalizerPhase, LocalizerTaskConfig
from dualspec.training.task import Batch, Phase, StepRandom
from dualspec.training.vae_task import VaeTask, VaeTaskConfig
from dualspec.training.vocoder_task import VocoderTask, VocoderTaskConfig

LATE = 10**9


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What one run asks of every process."""

    world_size: int  # processes
    num_parts: int  # parts into which a process cuts its share of a batch
    micro_batch: int  # clips of a part
    num_steps: int  # optimizer steps
    num_samples: int  # clips seen by all processes together, each in one direction
    num_epochs: float | None  # visits of every clip, or pair of clip and azimuth; None without a corpus
    memory: dict[str, int]  # bytes on one GPU, by what they hold
    operations: float  # of the whole run in 1e18, three forward passes for each clip; without the frozen encoders

    @property
    def total_gb(self) -> float:
        """Memory on one GPU in 1e9 bytes."""
        return sum(self.memory.values()) / 1e9


def forecast(
    recipe: Recipe, world_size: int, *, visits: Sequence[str] = (), memory_gb: float | None = None
) -> Forecast:
    """Say what a recipe asks of each of `world_size` processes.

    Args:
        recipe: the run.
        world_size: processes, one to a GPU.
        visits: clips of one epoch; all of them lie in the memory of every GPU.
        memory_gb: what a GPU has, 1e9 bytes.

    Raises:
        ValueError: the batch cannot be shared out, or the memory does not suffice.
    """
    loop = recipe.loop
    num_parts, micro_batch = loop.parts(world_size)
    phases = phases_of(recipe, "meta")
    memory = _state(recipe, phases, world_size)
    try:
        memory["activations"], operations = _forward(recipe, phases, micro_batch)
    finally:
        for function in (*vars(stft).values(), *vars(mel).values()):
            if hasattr(function, "cache_clear"):  # a window that was made on fake tensors has no values
                function.cache_clear()
    render = recipe.task.render
    copies = 1 if render.speeds == (1.0,) else 1 + len(render.speeds)
    memory["clips"] = 2 * len(set(visits)) * max(recipe.num_bank_samples, render.longest_part) * copies
    num_samples = loop.max_steps * loop.batch_size
    result = Forecast(
        world_size=world_size,
        num_parts=num_parts,
        micro_batch=micro_batch,
        num_steps=loop.max_steps,
        num_samples=num_samples,
        num_epochs=num_samples / len(visits) if visits else None,
        memory={name: size for name, size in memory.items() if size},
        operations=3 * operations * (num_samples / micro_batch) / 1e18,
    )
    if memory_gb is not None and result.total_gb > memory_gb:
        raise ValueError(
            f"memory must be at least {result.total_gb:.1f} GB on each GPU, got {memory_gb:g}; take a smaller "
            "loop.micro_batch, loop.checkpoint_activations=true, loop.parallel=fsdp2 or more GPUs"
        )
    return result


def _state(recipe: Recipe, phases: dict[str, Phase], world_size: int) -> dict[str, int]:
    """Return the bytes of what stays from step to step."""
    loop = recipe.loop
    memory = dict.fromkeys(("weights", "frozen weights", "gradients", "moments", "average"), 0)
    for phase in phases.values():
        sharded = loop.parallel == "fsdp2" and world_size > 1 and phase.averaged
        holders = world_size if sharded else 1
        moved = 4 * sum(value.numel() for value in phase.parameters() if value.requires_grad) // holders
        memory["weights"] += 4 * count_parameters(phase) // holders
        memory["gradients"] += moved
        memory["moments"] += 2 * moved
        memory["average"] += moved if phase.averaged and loop.ema_decay else 0
        memory["gathered blocks"] = 2 * _largest_block(phase) if sharded else memory.get("gathered blocks", 0)
    if recipe.task.kind == "diffusion":
        counts = account(recipe).parameters
        memory["frozen weights"] = 4 * sum(n for part, n in counts.items() if part not in ("denoiser", "vocoder"))
    return memory


def _largest_block(phase: Phase) -> int:
    """Return the bytes of the largest block of the outermost lists: FSDP2 holds one whole and fetches the next."""
    blocks = [block for part in phase.modules() if isinstance(part, nn.ModuleList) for block in part.children()]
    return 4 * max(map(count_parameters, blocks), default=count_parameters(phase))


def _forward(recipe: Recipe, phases: dict[str, Phase], micro_batch: int) -> tuple[int, int]:
    """Return the bytes that autograd keeps of the forward pass that keeps most, and the operations of all."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    loop, most, operations = recipe.loop, 0, 0
    half = loop.precision != "fp32"
    uncounted = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}  # by torch itself
    counter = FlopCounterMode(display=False, custom_mapping=uncounted)
    with FakeTensorMode(allow_non_fake_inputs=True):
        batch, weights = zero_batch(recipe, micro_batch), nn.ModuleList(phases.values()).to_empty(device="cpu")
        for phase in phases.values():
            kept = _Kept({value.untyped_storage()._cdata for value in [*weights.parameters(), *weights.buffers()]})
            blocks: list[int] = []

            def block(function: Any, *inputs: Any, kept: "_Kept" = kept, blocks: list[int] = blocks) -> Any:
                """Keep a block's inputs alone; its inside lives while it is computed again."""
                inside = _Kept(set(kept.known))
                for value in inputs:
                    if isinstance(value, Tensor):
                        kept(value)
                with inside:
                    result = function(*inputs)
                blocks.append(inside.size)
                return result

            if loop.checkpoint_activations:
                networks: list[Any] = [m for m in phase.modules() if hasattr(m, "enable_gradient_checkpointing")]
                for network in networks:
                    network.enable_gradient_checkpointing(block)
            with counter, kept, torch.autocast("cpu", torch.bfloat16, enabled=half):
                phase(batch, StepRandom(0, LATE, slice(None), micro_batch), LATE, 1.0)
            copies = 2 * count_parameters(phase) if half and blocks else 0  # autocast's, until the forward pass ends
            most = max(most, kept.size + max([*blocks, copies]))
            operations += counter.get_total_flops()
    return most, operations


class _Kept(saved_tensors_hooks):
    """The storages that autograd saves in a block of code, each once."""

    def __init__(self, known: set[int]) -> None:
        """Leave out the storages that are known."""
        self.known, self.size = known, 0
        self.alive: list[Tensor] = []  # so that no number is given twice
        super().__init__(self, lambda value: value)

    def __call__(self, value: Tensor) -> Tensor:
        """Count a tensor's storage."""
        storage = value.untyped_storage()
        if storage._cdata not in self.known:
            self.known.add(storage._cdata)
            self.alive.append(value)
            self.size += storage.nbytes()
        return value


def phases_of(recipe: Recipe, device: str) -> dict[str, Phase]:
    """Build what a recipe trains, without clips."""
    task = recipe.task
    with torch.device(device):
        source: Any = SimpleNamespace(hrirs=torch.empty(0))
        if isinstance(task, VaeTaskConfig):
            return VaeTask(task, source, source).phases
        if isinstance(task, VocoderTaskConfig):
            return VocoderTask(task, source, source).phases
        if isinstance(task, LocalizerTaskConfig):
            return {"localizer": LocalizerPhase(task)}
        return {"denoiser": DenoiserPhase(task, _pairing(recipe, task))}


def _pairing(recipe: Recipe, task: DiffusionTaskConfig) -> LatentPairing:
    return task.variant.latent_pairing(vae_configs(recipe.name, task.variant.variant))


def zero_batch(recipe: Recipe, size: int) -> Batch:
    """Return a batch of zeros as the task would make it; texts have the encoder's full length."""
    task, num_samples = recipe.task, recipe.task.render.num_samples
    batch: dict[str, Any] = {"weight": torch.ones(size)}
    if isinstance(task, VaeTaskConfig):
        batch["channels"] = torch.zeros(size * task.vae.num_latents, *task.vae.input_shape(num_samples))
    elif isinstance(task, VocoderTaskConfig):
        batch["waveform"] = torch.zeros(size, num_samples)
        batch["log_mel"] = torch.zeros(size, task.vocoder.mel.num_frames(num_samples), task.vocoder.mel.n_mels)
    elif isinstance(task, LocalizerTaskConfig):
        batch["waveform"] = torch.zeros(size, 2, num_samples)
        batch["target"] = torch.zeros(size, task.localizer.num_sectors)
    else:
        length, width = task.variant.text_encoder.max_tokens, task.variant.denoiser.cross_attention_dim
        batch["latents"] = torch.zeros(size, *_pairing(recipe, task).packed_shape)
        batch["prompt_embeds"] = torch.zeros(size, length, width)
        batch["prompt_mask"] = torch.ones(size, length, dtype=torch.bool)
    return batch
