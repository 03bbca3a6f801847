"""Sets of 8-bit images for comparison: images of a run's data set, and images that its model makes.

Images are made in ranges. Model images are cached in a `RowCache`. Each range has its own generator, seeded
by the set's seed and the start of the range, so that an interrupted and continued command gives the same
numbers as an uninterrupted one.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from disdiff.editing.units import deterministic, draw_samples, in_batches, reconstruct
from disdiff.evaluation.codes_file import stack_codes
from disdiff.evaluation.image_sets import ImageSet
from disdiff.evaluation.row_cache import PART, Identity, RowCache
from disdiff.method.model import DiffusionModel, ImageModel
from disdiff.runs.run_folder import Run
from ldm.data.source import split_indices, to_float, to_uint8
from ldm.diffusion.sampler import SamplerConfig
from ldm.files import digest_file

SPLITS = ("train", "eval")
KINDS = ("samples", "inferred", "random")


def data_images(run: Run, split: str) -> ImageSet:
    """The images of one of the `SPLITS` of a run's data set, in their fixed random order."""
    sizes = run.config.data.num_train, run.config.evaluation.num_images
    index = dict(zip(SPLITS, split_indices(run.source, *sizes), strict=True))[split]
    identity: Identity = {
        "kind": "data",
        "data": run.source.identity,
        "split": split,
        "split_sizes": list(sizes),
    }
    return ImageSet(identity, lambda start, stop: run.source.images(index[start:stop]), len(index))


def model_images(run: Run, kind: str, sampler: SamplerConfig, seed: int, cache: RowCache) -> ImageSet:
    """Images that a run's model makes, with a cache.

    Args:
        run: the run; its model computes on its current device.
        kind: one of `KINDS`: `samples` from random noise and codes drawn with replacement from the run's
            `codes.npz`, or reconstructions of the evaluation images from noise `inferred` by DDIM or
            `random`.
        sampler: sampler configuration. `inferred` always uses deterministic DDIM with this number of steps,
            and a system without noise (a VAE) uses no sampler. The identity of the set records the one used.
        seed: seed of codes and noise.
        cache: cache of the images.

    Raises:
        UserError: `samples` are requested but the run has no `codes.npz`.
    """
    settled = _settle(sampler, kind, run.model)
    weights = sorted(run.folder.glob("stages/*/model.safetensors"))
    identity: Identity = {
        "kind": kind,
        "config_sha256": digest_file(run.folder / "config.yaml"),
        "weights_sha256": {path.parent.name: digest_file(path) for path in weights},
        "sampler": None if settled is None else asdict(settled),
        "seed": seed,
        "device": run.model.device.type,
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
    kept = cache.wrap(identity, lambda start, stop: to_uint8(make(start, stop)).cpu().numpy())
    return ImageSet(identity, lambda start, stop: torch.from_numpy(kept(start, stop)), size)


def name_result(images: ImageSet, given: str) -> str:
    """File name for the results of a set: one of `KINDS`, or the name of the file `given` with a checksum.

    The checksum of the content separates files of the same name.
    """
    if given in KINDS:
        return f"{given}.json"
    return f"{Path(given).stem}-{images.identity['sha256'][:16]}.json"


def _settle(sampler: SamplerConfig, kind: str, model: ImageModel) -> SamplerConfig | None:
    """The sampler that is actually used: deterministic DDIM for inferred noise, and all steps for DDPM.

    None for a system without noise, which decodes codes directly.
    """
    if not isinstance(model, DiffusionModel):
        return None
    sampler = deterministic(sampler) if kind == "inferred" else sampler
    return replace(sampler, num_steps=model.schedule.num_steps) if sampler.name == "ddpm" else sampler


def _samples(run: Run, sampler: SamplerConfig, seed: int) -> Callable[[int, int], Tensor]:
    """Images sampled from random codes of the run's `codes.npz` and random noise."""
    codes = stack_codes(run.codes()).to(run.model.device)

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
    """Reconstructions of data set images from their codes and inferred or random noise."""
    model = run.model

    def make(start: int, stop: int) -> Tensor:
        """Reconstructions [start, stop), shape (stop - start, 3, H, W); random noise depends on the range."""
        generator = _seeded(seed, start)

        def remake(image: Tensor) -> Tensor:
            if not infer:
                return reconstruct(model, image, sampler, generator=generator)
            z_T = model.infer_noise(image, model.encode(image), sampler.num_steps)
            return reconstruct(model, image, sampler, z_T)

        return in_batches(remake, to_float(data.make(start, stop)).to(model.device))

    return make


def _seeded(seed: int, start: int) -> torch.Generator:
    """The generator of the range that begins at `start`."""
    state = np.random.RandomState([seed, start]).randint(2**63 - 1, dtype=np.int64)
    return torch.Generator().manual_seed(int(state))
