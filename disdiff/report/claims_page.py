"""Write the page of claims: one table of verdicts, then for each claim its numbers, pictures and commands."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from disdiff.report.claims import SHARED, Claim
from disdiff.report.verdicts import (
    FAILS,
    FEWEST_SEEDS,
    HOLDS,
    UNDECIDED,
    Results,
    Verdict,
    describe,
    judge_all,
    numbers,
)
from ldm.training.log import format_duration

NOT_RUN = "not run yet"
HEAD = f"""# What holds

This page tries claims of the papers, each by runs that `disdiff claims` trains. The command also makes this
page, from the runs' records in `benchmarks/claims`.

- Verdicts: *{HOLDS}*, *{FAILS}*, *{UNDECIDED}*. A claim of several parts holds if all do,
  and does not hold if one does not; each part is marked yes, no or open. A difference counts if it is more
  than twice its standard error over seeds, with at least {FEWEST_SEEDS} seeds a side. "Not lower" holds
  unless such a difference says otherwise.
- ± is the standard deviation over seeds, dividing by n - 1. All runs of a claim have the same data and
  protocol and, unless it says otherwise, the same number of training images.
- Data called procedural are drawn by this package; a verdict on them says nothing about the published files.
- What is small here: networks and budgets, of minutes of one core. Verdicts are meant at this size, and each
  row says what the size can decide.
- Times are those of one core, without shared stages; on a core that others use they are high.
- Runs have the configuration and overrides that a claim names, and all of them those of the last command.

```bash
disdiff claims                      # write this page from what is there; train nothing
disdiff claims --only 1,13 --train  # train what claims 1 and 13 lack, then write the page; again: continue
disdiff train --base CONFIGURATION OVERRIDES {" ".join(SHARED)}  # one run of one arm
```

| | claim | made in | data, seeds, budget | outcome | verdict |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Trial:
    """What there is of a claim's runs.

    Attributes:
        results: values of the finished runs by arm.
        data: name of the data set and protocol of the scores; "" without runs.
        images: training images of the runs.
        seconds: time of each finished run, without shared stages.
        num_planned: number of runs that the claim needs.
        num_missing: number of those that are not finished or not measured.
        seconds_left: expected time of the missing runs.
        pictures: paths of the measurements' pictures, from the page.
    """

    results: Results
    data: str = ""
    images: Sequence[int] = ()
    seconds: Sequence[float] = ()
    num_planned: int = 0
    num_missing: int = 0
    seconds_left: float = 0.0
    pictures: Sequence[str] = ()


def judge(claim: Claim, trial: Trial) -> Verdict:
    """Verdict on a claim; `NOT_RUN` with the time it needs if an arm has no run with its values."""
    if not all(numbers(trial.results, arm, row) for arm in claim.arms for row in claim.rows[:1]):
        done = trial.num_planned - trial.num_missing
        left = format_duration(trial.seconds_left)
        return Verdict(NOT_RUN, "", f"{done} of {trial.num_planned} runs; the rest takes about {left}")
    verdict = judge_all(claim.checks, trial.results)
    if verdict.word == FAILS and claim.unrefuted:
        return Verdict(UNDECIDED, verdict.outcome, claim.unrefuted)
    return verdict


def write_page(claims: Sequence[Claim], trials: Mapping[str, Trial]) -> str:
    """The page in Markdown.

    Args:
        claims: the claims, in order.
        trials: their runs, by number.
    """
    verdicts = {claim.number: judge(claim, trials[claim.number]) for claim in claims}
    rows = [list_cells(claim, trials[claim.number], verdicts[claim.number]) for claim in claims]
    counted = Counter(verdict.word for verdict in verdicts.values())
    total = ", ".join(f"{count} {word}" for word, count in counted.items())
    sections = [write_section(claim, trials[claim.number]) for claim in claims]
    table = [f"| {' | '.join(cells)} |" for cells in rows]
    return HEAD + "\n".join([*table, "", f"Together: {total}.", "", *sections])


def list_cells(claim: Claim, trial: Trial, verdict: Verdict) -> list[str]:
    """The cells of a claim's row."""
    images = " to ".join(f"{n:,}" for n in dict.fromkeys((min(trial.images), max(trial.images))))
    budget = f"{images} images a run"
    if trial.seconds:
        seeds = sorted({len(values) for values in trial.results.values()})
        counts = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        kind = (
            "draws of test images" if all(arm.ships for arm in claim.arms) else "seed" + "s" * (counts != "1")
        )
        budget = f"{trial.data}; {counts} {kind}; {budget}"
        if spent := mean(trial.seconds):
            budget += f", {format_duration(spent)}"
    said = verdict.word + (f": {verdict.reason}" if verdict.word == NOT_RUN else "")
    if verdict.word == UNDECIDED:
        said += f", because {verdict.reason}"
    place = "-".join(name_section(claim).lower().replace(",", "").split())
    budget += f". Can decide: {claim.decides}"
    return [f"[{claim.number}](#{place})", claim.text, claim.made, budget, verdict.outcome, said]


def name_section(claim: Claim) -> str:
    """Heading of a claim's section."""
    return f"Claim {claim.number}"


def write_section(claim: Claim, trial: Trial) -> str:
    """The section of a claim: how it is read, its arms, their values, and pictures."""
    lines = [f"## {name_section(claim)}", "", claim.text, f"*Read as:* {claim.reading}", ""]
    lines += ["| arm | configuration | overrides |", "|---|---|---|"]
    for arm in claim.arms:
        overrides = " ".join(f"`{override}`" for override in arm.overrides)
        lines.append(f"| {arm.name} | `{arm.file}` | {overrides} |")
    if claim.measures:
        lines += ["", f"Measured by {', '.join(f'`{measure.command}`' for measure in claim.measures)}."]
    lines.append("")
    if any(trial.results.values()):
        names = [arm.name for arm in claim.arms]
        lines += [f"| {trial.data} | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
        lines.append(f"| seeds | {' | '.join(str(len(trial.results[name])) for name in names)} |")
        for row in claim.rows:
            cells = [describe(numbers(trial.results, arm, row)) for arm in claim.arms]
            lines.append(f"| {row} | {' | '.join(cells)} |")
        lines.append("")
    for picture in trial.pictures:
        lines += [f"![{picture.rpartition('/')[2].removesuffix('.png')}]({picture})", ""]
    return "\n".join(lines)
