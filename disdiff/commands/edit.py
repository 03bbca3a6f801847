"""Edit a picture: change units, change an attribute, or interpolate to another picture.

PICTURE is a file of any size or an index in the data set; without it, a random image is used. It is encoded
and inverted, its code is changed, and the result is decoded. Units are given by number, or by the name that
the evaluation gave them.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from disdiff.api import Model
from disdiff.commands.common import (
    add_sampler_options,
    build_parser,
    choose_image,
    choose_path,
    data_path,
    load_image,
    load_named_run,
    number,
    save_picture,
    several,
)
from disdiff.editing.edits import Edit
from disdiff.evaluation.codes_file import save_codes
from disdiff.runs.run_folder import Run
from ldm.autoencoder.losses import reconstruction_scores
from ldm.data.source import to_uint8
from ldm.errors import UserError
from ldm.numbers import FINITE, FRACTION, POSITIVE

EXAMPLES = """examples:
  disdiff edit RUN photo.png --unit "wall hue" --toward other.png --strength 0.7
  disdiff edit RUN photo.png --unit 3 --by +2                   move unit 3 by two standard deviations
  disdiff edit RUN photo.png --unit "wall hue" --toward a.png --unit scale --by -1
  disdiff edit RUN 70000 --attribute "shape=0" --reach 0.5      away from and towards a factor's value
  disdiff edit RUN a.png --walk b.png                           interpolate code and noise
  disdiff edit RUN 12 --walk 70000 --trajectory                 mix the noise predictions
Each --toward, --strength and --by applies to the --unit before it. Writes edits/<run>-edit.png (the next
edit is <run>-edit-2.png) and, for edits of units, the codes before and after to a .npz beside it; --out PATH
changes the path."""


log = logging.getLogger(__name__)
UNLIKE = 10.0  # dB; a picture that comes back so much worse than the run's own images is unlike them


class BeginEdit(argparse.Action):
    """The option `--unit`, which starts a new edit."""

    def __call__(self, parser: Any, space: argparse.Namespace, value: str, option: str | None = None) -> None:
        """Add an edit of this unit without a change."""
        space.edits = [*(space.edits or []), Edit(value)]


class ContinueEdit(argparse.Action):
    """The options `--toward`, `--strength` and `--by`, which complete the last edit."""

    def __call__(self, parser: Any, space: argparse.Namespace, value: Any, option: str | None = None) -> None:
        """Set one field of the last edit."""
        if not space.edits:
            parser.error(f"{option} must follow the --unit that it applies to")
        space.edits = [*space.edits[:-1], replace(space.edits[-1], **{str(self.metavar).lower(): value})]


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "picture", nargs="?", metavar="PICTURE", help="file, or index in the data set (default: random)"
    )
    parser.add_argument(
        "--unit", dest="edits", action=BeginEdit, metavar="NAME", help="unit to edit, by number or name"
    )
    more: dict[str, Any] = {"dest": "edits", "action": ContinueEdit}
    parser.add_argument("--toward", metavar="TOWARD", help="picture from which the unit is taken", **more)
    parser.add_argument(
        "--strength",
        metavar="STRENGTH",
        type=number(FRACTION),
        help="fraction of the way, 0 to 1 (default: 1)",
        **more,
    )
    parser.add_argument(
        "--by",
        metavar="BY",
        type=number(FINITE),
        help="instead of --toward: standard deviations to move",
        **more,
    )
    parser.add_argument(
        "--attribute",
        metavar="NAME=VALUE",
        help="move towards a factor's value (its number, or as in factors.csv)",
    )
    parser.add_argument(
        "--reach",
        type=number(POSITIVE),
        default=0.3,
        help="largest step towards the attribute, usually 0.1 to 0.3 (default: 0.3)",
    )
    parser.add_argument("--walk", metavar="PICTURE", help="interpolate to this picture")
    parser.add_argument("--trajectory", action="store_true", help="mix noise predictions instead of codes")
    parser.add_argument(
        "--columns", type=several, default=7, help="images of an attribute or walk (default: 7)"
    )
    add_sampler_options(parser)
    return parser


def edit_units(
    model: Model, image: Tensor, edits: Sequence[Edit], arguments: argparse.Namespace, out: Path
) -> None:
    """Save the picture before and after, the pictures that units are taken from, and the codes."""
    codes_path = data_path(out, ".npz")
    others = {e.toward: load_image(str(e.toward), model.run.source) for e in edits if e.toward is not None}
    given = [replace(e, toward=e.toward and to_uint8(others[e.toward])) for e in edits]
    result = model.edit(to_uint8(image), given, arguments.steps)
    shown = [image, *others.values(), result.reconstructed, result.images]
    columns = ["picture", *(Path(str(name)).name for name in others), "unchanged", "edited"]
    title = "; ".join(describe_edit(edit, model) for edit in edits)
    arrays = {name: getattr(result, name).cpu().numpy() for name in ("codes_before", "codes", "images")}
    save_codes(codes_path, {**arrays, "units": np.array(result.units)})
    save_picture(out, model.run, torch.stack([i.to(image) for i in shown], dim=1), title, columns=columns)
    if says := compare_with_own(reconstruction_scores(result.reconstructed, image)["psnr"], model.run):
        log.info(says)


def describe_edit(edit: Edit, model: Model) -> str:
    """The units of an edit and how they are changed, in words."""
    units = ", ".join(model.unit_names[unit] for unit in edit.choose(model.find_units(edit.unit)))
    if edit.by is not None:
        return f"{units}: {edit.by:+g} std"
    share = "" if edit.strength == 1 else f"{edit.strength:.0%} "
    return f"{units}: {share}toward {Path(str(edit.toward)).name}"


def compare_with_own(psnr: float, run: Run) -> str:
    """A warning if a picture comes back much worse (PSNR in dB) than the run's own images; else empty."""
    own = ((run.metrics() or {}).get("reconstruction") or {}).get("inferred_psnr")
    if own is None or psnr > own - UNLIKE:
        return ""
    return (
        f"note: without an edit this picture comes back with {psnr:.1f} dB PSNR, the run's own images with "
        f"{own:.1f} dB; it is unlike the training images, so edits of it are poor"
    )


