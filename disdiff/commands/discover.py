"""Name a run's units in words with a CLIP model; each name has a score and a comparison with chance."""

import argparse

import torch

from disdiff.build import get_system
from disdiff.clip.control import CONTROLS
from disdiff.clip.displacement import WAYS
from disdiff.clip.tower import load_clip
from disdiff.commands.common import build_parser, count, number, open_run, several, show_progress
from disdiff.config.clip_options import ClipConfig
from disdiff.config.places import results_folder
from disdiff.config.schema import Config
from disdiff.report.discovery import format_findings
from disdiff.report.html import write_report
from disdiff.runs.discovery import Discovery, Options
from ldm.errors import UserError
from ldm.files import expand_home
from ldm.numbers import POSITIVE

EXAMPLES = """examples, with P for prompts/shapes3d.yaml:
  disdiff discover RUN --prompts P                     name the units; extends the report of RUN
  disdiff discover RUN                                 no prompts: group units with the same effect
  disdiff discover RUN --prompts P --edit "wall colour"  move the unit of that name and measure the edit
  disdiff discover RUN --prompts P --control output    control: with a random output layer, names are false
  disdiff discover RUN --prompts P --clip ViT-B-32 --pretrained laion2b_s34b_b79k
  disdiff discover pretrained/shapes3d --prompts P --out found    write to another folder
The CLIP model is that of --clip, else the one that guided the run, else the small CLIP that ships with
disdiff. Writes discovery.json and discovery.png, and rewrites report.html."""

TINY = "local-dir:pretrained/tiny_clip"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES, "folder of the results (default: RUN)")
    parser.add_argument(
        "--prompts", type=expand_home, metavar="FILE", help="YAML file with the factors in words"
    )
    parser.add_argument("--clip", metavar="MODEL", help="open_clip architecture, or local-dir:FOLDER")
    parser.add_argument("--pretrained", metavar="TAG|FILE", help="weights for --clip: open_clip tag or file")
    parser.add_argument(
        "--by", choices=tuple(WAYS), default="traverse", help="how a unit is moved (default: traverse)"
    )
    parser.add_argument(
        "--amount",
        type=number(POSITIVE),
        default=2.0,
        help="distance of traverse, standard deviations (default: 2)",
    )
    parser.add_argument("--images", type=several, default=128, help="number of images to edit (default: 128)")
    parser.add_argument(
        "--steps", type=count, default=20, help="number of DDIM steps of inversion and decoding (default: 20)"
    )
    parser.add_argument(
        "--guidance", type=float, default=1.0, metavar="W", help="scale of the gradient fields (default: 1)"
    )
    parser.add_argument("--edit", action="append", default=[], metavar="NAME", help="also edit by this name")
    parser.add_argument(
        "--control", choices=tuple(CONTROLS), help="randomise this part of the gradient decoder first"
    )
    return parser


def choose_clip(arguments: argparse.Namespace, config: Config) -> ClipConfig:
    """The CLIP of the command line, else that of the run, else the tiny CLIP that ships."""
    if arguments.clip is None and arguments.pretrained is not None:
        raise UserError("--pretrained needs --clip MODEL; name the architecture of the weights")
    if arguments.clip is not None:
        return ClipConfig(model=arguments.clip, pretrained=arguments.pretrained)
    return config.clip if get_system(config).depends_on("clip") else ClipConfig(model=TINY)


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Name the units, edit by name, and write the results and the report."""
    if arguments.edit and arguments.prompts is None:
        raise UserError(
            "--edit needs --prompts, because units have no names without them; add --prompts FILE"
        )
    run, sampler = open_run(arguments)
    config = run.config
    clip = load_clip(choose_clip(arguments, config), config.weights.allow_download)
    device = run.model.device
    options = Options(arguments.by, arguments.amount, arguments.images, arguments.seed, arguments.control)
    discovery = Discovery(run, clip.to(device), run.require_codes(), sampler, options)
    with show_progress("moving units") as progress:
        result = discovery.find(arguments.prompts, run.scores, progress)
    folder = arguments.out or results_folder(arguments.run)
    for name in arguments.edit:
        with show_progress(f"editing {name}") as progress:
            result.setdefault("edits", {})[name] = discovery.edit(name, folder, progress)
    paths = discovery.save(result, folder)
    print(format_findings(result))
    if not arguments.control and run.metrics() is not None:
        paths.append(write_report(arguments.run, folder / "report.html"))
    print("\n".join(map(str, paths)))
