"""Initial code `principal`: the first principal components."""

import torch
from torch import Tensor

from disdiff.initialisation.initial_code import InitialCode, check_components
from disdiff.initialisation.linear_algebra import whitening_directions


class PrincipalComponents(InitialCode):
    """First principal components of standardised inputs, each with variance 1; fitted once, not trained."""

    def __init__(self, in_features: int, num_components: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(in_features))
        self.register_buffer("scale", torch.ones(in_features))
        self.register_buffer("directions", torch.zeros(in_features, num_components))

    @property
    def images_needed(self) -> int:
        """As many inputs as components."""
        return self.directions.shape[1]

    def fit(self, x: Tensor) -> None:
        """As `InitialCode.fit`; needs as many inputs, and as many dimensions, as components."""
        x = x.flatten(1).double()
        count = self.directions.shape[1]
        check_components(min(x.shape), count)
        self.center.copy_(x.mean(dim=0))
        self.scale.copy_(x.std(dim=0) + 1e-3)
        self.fit_directions(self.standardise(x))

    def fit_directions(self, x: Tensor) -> None:
        """Fit to standardised inputs (n, F)."""
        self.directions.copy_(whitening_directions(x, self.directions.shape[1]))

    def standardise(self, x: Tensor) -> Tensor:
        """Inputs (B, ...), centred and divided by their standard deviation, shape (B, F)."""
        return (x.flatten(1) - self.center) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates of `x` (B, ...), shape (B, num_components)."""
        return self.standardise(x) @ self.directions
