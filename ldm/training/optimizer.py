"""Training budget, optimiser and learning-rate schedule of a stage."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

from ldm.errors import UserError, check_option, look_up
from ldm.training.muon import Muon

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "muon": Muon}
DECAYS = ("constant", "cosine")
WITHOUT_EFFECT = ("checkpoint_seconds", "preview_steps")  # keys of `TrainConfig` that do not affect weights


@dataclass
class TrainConfig:
    """Training of one stage.

    Attributes:
        images: budget: number of training images, repeats included.
        batch_size: images per step on the CPU.
        cuda_batch_factor: on CUDA the batch is this many times larger, the number of steps is divided by this
            factor, and the learning rate is multiplied by its square root.
        optimizer: `adam`, `adamw`, or `muon`: orthogonal steps for the weights of layers, AdamW for the rest.
            In the stage `code`, `muon` leaves the encoder to AdamW.
        learning_rate: the highest learning rate.
        betas: betas of the optimiser.
        weight_decay: weight decay of the optimiser.
        warmup_steps: the learning rate rises linearly over these steps.
        decay: `constant`, or `cosine` to zero over the budget.
        grad_clip: largest norm of the gradient; null for no clipping.
        ema_decay: decay of the average of the weights, which is the result; null for the last weights.
        checkpoint_seconds: time between checkpoints.
        preview_steps: steps between pictures of the state of training.
    """

    images: int = 1_000_000
    batch_size: int = 128
    cuda_batch_factor: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 2.56e-4
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.01
    warmup_steps: int = 0
    decay: str = "constant"
    grad_clip: float | None = None
    ema_decay: float | None = 0.9999
    checkpoint_seconds: float = 60.0
    preview_steps: int = 2000


@dataclass
class Budget:
    """Batch size, number of steps and highest learning rate on a device."""

    batch_size: int
    num_steps: int
    learning_rate: float


@dataclass(frozen=True)
class TrainSettings:
    """How a stage is trained: its configuration, the budget on this device, and the seed."""

    config: TrainConfig
    budget: Budget
    seed: int


def resolve_settings(config: TrainConfig, seed: int, device: str) -> TrainSettings:
    """Settings of a stage that is trained on `device` (`cpu`, `cuda`).

    Raises:
        UserError: the budget is smaller than one batch.
    """
    return TrainSettings(config, resolve_budget(config, device), seed)


def resolve_budget(config: TrainConfig, device: str) -> Budget:
    """Batch size, steps and learning rate on `device` (`cpu`, `cuda`).

    Raises:
        UserError: the budget is smaller than one batch.
    """
    factor = config.cuda_batch_factor if device == "cuda" else 1
    batch_size = config.batch_size * factor
    num_steps = config.images // batch_size
    if num_steps < 1:
        raise UserError(
            f"a stage's train.images={config.images} is less than one batch of {batch_size}; raise it"
        )
    return Budget(batch_size, num_steps, config.learning_rate * math.sqrt(factor))


def build_optimizer(
    config: TrainConfig, parameters: Iterable[nn.Parameter] | list[dict], learning_rate: float
) -> torch.optim.Optimizer:
    """Build the configured optimiser for parameters, or for groups that may have their own learning rates.

    A fused kernel updates all parameters. On a CPU it takes a third of the time of PyTorch's default; the
    results are equal up to rounding.

    Raises:
        UserError: the optimiser is unknown.
    """
    make = look_up("train.optimizer", config.optimizer, OPTIMIZERS)
    betas = tuple(config.betas)
    return make(parameters, lr=learning_rate, betas=betas, weight_decay=config.weight_decay, fused=True)


def list_parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters of all groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def lay_out_state(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's moments the memory layout of their parameters.

    A fused kernel needs the same layout for both, and a checkpoint keeps the layout of the run that saved it.
    """
    for parameter in list_parameters(optimizer):
        state = optimizer.state.get(parameter, {})
        for name, value in state.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter).copy_(value)


def scale_learning_rate(config: TrainConfig, step: int, num_steps: int) -> float:
    """Factor on the learning rate at `step` of `num_steps`, in [0, 1]: linear warm-up times the decay."""
    check_option("train.decay", config.decay, DECAYS)
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return warm * (0.5 * (1 + math.cos(math.pi * step / num_steps)) if config.decay == "cosine" else 1.0)
