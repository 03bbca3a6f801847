"""Smaller images of an array data set: `data.image_size`, by averages of squares of pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.data.source import ImageSource
from ldm.errors import UserError

LEAST_SIZE = 11  # SSIM, which scores reconstructions, needs as many


class ReducedImages:
    """An `ImageSource`: the images of another one, with each square of pixels averaged to one pixel."""

    channels = 3

    def __init__(self, images: ImageSource, image_size: int) -> None:
        """Reduce `images` to `image_size` pixels a side.

        Raises:
            UserError: this is not a whole fraction of their size, or is less than 11.
        """
        own = images.image_size
        if own % image_size or image_size < LEAST_SIZE:
            sizes = [str(own // k) for k in range(own // LEAST_SIZE, 0, -1) if own % k == 0]
            raise UserError(
                f"data.image_size={image_size} does not fit {images.name}, whose images have {own} pixels a "
                f"side and are averaged; choose {', '.join(sizes[:-1])}, or leave it out for {sizes[-1]}"
            )
        self._images, self._factor = images, own // image_size
        self.name, self.procedural, self.image_size = images.name, images.procedural, image_size
        self.factor_space = images.factor_space
        self.identity = f"{images.identity}-at-{image_size}"
        prepared = getattr(images, "preparation", "")
        self.preparation = f"{prepared}{prepared and '; '}averaged to {image_size}x{image_size}"

    def __len__(self) -> int:
        return len(self._images)

    def factors(self, index: Tensor) -> Tensor:
        """Factors at `index` (n,) int64, shape (n, F) int64."""
        return self._images.factors(index)

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,) int64, shape (n, 3, image_size, image_size) uint8."""
        return F.avg_pool2d(self._images.images(index).float(), self._factor).round().to(torch.uint8)