def main(arguments: argparse.Namespace) -> None:
    """Edit units, move along an attribute, or interpolate to another picture, as requested."""
    wanted = [bool(arguments.edits), bool(arguments.attribute), bool(arguments.walk)]
    if sum(wanted) != 1:
        raise UserError("give exactly one of --unit, --attribute and --walk")
    if any((edit.toward is None) == (edit.by is None) for edit in arguments.edits or []):
        raise UserError("every --unit needs exactly one of --toward PICTURE and --by NUMBER after it")
    out = choose_path(arguments, "edit.png")
    model = Model(load_named_run(arguments))
    image = choose_image(arguments.picture, model.run, arguments.seed)
    if arguments.edits:
        return edit_units(model, image, arguments.edits, arguments, out)
    if arguments.walk:
        end = load_image(arguments.walk, model.run.source)
        ends = to_uint8(image), to_uint8(end)
        made = model.interpolate(*ends, arguments.columns, arguments.trajectory, arguments.steps)
        grid, title = torch.cat([image.to(made), made, end.to(made)]), "From one image to another"
        places = [f"{place:.2f}" for place in torch.linspace(0, 1, arguments.columns).tolist()]
        columns = ["start", *places, "end"]
    else:
        factor, _, value = arguments.attribute.partition("=")
        if not value:
            raise UserError(
                f"--attribute {arguments.attribute} is not valid; write NAME=VALUE, for example shape=0"
            )
        wanted_value = int(value) if value.isdecimal() else value
        strengths = torch.linspace(-arguments.reach, arguments.reach, arguments.columns).tolist()
        made = model.move_attribute(to_uint8(image), factor, wanted_value, strengths, arguments.steps)
        grid, title = torch.cat([image.to(made), made]), f"Away from and towards {arguments.attribute}"
        columns = ["image", *(f"{strength:+.2f}" for strength in strengths)]
    save_picture(out, model.run, grid[None], title, columns=columns)
