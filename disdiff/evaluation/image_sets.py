"""Sets of 8-bit images to compare by FID and image quality: a data set's, a model's or a file's.

A set is made in ranges of images. What a model makes is kept in a `RowCache`, and each range draws from a
generator of its own, seeded by the set's seed and the range's start, so that an interrupted command gives
the very numbers of an uninterrupted one.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from disdiff.editing.units import deterministic, in_batches, invert, reconstruct
from disdiff.evaluation.image_features import InceptionFeatures, RandomFeatures, VGGDistance
from disdiff.evaluation.row_cache import PART, Identity, RowCache, digest_file
from disdiff.method.model import DiffusionModel, ImageModel
from disdiff.metrics._inputs import Result
from disdiff.metrics._ranges import check_range
from disdiff.metrics.fid import check_num_images, compute_fid
from disdiff.metrics.image_quality import compare_images, summarise_quality
from disdiff.metrics.kid import compute_kid
from disdiff.report.pictures import draw_samples, load_codes
from disdiff.runs.run_folder import Run
from ldm.data.source import split_indices, to_float, to_uint8
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError

SPLITS = ("train", "eval")
KINDS = ("samples", "inferred", "random")
SCORES = ("mse", "psnr", "ssim", "lpips")
SUBSET = 1_000  # images in a subset of KID, or all there are


@dataclass(frozen=True)
class ImageSet:
    """Images that are made when asked for.

    Attributes:
        identity: all that they depend on, JSON-ready.
        make: (start, stop) to the images [start, stop), shape (stop - start, 3, H, W) uint8, on the CPU.
        size: how many there are; None for as many as one likes.
    """

    identity: Identity
    make: Callable[[int, int], Tensor]
    size: int | None


def data_images(run: Run, split: str) -> ImageSet:
    """The images of a run's data set in one of its `SPLITS`, in their fixed random order."""
    sizes = run.config.data.num_train, run.config.evaluation.num_images
    index = dict(zip(SPLITS, split_indices(run.source, *sizes), strict=True))[split]
    identity = {"kind": "data", "data": run.source.identity, "split": split, "split_sizes": list(sizes)}
    return ImageSet(identity, lambda start, stop: run.source.images(index[start:stop]), len(index))


def model_images(run: Run, kind: str, sampler: SamplerConfig, seed: int, cache: RowCache) -> ImageSet:
    """Images that a run's model makes, kept in a cache.

    Args:
        run: whose model, on the device it shall compute on.
        kind: one of `KINDS`: `samples` of codes drawn with replacement from the run's `codes.npz`, and random
            noise; or reconstructions of the evaluation images, from noise `inferred` by DDIM or `random`.
        sampler: which sampler; `inferred` takes DDIM without new noise in as many steps. What is taken is in
            the set's identity; a system without noise (a VAE) takes none.
        seed: of codes and noise.
        cache: where the images are kept.

    Raises:
        UserError: `samples` of a run without `codes.npz`.
    """
    settled = _settle(sampler, kind, run.model)
    weights = sorted(run.folder.glob("stages/*/model.safetensors"))
    identity: Identity = {
        "kind": kind,
        "config_sha256": digest_file(run.folder / "config.yaml"),
        "weights_sha256": {path.parent.name: digest_file(path) for path in weights},
        "sampler": None if settled is None else asdict(settled),
        "seed": seed,
        "device": run.model.latent_space.mean.device.type,
        "part": PART,
    }
    sampler = settled or sampler
    if kind == "samples":
        size, identity["codes_sha256"] = None, digest_file(run.folder / "codes.npz")
        make = _samples(run, sampler, seed)
    else:
        data = data_images(run, "eval")
        size, identity["source"] = data.size, data.identity
        make = _reconstructions(run, data, kind == "inferred", sampler, seed)
    kept = cache.keep(identity, lambda start, stop: to_uint8(make(start, stop)).cpu().numpy())
    return ImageSet(identity, lambda start, stop: torch.from_numpy(kept(start, stop)), size)


