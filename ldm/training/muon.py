"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon): steps of matrices are made orthogonal.

The weight of a layer is a matrix of output channels against everything that a channel reads. Its step is the
momentum of its gradient, with all singular values brought near 1 by a few matrix products,

    X <- a X + (b X X^T + c (X X^T)^2) X,    X = momentum / |momentum|,

so that directions of small gradient are learnt as fast as the large ones. All other parameters, and matrices
with few channels, are trained by AdamW with the same learning rate, and so are parameter groups that set
`orthogonal` to false. Deviation: the root mean square of a step
is `STEP_SIZE` times the learning rate whatever the matrix's shape, so that Adam's learning rates serve.
"""

from collections.abc import Callable

import torch
from torch import Tensor

LEAST_CHANNELS = 16  # on both sides of a matrix
MOMENTUM = 0.95
STEP_SIZE = 0.6
ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter is the weight of a linear layer or of a convolution of images, and not a narrow
    one.
    """
    return parameter.ndim in (2, 4) and min(parameter.shape[:2]) >= LEAST_CHANNELS


def orthogonalise(matrix: Tensor) -> Tensor:
    """The matrix (m, n) with its singular values brought near 1: between 0.7 and 1.2, but for tiny ones."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-12)
    for _ in range(ROUNDS):
        gram = x @ x.T
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.T if tall else x


class Muon(torch.optim.AdamW):
    """Muon on matrices (`is_matrix`), AdamW on everything else; takes AdamW's arguments."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step; `closure`, if any, computes the loss and the gradients first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        pairs = [(group, p) for group in self.param_groups for p in group["params"]]
        held = [
            (group, p, p.grad)
            for group, p in pairs
            if p.grad is not None and group.get("orthogonal", True) and is_matrix(p)
        ]
        for _, parameter, _ in held:
            parameter.grad = None  # hidden from AdamW
        super().step()
        for group, parameter, gradient in held:
            parameter.grad = gradient
            self._step_matrix(group, parameter)
        return loss

    def _step_matrix(self, group: dict, parameter: Tensor) -> None:
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's
        size = STEP_SIZE * max(ahead.shape) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonalise(ahead).view(parameter.shape), alpha=-group["lr"] * size)
