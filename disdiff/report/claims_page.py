"""Write the page of claims: one table of verdicts, then for each claim its numbers and commands."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

from disdiff.report.claims import Claim
from disdiff.report.verdicts import FAILS, FEWEST_SEEDS, HOLDS, UNDECIDED, Verdict, describe, numbers
from ldm.training.log import format_duration

NOT_RUN = "not run yet"
HEAD = f"""# What holds

This page tries claims of the papers, each by runs that the commands below repeat. `disdiff claims` makes it
from finished runs.

- Verdicts: *{HOLDS}*, *{FAILS}*, *{UNDECIDED}*.
  A difference counts if it is more than twice its standard error over seeds, with at least {FEWEST_SEEDS}
  seeds a side.
- ± is the standard deviation over seeds, dividing by n - 1. All runs of a claim have the same data and
  protocol.
- Data called procedural are drawn by this package; a verdict on them says nothing about the published files.
- Times of what is missing are those of runs on one core, without shared stages.
- What is small here: networks and budgets, of minutes of one core. *{HOLDS}* and *{FAILS}* are meant at this
  size.

```bash
disdiff claims                      # write this page from what is there; train nothing
disdiff claims --only 1,13 --train  # train what claims 1 and 13 lack, then write the page; again: continue
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
        images: training images of each finished run.
        seconds: training time of each finished run's own stage.
        num_planned: number of runs that the claim needs.
        num_missing: number of those that are not finished or not measured.
        seconds_left: expected time of the missing runs.
        commands: commands that make the runs of one seed, by arm.
    """

    results: Mapping[str, Sequence[Mapping[str, float]]]
    data: str = ""
    images: Sequence[int] = ()
    seconds: Sequence[float] = ()
    num_planned: int = 0
    num_missing: int = 0
    seconds_left: float = 0.0
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)


def judge(claim: Claim, trial: Trial) -> Verdict:
    """Verdict on a claim; `NOT_RUN` with the time it needs if an arm has no run with its values."""
    if claim.missing:
        return Verdict(NOT_RUN, "", f"there is no measurement yet of {claim.missing}")
    if not all(numbers(trial.results, arm, row) for arm in claim.arms for row in claim.rows[:1]):
        done = trial.num_planned - trial.num_missing
        left = format_duration(trial.seconds_left)
        return Verdict(NOT_RUN, "", f"{done} of {trial.num_planned} runs; the rest takes about {left} here")
    return claim.judge(trial.results)


def write_page(claims: Sequence[Claim], trials: Mapping[str, Trial]) -> str:
    """The page in Markdown.

    Args:
        claims: the claims, in order.
        trials: their runs, by number.
    """
    verdicts = {claim.number: judge(claim, trials[claim.number]) for claim in claims}
    rows = [
        "| " + " | ".join(list_cells(claim, trials[claim.number], verdicts[claim.number])) + " |"
        for claim in claims
    ]
    counted = Counter(verdict.word for verdict in verdicts.values())
    total = ", ".join(f"{count} {word}" for word, count in counted.items())
    sections = [write_section(claim, trials[claim.number]) for claim in claims]
    return HEAD + "\n".join([*rows, "", f"Together: {total}.", "", *sections])


def list_cells(claim: Claim, trial: Trial, verdict: Verdict) -> list[str]:
    """The cells of a claim's row."""
    budget = ""
    if trial.images:
        seeds = sorted({len(values) for values in trial.results.values()})
        counts = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        images = " to ".join(f"{n:,}" for n in dict.fromkeys((min(trial.images), max(trial.images))))
        budget = f"{trial.data}; {counts} seeds; {images} images, {format_duration(mean(trial.seconds))}"
    said = verdict.word + (f": {verdict.reason}" if verdict.word == NOT_RUN else "")
    if verdict.word == UNDECIDED:
        said += f", because {verdict.reason}"
    place = "-".join(name_section(claim).lower().replace(",", "").split())
    return [f"[{claim.number}](#{place})", claim.text, claim.made, budget, verdict.outcome, said]


def name_section(claim: Claim) -> str:
    """Heading of a claim's section."""
    return f"Claim {claim.number}"


def write_section(claim: Claim, trial: Trial) -> str:
    """The section of a claim: how it is read, the values of its arms, the commands."""
    lines = [f"## {name_section(claim)}", "", claim.text, *([claim.reading] if claim.reading else []), ""]
    if any(trial.results.values()):
        lines += [
            f"| {trial.data} | seeds | " + " | ".join(claim.rows) + " |",
            "|---" * (2 + len(claim.rows)) + "|",
        ]
        for arm in claim.arms:
            cells = [describe(numbers(trial.results, arm, row)) for row in claim.rows]
            lines.append(f"| {arm.name} | {len(trial.results[arm.name])} | " + " | ".join(cells) + " |")
        lines.append("")
    if trial.commands:
        lines += [
            "```bash",
            *(command for commands in trial.commands.values() for command in commands),
            "```",
            "",
        ]
    return "\n".join(lines)
