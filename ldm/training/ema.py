"""Exponential moving average of a module's weights.

    average <- d * average + (1 - d) * weights,   d = min(decay, (1 + n) / (10 + n)) after n updates

The average is a sub-module of the training task, so it is saved and moved with the task.
"""

import copy

import torch
from torch import nn


class EMA(nn.Module):
    """Average of a copy of `module`; buffers (BatchNorm statistics) are copied, not averaged."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.average = copy.deepcopy(module).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, module: nn.Module, num_updates: int) -> None:
        """Move the average towards `module`; `num_updates` counts the updates before this one."""
        decay = min(self.decay, (1 + num_updates) / (10 + num_updates))
        torch._foreach_lerp_(list(self.average.parameters()), list(module.parameters()), 1 - decay)
        for average, buffer in zip(self.average.buffers(), module.buffers(), strict=True):
            average.copy_(buffer)

    def train(self, mode: bool = True) -> "EMA":
        """Stay in evaluation mode: an average is never trained."""
        return super().train(False)
