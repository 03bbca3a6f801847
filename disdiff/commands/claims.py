"""Write the page of claims from finished runs; --train makes the missing runs and measurements first."""

import argparse
from pathlib import Path

from disdiff.commands.common import parse_seeds
from disdiff.commands.terminal import begin_parser, end_with, many_runs
from disdiff.report.claims import CLAIMS, Claim
from disdiff.report.claims_page import write_page
from disdiff.runs.campaign import train_campaign
from disdiff.runs.claim_runs import ClaimRun, collect, measure_runs, plan_runs
from ldm.errors import check_option
from ldm.files import atomic_path, expand_home
from ldm.training.log import format_duration

EXAMPLES = """examples:
  disdiff claims                               write the page from finished runs, and say what is missing
  disdiff claims --only 1,13 --train           make what claims 1 and 13 lack, then write the page
  disdiff claims --train --seeds 21            one seed of every claim
  disdiff claims --train --set code.train.images=16000    a smaller budget; other runs than the full ones
The runs lie in runs/claims (--root), each trained by `disdiff train` in a process of its own; what the page
needs of them is kept in benchmarks/claims (--records). After an interruption or a failure, repeat the command
to continue. Only runs of exactly the asked configuration count. Pictures go to a folder beside the page."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("--only", metavar="N,N", help="claims to train (default: all)")
    parser.add_argument("--train", action="store_true", help="make the missing runs and measurements first")
    parser.add_argument("--seeds", default="21,22,23", help="seeds of every run (default: 21,22,23)")
    parser.add_argument("--preset", default="small", help="small, smoke or paper (default: small)")
    for name, default, what in (
        ("root", Path("runs/claims"), "folder of the runs"),
        ("records", Path("benchmarks/claims"), "folder of the runs' records"),
        ("out", Path("docs/claims.md"), "the page"),
    ):
        parser.add_argument(
            f"--{name}", type=expand_home, default=default, help=f"{what} (default: %(default)s)"
        )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", nargs="+", default=[], help="configuration overrides for all runs"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Plan the runs of the claims, make what is missing if asked to, and write the page."""
    wanted, pictures = choose_claims(arguments.only), arguments.out.with_suffix("")
    arms = {arm.name: arm for claim in CLAIMS for arm in claim.arms}.values()
    seeds, root, records = parse_seeds(arguments.seeds), arguments.root, arguments.records
    planned = plan_runs(arms, seeds, arguments.preset, root, arguments.set, records)
    failures = make_missing(wanted, planned, root, pictures) if arguments.train else {}
    trials = {claim.number: collect(claim, planned, pictures) for claim in CLAIMS}
    for claim in wanted:
        trial = trials[claim.number]
        if trial.num_missing:
            left = format_duration(trial.seconds_left)
            print(
                f"claim {claim.number}: {trial.num_missing} of {trial.num_planned} runs missing, about {left}"
            )
    with atomic_path(arguments.out) as temporary:
        temporary.write_text(write_page(CLAIMS, trials), encoding="utf-8")
    print(arguments.out)
    end_with(failures)


def choose_claims(only: str | None) -> list[Claim]:
    """The claims whose numbers are given, such as `1,13`; all without numbers.

    Raises:
        UserError: there is no claim of a number.
    """
    if only is None:
        return list(CLAIMS)
    known = {claim.number.split(",")[0]: None for claim in CLAIMS}
    wanted = [word.strip() for word in only.split(",")]
    for word in wanted:
        check_option("--only", word, known)
    return [claim for claim in CLAIMS if claim.number.split(",")[0] in wanted]


def make_missing(
    claims: list[Claim], planned: dict[str, list[ClaimRun]], root: Path, pictures: Path
) -> dict[str, str]:
    """Train the missing runs, seed by seed, then make the missing measurements.

    Returns:
        Reasons of failed runs, by name.
    """
    lacking = {}
    for group in zip(*planned.values(), strict=True):  # seed by seed
        of_seed = dict(zip(planned, group, strict=True))
        for claim in claims:
            runs = (of_seed[arm.name] for arm in claim.arms)
            lacking |= {run.name: run.job for run in runs if run.job and run.lacks(claim.measures)}
    with many_runs():
        failures = train_campaign(list(lacking.values()), root / "logs")
        for claim in claims:
            failures |= measure_runs(claim, planned, pictures, lambda said: print(said, flush=True))
    return failures
