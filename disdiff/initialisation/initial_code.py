"""The interface of what a code can start as: coordinates of the encoder's inputs, found without labels.

Each value of `code.encoder.start` is one file: `principal`, `circular`, `bilinear`, `eigenmaps`. Principal
components mix the factors that vary most. A periodic factor, such as a hue, is a loop in the data; the other
starts represent each loop by one number, its angle, and differ in how they describe the rest.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ldm.errors import UserError


class InitialCode(nn.Module, ABC):
    """Coordinates of inputs (B, ...), shape (B, num_components); fitted once, not trained."""

    @property
    @abstractmethod
    def images_needed(self) -> int:
        """Smallest number of inputs for a fit."""

    @abstractmethod
    def fit(self, x: Tensor) -> None:
        """Fit to inputs `x` (n, ...).

        Raises:
            UserError: there are too few inputs, or inputs have too few dimensions.
        """


def check_components(most: int, wanted: int) -> None:
    """Raise UserError if more components are wanted than there are inputs, or than these have dimensions."""
    if most < wanted:
        raise UserError(
            f"code.encoder.start finds at most {most} components here, but the code has {wanted} numbers; "
            "lower code.num_units or code.unit_dim, or set code.encoder.start=random"
        )
