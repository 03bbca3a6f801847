"""What is the same at every hue: modes of the data whose effect turns with the angles of its loops.

How a picture changes with the size of a thing depends on the colours of the thing and of what is behind it.
In linear components size and colour stay mixed: "size times the cosine of the hue" is one, and its sine
another. A mode of the bilinear model r = u W phi(angles) (style and content, Tenenbaum & Freeman 2000) says
all of these at once: u is the size alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from disdiff.initialisation.coordinates import (
    LOOP_COMPONENTS,
    CircularCoordinates,
    harmonics,
    mode_series,
    ridge_regression,
)

MAX_LOOPS = LOOP_COMPONENTS // 2
FEATURES = 128  # principal components of the rest that the modes explain
JOINT_HARMONICS = 2  # of two angles, whose products' share of the inputs is taken away, too
TURNING_HARMONICS = 1  # of an angle, in the direction of a mode
STARTS, FIRST_ROUNDS, LAST_ROUNDS = 4, 8, 20
SERIES_RIDGE = 1e-4
MODE_RIDGE = 0.05  # in mean squares of a direction


class AngleModes(CircularCoordinates):
    """Angles of the loops in the data (variance 1), then modes of the rest, each with the size it has there.

    Modes are found one after the other, each as what explains most of what those before it have left, by
    alternating least squares from a few principal components of that. All at once they would be free to be
    products with an angle, a sign that flips with it. As the direction is linear in the angle's cosine and
    sine, as colours mix, the mode itself must say the rest.
    """

    def __init__(self, in_features: int, num_components: int) -> None:
        super().__init__(in_features, num_components)
        width, self.max_loops = min(FEATURES, in_features), min(MAX_LOOPS, num_components)
        no_angles = torch.zeros(1, self.max_loops)
        num_joint, num_turning = joint_series(no_angles).shape[1], turning_series(no_angles).shape[1]
        self.register_buffer("basis", torch.zeros(in_features, width))
        self.register_buffer("harmonic_weights", torch.zeros(num_joint, width))
        self.register_buffer("mixing", torch.zeros(num_components, num_turning, width))
        self.register_buffer("mode_mean", torch.zeros(num_components))
        self.register_buffer("mode_size", torch.ones(num_components))

    def fit_rest(self, x: Tensor, angle: Tensor) -> None:
        """As `CircularCoordinates.fit_rest`."""
        angle = angle[:, : self.max_loops]
        series = joint_series(angle)
        weights = ridge_regression(series, x, SERIES_RIDGE)
        rest = x - series @ weights
        basis = torch.linalg.eigh(rest.T @ rest).eigenvectors.flip(1)[:, : self.basis.shape[1]]
        basis = basis * basis.sum(dim=0).sign()
        self.basis.copy_(basis)
        self.harmonic_weights.copy_(weights @ basis)
        r, series = rest @ basis, turning_series(angle)
        for k in range(int(self.is_loop.sum()), len(self.is_loop)):
            u, mixing = fit_mode(r, series)
            direction = series @ mixing
            self.mixing[k], self.mode_mean[k] = mixing, u.mean()
            self.mode_size[k] = mean_square(direction).sqrt()
            r = r - u[:, None] * direction

    def rest(self, x: Tensor, angle: Tensor) -> Tensor:
        """The modes of standardised `x` (B, F), shape (B, num_components)."""
        angle = angle[:, : self.max_loops]
        r = x @ self.basis - joint_series(angle) @ self.harmonic_weights
        series, modes = turning_series(angle), []
        for mixing, size in zip(self.mixing, self.mode_size, strict=True):
            direction = series @ mixing
            modes.append(project(r, direction, size**2))
            r = r - modes[-1][:, None] * direction
        return (torch.stack(modes, dim=1) - self.mode_mean) * self.mode_size


def fit_mode(r: Tensor, series: Tensor) -> tuple[Tensor, Tensor]:
    """The mode u (n,), of variance about 1, and the mixing W (M, P): u W phi explains most of `r` (n, P).

    A local optimum, the best of some; `series` holds phi (n, M).
    """
    starts = torch.linalg.eigh(r.T @ r).eigenvectors.flip(1)[:, :STARTS]
    found = [alternate(r, series, r @ start, FIRST_ROUNDS) for start in starts.T]
    left = torch.stack([mean_square(r - u[:, None] * (series @ mixing)) for u, mixing in found])
    return alternate(r, series, found[int(left.argmin())][0], LAST_ROUNDS)


def alternate(r: Tensor, series: Tensor, u: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """`rounds` of alternating least squares between a mode (n,) and its mixing (M, P)."""
    for _ in range(rounds):
        u = u / u.std().clamp_min(1e-12)
        mixing = ridge_regression(u[:, None] * series, r, SERIES_RIDGE)
        direction = series @ mixing
        u = project(r, direction, mean_square(direction))
    return u, mixing


def project(r: Tensor, direction: Tensor, usual: Tensor) -> Tensor:
    """How much of `direction` (B, P) there is in `r` (B, P), shape (B,); little where its square is far below
    the `usual` one (shape ()).
    """
    return (r * direction).sum(dim=1) / (direction.square().sum(dim=1) + MODE_RIDGE * usual)


def mean_square(x: Tensor) -> Tensor:
    """Mean squared length of the rows of `x` (n, P), shape ()."""
    return x.square().sum(dim=1).mean()


def turning_series(angle: Tensor) -> Tensor:
    """What the direction of a mode turns with: 1 and the first harmonics of `angle` (n, K)."""
    return mode_series(angle, TURNING_HARMONICS)


def joint_series(angle: Tensor) -> Tensor:
    """1, the harmonics of `angle` (n, K), and products of those of two angles."""
    low = harmonics(angle, JOINT_HARMONICS).unflatten(1, (-1, angle.shape[1]))
    pairs = torch.combinations(torch.arange(angle.shape[1], device=angle.device))
    products = low[:, :, None, pairs[:, 0]] * low[:, None, :, pairs[:, 1]]
    return F.pad(torch.cat([harmonics(angle), products.flatten(1)], dim=1), (1, 0), value=1.0)
