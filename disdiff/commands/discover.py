"""Name a run's units in words, by a CLIP: with a score, what chance would give, and pictures."""

import argparse

import torch

from disdiff.clip.control import CONTROLS
from disdiff.clip.displacement import WAYS
from disdiff.clip.tower import load_clip
from disdiff.commands.common import build_parser, number, open_run, show_progress
from disdiff.config.clip_options import ClipConfig
from disdiff.config.places import results_folder
from disdiff.report.discovery import format_findings
from disdiff.report.html import write_report
from disdiff.runs.discovery import Discovery, Options
from ldm.errors import UserError
from ldm.files import expand_home
from ldm.numbers import COUNT, POSITIVE

EXAMPLES = """examples, with P for prompts/shapes3d.yaml:
  disdiff discover RUN --prompts P                     names, in RUN and in its report
  disdiff discover RUN                                 no prompts: units that do the same
  disdiff discover RUN --prompts P --edit "wall colour"  move that unit, measured
  disdiff discover RUN --prompts P --control output    a random output layer gets no names
  disdiff discover RUN --prompts P --clip ViT-B-32 --pretrained laion2b_s34b_b79k
  disdiff discover pretrained/shapes3d --prompts P --out found    writes into another folder
A guided run is looked at by the CLIP that guided it, any other by the tiny one that ships, unless
--clip names another. Writes discovery.json and discovery.png, and rewrites report.html."""

TINY = "local-dir:pretrained/tiny_clip"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--prompts", type=expand_home, metavar="FILE", help="the factors in words")
    parser.add_argument("--clip", metavar="MODEL", help="architecture of open_clip, or local-dir:FOLDER")
    parser.add_argument("--pretrained", metavar="TAG|FILE", help="weights of an architecture")
    parser.add_argument(
        "--by", choices=tuple(WAYS), default="traverse", help="how a unit is moved (traverse)"
    )
    parser.add_argument(
        "--amount", type=number(POSITIVE), default=2.0, help="of traverse, standard deviations (2)"
    )
    parser.add_argument("--images", type=int, default=128, help="images to move (128)")
    parser.add_argument(
        "--steps", type=number(COUNT), default=20, help="DDIM steps of inversion and of decoding (20)"
    )
    parser.add_argument(
        "--guidance", type=float, default=1.0, metavar="W", help="times gradient fields (1: as trained)"
    )
    parser.add_argument("--edit", action="append", default=[], metavar="NAME", help="edit by a unit's name")
    parser.add_argument("--control", choices=tuple(CONTROLS), help="randomise the gradient decoder first")
    return parser


def choose_clip(arguments: argparse.Namespace, system: str, own: ClipConfig) -> ClipConfig:
    """The CLIP that the command line names, else the run's own, else the tiny one."""
    if arguments.clip is None and arguments.pretrained is not None:
        raise UserError("--pretrained goes with --clip MODEL")
    if arguments.clip is not None:
        return ClipConfig(model=arguments.clip, pretrained=arguments.pretrained)
    return own if system == "disdiff_clip" else ClipConfig(model=TINY)


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Name the units, edit by the names, and write findings and report."""
    if arguments.images < 2:
        raise UserError("discovery needs --images of 2 or more")
    if arguments.edit and arguments.prompts is None:
        raise UserError("--edit needs --prompts: without them no unit has a name")
    run, sampler = open_run(arguments)
    config = run.config
    clip = load_clip(choose_clip(arguments, config.system, config.clip), config.weights.allow_download)
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
