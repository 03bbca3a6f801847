"""Initial code `eigenmaps`: angles of loops, then the slowest functions of a random walk over the data.

A factor that moves objects is nonlinear in the data: it takes several linear modes, and one mode mixes
several factors. A random walk from an image to similar images follows the nonlinear shape. If the data are a
product of factors, the functions that change least along the walk (Laplacian eigenmaps, Belkin & Niyogi 2003;
diffusion maps, Coifman & Lafon 2006) depend on one factor each, or are harmonics and products of such
functions (Zhang, Moscovich & Singer 2021). The slowest functions that are neither are used as coordinates.
"""

import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix, diags
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from disdiff.initialisation.angle_modes import AngleModes
from disdiff.initialisation.circular import UNIT_VARIANCE, harmonics
from disdiff.initialisation.initial_code import InitialCode
from disdiff.initialisation.linear_algebra import ridge_regression
from ldm.errors import UserError

NUM_MODES = 17  # number of angles and modes in which neighbours are searched
NEIGHBOURS = 16
NUM_FUNCTIONS = 40  # smallest number of slow functions from which coordinates are chosen
OF_ANGLES = 0.25  # largest share of a function's variance that an angle may explain
OF_OTHERS = 0.75  # largest share that an earlier coordinate, or products of two, may explain
RANKS = 20  # groups of equal size over which `explained_by_rank` averages
LANDMARKS = 1024  # images from which a coordinate is interpolated
BANDWIDTH = 1.5  # kernel width of the interpolation, in median distances to the last neighbour
LANDMARK_RIDGE = 1e-4
EXPLAINED_RIDGE = 1e-3
CHUNK = 1024


class EigenmapCoordinates(InitialCode):
    """Angles of the loops in the data, then slow coordinates of a random walk over the rest; variance 1 each.

    Neighbours are searched in the modes of `AngleModes`, which do not depend on the angles; otherwise the
    walk would follow the loops again. For new images a coordinate is interpolated from landmarks by kernel
    ridge regression.
    """

    def __init__(self, in_features: int, num_components: int) -> None:
        super().__init__()
        count = max(num_components, min(NUM_MODES, in_features))
        self.modes = AngleModes(in_features, count)
        self.register_buffer("landmarks", torch.zeros(LANDMARKS, count))
        self.register_buffer("bandwidth", torch.ones(()))
        self.register_buffer("weights", torch.zeros(LANDMARKS, num_components))

    @property
    def is_loop(self) -> Tensor:
        """Whether each number of the code is an angle, shape (num_components,)."""
        return self.modes.is_loop[: self.weights.shape[1]]

    @property
    def images_needed(self) -> int:
        """More inputs than modes, and more than coordinates."""
        return max(len(self.modes.is_loop) + 1, self.weights.shape[1] + 2)

    def fit(self, x: Tensor) -> None:
        """As `InitialCode.fit`; needs `images_needed` inputs, and as many dimensions as modes."""
        count, num_components = len(self.modes.is_loop), self.weights.shape[1]
        if num_components < len(x) <= count:
            raise UserError(
                f"code.encoder.start=eigenmaps needs more than {count} images, got {len(x)}; "
                "set start=bilinear, or random"
            )
        self.modes.fit(x)
        c = torch.cat([self.modes(part) for part in x.split(CHUNK)]).double()
        u, loops = self.without_angles(c), int(self.is_loop.sum())
        if loops == num_components:
            return
        distance, neighbour = find_neighbours(u)
        functions = find_slow_functions(distance, neighbour, max(NUM_FUNCTIONS, 2 * num_components))
        chosen = choose_coordinates(functions, c[:, :loops] / UNIT_VARIANCE, num_components - loops)
        self.landmarks[: len(u)] = u[:LANDMARKS]
        self.bandwidth.copy_(BANDWIDTH * distance[:, -1].median())
        kernel = self.kernel(u)
        self.weights[:, loops:] = ridge_regression(kernel, functions[:, chosen], LANDMARK_RIDGE)
        self.weights[:, loops:] /= (kernel @ self.weights[:, loops:].to(kernel)).std(dim=0).clamp_min(1e-6)

    def without_angles(self, c: Tensor) -> Tensor:
        """The coordinates `c` (B, count) with angles replaced by 0."""
        return torch.where(self.modes.is_loop, 0.0, c)

    def kernel(self, u: Tensor) -> Tensor:
        """Gaussian of the distance of `u` (B, count) to every landmark, shape (B, LANDMARKS)."""
        landmarks = self.landmarks.to(u)
        square = u.square().sum(dim=1, keepdim=True) + landmarks.square().sum(dim=1) - 2 * u @ landmarks.T
        return (-square.clamp_min(0) / (2 * self.bandwidth.to(u) ** 2)).exp()

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates of `x` (B, ...), shape (B, num_components), angles (in +-sqrt(3)) first."""
        c = self.modes(x)
        slow = self.kernel(self.without_angles(c)) @ self.weights
        return torch.where(self.is_loop, c[:, : slow.shape[1]], slow)


def find_neighbours(u: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the NEIGHBOURS nearest other rows of `u` (n, K), ascending, and their row numbers."""
    count = min(NEIGHBOURS, len(u) - 1)
    nearest = [torch.cdist(part, u).topk(count + 1, largest=False) for part in u.split(CHUNK)]
    distance, index = (torch.cat(parts) for parts in zip(*nearest, strict=True))
    return distance[:, 1:], index[:, 1:]


