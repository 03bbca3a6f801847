"""Base class of all training tasks: budget, optimiser, weight average, frozen modules and random generators.

The generator of step s depends only on (seed, s), so a resumed run draws the same numbers as an uninterrupted
one. A Lightning run is one epoch whose batches are the steps.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.nn.layers import freeze
from ldm.training.ema import EMA
from ldm.training.optimizer import (
    TrainConfig,
    TrainSettings,
    build_optimizer,
    lay_out_state,
    list_parameters,
    scale_learning_rate,
)
from ldm.training.ranks import BatchPart, SharedDraws


def spread(rows: Tensor) -> Tensor:
    """Standard deviation of each column of `rows` (B, ...), detached, shape (...); 0 for a single row."""
    return rows.detach().std(dim=0, correction=min(1, len(rows) - 1))


class StageTask(pl.LightningModule):
    """Trains one module (`self.trained`) with one optimiser; subclasses define the loss.

    Attributes:
        trained: the module to train.
        stats: losses and statistics of the last step by name, detached, shape ().
        num_parts: number of parts into which a step splits its batch; their gradients are added.
        trial_step: the first of the steps that take the most time; earlier ones are estimated by the first.
    """

    def __init__(self, trained: nn.Module, settings: TrainSettings) -> None:
        super().__init__()
        self.trained = trained.requires_grad_(True).train()  # an earlier task may have frozen it
        self.config: TrainConfig = settings.config
        self.budget, self.seed = settings.budget, settings.seed
        self.ema = EMA(trained, self.config.ema_decay) if self.config.ema_decay else None
        self.stats: dict[str, Tensor] = {}
        self.num_parts = 1
        self.trial_step = 0
        self._frozen: list[nn.Module] = []
        self._generator: torch.Generator | None = None

    @abstractmethod
    def compute_loss(self, batch: dict[str, Tensor], step: int, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch, shape (), and set `self.stats`."""

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor | None:
        """Images that show the state of training, shape (rows, columns, 3, H, W) in [-1, 1]; or None."""
        return None

    @property
    def result(self) -> nn.Module:
        """The module with the stage's final weights: the average if there is one, else `trained`."""
        return self.trained if self.ema is None else self.ema.average

    def keep_frozen(self, module: nn.Module) -> nn.Module:
        """Freeze `module` for as long as this task lives."""
        self._frozen.append(freeze(module))
        return module

    def train(self, mode: bool = True) -> "StageTask":
        """Set training mode, except for frozen modules."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def step_generator(self, step: int) -> torch.Generator:
        """The generator of one step, on the task's device."""
        if self._generator is None or self._generator.device != self.device:
            self._generator = torch.Generator(self.device)
        return self._generator.manual_seed(self.seed * 1_000_003 + step)

    def training_step(self, batch: dict[str, Tensor], step: int) -> Tensor:
        """Lightning's hook: the loss of step `step`."""
        # For dropout, the only layer without a generator: masks differ between processes.
        torch.manual_seed((self.seed + 7_919 * self.global_rank) * 1_000_003 + step)
        if self.num_parts == 1:
            return self.compute_loss(batch, step, self.step_generator(step))
        return self._accumulate(batch, step)

    def _accumulate(self, batch: dict[str, Tensor], step: int) -> Tensor:
        """Add the gradients of all parts except the last, and return the loss of the last part."""
        parts = []
        for part in range(self.num_parts):
            share = BatchPart(part, self.num_parts)
            rows = {name: tensor[share.rows(len(tensor))] for name, tensor in batch.items()}
            with SharedDraws(share):
                loss = self.compute_loss(rows, step, self.step_generator(step)) / self.num_parts
            parts.append(self.stats)
            if part < self.num_parts - 1:
                loss.backward()
        self.stats = {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Lightning's hook: clip the gradient, which Lightning refuses for bf16 and a fused optimiser.

        Its norm before clipping is a statistic of the step.
        """
        if self.config.grad_clip:
            norm = nn.utils.clip_grad_norm_(list_parameters(optimizer), self.config.grad_clip)
            self.stats["grad_norm"] = norm.detach()

    def optimizer_zero_grad(self, epoch: int, step: int, optimizer: torch.optim.Optimizer) -> None:
        """Lightning's hook, does nothing: it runs after the first parts' gradients; see `optimizer_step`."""

    def optimizer_step(self, epoch: int, step: int, optimizer: Any, closure: Any = None) -> None:
        """Lightning's hook: step, then update the average; both precede any checkpoint of this step."""
        super().optimizer_step(epoch, step, optimizer, closure)
        optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.trained, step)

    def parameter_groups(self) -> list[dict]:
        """Parameter groups of the optimiser; a group may set its own learning rate."""
        return [{"params": list(self.trained.parameters())}]

    def rate_factors(self, num_groups: int) -> list[Callable[[int], float]]:
        """For each parameter group the function of a step that its learning rate is multiplied by."""
        return [lambda step: scale_learning_rate(self.config, step, self.budget.num_steps)] * num_groups

    def configure_optimizers(self) -> dict:
        """Lightning's hook: the optimiser and its learning rate per step."""
        optimizer = build_optimizer(self.config, self.parameter_groups(), self.budget.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, self.rate_factors(len(optimizer.param_groups))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Lightning's hook, called after a checkpoint was loaded: restore the optimiser's memory layout."""
        for optimizer in self.trainer.optimizers:
            lay_out_state(optimizer)

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        """Lightning's hook: leave frozen weights out, as they belong to other stages."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in self._own_keys()}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        """Lightning's hook: add the frozen weights, which are already loaded, to the state.

        Raises:
            UserError: the checkpoint is from another configuration.
        """
        state, saved = self.state_dict(), checkpoint["state_dict"]
        wrong = {(key, state[key].shape) for key in self._own_keys()} ^ {
            (key, saved[key].shape) for key in saved
        }
        if wrong:
            raise UserError(
                f"resume.ckpt is from another configuration ({min(wrong)[0]} does not fit); "
                "delete it to restart this stage"
            )
        checkpoint["state_dict"] = {**state, **saved}

    def _own_keys(self) -> list[str]:
        frozen = {
            id(tensor) for module in self._frozen for tensor in module.state_dict(keep_vars=True).values()
        }
        return [key for key, tensor in self.state_dict(keep_vars=True).items() if id(tensor) not in frozen]
