"""Edit an image by an attribute, through a linear classifier on codes, or walk from one image to another."""

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from disdiff.attributes import fit_attribute
from disdiff.baselines.conditional import mix
from disdiff.cli import (
    build_parser,
    choose_path,
    describe_run,
    draw_images,
    load_codes_of,
    load_image,
    resolve_device,
    run_script,
)
from disdiff.editing import decode_code, deterministic, interpolate_codes, invert, slerp
from disdiff.model import DiffusionModel, ImageModel
from disdiff.report.grids import save_grid
from disdiff.report.pictures import load_codes
from disdiff.run import load_run
from ldm.diffusion.sampler import SamplerConfig, sample
from ldm.errors import UserError

EXAMPLES = """examples:
  python scripts/edit.py RUN --attribute "wall hue=3"                  a random image, away from it and to it
  python scripts/edit.py RUN --attribute "shape=0" --image 70000 --reach 0.5
  python scripts/edit.py RUN --between 12 70000                        codes on a line, noise on an arc
  python scripts/edit.py RUN --between a.png b.png --trajectory        one noise, noise predictions mixed
writes edits/<run>-edit.png; --out PATH for another place"""


def make_parser() -> argparse.ArgumentParser:
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--attribute", metavar="NAME=VALUE", help="a factor's value")
    parser.add_argument("--image", metavar="I|FILE", help="index in the data set, or a picture file (random)")
    parser.add_argument("--reach", type=float, default=0.3, help="largest strength of the attribute (0.3)")
    parser.add_argument("--between", nargs=2, metavar=("START", "END"), help="two images, as for --image")
    parser.add_argument("--trajectory", action="store_true", help="mix noise predictions instead of codes")
    parser.add_argument("--columns", type=int, default=7, help="places on the way (7)")
    parser.add_argument("--steps", type=int, help="DDIM steps (the run's own)")
    return parser


def find_labels(codes: dict, attribute: str) -> Tensor:
    """Which images have the attribute `name=value`, shape (n,) bool.

    Raises:
        UserError: there is no factor of that name, or the value is no number.
    """
    name, _, value = attribute.partition("=")
    names = [str(each) for each in codes.get("factor_names", [])]
    if name not in names or not value.isdigit():
        raise UserError(
            f"--attribute {attribute} is none; write NAME=NUMBER, NAME one of: {', '.join(names)}"
        )
    return torch.from_numpy(codes["factors"][:, names.index(name)] == int(value))


def walk(model: ImageModel, image: Tensor, sampler: SamplerConfig, share: Tensor, trajectory: bool) -> Tensor:
    """Images from image[0] to image[1] at `share` (A,), shape (A, 3, H, W)."""
    code = model.encode(image)
    z_T = invert(model, image, code, sampler.num_steps)
    if not trajectory:
        codes = interpolate_codes(code[:1], code[1:], len(share))[0]
        noise = slerp(z_T[:1], z_T[1:], share)[0] if z_T.numel() else z_T[:1].expand(len(share), -1, -1, -1)
        return decode_code(model, codes, noise, sampler)
    if not isinstance(model, DiffusionModel):
        raise UserError("this system predicts no noise that could be mixed; leave out --trajectory")
    start, end = (model.eps_fn(part) for part in code.split(1))
    made = [sample(sampler, mix(start, end, place), model.schedule, z_T[:1]) for place in share.tolist()]
    return model.latent_space.decode(torch.cat(made)).clamp(-1, 1)


@torch.no_grad()  # not inference mode: the classifier is trained here
def main(arguments: argparse.Namespace) -> None:
    if bool(arguments.attribute) == bool(arguments.between) or arguments.columns < 2:
        raise UserError("give --attribute or --between, one of them, and --columns of 2 or more")
    run = load_run(arguments.run, resolve_device(arguments.device))
    model, sampler = run.model, deterministic(run.config.sampler)
    sampler = replace(sampler, num_steps=arguments.steps or sampler.num_steps)
    device = model.latent_space.mean.device
    if arguments.between:
        image = torch.cat([load_image(name, run.source) for name in arguments.between]).to(device)
        share = torch.linspace(0, 1, arguments.columns, device=device)
        made = walk(model, image, sampler, share, arguments.trajectory)
        grid, title = torch.cat([image[:1], made, image[1:]])[None], "From one image to another"
        columns = ["start", *(f"{place:.2f}" for place in share.tolist()), "end"]
    else:
        codes = load_codes_of(run)
        attribute = fit_attribute(load_codes(codes), find_labels(codes, arguments.attribute))
        name = arguments.image
        image = draw_images(run, 1, arguments.seed) if name is None else load_image(name, run.source)
        image = image.to(device)
        code = model.encode(image)
        strengths = torch.linspace(-arguments.reach, arguments.reach, arguments.columns).tolist()
        moved = torch.cat([attribute.move(code.cpu(), strength) for strength in strengths]).to(device)
        z_T = invert(model, image, code, sampler.num_steps).expand(len(moved), -1, -1, -1)
        grid = torch.cat([image, decode_code(model, moved, z_T, sampler)])[None]
        title = f"Away from and towards {arguments.attribute}"
        columns = ["image", *(f"{strength:+.2f}" for strength in strengths)]
    out = choose_path(arguments, "edit.png")
    save_grid(out, grid, title, describe_run(run), columns=columns)
    print(out)


if __name__ == "__main__":
    run_script(main, make_parser())
