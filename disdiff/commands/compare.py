"""Compare runs in one table, averaged over seeds, with published values marked; --train trains runs first."""

import argparse
from pathlib import Path
from typing import Any

from disdiff.commands.common import count, parse_seeds
from disdiff.commands.terminal import begin_parser, end_with, many_runs
from disdiff.config.places import find
from ldm.errors import UserError
from ldm.files import atomic_path, expand_home

EXAMPLES = """compare runs:
  disdiff compare runs/disdiff-shapes3d-small-s0 runs/pdae-shapes3d-small-s0
  disdiff compare runs/*-shapes3d-small-s*            every system, over its seeds
  disdiff compare RUN RUN --protocol paper --csv table.csv --latex table.tex
  disdiff compare RUN RUN --out comparison            every table format, and an HTML page

train, then compare:
  disdiff compare --train --dry-run --systems disdiff,pdae --seeds 21,22,23
      list which runs exist and which would be trained; train nothing
  disdiff compare --train --systems disdiff,pdae,encdiff,dyga,diffae,infodiffusion,beta_vae,infovae
      train the missing runs; after an interruption or a failure, repeat the command to continue
  disdiff compare --train --systems disdiff --configs configs/disdiff/ablations/*.yaml --seeds 21
      compare ablations with the method; an ablation that equals the preset is reported and skipped
  disdiff compare --train --systems pdae --seeds 21 pretrained/shapes3d        compare with a finished run
  disdiff compare --train --systems disdiff,encdiff --data shapes3d,dsprites,glyphs
      several data sets: one table with a row per system, and a table for each data set
  disdiff compare --train --systems disdiff,beta_vae --preset smoke --set run.root=try
      run everything in minutes, as a check

A RUN is a run folder or a metrics.json; folders whose names begin with _ (shared stages) are left out. All
runs of a table must have the same data set (procedural or real) and the same protocol, because other scores
are not comparable. Runs whose configurations differ only in the seed share a column. --train runs
`disdiff train --base FILE preset=... seed=...` for each configuration and seed, one after the other, so
shared stages are trained once. If a run fails, the others continue, the failed run is named at the end, and
the exit status is 1. --out receives table.txt, .csv, .tex, .json, comparison.html and logs/; of several data
sets, also a folder for each."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("runs", metavar="RUN", nargs="*", type=find, help="run folder or metrics.json")
    parser.add_argument(
        "--protocol", choices=("paper", "fast"), help="protocol of the scores (default: the common one)"
    )
    parser.add_argument("--csv", metavar="FILE", type=expand_home, help="also write the table as CSV")
    parser.add_argument("--latex", metavar="FILE", type=expand_home, help="also write it as LaTeX (booktabs)")
    parser.add_argument(
        "--out", metavar="FOLDER", type=expand_home, help="write all formats and a page there"
    )
    parser.add_argument(
        "--width", type=count, default=200, help="width of the printed table, characters (default: 200)"
    )
    train = parser.add_argument_group("train first")
    train.add_argument("--train", action="store_true", help="train the runs of --systems and --configs")
    train.add_argument("--dry-run", action="store_true", help="only list finished and missing runs")
    train.add_argument("--systems", metavar="A,B", default="", help="systems to train, such as disdiff,pdae")
    train.add_argument(
        "--configs",
        metavar="FILE",
        nargs="+",
        type=expand_home,
        default=[],
        help="further configuration files to train, such as ablations",
    )
    train.add_argument("--seeds", default="0", help="seeds to train, such as 21,22,23 (default: 0)")
    train.add_argument("--preset", default="small", help="small, smoke or paper (default: small)")
    train.add_argument(
        "--data", default="shapes3d", metavar="A,B", help="data sets of --systems (default: shapes3d)"
    )
    train.add_argument(
        "--set", metavar="KEY=VALUE", nargs="+", default=[], help="configuration overrides for all runs"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Train the requested runs, then compare; the exit status is 1 if a run failed."""
    named = bool(arguments.systems or arguments.configs)
    arguments.runs = [run for run in arguments.runs if not run.name.startswith("_")]  # of a shell's runs/*
    if arguments.train != named or arguments.dry_run > named or not (named or arguments.runs):
        raise UserError("name runs to compare, or --train with --systems or --configs; --help shows examples")
    commands, failures = train(arguments) if arguments.train else ({}, {})
    runs = [*arguments.runs, *(run for run in commands if run.name not in failures)]
    if runs and not arguments.dry_run:
        compare(arguments, runs, commands, failures)
    end_with(failures)


def train(arguments: argparse.Namespace) -> tuple[dict[Path, str], dict[str, str]]:
    """Train the missing runs.

    Returns:
        The command of every run folder, and the reasons of failed runs by name.
    """
    from disdiff.report.comparison import load_metrics
    from disdiff.runs.campaign import describe_campaign, find_configs, plan_campaign, train_campaign

    for run in arguments.runs:  # report a wrong name now, not after hours of training
        load_metrics(run)
    systems = [name for name in arguments.systems.split(",") if name]
    data = list_data(arguments)
    files = [*(file for name in data for file in find_configs(systems, name)), *arguments.configs]
    overrides = [f"preset={arguments.preset}", *arguments.set]
    campaign = plan_campaign(files, parse_seeds(arguments.seeds), overrides, several=len(data) > 1)
    print(*describe_campaign(campaign), sep="\n", flush=True)
    if arguments.dry_run:
        return {}, {}
    kinds = ["systems" * bool(systems), "configs" * bool(arguments.configs)]
    name = "-".join(filter(None, [*kinds, "+".join(data), arguments.preset]))
    arguments.out = arguments.out or Path(campaign.jobs[0].config.run.root) / "_comparisons" / name
    with many_runs():
        failures = train_campaign(campaign.jobs, arguments.out / "logs")
    return {job.folder: job.command for job in campaign.jobs}, failures


def compare(
    arguments: argparse.Namespace, runs: list[Path], commands: dict[Path, str], failures: dict[str, str]
) -> None:
    """Print the table of runs, or that of several data sets, and write the requested files."""
    from disdiff.report.comparison import compare_runs
    from disdiff.report.comparison_page import save_comparison
    from disdiff.report.suite import (
        compare_data_sets,
        format_suite,
        format_suite_csv,
        format_suite_latex,
        save_suite,
    )
    from disdiff.report.tables import format_csv, format_latex, format_text

    several = len(list_data(arguments)) > 1
    table: Any = (compare_data_sets if several else compare_runs)(runs, arguments.protocol)
    of_one: tuple[Any, ...] = (format_text, format_csv, format_latex, save_comparison)
    of_several: tuple[Any, ...] = (format_suite, format_suite_csv, format_suite_latex, save_suite)
    show, to_csv, to_latex, save = of_several if several else of_one
    print(show(table, arguments.width))
    for path, format_table in ((arguments.csv, to_csv), (arguments.latex, to_latex)):
        if path is not None:
            with atomic_path(path) as temporary:
                temporary.write_text(format_table(table), encoding="utf-8")
    if arguments.out:
        print(f"written to {save(arguments.out, table, commands, failures)}")


def list_data(arguments: argparse.Namespace) -> list[str]:
    """The names in --data, each once."""
    return list(dict.fromkeys(name for name in arguments.data.split(",") if name))
