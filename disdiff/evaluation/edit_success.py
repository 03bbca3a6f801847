"""Measure edits and reconstructions on images.

Each factor is assigned the unit with the highest importance. An edit replaces that unit in the code of a
source image by that of a target image, and samples from the noise inferred from the source. The edit succeeds
if the factor takes the target's value, and it keeps another factor if that factor still has the source's
value. The same is measured for all units that encode the factor more than any other factor, which is what an
edit by the factor's name replaces (`disdiff.editing.unit_names.find_units_of`).

A probe, an image classifier trained with labels for this evaluation only, reads the factors. Two kinds read
the same edits (`disdiff.evaluation.probe`): one that was trained on original images, whose rates are the
headline, and one that was trained on autoencoder reconstructions, too.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from disdiff.editing.unit_names import find_units_of
from disdiff.editing.units import decode_code, deterministic, in_batches, reconstruct, renew_noise, swap_units
from disdiff.evaluation.probe import Probe, train_probe
from disdiff.method.model import ImageModel
from disdiff.metrics.image_quality import compare_images
from ldm.autoencoder.latent_space import LatentSpace
from ldm.autoencoder.losses import reconstruction_scores
from ldm.data.arrays import silent
from ldm.data.source import ImageSource, identify_labelled, to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError
from ldm.files import digest_json
from ldm.training.weight_files import WEIGHTS, fingerprint, load_weights, save_weights

Report = Callable[[str, float], None]
Edits = tuple[Tensor, Tensor]  # factors that P probes read, (P, n, F), or one (n, F), and those wanted
# neighbouring values look alike, so results within one value are reported too
ORDINAL = ("scale", "orientation")
NUM_JUDGED = 500  # held-out images on which the probes are tested
PROBES = {"originals": False, "originals and reconstructions": True}  # kind: trained on reconstructions, too
LENIENT = "with_reconstructions"  # key of the rates by the second kind
BY_NAME = "by_name"  # key of the rates of edits of all units that a factor's name finds


class FactorReader:
    """Reads factors with P probes from images that a model samples; indices and factors stay on the CPU."""

    def __init__(
        self, model: ImageModel, source: ImageSource, probes: list[Probe], sampler: SamplerConfig
    ) -> None:
        self.model, self.source, self.probes, self.sampler = model, source, probes, sampler
        self.device = model.device

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,), shape (n, 3, H, W) in [-1, 1]."""
        return to_float(self.source.images(index)).to(self.device)

    def encode(self, index: Tensor) -> Tensor:
        """Codes of images at `index` (n,), shape (n, N, D)."""
        return in_batches(lambda part: self.model.encode(self.images(part)), index)

    def infer_noise(self, index: Tensor, code: Tensor, progress: Callable[[float], None]) -> Tensor:
        """z_T of images at `index` (n,) under `code` (n, N, D), shape (n, C, h, w)."""
        steps = self.sampler.num_steps
        return in_batches(
            lambda part, c: self.model.infer_noise(self.images(part), c, steps),
            index,
            code,
            progress=progress,
        )

    def predict(self, image: Tensor) -> Tensor:
        """Factors that every probe reads from images (n, 3, H, W), shape (n, P, F)."""
        return torch.stack([probe.predict(image) for probe in self.probes], dim=1)

    def read_factors(self, code: Tensor, z_T: Tensor, progress: Callable[[float], None] = silent) -> Tensor:
        """Factors of the images sampled from `code` and `z_T`, shape (P, n, F)."""
        decode = partial(decode_code, self.model, sampler=self.sampler)
        found = in_batches(lambda c, z: self.predict(decode(c, z)), code, z_T, progress=progress)
        return found.cpu().transpose(0, 1)

    def read_held_out(self, index: Tensor) -> dict[str, Edits]:
        """What the probes read from first-stage reconstructions and from originals, and the true factors."""
        factors = self.source.factors(index)
        return {
            "probe_accuracy": (self.read_first_stage(index), factors),
            "probe_accuracy_originals": (self.read_originals(index), factors),
        }

    def read_originals(self, index: Tensor) -> Tensor:
        """Factors of the images `index` themselves, shape (P, n, F)."""
        return in_batches(lambda part: self.predict(self.images(part)), index).cpu().transpose(0, 1)

    def read_first_stage(self, index: Tensor) -> Tensor:
        """Factors of autoencoder reconstructions of the images `index`, shape (P, n, F)."""
        space = self.model.latent_space
        found = in_batches(
            lambda part: self.predict(space.decode(space.encode(self.images(part))).clamp(-1, 1)), index
        )
        return found.cpu().transpose(0, 1)


