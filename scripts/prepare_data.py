"""Say what a data set needs, render its procedural stand-in, check what lies there. Downloads nothing."""

import argparse
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from ldm.data.archives import open_h5
from ldm.data.arrays import Progress
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.shapes3d import SHAPES3D, Shapes3D, find_shapes3d, write_shapes3d
from ldm.errors import UserError

EXAMPLES = """examples:
  python scripts/prepare_data.py shapes3d                                  what it needs and where it goes
  python scripts/prepare_data.py shapes3d --procedural                     render all 480,000 images (5.9 GB)
  python scripts/prepare_data.py shapes3d --procedural --num-images 20000  render a random subset
  python scripts/prepare_data.py check                                     read what lies in data/shapes3d
  python scripts/prepare_data.py check --root /data/shapes3d"""

SHAPES3D_HELP = """Shapes3D: 480,000 images of 64x64x3 with six factors, 5.9 GB when uncompressed.
  source   https://github.com/google-deepmind/3d-shapes (licence: see the source)
  file     3dshapes.h5 (images uint8 (480000, 64, 64, 3), labels float64 (480000, 6)), or 3dshapes.npz
  put it   in {root}, or anywhere with data.root=FOLDER on the command line of main.py
  then     python scripts/prepare_data.py check --root {root}
A compressed file is unpacked once to 3dshapes.images.npy beside it, which takes another 5.9 GB.
Without the file everything works on a procedural Shapes3D (same factors, our own rendering, named as
procedural in every result), and nothing has to be prepared; `--procedural` writes it in the real format."""


def main() -> None:
    args = parse_args()
    try:
        if args.command == "check":
            check(args.root)
        elif args.procedural:
            render(args.root, args.num_images, args.seed)
        else:
            print(SHAPES3D_HELP.format(root=args.root))
            found = find_shapes3d(args.root)
            print(f"found    {found}" if found else f"found    nothing in {args.root} yet")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="{shapes3d,check}")
    root = argparse.ArgumentParser(add_help=False)
    root.add_argument("--root", type=Path, default=Path("data/shapes3d"), help="folder (data/shapes3d)")
    shapes3d = commands.add_parser("shapes3d", parents=[root], help="what it needs, or render the stand-in")
    shapes3d.add_argument("--procedural", action="store_true", help="write the procedural stand-in as a file")
    shapes3d.add_argument("--num-images", type=int, help="with --procedural: a random subset of this size")
    shapes3d.add_argument("--seed", type=int, default=0, help="of the random subset (0)")
    commands.add_parser("check", parents=[root], help="read and verify what lies in the folder")
    args = parser.parse_args()
    if args.command == "shapes3d" and args.num_images is not None:
        if not args.procedural:
            parser.error("--num-images goes with --procedural")
        if not 1 <= args.num_images <= len(SHAPES3D):
            parser.error(f"--num-images must be from 1 to {len(SHAPES3D)}, got {args.num_images}")
    return args


def render(root: Path, num_images: int | None, seed: int) -> None:
    refuse_to_replace(root)
    source = ProceduralShapes3D()
    index = torch.arange(len(source))
    if num_images is not None:
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(len(source), generator=generator)[:num_images].sort().values
    path = root / "3dshapes.h5"
    with tqdm(total=len(index), unit="image", desc="rendering") as bar:
        write_shapes3d(path, source, index, progress_of(bar))
    print(f"{path}: {len(index)} procedural images")


def refuse_to_replace(root: Path) -> None:
    found = find_shapes3d(root)
    if found is None:
        return
    if found.suffix == ".h5":
        with open_h5(found) as file:
            if file.attrs.get("procedural", False):
                return
    raise UserError(f"{found} is there and not procedural; move it away or choose another --root")


def check(root: Path) -> None:
    with tqdm(total=0, unit="image", desc="unpacking", leave=False, delay=1) as bar:
        source = Shapes3D(root, progress_of(bar))
    empty = 0
    with tqdm(total=len(source), unit="image", desc="reading") as bar:
        for index in torch.arange(len(source)).split(4096):
            empty += int((source.images(index).flatten(1).amax(dim=1) == 0).sum())
            bar.update(len(index))
    if empty:
        raise UserError(f"{find_shapes3d(root)} has {empty} empty images; get the file again")
    kind = "procedural" if source.procedural else "the published data"
    print(f"{find_shapes3d(root)}: good; {len(source)} of {len(SHAPES3D)} images, {kind}, {source.identity}")


def progress_of(bar: tqdm) -> Progress:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


if __name__ == "__main__":
    main()
