"""The Python interface: a trained run as one object that encodes, edits and decodes images.

    model = disdiff.load("pretrained/shapes3d")
    codes = model.encode(images)                     # (B, N, D)
    noise = model.infer_noise(images)                # the part of the images that the codes leave out
    edited = model.decode(codes, noise)              # (B, 3, H, W) in [-1, 1]

Methods take images as tensors, arrays, PIL pictures or paths (see `disdiff.editing.image_input`) and return
tensors; `to_pictures` converts tensors to PIL pictures. Results are on the model's device and carry no
gradients. To compute gradients, use the network `model.run.model`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disdiff.baselines.conditional import interpolate_predictions
from disdiff.config.advice import add_settings_hint
from disdiff.editing.attributes import find_value, fit_attribute
from disdiff.editing.edits import Edit, Edited, repeat
from disdiff.editing.image_input import Images, to_images
from disdiff.editing.unit_lookup import UnitTable
from disdiff.editing.units import (
    Directions,
    decode_code,
    deterministic,
    in_batches,
    interpolate_codes,
    principal_directions,
    sample_start,
    slerp,
    swap_units,
    traverse_code,
)
from disdiff.evaluation.codes_file import stack_codes
from disdiff.interop.exporting import export_run
from disdiff.interop.hub import find_run, push_run
from disdiff.method.model import DiffusionModel, DisDiff
from disdiff.runs.run_folder import Run, load_run
from disdiff.runs.stages import RECORD
from ldm.data.catalog import choose_crop
from ldm.device import resolve_device
from ldm.diffusion.process import q_sample, sample_noise
from ldm.diffusion.sampler import SamplerConfig, sample
from ldm.errors import UserError
from ldm.files import load_json
from ldm.numbers import as_numbers, as_whole, seeded, show

Unit = int | str


def load(
    path: str | Path,
    device: str | torch.device = "auto",
    guidance: float | None = None,
    *,
    download: bool = False,
    revision: str | None = None,
) -> "Model":
    """Load a run folder (of any system with a code), for instance `pretrained/shapes3d`.

    Args:
        path: the run folder, or a model of the hub, `owner/name`, if no folder has that name.
        device: `auto`, `cpu`, `cuda` or `mps`, or a `torch.device`.
        guidance: scale of the gradient fields at sampling and inversion; None for the run's own.
        download: whether to fetch a model of the hub; otherwise only the hub's local cache is read.
        revision: branch, tag or commit of a model of the hub; None for its main branch.

    Raises:
        UserError: the path is not a run folder, a file is damaged, or the device is not available; see
            `find_run`.
    """
    try:
        folder = find_run(path, download, revision)
        return Model(load_run(folder, resolve_device(str(device)), guidance))
    except UserError as error:
        raise UserError(add_settings_hint(str(error))) from error


class Model:
    """A trained system, frozen.

    Attributes:
        run: the run folder with configuration, codes and scores, and the network (`run.model`).
        image_size: height and width of the images in pixels.
        channels: number of image channels, 3 or 1.
        crop: how pictures of other sizes are made square, the same way as the training images.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        last = sorted((run.folder / "stages").glob(f"*/{RECORD}"))[0]
        self.image_size = int(load_json(last)["image_size"])
        self.channels = run.config.autoencoder.network.in_channels
        self.crop = choose_crop(run.config.data.name, run.config.data.crop)

    def save_pretrained(self, path: str | Path, licence: str | None = None) -> Path:
        """Write the run into a new folder, with a model card; see `export_run`."""
        return export_run(self.run.folder, path, licence)

    def push_to_hub(self, name: str, licence: str | None = None, private: bool | None = None) -> str:
        """Upload the run to the hub as `owner/name`; returns its address; see `push_run`."""
        return push_run(self.run.folder, name, licence, private)

    @property
    def num_units(self) -> int:
        """N, the number of units."""
        return self.run.model.num_units

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.run.model.device

    @cached_property
    def unit_names(self) -> list[str]:
        """Label of each unit, such as `unit 3 · wall hue 0.91`; only its number if the run has no scores."""
        return self.run.unit_names().labels

    @cached_property
    def directions(self) -> Directions:
        """The direction along which each unit varies most over the run's evaluation images.

        Raises:
            UserError: the run has no codes.npz.
        """
        codes = stack_codes(self.run.require_codes())
        return principal_directions(codes).to(self.run.model.latent_space.mean)

    def find_units(self, unit: Unit | Sequence[Unit]) -> list[int]:
        """Indices of units given by index, by name, or as a list of both; see `UnitTable.find`.

        Raises:
            UserError: no unit has that index or name.
        """
        given: Any = unit
        several = isinstance(unit, list | tuple | set | frozenset | range)
        if several or (isinstance(unit, np.ndarray | Tensor) and unit.ndim):
            return list(dict.fromkeys(k for each in given for k in self._table.find(each)))
        return self._table.find(given)

    @torch.no_grad()
    def encode(self, images: Images) -> Tensor:  # image => code
        """Encode images to codes, shape (B, N, D); `to_images` lists the accepted image types.

        Raises:
            UserError: the input is not an image, or holds floats outside [-1, 1]; see `to_images`.
        """
        return self._encode(self._read(images))

    @torch.no_grad()
    def infer_noise(self, images: Images, codes: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Infer the noise from which `decode` reconstructs these images in the same number of steps.

        Args:
            images: B images.
            codes: codes of the images, shape (B, N, D); None encodes the images.
            steps: number of DDIM steps; None for the run's own.

        Returns:
            Noise, shape (B, C, h, w); empty for a system that decodes the code without noise (VAEs).

        Raises:
            UserError: images, codes or steps are invalid, or the numbers of images and codes differ.
        """
        return self._infer_noise(self._read(images), codes, steps)

    @torch.no_grad()
    def decode(
        self,
        codes: Tensor,
        noise: Tensor | None = None,
        *,
        units: Sequence[Unit] | None = None,
        seed: int = 0,
        steps: int | None = None,
    ) -> Tensor:  # code => image
        """Decode codes to images.

        Args:
            codes: shape (B, N, D).
            noise: from `infer_noise`; None draws random noise.
            units: the units that are used; None for all.
            seed: seed of the random noise, from 0 to 2^32 - 1.
            steps: number of DDIM steps; None for the run's own.

        Returns:
            Images, shape (B, C, H, W) in [-1, 1].

        Raises:
            UserError: codes, noise, units or steps do not fit this model, or the numbers of codes and of
                noise tensors differ.
        """
        codes = self._check(codes)
        if noise is None:
            noise = sample_start(self.run.model, len(codes), self.image_size, seeded(seed))
        noise = self._check_noise(noise, len(codes))
        chosen = None if units is None else self.find_units(units)
        decode = partial(decode_code, self.run.model, sampler=self._sampler(steps), units=chosen)
        return in_batches(decode, codes, noise)

    def swap(
        self, source: Images, target: Images, units: Unit | Sequence[Unit], steps: int | None = None
    ) -> Tensor:
        """Replace `units` of the source images by those of the target images.

        Either side may be a single image, which is then used for all images of the other side.

        Returns:
            Images, shape (B, C, H, W) in [-1, 1].

        Raises:
            UserError: images, units or steps are invalid, or the numbers of images do not match.
        """
        chosen = self._find_some(units)
        ours, theirs = self.encode(source), self.encode(target)
        if len(ours) != len(theirs) and 1 not in (len(ours), len(theirs)):
            raise UserError(
                f"{len(ours)} source images do not match {len(theirs)} target images; give equal numbers, or "
                "a single image on one side"
            )
        count = max(len(ours), len(theirs))
        noise = repeat(self.infer_noise(source, ours, steps), count)
        swapped = swap_units(repeat(ours, count), repeat(theirs, count), chosen)
        return self.decode(swapped, noise, steps=steps)

    def traverse(
        self,
        images: Images,
        unit: Unit,
        amounts: Sequence[float] = (-2, -1, 0, 1, 2),
        steps: int | None = None,
    ) -> Tensor:
        """Set one unit of the images to several positions along its principal direction.

        Args:
            images: B images.
            unit: index or name; of several units with that name, the strongest moves.
            amounts: A positions, in standard deviations from the mean of the data.
            steps: number of DDIM steps; None for the run's own.

        Returns:
            Images, shape (B, A, C, H, W) in [-1, 1].

        Raises:
            UserError: images, unit, amounts or steps are invalid.
        """
        chosen, numbers = self._find_some(unit)[0], as_numbers(amounts, "amounts")
        codes = self.encode(images)
        noise = self.infer_noise(images, codes, steps)
        places = torch.tensor(numbers, device=codes.device)
        moved = traverse_code(codes, chosen, self.directions, places)
        made = self.decode(moved.flatten(0, 1), noise.repeat_interleave(len(places), dim=0), steps=steps)
        return made.unflatten(0, (len(codes), len(places)))

    @torch.no_grad()
    def gradient_fields(self, images: Images, t: int | None = None, seed: int = 0) -> Tensor:
        """Compute the gradient field of every unit at the noisy latents of images.

        Args:
            images: B images.
            t: diffusion step, from 0 (least noise) to T - 1; None for T / 2.
            seed: seed of the noise, from 0 to 2^32 - 1.

        Returns:
            Gradient fields, shape (B, N, C, h, w); (B, 1, C, h, w) for PDAE, which has one field for all
            units.

        Raises:
            UserError: the system has no gradient fields, or the step is out of range.
        """
        model = self.run.model
        if not isinstance(model, DisDiff):
            raise UserError(f"{self.run.config.system} has no gradient fields; only disdiff and pdae have")
        t = model.schedule.num_steps // 2 if t is None else as_whole(t, "t")
        if not 0 <= t < model.schedule.num_steps:
            raise UserError(f"there is no step t={t}; give one from 0 to {model.schedule.num_steps - 1}")
        noise = partial(sample_noise, generator=seeded(seed))

        def compute(image: Tensor) -> Tensor:
            """Gradient fields (B, N, C, h, w) of one batch; the noise generator continues across batches."""
            z_0, step = model.latent_space.encode(image), torch.full((len(image),), t, device=self.device)
            z_t = q_sample(model.schedule, z_0, step, noise(z_0))
            return model.predict(z_t, step, model.encode(image)).grad

        return in_batches(compute, self._read(images))

    def edit(self, images: Images, edits: Edit | Sequence[Edit], steps: int | None = None) -> Edited:
        """Apply one or several edits to the codes of images, in order, and decode the result.

        If several units have the name of an edit, `toward` changes all of them and `by` only the strongest.

        Raises:
            UserError: an edit has neither or both of `toward` and `by`, no unit has its name, or images or
                steps are invalid.
        """
        image = self._read(images)
        before = self._encode(image)
        codes, changed = before, []
        for edit in edits if isinstance(edits, list | tuple) else [edits]:
            if not isinstance(edit, Edit):
                raise UserError(f"{show(edit)} is not an edit; write for example disdiff.Edit(0, by=1)")
            units = edit.choose(self.find_units(edit.unit))
            other = None if edit.toward is None else self.encode(edit.toward)
            codes = edit.apply(codes, units, other, self.directions if edit.by is not None else None)
            changed += [unit for unit in units if unit not in changed]
        if not changed:
            raise UserError("the list of edits is empty; give at least one edit")
        noise = self._infer_noise(image, before, steps)
        made = self.decode(torch.cat([before, codes]), noise.repeat(2, 1, 1, 1), steps=steps)
        reconstructed, after = made.chunk(2)
        return Edited(after, reconstructed, codes, before, changed)

    @torch.no_grad()
    def interpolate(
        self, start: Images, end: Images, columns: int = 7, trajectory: bool = False, steps: int | None = None
    ) -> Tensor:
        """Interpolate between two images, both ends included.

        Codes are interpolated linearly and noise spherically. With `trajectory`, sampling starts from the
        noise of `start` and mixes the noise predictions of the two codes at every step.

        Returns:
            Images, shape (columns, C, H, W) in [-1, 1].

        Raises:
            UserError: an end is not a single image, there are fewer than two columns, or the system has no
                noise predictions to mix.
        """
        model, sampler, columns = self.run.model, self._sampler(steps), as_whole(columns, "columns", 2)
        image = torch.cat([self._read_one(start), self._read_one(end)])
        codes, share = self._encode(image), torch.linspace(0, 1, columns, device=self.device)
        noise = self._infer_noise(image, codes, steps)
        if not trajectory:
            arc = slerp(noise[:1], noise[1:], share)[0] if noise.numel() else repeat(noise[:1], columns)
            return self.decode(interpolate_codes(codes[:1], codes[1:], columns)[0], arc, steps=steps)
        if not isinstance(model, DiffusionModel):
            raise UserError("this system has no noise predictions to mix; leave out trajectory")
        first, last = (model.eps_fn(part) for part in codes.split(1))
        made = [
            sample(sampler, interpolate_predictions(first, last, place), model.schedule, noise[:1])
            for place in share.tolist()
        ]
        return model.latent_space.decode(torch.cat(made)).clamp(-1, 1)

    def move_attribute(
        self, image: Images, name: str, value: int | str, strengths: Sequence[float], steps: int | None = None
    ) -> Tensor:
        """Move one image towards the attribute `factor name == value`, along the normal of a linear
        classifier that is fitted to the run's codes.

        Args:
            image: a single image.
            name: name of the factor.
            value: the factor's value as in `factors.csv`; in other data sets its number, from 0.
            strengths: A step lengths, usually 0.1 to 0.3; negative ones move away from the attribute.
            steps: number of DDIM steps; None for the run's own.

        Returns:
            Images, shape (A, C, H, W) in [-1, 1].

        Raises:
            UserError: the run has no such factor, all or no images have that value, or there is more than one
                image.
        """
        arrays, numbers = self.run.require_codes("factors"), as_numbers(strengths, "strengths")
        names = [str(each) for each in arrays.get("factor_names", [])]
        if name not in names or "factors" not in arrays:
            raise UserError(f"there is no factor {name!r}; this run has: {', '.join(names) or 'none'}")
        number = find_value(self.run.source.factor_space, name, value)
        labels = np.asarray(arrays["factors"])[:, names.index(name)] == number
        attribute = fit_attribute(stack_codes(arrays), torch.from_numpy(labels))
        read = self._read_one(image)
        code = self._encode(read)
        moved = torch.cat([attribute.move(code.cpu(), strength) for strength in numbers])
        return self.decode(moved, repeat(self._infer_noise(read, code, steps), len(moved)), steps=steps)

    @cached_property
    def _table(self) -> UnitTable:
        return self.run.unit_table()

    def _read(self, images: Images) -> Tensor:
        return to_images(images, self.image_size, self.channels, self.crop).to(self.device)

    def _read_one(self, images: Images) -> Tensor:
        image = self._read(images)
        if len(image) != 1:
            raise UserError(f"expected a single image, got {len(image)}; call the method once per image")
        return image

    @torch.no_grad()
    def _encode(self, image: Tensor) -> Tensor:
        """Codes (B, N, D) of images that `_read` has prepared."""
        return in_batches(self.run.model.encode, image)

    @torch.no_grad()
    def _infer_noise(self, image: Tensor, codes: Tensor | None, steps: int | None) -> Tensor:
        """Noise of images that `_read` has prepared; see `infer_noise`."""
        codes = self._encode(image) if codes is None else self._check(codes)
        if len(codes) != len(image):
            raise UserError(f"there are {len(image)} images but {len(codes)} codes; give one code per image")
        num_steps = self._sampler(steps).num_steps
        return in_batches(lambda x, c: self.run.model.infer_noise(x, c, num_steps), image, codes)

    def _find_some(self, units: Unit | Sequence[Unit]) -> list[int]:
        chosen = self.find_units(units)
        if not chosen:
            raise UserError("the list of units is empty; name at least one unit")
        return chosen

    def _check(self, codes: Tensor | np.ndarray) -> Tensor:
        encoder = self.run.model.networks.encoder
        shape = (self.num_units, encoder.num_units * encoder.unit_dim // self.num_units)
        return self._check_rows(codes, shape, f"codes must have shape (B, {shape[0]}, {shape[1]})")

    def _check_noise(self, noise: Tensor | np.ndarray, count: int) -> Tensor:
        shape = tuple(self.run.model.noise_shape(self.image_size))
        if isinstance(noise, Tensor | np.ndarray) and noise.ndim and len(noise) != count:
            raise UserError(
                f"there are {count} codes but noise for {len(noise)}; give one noise tensor per code"
            )
        return self._check_rows(noise, shape, f"noise must have shape {(count, *shape)}")

    def _check_rows(self, rows: Tensor | np.ndarray, shape: tuple[int, ...], wanted: str) -> Tensor:
        """Check for finite numbers of shape (B, *shape) and move them to the model's device and dtype.

        `wanted` states the required shape in error messages.
        """
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "fiu":
            rows = torch.from_numpy(rows.astype(np.float32))
        if not isinstance(rows, Tensor) or rows.dtype == torch.bool or rows.is_complex() or rows.is_sparse:
            kind = rows.type() if isinstance(rows, Tensor) else type(rows).__name__
            raise UserError(f"{wanted}, got {kind}; pass what a method of the model returned")
        if rows.ndim != len(shape) + 1 or rows.shape[1:] != shape or not len(rows):
            raise UserError(f"{wanted}, got {tuple(rows.shape)}; pass what a method of the model returned")
        rows = rows.to(self.run.model.latent_space.mean)
        if not rows.isfinite().all():
            raise UserError(
                f"{wanted} and finite values, got NaN or infinity; check where the values come from"
            )
        return rows

    def _sampler(self, steps: int | None) -> SamplerConfig:
        sampler = deterministic(self.run.config.sampler)
        return sampler if steps is None else replace(sampler, num_steps=as_whole(steps, "steps", 1))