@torch.no_grad()
def compute_editing(
    model: ImageModel,
    source: ImageSource,
    eval_index: Tensor,
    importance: np.ndarray,
    sampler: SamplerConfig,
    num_pairs: int,
    seed: int,
    probe_steps: int = 600,
    progress: Report = silent,
    cache_folder: Path | None = None,
    new_noise: float = 0.0,
) -> dict[str, object]:
    """Compute how often a swap of the assigned unit, or units, changes its factor and keeps the others.

    Args:
        model: the model, in eval mode.
        source: the data set; all images outside `eval_index` train the probes.
        eval_index: images to edit, shape (n,).
        importance: DCI importance of units for factors, shape (N, F).
        sampler: gives the number of steps of deterministic DDIM and its inversion.
        num_pairs: number of image pairs per factor; the images of a pair differ in that factor.
        seed: seed of the probes and of the pairs.
        probe_steps: training steps of each probe.
        progress: called with the name of the current part and its completed fraction.
        cache_folder: folder that keeps probes for other runs on the same autoencoder; None keeps none.
        new_noise: share of the inferred noise that is replaced (`renew_noise`); 1 is random noise.

    Returns:
        JSON-ready rates by the probe of original images: `success` per edited factor; `kept` per edited
        factor and other factor; `unedited`, the agreement for unchanged codes; `probe_accuracy` on
        autoencoder reconstructions and `probe_accuracy_originals` on the images themselves; `*_within_one`
        for the factors in `ORDINAL`, which accept a value off by one. `by_name` has `units`, all that a
        factor's name finds, and the rates of swaps of all. `with_reconstructions` has the same rates by the
        probe that was trained on reconstructions, too. `probe` names the training images of the first.
        A factor that has the same value in all images is not edited.
    """
    names, random = source.factor_space.names, torch.Generator().manual_seed(seed)
    data = (cache_folder, model.latent_space, source, eval_index, probe_steps, seed)
    probes = [find_probe(*data, partial(progress, f"probe of {kind}"), both) for kind, both in PROBES.items()]
    reader = FactorReader(model, source, probes, deterministic(sampler))
    start = eval_index[torch.randint(len(eval_index), (num_pairs,), generator=random)]
    factors, code = source.factors(start), reader.encode(start)
    z_T = reader.infer_noise(start, code, partial(progress, "inverting"))
    if new_noise:
        z_T = renew_noise(z_T, new_noise, random)
    varying = find_varying(source, eval_index)
    alone = {names[f]: [int(np.argmax(importance, axis=0)[f])] for f in varying}
    together = {names[f]: find_units_of(importance, f) for f in varying}
    edits, edits_by_name = {}, {}
    for f in varying:
        name, target = names[f], draw_targets(source, eval_index, f, factors[:, f], random)
        wanted = factors.clone()
        wanted[:, f] = source.factors(target)[:, f]
        other, report = reader.encode(target), partial(progress, f"editing {name}")
        several = together[name] != alone[name]
        swaps = [swap_units(code, other, units) for units in (alone[name], together[name])[: 1 + several]]
        found = [reader.read_factors(swap, z_T, report)[:, :, varying] for swap in swaps]
        edits[name], edits_by_name[name] = ((each, wanted[:, varying]) for each in (found[0], found[-1]))
    seen = reader.read_held_out(eval_index[:NUM_JUDGED])
    seen["unedited"] = reader.read_factors(code, z_T), factors
    strict, lenient = (
        {
            **summarise_edits(judge(edits, p)),
            BY_NAME: {"units": together, **summarise_edits(judge(edits_by_name, p))},
            **{key: by_name(names, agreement(found[p], wanted)) for key, (found, wanted) in seen.items()},
        }
        for p in range(len(probes))
    )
    return {
        "probe": next(iter(PROBES)),
        **strict,
        LENIENT: lenient,
        "assigned_unit": {name: units[0] for name, units in alone.items()},
        "num_pairs": num_pairs,
        "noise": f"{new_noise:.0%} new" if new_noise else "inferred",
        "sampler": asdict(reader.sampler),
        "probe_steps": probe_steps,
        "seed": seed,
    }


