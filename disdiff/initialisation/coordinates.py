"""Initial codes: coordinates of the encoder's inputs by linear algebra, without labels.

Principal components mix the factors that vary most. A periodic factor, such as a hue, is a loop in the data;
it takes two components, the cosine and the sine of one angle, and more for its harmonics.
`CircularCoordinates` finds such loops and represents each by one number, its angle. The effect of the other
factors may depend on the angles: how an image changes with an object's size depends on its hue.
`BilinearCoordinates` models this, so that the other units mean the same at every angle.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError

LOOP_COMPONENTS = 16  # number of principal components in which loops are searched
LOOP_CORRELATION = -0.3  # largest correlation of the squares of a loop's two components
HARMONICS = 5  # harmonics of an angle that are regressed out of the inputs
ANGLE_BINS = 72
MODE_FEATURES = 64  # number of principal components of the rest, which the bilinear model explains
MODE_HARMONICS = 2  # harmonics of an angle on which the directions of a mode depend
MODE_ROUNDS = 25
MODE_RIDGE = 0.1  # relative to the variance of standardised inputs
MIXING_RIDGE = 1e-3  # relative to the variance of a mode
ROTATION_STEPS, ROTATION_RATE = 200, 0.2
UNIT_VARIANCE = 3**0.5 / math.pi  # factor that gives a uniform angle in [-pi, pi] variance 1


def check_components(most: int, wanted: int) -> None:
    """Check that at most `most` components are wanted.

    Raises:
        UserError: the code has more numbers than inputs have dimensions, or than there are inputs.
    """
    if most < wanted:
        raise UserError(
            f"code.encoder.start finds at most {most} components here, but the code has {wanted} numbers; "
            "lower code.num_units or code.unit_dim, or set code.encoder.start=random"
        )


class PrincipalComponents(nn.Module):
    """First principal components of standardised inputs, each with variance 1; fitted once, not trained."""

    def __init__(self, in_features: int, num_components: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(in_features))
        self.register_buffer("scale", torch.ones(in_features))
        self.register_buffer("directions", torch.zeros(in_features, num_components))

    @property
    def images_needed(self) -> int:
        """Smallest number of inputs for a fit."""
        return self.directions.shape[1]

    def fit(self, x: Tensor) -> None:
        """Fit to inputs `x` (n, ...).

        Raises:
            UserError: there are fewer inputs, or fewer dimensions, than components.
        """
        x = x.flatten(1).double()
        count = self.directions.shape[1]
        check_components(min(x.shape), count)
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
        r, series = rest @ self.basis.to(rest), mode_series(angle[:, :n])
        modes = r[:, : count - n] / r[:, : count - n].std(dim=0).clamp_min(1e-6)
        for _ in range(MODE_ROUNDS):
            products = (modes[:, :, None] * series[:, None]).flatten(1)
            mixing = ridge_regression(products, r).view(count - n, series.shape[1], -1)
            modes = solve_modes(r, series, mixing)
            mean = modes.mean(dim=0)
            whitening = principal_directions(modes - mean, count - n)
            modes = (modes - mean) @ whitening
        self.mixing[n:, 0] = mixing[:, 0]
        turning = self.mixing[n:, 1:].unflatten(1, (2 * MODE_HARMONICS, count))
        turning[:, :, :n] = mixing[:, 1:].unflatten(1, (2 * MODE_HARMONICS, n))
        self.mode_mean[n:] = mean
        self.unmixing[n:, n:] = whitening @ rotate_to_least_kurtosis(modes)

    def rest(self, x: Tensor, angle: Tensor) -> Tensor:
        """Modes of standardised `x` (B, F), shape (B, num_components)."""
        r = x @ self.basis - harmonics(angle) @ self.harmonic_weights + self.offset
        modes = solve_modes(r, mode_series(angle), self.mixing)
        return (modes - self.mode_mean) @ self.unmixing


def principal_directions(x: Tensor, count: int) -> Tensor:
    """Orthogonal directions (F, count) along which centred `x` (n, F) varies most, scaled to variance 1."""
    directions = torch.linalg.svd(x, full_matrices=False).Vh[:count].T
    directions = directions * directions.sum(dim=0).sign()  # a component's sign is arbitrary: fix it
    return directions / (x @ directions).std(dim=0).clamp_min(1e-6)


def independent_directions(x: Tensor, count: int) -> Tensor:
    """`principal_directions`, rotated so that the components have least kurtosis."""
    directions = principal_directions(x, count)
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


def mode_series(angle: Tensor, highest: int = MODE_HARMONICS) -> Tensor:
    """Functions of the angles for the directions of a mode: 1 and the first harmonics of `angle` (n, K)."""
    return F.pad(harmonics(angle, highest), (1, 0), value=1.0)


def ridge_regression(x: Tensor, y: Tensor, ridge: float = MIXING_RIDGE) -> Tensor:
    """Ridge regression weights (K, P) for predicting `y` (n, P) from `x` (n, K)."""
    return torch.linalg.solve(x.T @ x + ridge * len(x) * torch.eye(x.shape[1]).to(x), x.T @ y)


def solve_modes(r: Tensor, series: Tensor, mixing: Tensor) -> Tensor:
    """Modes (B, K) that best explain `r` (B, P), for given series (B, M) and `mixing` (K, M, P)."""
    directions = torch.einsum("bm,kmp->bkp", series, mixing)
    gram = directions @ directions.mT + MODE_RIDGE * torch.eye(len(mixing)).to(r)
    return torch.linalg.solve(gram, directions @ r[:, :, None])[:, :, 0]


def thinnest_angle(angle: Tensor) -> Tensor:
    """The angle in [-pi, pi) with the fewest values of `angle` (n,) around it."""
    width = 2 * math.pi / ANGLE_BINS
    count = torch.histc(angle, ANGLE_BINS, -math.pi, math.pi)
    count = F.avg_pool1d(F.pad(count[None, None], (2, 2), mode="circular"), 5, stride=1).flatten()
    return (count.argmin() + 0.5) * width - math.pi
