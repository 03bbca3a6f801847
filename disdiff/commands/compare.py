"""Set runs side by side, training them first where asked: pooled over seeds, published values marked."""

import argparse
import signal
import sys
from pathlib import Path

from disdiff.commands.common import number, parse_seeds
from disdiff.commands.terminal import begin_parser
from disdiff.config.places import find
from ldm.errors import UserError
from ldm.files import atomic_path, expand_home
from ldm.numbers import COUNT

EXAMPLES = """compare runs:
  disdiff compare runs/disdiff-shapes3d-small-s0 runs/pdae-shapes3d-small-s0
  disdiff compare runs/*-shapes3d-small-s*            every system, over its seeds
  disdiff compare RUN RUN --protocol paper --csv table.csv --latex table.tex
  disdiff compare RUN RUN --out comparison            all forms of the table, and a page

train, then compare:
  disdiff compare --train --dry-run --systems disdiff,pdae --seeds 21,22,23
      say which runs exist and which would be trained; train nothing
  disdiff compare --train --systems disdiff,pdae,encdiff,diffae,infodiffusion,beta_vae,infovae
      train what is not there; killed or failed: the same command goes on
  disdiff compare --train --systems disdiff --configs configs/disdiff/ablations/*.yaml --seeds 21
      the ablations beside the method; those that are what the preset has anyway are told and left out
  disdiff compare --train --systems pdae --seeds 21 pretrained/shapes3d        beside a finished run
  disdiff compare --train --systems disdiff,beta_vae --preset smoke --set run.root=try
      the whole of it in minutes, to see that it works

A RUN is a run folder or a metrics.json. One table has one data set, procedural or real, and one protocol:
numbers of others do not compare. Runs whose configurations differ in the seed alone share a column. --train
runs `disdiff train --base FILE preset=... seed=...` for each configuration and seed, one after the other,
so shared stages are trained once. A run that fails is named at the end, the others go on, and the exit status
is 1. Into --out go table.txt, .csv, .tex, .json, comparison.html and logs/."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("runs", metavar="RUN", nargs="*", type=find, help="run folder or metrics.json")
    parser.add_argument("--protocol", choices=("paper", "fast"), help="(the one that all runs have)")
    parser.add_argument("--csv", metavar="FILE", type=expand_home, help="write the table there as CSV")
    parser.add_argument("--latex", metavar="FILE", type=expand_home, help="write it as LaTeX (booktabs)")
    parser.add_argument("--out", metavar="FOLDER", type=expand_home, help="write all forms and a page there")
    parser.add_argument("--width", type=number(COUNT), default=200, help="of the table on the terminal (200)")
    train = parser.add_argument_group("train first")
    train.add_argument("--train", action="store_true", help="of --systems and --configs")
    train.add_argument("--dry-run", action="store_true", help="say what exists and what it would train")
    train.add_argument("--systems", metavar="A,B", default="", help="such as disdiff,pdae")
    train.add_argument("--configs", metavar="FILE", nargs="+", type=expand_home, default=[], help="ablations")
    train.add_argument("--seeds", default="0", help="of the runs, such as 21,22,23 (0)")
    train.add_argument("--preset", default="small", help="small, smoke or paper (small)")
    train.add_argument("--data", default="shapes3d", help="data set of --systems (shapes3d)")
    train.add_argument("--set", metavar="KEY=VALUE", nargs="+", default=[], help="overrides for all runs")
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Train what is asked for, then compare; exit status 1 when a run failed."""
    named = bool(arguments.systems or arguments.configs)
    if arguments.train != named or arguments.dry_run > named or not (named or arguments.runs):
        raise UserError("name runs to compare, or --train with --systems or --configs; --help shows examples")
    commands, failures = train(arguments) if arguments.train else ({}, {})
    runs = [*arguments.runs, *(run for run in commands if run.name not in failures)]
    if runs and not arguments.dry_run:
        compare(arguments, runs, commands, failures)
    if failures:
        print("failed:", *(f"  {name}: {reason}" for name, reason in failures.items()), sep="\n")
        raise SystemExit(1)


def train(arguments: argparse.Namespace) -> tuple[dict[Path, str], dict[str, str]]:
    """Train what is not there; returns the command of every run folder, and why runs failed, by name."""
    from disdiff.report.comparison import load_metrics
    from disdiff.runs.campaign import describe_campaign, find_configs, plan_campaign, train_campaign

    for run in arguments.runs:  # a bad name is told now, not after hours
        load_metrics(run)
    systems = [name for name in arguments.systems.split(",") if name]
    files = [*find_configs(systems, arguments.data), *arguments.configs]
    campaign = plan_campaign(
        files, parse_seeds(arguments.seeds), [f"preset={arguments.preset}", *arguments.set]
    )
    print(*describe_campaign(campaign), sep="\n", flush=True)
    if arguments.dry_run:
        return {}, {}
    kinds = ["systems" * bool(systems), "configs" * bool(arguments.configs)]
    name = "-".join(filter(None, [*kinds, arguments.data, arguments.preset]))
    arguments.out = arguments.out or Path(campaign.jobs[0].config.run.root) / "_comparisons" / name
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill, too, lets the run stop in order
    try:
        failures = train_campaign(campaign.jobs, arguments.out / "logs")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None
    return {job.folder: job.command for job in campaign.jobs}, failures


def compare(
    arguments: argparse.Namespace, runs: list[Path], commands: dict[Path, str], failures: dict[str, str]
) -> None:
    """Print the table of runs and write what is asked for."""
    from disdiff.report.comparison import compare_runs
    from disdiff.report.comparison_page import save_comparison
    from disdiff.report.tables import format_csv, format_latex, format_text

    table = compare_runs(runs, arguments.protocol)
    print(format_text(table, arguments.width))
    for path, format_table in ((arguments.csv, format_csv), (arguments.latex, format_latex)):
        if path is not None:
            with atomic_path(path) as temporary:
                temporary.write_text(format_table(table), encoding="utf-8")
    if arguments.out:
        print(f"written to {save_comparison(arguments.out, table, commands, failures)}")