def find_probe(
    cache_folder: Path | None,
    latent_space: LatentSpace,
    source: ImageSource,
    eval_index: Tensor,
    num_steps: int,
    seed: int,
    progress: Callable[[float], None],
    with_reconstructions: bool = False,
) -> Probe:
    """Train a probe on all images outside `eval_index` (n,), or load it from the cache.

    A probe depends on the data only, or, `with_reconstructions`, on the autoencoder, too. So all runs on the
    same data or autoencoder share it.
    """
    index = complement(eval_index, len(source))
    train = partial(train_probe, latent_space, source, index, num_steps, seed, progress, with_reconstructions)
    if cache_folder is None:
        return train()
    trained_on = fingerprint(latent_space) if with_reconstructions else "originals"
    facts = [trained_on, identify_labelled(source), eval_index.tolist(), num_steps, seed]
    folder = cache_folder / f"probe-{digest_json(facts)}"
    if not (folder / WEIGHTS).exists():
        probe = train()
        save_weights(folder / WEIGHTS, probe)
        return probe
    probe = Probe(source.factor_space, source.image_size)
    load_weights(folder / WEIGHTS, probe)
    probe = probe.to(latent_space.mean.device, memory_format=torch.channels_last)
    return probe.eval().requires_grad_(False)


def judge(edits: dict[str, Edits], probe: int) -> dict[str, Edits]:
    """What one probe read, and the desired factors, of edits that P probes read, (P, n, F) and (n, F)."""
    return {name: (found[probe], wanted) for name, (found, wanted) in edits.items()}


def summarise_edits(edits: dict[str, Edits]) -> dict[str, object]:
    """Compute the rates of success and of kept factors.

    `edits` has, per edited factor, the factors that the probe read and the desired ones, shapes (n, F).

    Returns:
        `success` and `kept` with their means, `kept_min`, and the same with a tolerance of one value for the
        factors in `ORDINAL`. With a single factor, `kept` is null.
    """
    names = list(edits)
    exact = torch.stack([agreement(*pair) for pair in edits.values()])  # (F edited, F)
    near = torch.stack([agreement_within_one(*pair, names) for pair in edits.values()])
    others = ~torch.eye(len(names), dtype=torch.bool)
    several = len(names) > 1
    return {
        "success": by_name(names, exact.diagonal()),
        "success_mean": exact.diagonal().mean().item(),
        "success_within_one": by_name(names, near.diagonal()),
        "kept": {name: by_name(names, exact[f], skip=name) for f, name in enumerate(names)},
        "kept_mean": exact[others].mean().item() if several else None,
        "kept_min": exact[others].min().item() if several else None,
        "kept_within_one_min": near[others].min().item() if several else None,
    }


def agreement(found: Tensor, wanted: Tensor, tolerance: int = 0) -> Tensor:
    """Fraction of rows in which `found` and `wanted` (n, F) agree within `tolerance`, shape (F,) float64."""
    return ((found - wanted).abs() <= tolerance).double().mean(dim=0)


def agreement_within_one(found: Tensor, wanted: Tensor, names: Sequence[str]) -> Tensor:
    """`agreement` with a tolerance of one value for the factors of `names` that are in `ORDINAL`."""
    ordinal = torch.tensor([name in ORDINAL for name in names])
    return torch.where(ordinal, agreement(found, wanted, tolerance=1), agreement(found, wanted))


