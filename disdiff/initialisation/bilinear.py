"""Initial code `bilinear`: the angles of loops in the data, then modes whose effect depends on the angles.

How an image changes with an object's size depends on its hue. A mode has a direction for every angle, so that
it means the same at every hue.
"""

import torch
from torch import Tensor

from disdiff.initialisation.circular import (
    HARMONICS,
    CircularCoordinates,
    harmonics,
    mode_series,
    remove_harmonics,
)
from disdiff.initialisation.linear_algebra import (
    ridge_regression,
    rotate_to_least_kurtosis,
    whitening_directions,
)

MODE_FEATURES = 64  # number of principal components of the rest, which the bilinear model explains
MODE_HARMONICS = 2  # harmonics of an angle on which the directions of a mode depend
MODE_ROUNDS = 25
MODE_RIDGE = 0.1  # relative to the variance of standardised inputs
MIXING_RIDGE = 1e-3  # relative to the variance of a mode


class BilinearCoordinates(CircularCoordinates):
    """Angles of the loops in the data, then modes of the rest whose effect depends on the angles; variance 1.

    The part r of the inputs that the angles leave is modelled as r = sum_k u_k W_k phi(angles), with modes
    u_k and a short Fourier series phi. This is the bilinear model of style and content (Tenenbaum & Freeman
    2000). It is fitted by alternating least squares, starting at the principal components of r, to a local
    optimum. There are as many modes as units left; they are rotated to least kurtosis.
    """

    def __init__(self, in_features: int, num_components: int) -> None:
        super().__init__(in_features, num_components)
        width, series = min(MODE_FEATURES, in_features), 1 + 2 * MODE_HARMONICS * num_components
        self.register_buffer("basis", torch.zeros(in_features, width))
        self.register_buffer("harmonic_weights", torch.zeros(2 * HARMONICS * num_components, width))
        self.register_buffer("offset", torch.zeros(width))
        self.register_buffer("mixing", torch.zeros(num_components, series, width))
        self.register_buffer("mode_mean", torch.zeros(num_components))
        self.register_buffer("unmixing", torch.zeros(num_components, num_components))

    def fit_rest(self, x: Tensor, angle: Tensor) -> None:
        """As `CircularCoordinates.fit_rest`, by alternating between the modes and their directions."""
        n, count = int(self.is_loop.sum()), len(self.is_loop)
        rest, weights = remove_harmonics(x, angle[:, :n])
        basis = torch.linalg.svd(rest, full_matrices=False).Vh[: self.basis.shape[1]].T
        self.basis[:, : basis.shape[1]] = basis
        series_weights = self.harmonic_weights.view(2 * HARMONICS, count, -1)
        series_weights[:, :n] = (weights @ self.basis.to(weights)).view(2 * HARMONICS, n, self.basis.shape[1])
        self.offset.copy_(harmonics(angle).mean(dim=0) @ self.harmonic_weights.to(angle))
        r, series = rest @ self.basis.to(rest), mode_series(angle[:, :n], MODE_HARMONICS)
        modes = r[:, : count - n] / r[:, : count - n].std(dim=0).clamp_min(1e-6)
        for _ in range(MODE_ROUNDS):
            products = (modes[:, :, None] * series[:, None]).flatten(1)
            mixing = ridge_regression(products, r, MIXING_RIDGE).view(count - n, series.shape[1], -1)
            modes = solve_modes(r, series, mixing)
            mean = modes.mean(dim=0)
            whitening = whitening_directions(modes - mean, count - n)
            modes = (modes - mean) @ whitening
        self.mixing[n:, 0] = mixing[:, 0]
        turning = self.mixing[n:, 1:].unflatten(1, (2 * MODE_HARMONICS, count))
        turning[:, :, :n] = mixing[:, 1:].unflatten(1, (2 * MODE_HARMONICS, n))
        self.mode_mean[n:] = mean
        self.unmixing[n:, n:] = whitening @ rotate_to_least_kurtosis(modes)

    def rest(self, x: Tensor, angle: Tensor) -> Tensor:
        """Modes of standardised `x` (B, F), shape (B, num_components)."""
        r = x @ self.basis - harmonics(angle) @ self.harmonic_weights + self.offset
        modes = solve_modes(r, mode_series(angle, MODE_HARMONICS), self.mixing)
        return (modes - self.mode_mean) @ self.unmixing


def solve_modes(r: Tensor, series: Tensor, mixing: Tensor) -> Tensor:
    """Modes (B, K) that best explain `r` (B, P), for given series (B, M) and `mixing` (K, M, P)."""
    directions = torch.einsum("bm,kmp->bkp", series, mixing)
    gram = directions @ directions.mT + MODE_RIDGE * torch.eye(len(mixing)).to(r)
    return torch.linalg.solve(gram, directions @ r[:, :, None])[:, :, 0]
