"""Sets of 8-bit images, and their comparison by FID, KID and image quality.

`disdiff.runs.image_sets` makes the image sets of a run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from disdiff.evaluation.image_features import InceptionFeatures, RandomFeatures, VGGDistance
from disdiff.evaluation.row_cache import PART, Identity, RowCache
from disdiff.metrics._inputs import Result
from disdiff.metrics._ranges import check_range
from disdiff.metrics.fid import check_num_images, compute_fid
from disdiff.metrics.image_quality import compare_images, summarise_quality
from disdiff.metrics.kid import compute_kid
from ldm.data.source import to_float, to_uint8
from ldm.errors import UserError
from ldm.files import digest_file

SCORES = ("mse", "psnr", "ssim", "lpips")
SUBSET = 1_000  # images per KID subset (all images if there are fewer)


@dataclass(frozen=True)
class ImageSet:
    """A set of images that are made on demand.

    Attributes:
        identity: everything that the images depend on, JSON-ready.
        make: function of (start, stop) that returns the images [start, stop), shape (stop - start, 3, H, W)
            uint8, on the CPU.
        size: number of images; None if there is no limit.
    """

    identity: Identity
    make: Callable[[int, int], Tensor]
    size: int | None


def file_images(path: Path) -> ImageSet:
    """Images in a `.npy` file: uint8 in 0..255 or floats in [-1, 1], with channels second or last.

    Raises:
        UserError: the file is missing, damaged or holds something else, or floats in another range
            (`check_range`).
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, kind = array.shape, array.dtype
    except Exception as error:  # numpy raises many kinds, and an .npz has no shape
        raise UserError(f"cannot read images from {path}: {error}; save one array with numpy.save") from error
    laid_out = len(shape) == 4 and 0 not in shape and 3 in (shape[1], shape[3])
    if not laid_out or not (kind == np.uint8 or kind.kind == "f"):
        raise UserError(
            f"{path} holds {kind} of shape {shape}; save uint8 or floats, shape (n, 3, H, W) or (n, H, W, 3)"
        )

    def make(start: int, stop: int) -> Tensor:
        """Images [start, stop) as uint8, shape (stop - start, 3, H, W)."""
        part = np.array(array[start:stop], dtype=np.uint8 if kind == np.uint8 else np.float32)
        images = torch.from_numpy(part if shape[1] == 3 else np.moveaxis(part, 3, 1).copy())
        return images if images.dtype == torch.uint8 else to_uint8(images)

    if kind != np.uint8:
        parts = [array[start : start + PART] for start in range(0, shape[0], PART)]
        low, high = np.min([part.min() for part in parts]), np.max([part.max() for part in parts])
        check_range(float(low), float(high), str(path))

    return ImageSet({"kind": "file", "sha256": digest_file(path)}, make, shape[0])


def compute_distances(
    images: ImageSet,
    data: ImageSet,
    extract: InceptionFeatures | RandomFeatures,
    num: int,
    seed: int,
    cache: RowCache,
    *,
    allow_few: bool = False,
) -> dict[str, object]:
    """Distances between the first `num` images of two sets; shows a progress bar per set.

    Args:
        images: the images to evaluate.
        data: the reference images.
        extract: feature extractor.
        num: number of images of each set.
        seed: seed of the KID subsets.
        cache: cache of the features.
        allow_few: see `compute_fid`.

    Returns:
        JSON-ready: `fid` and `kid` for Inception features. For random features, `random features (not FID)`
        holds `frechet_distance` and `kernel_distance` instead.

    Raises:
        UserError: a set holds fewer than `num` images, or `num` is too small.
    """
    for part in (images, data):
        if part.size is not None and part.size < num:
            kind = part.identity["kind"]
            raise UserError(f"there are only {part.size} images ({kind}), not {num}; give a smaller --num")
    check_num_images(num, extract.dims, allow_few=allow_few)

    def make(part: ImageSet, start: int, stop: int) -> np.ndarray:
        return extract(part.make(start, stop)).cpu().numpy()

    features, reference = (
        cache.compute(
            f"features of {part.identity['kind']}",
            {"rows": "features", "of": part.identity, "features": extract.identity},
            num,
            partial(make, part),
        )
        for part in (images, data)
    )
    frechet = compute_fid(features, reference, allow_few=allow_few)
    kernel = compute_kid(features, reference, seed=seed, subset_size=min(SUBSET, num))
    if isinstance(extract, InceptionFeatures):
        return {"fid": frechet, "kid": kernel}
    return {extract.name: {"frechet_distance": frechet, "kernel_distance": kernel}}


def compute_reconstruction_quality(
    images: ImageSet, data: ImageSet, num: int, cache: RowCache, lpips: VGGDistance | None = None
) -> Result:
    """`compute_image_quality` of the first `num` reconstructions and their original images."""
    names = SCORES if lpips else SCORES[:-1]

    def make(start: int, stop: int) -> np.ndarray:
        """Scores of images [start, stop), shape (stop - start, S), one column per entry of `names`."""
        image_hat, image = (to_float(part.make(start, stop)) for part in (images, data))
        scores = compare_images(image_hat, image, lpips)
        return torch.stack([scores[name] for name in names], dim=1).cpu().numpy()

    network = lpips.identity if lpips else None
    identity: Identity = {"rows": list(names), "of": images.identity, "data": data.identity, "lpips": network}
    rows = torch.from_numpy(cache.compute("image quality", identity, num, make))
    quality = summarise_quality(dict(zip(names, rows.T, strict=True)))
    return quality if lpips is None else {**quality, "lpips_network": network}
