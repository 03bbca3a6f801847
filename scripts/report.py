"""Write the report of a run, one HTML file that opens offline, from what lies in its folder."""

import argparse

from tqdm import tqdm

from disdiff.cli import build_parser, load_codes_of, load_scores_of, resolve_device, run_script
from disdiff.report.html import write_report
from disdiff.report.pictures import make_pictures
from disdiff.run import load_run
from ldm.data.source import split_indices

EXAMPLES = """examples:
  python scripts/report.py runs/disdiff-shapes3d-small-s0                     writes report.html there
  python scripts/report.py pretrained/shapes3d --out /tmp/report.html         writes it elsewhere
  python scripts/report.py runs/disdiff-shapes3d-small-s0 --pictures --seed 1 draws new pictures first"""


def make_parser() -> argparse.ArgumentParser:
    parser = build_parser(__doc__, EXAMPLES)
    parser.add_argument("--pictures", action="store_true", help="draw the run's pictures anew first")
    return parser


def redraw(arguments: argparse.Namespace) -> None:
    run = load_run(arguments.run, resolve_device(arguments.device))
    config, codes, scores = run.config, load_codes_of(run), load_scores_of(run)
    index = split_indices(run.source, config.data.num_train, config.evaluation.num_images)[1]
    with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}") as bar:

        def progress(name: str, share: float) -> None:
            bar.set_description(name, refresh=False)
            bar.update(round(100 * share) - bar.n)

        make_pictures(
            run.model, run.source, index, codes, scores, run.folder, config.sampler, arguments.seed, progress
        )


def main(arguments: argparse.Namespace) -> None:
    if arguments.pictures:
        redraw(arguments)
    print(write_report(arguments.run, arguments.out))


if __name__ == "__main__":
    run_script(main, make_parser())