def by_name(names: Sequence[str], values: Tensor, skip: str | None = None) -> dict[str, float]:
    """Values (F,) keyed by factor name, without the factor `skip`."""
    return {name: value for name, value in zip(names, values.tolist(), strict=True) if name != skip}


def complement(index: Tensor, size: int) -> Tensor:
    """All of 0 .. `size` - 1 that are not in `index` (n,), in order.

    Raises:
        UserError: no image is left to train a probe.
    """
    left = torch.ones(size, dtype=torch.bool)
    left[index] = False
    if not left.any():
        raise UserError(
            "every image is an evaluation image, so none is left to train the probe; lower num_images"
        )
    return left.nonzero().squeeze(1)


def find_varying(source: ImageSource, index: Tensor) -> list[int]:
    """Indices of the factors that have more than one value in the images `index` (n,)."""
    factors = source.factors(index)
    return (factors != factors[:1]).any(dim=0).nonzero().flatten().tolist()


def draw_targets(
    source: ImageSource, index: Tensor, factor: int, values: Tensor, random: torch.Generator
) -> Tensor:
    """Draw, for each of `values` (n,), an image of `index` (m,) with another value of `factor`, shape (n,).

    Raises:
        UserError: all images have the same value.
    """
    pool_values, target = source.factors(index)[:, factor], torch.empty_like(values)
    for value in values.unique().tolist():
        pool, rows = index[pool_values != value], values == value
        if not len(pool):
            name = source.factor_space.names[factor]
            raise UserError(
                f"all evaluation images have the same {name}, so it cannot be swapped; use more images"
            )
        target[rows] = pool[torch.randint(len(pool), (int(rows.sum()),), generator=random)]
    return target


@torch.no_grad()
def compute_reconstruction(
    model: ImageModel,
    source: ImageSource,
    eval_index: Tensor,
    sampler: SamplerConfig,
    num_images: int,
    seed: int,
    progress: Report = silent,
) -> dict[str, object]:
    """Compute reconstruction errors of the autoencoder, and of codes with inferred and with random noise.

    Args:
        model: the model, in eval mode.
        source: the data set.
        eval_index: candidate images, shape (n,); the first `num_images` are used.
        sampler: gives the number of steps of deterministic DDIM and its inversion.
        num_images: largest number of images.
        seed: seed of the random noise.
        progress: called with the name of the current part and its completed fraction.

    Returns:
        JSON-ready: `<kind>_mse` for images in [0, 1], `<kind>_psnr` in dB, and the means over images of
        `<kind>_ssim` and `<kind>_edge_error` (`disdiff.metrics.image_quality`), for the kinds `autoencoder`,
        `inferred` and `random`; `psnr` equals `inferred_psnr`.
    """
    random = torch.Generator().manual_seed(seed)
    space, ddim = model.latent_space, deterministic(sampler)
    image = to_float(source.images(eval_index[:num_images])).to(space.mean.device)

    def remake(part: Tensor) -> Tensor:
        """Reconstructions: autoencoder, inferred noise, random noise; shape (B, 3 kinds, 3, H, W)."""
        z_T = model.infer_noise(part, model.encode(part), ddim.num_steps)
        first_stage = space.decode(space.encode(part))
        inferred, fresh = (
            reconstruct(model, part, ddim, z_T),
            reconstruct(model, part, ddim, generator=random),
        )
        return torch.stack([first_stage, inferred, fresh], dim=1)

    made = in_batches(remake, image, progress=partial(progress, "reconstruction"))
    scores = {}
    for kind, image_hat in zip(("autoencoder", "inferred", "random"), made.unbind(1), strict=True):
        pairs = compare_images(image_hat.clamp(-1, 1).cpu(), image.cpu())
        means = {name: pairs[name].mean().item() for name in ("ssim", "edge_error")}
        found = {**reconstruction_scores(image_hat, image), **means}
        scores |= {f"{kind}_{name}": value for name, value in found.items()}
    return {
        "psnr": scores["inferred_psnr"],
        **scores,
        "num_images": len(image),
        "sampler": asdict(ddim),
        "seed": seed,
    }
