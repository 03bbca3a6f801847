"""Set runs side by side: runs of one system are pooled over their seeds, published values are marked."""

import argparse
from pathlib import Path

from disdiff.cli import run_script
from disdiff.report.comparison import compare_runs
from disdiff.report.tables import format_csv, format_latex, format_text
from ldm.files import atomic_path

EXAMPLES = """examples:
  python scripts/compare.py runs/disdiff-shapes3d-small-s0 runs/pdae-shapes3d-small-s0
  python scripts/compare.py runs/*-shapes3d-small-s*            every system, over its seeds
  python scripts/compare.py RUN RUN --protocol paper --csv table.csv --latex table.tex

A RUN is a run folder or a metrics.json. One table has one data set, procedural or real, and one protocol:
numbers of others do not compare. Runs of one system and preset whose folders differ only in the seed share a
column."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", type=Path, help="run folder or metrics.json")
    parser.add_argument("--protocol", choices=("paper", "fast"), help="(the one that all runs have)")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the table there as CSV")
    parser.add_argument("--latex", metavar="FILE", type=Path, help="write it there as LaTeX (booktabs)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(arguments: argparse.Namespace) -> None:
    table = compare_runs(arguments.runs, arguments.protocol)
    print(format_text(table))
    for path, format_table in ((arguments.csv, format_csv), (arguments.latex, format_latex)):
        if path is not None:
            with atomic_path(path) as temporary:
                temporary.write_text(format_table(table), encoding="utf-8")


if __name__ == "__main__":
    run_script(main, make_parser())
