"""The Python interface: a trained run as one object that encodes, edits and decodes images.

    model = disdiff.load("pretrained/shapes3d")
    codes = model.encode(images)                     # (B, N, D)
    noise = model.infer_noise(images)                # what of the images the codes do not say
    edited = model.decode(codes, noise)              # (B, 3, H, W) in [-1, 1]

Images come in as tensors, arrays, PIL pictures or paths (`disdiff.editing.image_input`) and go out as
tensors; `to_pictures` makes PIL pictures of them. Results lie on the model's device and carry no gradients;
for those, `model.run.model` is the network itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disdiff.baselines.conditional import mix
from disdiff.config.advice import place_advice
from disdiff.editing.attributes import fit_attribute
from disdiff.editing.edits import Edit, Edited, repeat
from disdiff.editing.image_input import Images, to_images
from disdiff.editing.unit_lookup import UnitTable
from disdiff.editing.units import (
    Directions,
    decode_code,
    deterministic,
    in_batches,
    interpolate_codes,
    invert,
    principal_directions,
    sample_start,
    slerp,
    swap_units,
    traverse_code,
)
from disdiff.evaluation.codes_file import stack_codes
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


def load(path: str | Path, device: str | torch.device = "auto", guidance: float | None = None) -> "Model":
    """Load a run folder (of any system with a code), for instance `pretrained/shapes3d`.

    Args:
        path: of the folder.
        device: `auto`, `cpu` or `cuda`, or the `torch.device`.
        guidance: by what gradient fields are multiplied; None for the run's own.

    Raises:
        UserError: it is no run folder, its files are damaged, or there is no such device.
    """
    device = str(device) if isinstance(device, torch.device) else device
    if not isinstance(path, str | Path):
        raise UserError(f"{path!r} is no path of a run folder; give one, such as 'pretrained/shapes3d'")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device={device!r} is unknown; choose one of auto, cpu, cuda")
    try:
        return Model(load_run(path, resolve_device(device), guidance))
    except UserError as error:
        raise UserError(place_advice(str(error))) from error


class Model:
    """A trained system, frozen.

    Attributes:
        run: the run folder with configuration, codes and scores, and the network itself (`run.model`).
        image_size: height and width of images in pixels.
        channels: of images, 3 or 1.
        crop: how pictures of other sizes become square: as those that the run was trained on.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        last = sorted((run.folder / "stages").glob(f"*/{RECORD}"))[0]
        self.image_size = int(load_json(last)["image_size"])
        self.channels = run.config.autoencoder.network.in_channels
        self.crop = choose_crop(run.config.data.name, run.config.data.crop)

    @property
    def num_units(self) -> int:
        """N, the number of units."""
        return self.run.model.num_units

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.run.model.latent_space.mean.device

    @cached_property
    def unit_names(self) -> list[str]:
        """A label of each unit, such as `unit 3 · wall hue 0.91`; its number alone without scores."""
        return self.run.unit_names().labels

    @cached_property
    def directions(self) -> Directions:
        """Along which each unit varies most over the run's evaluation images.

        Raises:
            UserError: the run has no codes.npz.
        """
        codes = stack_codes(self.run.require_codes())
        return principal_directions(codes).to(self.run.model.latent_space.mean)

    def find_units(self, unit: Unit | Sequence[Unit]) -> list[int]:
        """Units by index (a whole number of any type) or by name, or a list of those; see `UnitTable.find`.

        Raises:
            UserError: there is none, or something is neither.
        """
        given: Any = unit
        several = isinstance(unit, list | tuple | set | frozenset | range)
        if several or (isinstance(unit, np.ndarray | Tensor) and unit.ndim):
            return list(dict.fromkeys(k for each in given for k in self._table.find(each)))
        return self._table.find(given)

    @torch.no_grad()
    def encode(self, images: Images) -> Tensor:  # image => code
        """Codes of images, shape (B, N, D); `images` as `to_images` takes them.

        Raises:
            UserError: they are no images, or floats outside [-1, 1], see `to_images`.
        """
        return self._encode(self._read(images))

    @torch.no_grad()
    def infer_noise(self, images: Images, codes: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Noise from which `decode` makes these very images, in the same number of steps.

        Args:
            images: B images.
            codes: theirs, shape (B, N, D); None to encode them.
            steps: of DDIM; None for the run's own.

        Returns:
            Shape (B, C, h, w), empty for a system whose code says all.

        Raises:
            UserError: images, codes or steps are none, or there are not as many codes as images.
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
        """Images of codes.

        Args:
            codes: shape (B, N, D).
            noise: of `infer_noise`; None draws it.
            units: only these take part; None for all.
            seed: of drawn noise, from 0 to 2^32 - 1.
            steps: of DDIM; None for the run's own.

        Returns:
            Shape (B, C, H, W) in [-1, 1].

        Raises:
            UserError: codes, noise, units or steps are none of this model, or noise is for other codes.
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
        """Source images with `units` of the target images; both B, or one of them 1. Shape (B, C, H, W).

        Raises:
            UserError: images, units or steps are none, or there are other numbers of images.
        """
        chosen = self._find_some(units)
        ours, theirs = self.encode(source), self.encode(target)
        if len(ours) != len(theirs) and 1 not in (len(ours), len(theirs)):
            raise UserError(f"{len(ours)} images cannot take units of {len(theirs)}; give as many, or one")
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
        """Images while the strongest of `unit` stands at `amounts` (A) standard deviations from the data's
        mean along its principal direction, shape (B, A, C, H, W).

        Raises:
            UserError: images, unit, amounts or steps are none.
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
        """Gradient field of every unit at the images' noisy latents.

        Args:
            images: B images.
            t: diffusion step, from 0 (no noise) to T - 1; None for the middle.
            seed: of the noise, from 0 to 2^32 - 1.

        Returns:
            Shape (B, N, C, h, w); (B, 1, C, h, w) for PDAE, whose units have one field together.

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
            """Fields (B, N, C, h, w) of one batch, whose noise follows that of the batches before it."""
            z_0, step = model.latent_space.encode(image), torch.full((len(image),), t, device=self.device)
            z_t = q_sample(model.schedule, z_0, step, noise(z_0))
            return model.predict(z_t, step, model.encode(image)).grad

        return in_batches(compute, self._read(images))

    def edit(self, images: Images, edits: Edit | Sequence[Edit], steps: int | None = None) -> Edited:
        """Change images by one or several edits of their codes, one after the other.

        `toward` moves all units of a name, `by` the strongest one.

        Raises:
            UserError: an edit says neither or both of `toward` and `by`, or names no unit; or images or steps
                are none.
        """
        image = self._read(images)
        before = self._encode(image)
        codes, changed = before, []
        for edit in edits if isinstance(edits, list | tuple) else [edits]:
            if not isinstance(edit, Edit):
                raise UserError(f"{show(edit)} is no edit; write for example disdiff.Edit(0, by=1)")
            units = edit.choose(self.find_units(edit.unit))
            other = None if edit.toward is None else self.encode(edit.toward)
            codes = edit.apply(codes, units, other, self.directions if edit.by is not None else None)
            changed += [unit for unit in units if unit not in changed]
        if not changed:
            raise UserError("there is nothing to edit; give at least one edit")
        noise = self._infer_noise(image, before, steps)
        made = self.decode(torch.cat([before, codes]), noise.repeat(2, 1, 1, 1), steps=steps)
        reconstructed, after = made.chunk(2)
        return Edited(after, reconstructed, codes, before, changed)

    @torch.no_grad()
    def interpolate(
        self, start: Images, end: Images, columns: int = 7, trajectory: bool = False, steps: int | None = None
    ) -> Tensor:
        """Images on the way from one image to another, both ends included, shape (columns, C, H, W).

        Codes go on a line and noise on an arc; with `trajectory` the noise predictions of both codes are
        mixed on the noise of the start.

        Raises:
            UserError: an end is not one image, or there are fewer than two columns.
        """
        model, sampler, columns = self.run.model, self._sampler(steps), as_whole(columns, "columns", 2)
        image = torch.cat([self._read_one(start), self._read_one(end)])
        codes, share = self._encode(image), torch.linspace(0, 1, columns, device=self.device)
        noise = self._infer_noise(image, codes, steps)
        if not trajectory:
            arc = slerp(noise[:1], noise[1:], share)[0] if noise.numel() else repeat(noise[:1], columns)
            return self.decode(interpolate_codes(codes[:1], codes[1:], columns)[0], arc, steps=steps)
        if not isinstance(model, DiffusionModel):
            raise UserError("this system predicts no noise that could be mixed; leave out trajectory")
        first, last = (model.eps_fn(part) for part in codes.split(1))
        made = [
            sample(sampler, mix(first, last, place), model.schedule, noise[:1]) for place in share.tolist()
        ]
        return model.latent_space.decode(torch.cat(made)).clamp(-1, 1)

    def move_attribute(
        self, image: Images, name: str, value: int, strengths: Sequence[float], steps: int | None = None
    ) -> Tensor:
        """One image moved towards the attribute `factor name == value` (away by negative strengths, usually
        0.1 to 0.3) along a linear classifier of the run's codes, shape (A, C, H, W).

        Raises:
            UserError: the run has no such factor, all or no images have that value, or it is not one image.
        """
        arrays, numbers = self.run.require_codes("factors"), as_numbers(strengths, "strengths")
        names = [str(each) for each in arrays.get("factor_names", [])]
        if name not in names or "factors" not in arrays:
            raise UserError(f"there is no factor {name!r}; this run knows: {', '.join(names) or 'none'}")
        labels = np.asarray(arrays["factors"])[:, names.index(name)] == as_whole(value, "value")
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
            raise UserError(f"this takes one image at a time, got {len(image)}; call it for each")
        return image

    @torch.no_grad()
    def _encode(self, image: Tensor) -> Tensor:
        """Codes of what `_read` gives."""
        return in_batches(self.run.model.encode, image)

    @torch.no_grad()
    def _infer_noise(self, image: Tensor, codes: Tensor | None, steps: int | None) -> Tensor:
        """Noise of what `_read` gives; see `infer_noise`."""
        codes = self._encode(image) if codes is None else self._check(codes)
        if len(codes) != len(image):
            raise UserError(f"there are {len(image)} images and {len(codes)} codes; give as many of both")
        num_steps = self._sampler(steps).num_steps
        return in_batches(lambda x, c: invert(self.run.model, x, c, num_steps), image, codes)

    def _find_some(self, units: Unit | Sequence[Unit]) -> list[int]:
        chosen = self.find_units(units)
        if not chosen:
            raise UserError("there is no unit to move; name at least one")
        return chosen

    def _check(self, codes: Tensor | np.ndarray) -> Tensor:
        encoder = self.run.model.networks.encoder
        shape = (self.num_units, encoder.num_units * encoder.unit_dim // self.num_units)
        return self._check_rows(codes, shape, f"codes are tensors of shape (B, {shape[0]}, {shape[1]})")

    def _check_noise(self, noise: Tensor | np.ndarray, count: int) -> Tensor:
        shape = tuple(self.run.model.noise_shape(self.image_size))
        if isinstance(noise, Tensor | np.ndarray) and noise.ndim and len(noise) != count:
            raise UserError(f"there are {count} codes and noise for {len(noise)}; give as many of both")
        return self._check_rows(noise, shape, f"noise is a tensor of shape {(count, *shape)}")

    def _check_rows(self, rows: Tensor | np.ndarray, shape: tuple[int, ...], wanted: str) -> Tensor:
        """Finite numbers of shape (B, *shape) on the model's device, in its precision; `wanted` says so."""
        if isinstance(rows, np.ndarray) and rows.dtype.kind in "fiu":
            rows = torch.from_numpy(rows.astype(np.float32))
        if not isinstance(rows, Tensor) or rows.dtype == torch.bool or rows.is_complex():
            raise UserError(f"{wanted}, got {type(rows).__name__}; give what the model's own methods return")
        if rows.ndim != len(shape) + 1 or rows.shape[1:] != shape or not len(rows):
            raise UserError(f"{wanted}, got {tuple(rows.shape)}; give what the model's own methods return")
        rows = rows.to(self.run.model.latent_space.mean)
        if not rows.isfinite().all():
            raise UserError(f"{wanted}, got NaN or infinity; look at where they come from")
        return rows

    def _sampler(self, steps: int | None) -> SamplerConfig:
        sampler = deterministic(self.run.config.sampler)
        return sampler if steps is None else replace(sampler, num_steps=as_whole(steps, "steps", 1))