def file_images(path: Path) -> ImageSet:
    """Images of any origin: a `.npy` of uint8 in 0..255 or floats in [-1, 1], channels second or last.

    Raises:
        UserError: the file is missing, damaged or holds something else, or floats in another range
            (`check_range`).
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, kind = array.shape, array.dtype
    except Exception as error:  # numpy raises many kinds, and an .npz has no shape
        raise UserError(f"cannot read images from {path}: {error}; save one array by numpy.save") from error
    laid_out = len(shape) == 4 and 0 not in shape and 3 in (shape[1], shape[3])
    if not laid_out or not (kind == np.uint8 or kind.kind == "f"):
        raise UserError(
            f"{path} holds {kind} of shape {shape}: save uint8 or floats, shape (n, 3, H, W) or (n, H, W, 3)"
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


def name_result(images: ImageSet, given: str) -> str:
    """File name of the results of a set: its kind, or a file's name and content, as names alone may meet.

    Args:
        images: the set.
        given: how it was asked for, one of `KINDS` or a path.
    """
    if given in KINDS:
        return f"{given}.json"
    return f"{Path(given).stem}-{images.identity['sha256'][:16]}.json"


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
    """Distances of the first `num` images of two sets, with a progress bar for each set's features.

    Args:
        images: those judged.
        data: the reference.
        extract: gives the features.
        num: how many images of each set.
        seed: of the subsets of KID.
        cache: where features are kept.
        allow_few: see `compute_fid`.

    Returns:
        JSON-ready: `fid` and `kid` for features of Inception. For random ones there are neither: `random
        features (not FID)` holds `frechet_distance` and `kernel_distance`.

    Raises:
        UserError: a set holds fewer than `num` images, or these are too few.
    """
    for part in (images, data):
        if part.size is not None and part.size < num:
            kind = part.identity["kind"]
            raise UserError(f"there are {part.size} images ({kind}) but {num} are asked for: ask for fewer")
    check_num_images(num, extract.dims, allow_few=allow_few)
    features, reference = (
        cache.compute(
            f"features of {part.identity['kind']}",
            {"rows": "features", "of": part.identity, "features": extract.identity},
            num,
            lambda start, stop, part=part: extract(part.make(start, stop)).cpu().numpy(),
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
    """`compute_image_quality` of the first `num` reconstructions and the images they come from."""
    names = SCORES if lpips else SCORES[:-1]

    def make(start: int, stop: int) -> np.ndarray:
        """Scores of images [start, stop), shape (stop - start, S); one column per entry of `names`."""
        scores = compare_images(*(to_float(part.make(start, stop)) for part in (images, data)), lpips)
        return torch.stack([scores[name] for name in names], dim=1).cpu().numpy()

    network = lpips.identity if lpips else None
    identity = {"rows": list(names), "of": images.identity, "data": data.identity, "lpips": network}
    rows = torch.from_numpy(cache.compute("image quality", identity, num, make))
    quality = summarise_quality(dict(zip(names, rows.T, strict=True)))
    return quality if lpips is None else {**quality, "lpips_network": network}


def _settle(sampler: SamplerConfig, kind: str, model: ImageModel) -> SamplerConfig | None:
    """The sampler as it will run: inferred noise is undone by DDIM alone, and DDPM takes all steps.

    None for a system without noise, which decodes its codes at once.
    """
    if not isinstance(model, DiffusionModel):
        return None
    sampler = deterministic(sampler) if kind == "inferred" else sampler
    return replace(sampler, num_steps=model.schedule.num_steps) if sampler.name == "ddpm" else sampler


def _samples(run: Run, sampler: SamplerConfig, seed: int) -> Callable[[int, int], Tensor]:
    """Random codes of the run's `codes.npz`, decoded from random noise."""
    codes = load_codes(run.codes()).to(run.model.latent_space.mean.device)

    def make(start: int, stop: int) -> Tensor:
        """Samples [start, stop), shape (stop - start, 3, H, W); they depend on both ends of the range."""
        generator = _seeded(seed, start)
        rows = torch.randint(len(codes), (stop - start,), generator=generator)
        return draw_samples(
            run.model, codes[rows.to(codes.device)], run.source.image_size, sampler, generator
        )

    return make


def _reconstructions(
    run: Run, data: ImageSet, infer: bool, sampler: SamplerConfig, seed: int
) -> Callable[[int, int], Tensor]:
    """Images of the data sampled back from their codes, from inferred or random noise."""
    model = run.model

    def make(start: int, stop: int) -> Tensor:
        """Reconstructions [start, stop), shape (stop - start, 3, H, W); random noise depends on the range."""
        generator = _seeded(seed, start)

        def remake(image: Tensor) -> Tensor:
            if not infer:
                return reconstruct(model, image, sampler, generator=generator)
            z_T = invert(model, image, model.encode(image), sampler.num_steps)
            return reconstruct(model, image, sampler, z_T)

        return in_batches(remake, to_float(data.make(start, stop)).to(model.latent_space.mean.device))

    return make


def _seeded(seed: int, start: int) -> torch.Generator:
    """The generator of the range that begins at `start`."""
    state = np.random.RandomState([seed, start]).randint(2**63 - 1, dtype=np.int64)
    return torch.Generator().manual_seed(int(state))
