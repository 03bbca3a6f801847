"""`GridImages`: the image source of published data sets over a factor grid.

Cars3D, MPI3D, dSprites and SmallNORB use it. Rows are 8-bit images; factors are given, or follow from the
position. Grey images are returned as three equal channels, which `preparation` notes: all networks, also
those of others (VGG, Inception, CLIP), read three channels.
"""

import hashlib

import numpy as np
from torch import Tensor

from ldm.data.arrays import Progress, Rows, gather, silent
from ldm.data.contents import digest_rows
from ldm.data.factor_space import FactorSpace
from ldm.errors import UserError

GREY = "grey, as three equal channels"


class GridImages:
    """An `ImageSource` over rows of 8-bit images.

    Attributes:
        preparation: processing of the published images, in words.
    """

    channels = 3

    def __init__(
        self,
        name: str,
        rows: Rows,
        factor_space: FactorSpace,
        factors: Tensor | None = None,
        *,
        gain: int = 1,
        preparation: str = "as published",
        procedural: bool = False,
        progress: Progress = silent,
    ) -> None:
        """Use the images in `rows`.

        Args:
            name: the data set's name.
            rows: images, shape (n, H, H) or (n, H, H, 3) uint8.
            factor_space: names and sizes of the factors.
            factors: factors of each image, shape (n, F) int64; None if image i is combination i of the grid.
            gain: factor on the pixel values (255 for binary images).
            preparation: processing of the published images, in words.
            procedural: whether the images are rendered by this project.
            progress: called with (images read, total images) the first time, while the identity is computed.

        Raises:
            UserError: the file is damaged, or a pixel value times `gain` is above 255.
        """
        self.name, self.factor_space, self.procedural = name, factor_space, procedural
        self.preparation, self.image_size = preparation, rows.shape[1]
        self._rows, self._factors, self._gain = rows, factors, gain
        self.identity = self._compute_identity(progress)

    def __len__(self) -> int:
        return len(self._rows)

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,) int64, shape (n, 3, H, H) uint8."""
        batch = gather(self._rows, index)
        if self._gain != 1:
            batch = batch * self._gain
        if batch.ndim == 3:
            return batch[:, None].repeat(1, 3, 1, 1)
        return batch.permute(0, 3, 1, 2).contiguous()

    def factors(self, index: Tensor) -> Tensor:
        """Factors at `index` (n,) int64, shape (n, F) int64."""
        return self.factor_space.factors(index) if self._factors is None else gather(self._factors, index)

    def _compute_identity(self, progress: Progress) -> str:
        digest = hashlib.sha256(f"{self.factor_space}{self.preparation}".encode())
        if self._factors is not None:
            digest.update(self._factors.numpy().tobytes())
        digest.update(digest_rows(self._rows, progress, self._check_values).encode())
        kind = "procedural-" if self.procedural else ""
        return f"{self.name}-{kind}{len(self)}-{digest.hexdigest()[:16]}"

    def _check_values(self, rows: np.ndarray) -> None:
        if int(rows.max()) * self._gain > 255:
            raise UserError(
                f"the images of {self.name} have values up to {rows.max()}, expected at most "
                f"{255 // self._gain}; get the file again"
            )
