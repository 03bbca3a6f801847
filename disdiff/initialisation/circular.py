"""Initial code `circular`: the angles of loops in the data, then components of the rest.

A periodic factor, such as a hue, is a loop in the data. It takes two linear components, the cosine and the
sine of one angle, and more for its harmonics. Here each loop is one number, its angle.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from disdiff.initialisation.linear_algebra import independent_directions
from disdiff.initialisation.principal import PrincipalComponents

LOOP_COMPONENTS = 16  # number of principal components in which loops are searched
LOOP_CORRELATION = -0.3  # largest correlation of the squares of a loop's two components
HARMONICS = 5  # harmonics of an angle that are regressed out of the inputs
ANGLE_BINS = 72
UNIT_VARIANCE = 3**0.5 / math.pi  # factor that gives a uniform angle in [-pi, pi] variance 1


class CircularCoordinates(PrincipalComponents):
    """Angles of the loops in the data, then components of what the angles leave unexplained; variance 1 each.

    An angle is a circular coordinate (de Silva, Morozov & Vejdemo-Johansson 2011), here of a pair of linear
    components. Its jump from pi to -pi is put where the data are sparsest. A Fourier series in the angles is
    regressed out of the inputs before the other components are computed, so harmonics of a loop use no unit.
    """

    def __init__(self, in_features: int, num_components: int) -> None:
        super().__init__(in_features, num_components)
        self.register_buffer("quadrature", torch.zeros(in_features, num_components))  # sines; 0 if no loop
        self.register_buffer("is_loop", torch.zeros(num_components, dtype=torch.bool))
        self.register_buffer("cut", torch.zeros(num_components))
        self.register_buffer("harmonic_weights", torch.zeros(2 * HARMONICS * num_components, num_components))

    def fit_directions(self, x: Tensor) -> None:
        """Fit to standardised inputs (n, F)."""
        components = independent_directions(x, min(LOOP_COMPONENTS, *x.shape))
        loops = find_loops(x @ components)[: self.directions.shape[1]]
        n = len(loops)
        self.is_loop[:n] = True
        self.directions[:, :n] = components[:, [i for i, _ in loops]]
        self.quadrature[:, :n] = components[:, [j for _, j in loops]]
        angle = self.angles(x)
        for i in range(n):
            self.cut[i] = thinnest_angle(angle[:, i])
        if n < len(self.is_loop):
            self.fit_rest(x, angle)

    def fit_rest(self, x: Tensor, angle: Tensor) -> None:
        """Fit the coordinates that are not angles.

        Args:
            x: standardised inputs, shape (n, F).
            angle: angles of the loops, 0 in the other columns, shape (n, num_components).
        """
        n, count = int(self.is_loop.sum()), len(self.is_loop)
        rest, weights = remove_harmonics(x, angle[:, :n])
        directions = independent_directions(rest, count - n)
        self.directions[:, n:] = directions
        series_weights = self.harmonic_weights.view(2 * HARMONICS, count, count)
        series_weights[:, :n, n:] = (weights @ directions).view(2 * HARMONICS, n, count - n)

    def angles(self, x: Tensor) -> Tensor:
        """Angles of standardised inputs (B, F), shape (B, num_components), 0 where there is no loop."""
        sine = torch.where(self.is_loop, x @ self.quadrature.to(x), 0.0)
        return torch.atan2(sine, torch.where(self.is_loop, x @ self.directions.to(x), 1.0))

    def rest(self, x: Tensor, angle: Tensor) -> Tensor:
        """Coordinates of standardised `x` (B, F) that are not angles, shape (B, num_components)."""
        return x @ self.directions - harmonics(angle) @ self.harmonic_weights

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates of `x` (B, ...), shape (B, num_components), angles (in +-sqrt(3)) first."""
        x = self.standardise(x)
        angle = self.angles(x)
        turned = torch.remainder(angle - self.cut, 2 * math.pi) - math.pi
        return torch.where(self.is_loop, turned * UNIT_VARIANCE, self.rest(x, angle))


def find_loops(x: Tensor) -> list[tuple[int, int]]:
    """Pairs of columns of white `x` (n, K) that form a loop.

    corr(x_i^2, x_j^2) is -1 on a circle and 0 for independent columns. A pair is a loop if each column has
    its most negative correlation with the other, and this correlation is below LOOP_CORRELATION.
    """
    correlation = torch.corrcoef(x.T**2).fill_diagonal_(0)
    partner = correlation.argmin(dim=1).tolist()
    return [
        (i, j)
        for i, j in enumerate(partner)
        if i < j and partner[j] == i and correlation[i, j] < LOOP_CORRELATION
    ]


def harmonics(angle: Tensor, highest: int = HARMONICS) -> Tensor:
    """Cosine and sine of 1 .. `highest` times `angle` (n, K), shape (n, 2 highest K)."""
    order = torch.arange(1, highest + 1).to(angle)
    phase = order[:, None] * angle[:, None]
    return torch.cat([phase.cos(), phase.sin()], dim=1).flatten(1)


def remove_harmonics(x: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Regress a Fourier series in `angle` (n, K) out of `x` (n, F); return the rest and the weights.

    The weights have shape (2 HARMONICS K, F).
    """
    series = harmonics(angle)
    series = series - series.mean(dim=0)
    weights = torch.linalg.lstsq(series, x).solution
    return x - series @ weights, weights


def thinnest_angle(angle: Tensor) -> Tensor:
    """The angle in [-pi, pi) with the fewest values of `angle` (n,) around it."""
    width = 2 * math.pi / ANGLE_BINS
    count = torch.histc(angle, ANGLE_BINS, -math.pi, math.pi)
    count = F.avg_pool1d(F.pad(count[None, None], (2, 2), mode="circular"), 5, stride=1).flatten()
    return (count.argmin() + 0.5) * width - math.pi


def mode_series(angle: Tensor, highest: int) -> Tensor:
    """Functions of the angles for the directions of a mode: 1 and the first harmonics of `angle` (n, K)."""
    return F.pad(harmonics(angle, highest), (1, 0), value=1.0)
