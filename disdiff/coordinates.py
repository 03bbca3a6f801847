"""What a code can start as: coordinates of the encoder's inputs found by linear algebra, without a label.

Principal components are mixtures of whatever varies most. A factor that returns to itself, as a hue does, is
a loop in the data, and linearly takes two of them: the cosine and the sine of one angle, each a unit of its
own, and more for its harmonics. `CircularCoordinates` finds such loops and gives each one number, its angle.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError

LOOP_COMPONENTS = 16  # principal components among which loops are sought
LOOP_CORRELATION = -0.3  # of the energies of a loop's two components, at most
HARMONICS = 5  # of an angle, whose share of the inputs is taken away
ANGLE_BINS = 72
ROTATION_STEPS, ROTATION_RATE = 200, 0.2
UNIT_VARIANCE = 3**0.5 / math.pi  # of an angle that is uniform over the circle


class PrincipalComponents(nn.Module):
    """First principal components of standardised inputs, each with variance 1; fitted once, not trained."""

    def __init__(self, in_features: int, num_components: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(in_features))
        self.register_buffer("scale", torch.ones(in_features))
        self.register_buffer("directions", torch.zeros(in_features, num_components))

    def fit(self, x: Tensor) -> None:
        """Fit to inputs `x` (n, ...), of which there must be more than components.

        Raises:
            UserError: the inputs have fewer dimensions than components are wanted.
        """
        x = x.flatten(1).double()
        count = self.directions.shape[1]
        if min(x.shape) < count:
            raise UserError(
                f"factors.encoder.start finds at most {min(x.shape)} components here, but there are {count} "
                f"numbers in the code; lower num_units or unit_dim, or set start=random"
            )
        self.center.copy_(x.mean(dim=0))
        self.scale.copy_(x.std(dim=0) + 1e-3)
        self.fit_directions(self.standardise(x))

    def fit_directions(self, x: Tensor) -> None:
        """Fit to standardised inputs (n, F)."""
        self.directions.copy_(principal_directions(x, self.directions.shape[1]))

    def standardise(self, x: Tensor) -> Tensor:
        """Inputs (B, ...), centred and divided by their standard deviation, shape (B, F)."""
        return (x.flatten(1) - self.center) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates of `x` (B, ...), shape (B, num_components)."""
        return self.standardise(x) @ self.directions


class CircularCoordinates(PrincipalComponents):
    """Angles of the loops in the data, then components of what the angles leave unexplained; variance 1 each.

    An angle is a circular coordinate (de Silva, Morozov & Vejdemo-Johansson 2011), here of a pair of linear
    components; it is cut where the data are thinnest. What a Fourier series in the angles predicts of the
    inputs is taken away before the other components are sought: echoes of a loop take no unit.
    """

    def __init__(self, in_features: int, num_components: int) -> None:
        super().__init__(in_features, num_components)
        self.register_buffer("quadrature", torch.zeros(in_features, num_components))  # sines; 0 if no loop
        self.register_buffer("is_loop", torch.zeros(num_components, dtype=torch.bool))
        self.register_buffer("cut", torch.zeros(num_components))
        self.register_buffer("echo", torch.zeros(2 * HARMONICS * num_components, num_components))

    def fit_directions(self, x: Tensor) -> None:
        """Fit to standardised inputs (n, F)."""
        count = self.directions.shape[1]
        components = independent_directions(x, min(LOOP_COMPONENTS, *x.shape))
        loops = find_loops(x @ components)[:count]
        cosine, sine = components[:, [i for i, _ in loops]], components[:, [j for _, j in loops]]
        angle = torch.atan2(x @ sine, x @ cosine)
        series = harmonics(angle)
        mean = series.mean(dim=0)
        weights = torch.linalg.lstsq(series - mean, x).solution
        rest = independent_directions(x - (series - mean) @ weights, count - len(loops))

        n = len(loops)
        self.is_loop[:n] = True
        self.quadrature[:, :n] = sine
        self.directions.copy_(torch.cat([cosine, rest], dim=1))
        for i in range(n):
            self.cut[i] = thinnest_angle(angle[:, i])
        echo = self.echo.view(2 * HARMONICS, count, count)
        echo[:, :n, n:] = (weights @ rest).view(2 * HARMONICS, n, count - n)

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates of `x` (B, ...), shape (B, num_components), loops first, an angle within +-sqrt(3)."""
        x = self.standardise(x)
        linear = x @ self.directions
        angle = torch.atan2(torch.where(self.is_loop, x @ self.quadrature, 0.0), linear)
        turned = torch.remainder(angle - self.cut, 2 * math.pi) - math.pi
        return torch.where(self.is_loop, turned * UNIT_VARIANCE, linear - harmonics(angle) @ self.echo)


def principal_directions(x: Tensor, count: int) -> Tensor:
    """Orthogonal directions (F, count) along which centred `x` (n, F) varies most, scaled to variance 1."""
    directions = torch.linalg.svd(x, full_matrices=False).Vh[:count].T
    directions = directions * directions.sum(dim=0).sign()  # a component's sign is arbitrary: fix it
    return directions / (x @ directions).std(dim=0).clamp_min(1e-6)


def independent_directions(x: Tensor, count: int) -> Tensor:
    """`principal_directions`, turned to where the components have least kurtosis."""
    directions = principal_directions(x, count)
    return directions @ rotate_to_least_kurtosis(x @ directions)


def rotate_to_least_kurtosis(x: Tensor) -> Tensor:
    """Rotation (K, K) of white `x` (n, K) to directions of least kurtosis, found one after the other.

    A mixture of independent variables is nearer to Gaussian (kurtosis 3) than they are; along a circle it is
    1.5, of a uniform variable 1.8. So what is least is unmixed: independent component analysis for flat
    distributions, by deflation and gradient descent on the sphere.
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


def find_loops(x: Tensor) -> list[tuple[int, int]]:
    """Pairs of the columns of white `x` (n, K) that run around a loop.

    Their energies trade off: corr(x_i^2, x_j^2) is -1 on a circle and 0 for independent columns. A pair is a
    loop if each is the other's most negative partner, and that below LOOP_CORRELATION.
    """
    correlation = torch.corrcoef(x.T**2).fill_diagonal_(0)
    partner = correlation.argmin(dim=1).tolist()
    return [
        (i, j)
        for i, j in enumerate(partner)
        if i < j and partner[j] == i and correlation[i, j] < LOOP_CORRELATION
    ]


def harmonics(angle: Tensor) -> Tensor:
    """Cosine and sine of 1 .. HARMONICS times `angle` (n, K), shape (n, 2 HARMONICS K)."""
    order = torch.arange(1, HARMONICS + 1).to(angle)
    phase = order[:, None] * angle[:, None]
    return torch.cat([phase.cos(), phase.sin()], dim=1).flatten(1)


def thinnest_angle(angle: Tensor) -> Tensor:
    """The angle in [-pi, pi) about which the fewest of `angle` (n,) lie."""
    width = 2 * math.pi / ANGLE_BINS
    count = torch.histc(angle, ANGLE_BINS, -math.pi, math.pi)
    count = F.avg_pool1d(F.pad(count[None, None], (2, 2), mode="circular"), 5, stride=1).flatten()
    return (count.argmin() + 0.5) * width - math.pi
