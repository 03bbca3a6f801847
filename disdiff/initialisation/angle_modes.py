"""Initial coordinates: angles of loops in the data, and modes whose effect depends on these angles.

How an image changes with an object's size depends on the colours of the object and of the background. Linear
components therefore mix size and colour: one is "size times the cosine of the hue", another "size times its
sine". A mode u of the bilinear model r = u W phi(angles) (style and content, Tenenbaum & Freeman 2000)
replaces all of these: u is the size, independent of the hue.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from disdiff.initialisation.circular import LOOP_COMPONENTS, CircularCoordinates, harmonics, mode_series
from disdiff.initialisation.linear_algebra import ridge_regression

MAX_LOOPS = LOOP_COMPONENTS // 2
FEATURES = 128  # number of principal components of the rest, which the modes explain
JOINT_HARMONICS = 2  # harmonics of two angles whose products are also regressed out of the inputs
TURNING_HARMONICS = 1  # harmonics of an angle on which the direction of a mode depends
STARTS, FIRST_ROUNDS, LAST_ROUNDS = 4, 8, 20
SERIES_RIDGE = 1e-4
MODE_RIDGE = 0.05  # relative to the mean square of a direction


class AngleModes(CircularCoordinates):
    """Angles of the loops in the data (variance 1), then modes of the rest, which keep their variance.

    Modes are fitted one after the other. Each explains as much as possible of what the earlier modes left, by
    alternating least squares that starts at a few principal components. If all modes were fitted together,
    their sign could change with an angle. The direction of a mode is linear in cosine and sine of the angles,
    as colours mix linearly.
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
        """Modes of standardised `x` (B, F), shape (B, num_components)."""
        angle = angle[:, : self.max_loops]
        r = x @ self.basis - joint_series(angle) @ self.harmonic_weights
        series, modes = turning_series(angle), []
        for mixing, size in zip(self.mixing, self.mode_size, strict=True):
            direction = series @ mixing
            modes.append(project(r, direction, size**2))
            r = r - modes[-1][:, None] * direction
        return (torch.stack(modes, dim=1) - self.mode_mean) * self.mode_size


def fit_mode(r: Tensor, series: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a mode u (n,) of variance about 1 and a mixing W (M, P) so that u W phi is nearest to `r` (n, P).

    `series` is phi (n, M). The result is the best of several local optima.
    """
    starts = torch.linalg.eigh(r.T @ r).eigenvectors.flip(1)[:, :STARTS]
    found = [alternate(r, series, r @ start, FIRST_ROUNDS) for start in starts.T]
    left = torch.stack([mean_square(r - u[:, None] * (series @ mixing)) for u, mixing in found])
    return alternate(r, series, found[int(left.argmin())][0], LAST_ROUNDS)


def alternate(r: Tensor, series: Tensor, u: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Run `rounds` of alternating least squares for a mode (n,) and its mixing (M, P)."""
    for _ in range(rounds):
        u = u / u.std().clamp_min(1e-12)
        mixing = ridge_regression(u[:, None] * series, r, SERIES_RIDGE)
        direction = series @ mixing
        u = project(r, direction, mean_square(direction))
    return u, mixing


def project(r: Tensor, direction: Tensor, usual: Tensor) -> Tensor:
    """Coefficient of `direction` (B, P) in `r` (B, P), shape (B,), with a ridge in proportion to `usual`.

    `usual`, shape (), is the mean squared length of the directions; for much shorter ones the coefficient is
    near 0.
    """
    return (r * direction).sum(dim=1) / (direction.square().sum(dim=1) + MODE_RIDGE * usual)


def mean_square(x: Tensor) -> Tensor:
    """Mean squared length of the rows of `x` (n, P), shape ()."""
    return x.square().sum(dim=1).mean()


def turning_series(angle: Tensor) -> Tensor:
    """Functions of the angles for the direction of a mode: 1 and the first harmonics of `angle` (n, K)."""
    return mode_series(angle, TURNING_HARMONICS)


def joint_series(angle: Tensor) -> Tensor:
    """1, the harmonics of `angle` (n, K), and products of the harmonics of two angles."""
    low = harmonics(angle, JOINT_HARMONICS).unflatten(1, (-1, angle.shape[1]))
    pairs = torch.combinations(torch.arange(angle.shape[1], device=angle.device))
    products = low[:, :, None, pairs[:, 0]] * low[:, None, :, pairs[:, 1]]
    return F.pad(torch.cat([harmonics(angle), products.flatten(1)], dim=1), (1, 0), value=1.0)
