"""Linear algebra of the initial codes: principal and independent components, ridge regression."""

import torch
import torch.nn.functional as F
from torch import Tensor

ROTATION_STEPS, ROTATION_RATE = 200, 0.2


def whitening_directions(x: Tensor, count: int) -> Tensor:
    """Orthogonal directions (F, count) along which centred `x` (n, F) varies most, scaled to variance 1."""
    directions = torch.linalg.svd(x, full_matrices=False).Vh[:count].T
    directions = directions * directions.sum(dim=0).sign()  # a component's sign is arbitrary: fix it
    return directions / (x @ directions).std(dim=0).clamp_min(1e-6)


def independent_directions(x: Tensor, count: int) -> Tensor:
    """`whitening_directions`, rotated so that the components have least kurtosis."""
    directions = whitening_directions(x, count)
    return directions @ rotate_to_least_kurtosis(x @ directions)


def rotate_to_least_kurtosis(x: Tensor) -> Tensor:
    """Rotation (K, K) of white `x` (n, K) to directions of least kurtosis, found one after the other.

    A mixture of independent variables is closer to Gaussian (kurtosis 3) than the variables. A coordinate of
    a circle has kurtosis 1.5, a uniform variable 1.8. So directions of least kurtosis are unmixed. This is
    independent component analysis for flat distributions, by deflation and gradient descent on the sphere.
    """
    found, free = [], torch.eye(x.shape[1]).to(x)
    for _ in range(x.shape[1]):
        y = x @ free
        w = F.one_hot((y**4).mean(dim=0).argmin(), y.shape[1]).to(y)
        for _ in range(ROTATION_STEPS):
            gradient = (y * (y @ w)[:, None] ** 3).mean(dim=0)
            w = F.normalize(w - ROTATION_RATE * (gradient - (gradient @ w) * w), dim=0)
        found.append(free @ w)
        basis = torch.linalg.qr(torch.cat([w[:, None], torch.eye(len(w)).to(w)], dim=1)).Q
        free = free @ basis[:, 1:]
    return torch.stack(found, dim=1) if found else free


def ridge_regression(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Ridge regression weights (K, P) for predicting `y` (n, P) from `x` (n, K)."""
    return torch.linalg.solve(x.T @ x + ridge * len(x) * torch.eye(x.shape[1]).to(x), x.T @ y)