def find_slow_functions(distance: Tensor, neighbour: Tensor, count: int) -> Tensor:
    """Functions that change least along a random walk, slowest first, without the constant; variance 1 each.

    A step from i to a neighbour j has weight exp(-d_ij^2 / (d_i d_j)), where d_i is the distance to the last
    neighbour (Zelnik-Manor & Perona 2004), divided by the density at both (Coifman & Lafon 2006, alpha = 1).
    The functions then depend on the shape of the data more than on its density.

    Args:
        distance: distances to the nearest neighbours, ascending, shape (n, k).
        neighbour: rows of these neighbours, shape (n, k).
        count: number of functions; at most n - 2 are found.

    Returns:
        Values at every row, shape (n, count).
    """
    n, k = distance.shape
    last = distance[:, -1].clamp_min(1e-12)
    step = (-(distance**2) / (last[:, None] * last[neighbour])).exp()
    rows = torch.arange(n).repeat_interleave(k)
    steps = csr_matrix((step.flatten().numpy(), (rows.numpy(), neighbour.flatten().numpy())), shape=(n, n))
    steps = steps.maximum(steps.T)
    for power in (1.0, 0.5):  # divide by the density, then make the walk's matrix symmetric
        scale = diags(torch.as_tensor(steps.sum(axis=1)).flatten().pow(-power).numpy())
        degree, steps = steps.sum(axis=1), scale @ steps @ scale
    root = torch.as_tensor(degree).flatten().sqrt()
    constant = (root / root.norm()).numpy()  # removed, as clusters have other functions as slow
    walk = LinearOperator((n, n), matvec=lambda v: steps @ v - constant * (constant @ v), dtype=float)
    first = torch.linspace(-1, 1, n, dtype=torch.double).numpy()  # else SciPy draws a random vector
    value, vector = eigsh(walk, k=min(count, n - 2), which="LA", v0=first)
    vector = torch.as_tensor(vector)[:, torch.as_tensor(value).argsort(descending=True)] / root[:, None]
    vector = vector - vector.mean(dim=0)
    sign = (vector**3).sum(dim=0).sign()  # the sign is arbitrary: fix it
    return vector / vector.std(dim=0) * sign


def choose_coordinates(functions: Tensor, angle: Tensor, count: int) -> list[int]:
    """Choose the first `count` of the functions (n, F) that do not depend on an angle or on earlier choices.

    If there are fewer, those that depend least are added. Dependence on one coordinate (harmonics included)
    is tested by `explained_by_rank`. Dependence on products of two coordinates, or of one with the first
    harmonic of an angle (n, loops), is tested by linear regression.
    """
    turning = harmonics(angle, highest=1)
    chosen, excess = [], []
    for i, function in enumerate(functions.T):
        before = functions[:, chosen]
        pairs = [before[:, a] * before[:, b] for a in range(len(chosen)) for b in range(a)]
        of_others = [explained_by_rank(function, x) for x in before.T]
        of_others += [explained(function, torch.stack(pairs, dim=1))] if pairs else []
        of_others += [explained(function, x[:, None] * turning) for x in before.T]
        of_angles = [explained_by_rank(function, x) for x in angle.T]
        excess.append(max([x / OF_OTHERS for x in of_others] + [x / OF_ANGLES for x in of_angles] + [0.0]))
        if excess[-1] < 1 and len(chosen) < count:
            chosen.append(i)
    rest = sorted(set(range(len(excess))) - set(chosen), key=lambda i: excess[i])
    return chosen + rest[: count - len(chosen)]


def explained(y: Tensor, x: Tensor) -> float:
    """Share of the variance of `y` (n,) that a linear function of `x` (n, K) can explain."""
    x = F.pad(x, (1, 0), value=1.0)
    return 1 - float((y - x @ ridge_regression(x, y[:, None], EXPLAINED_RIDGE)[:, 0]).var() / y.var())


def explained_by_rank(y: Tensor, x: Tensor) -> float:
    """Share of the variance of `y` (n,) that its means over RANKS groups along `x` (n,) explain."""
    group = F.one_hot(x.argsort().argsort() * RANKS // len(x), RANKS).to(y)
    mean = (y @ group) / group.sum(dim=0).clamp_min(1)
    return 1 - float((y - group @ mean).var() / y.var())
