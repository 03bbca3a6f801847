"""A start on pixels instead of the encoder's input: `code.encoder.start_reads=pixels`.

A first stage with much detail bends its latents, and the coordinates of a start become less clean. A picture
of 8x8 pixels has only colours and coarse shapes, and a latent shows them almost linearly. So these pixels are
estimated from the input by linear regression, and the start is fitted to them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from disdiff.initialisation.initial_code import InitialCode
from disdiff.initialisation.linear_algebra import ridge_regression

SIDE = 8  # side of the averaged images in pixels
NUM_IMAGES = 4096  # images to which the regression is fitted
RIDGE = 1e-4


def average_pixels(image: Tensor) -> Tensor:
    """Images (B, C, H, W) averaged to 8x8 pixels, shape (B, 64 C)."""
    return F.adaptive_avg_pool2d(image, SIDE).flatten(1)


class PixelCode(InitialCode):
    """A start that reads averaged pixels, estimated from the encoder's inputs.

    Args:
        in_features: numbers in an input.
        start: the start on averaged pixels.
        num_pixels: numbers in averaged pixels.
    """

    def __init__(self, in_features: int, start: InitialCode, num_pixels: int) -> None:
        super().__init__()
        self.start = start
        self.register_buffer("weights", torch.zeros(in_features + 1, num_pixels))

    @property
    def images_needed(self) -> int:
        """As many as the start."""
        return self.start.images_needed

    def fit_pixels(self, x: Tensor, pixels: Tensor) -> None:
        """Fit the ridge regression to inputs `x` (n, ...), standardised as latents are, and pixels (n, P)."""
        self.weights.copy_(ridge_regression(with_one(x).double(), pixels.double(), RIDGE))

    def fit(self, x: Tensor) -> None:
        """As `InitialCode.fit`, after `fit_pixels`."""
        self.start.fit(self.estimate(x))

    def estimate(self, x: Tensor) -> Tensor:
        """Averaged pixels of inputs `x` (B, ...), shape (B, P)."""
        return with_one(x) @ self.weights

    def forward(self, x: Tensor) -> Tensor:
        """Coordinates of `x` (B, ...), shape (B, num_components)."""
        return self.start(self.estimate(x))


def with_one(x: Tensor) -> Tensor:
    """Rows of `x` (B, ...) with a 1 at the end, shape (B, F + 1)."""
    return F.pad(x.flatten(1), (0, 1), value=1.0)
