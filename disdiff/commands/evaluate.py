"""Compute the disentanglement metrics of a protocol on codes, over metric seeds and runs."""

import argparse
from pathlib import Path

import numpy as np

from disdiff.commands.common import parse_seeds
from disdiff.commands.terminal import begin_parser
from disdiff.config.places import find, results_folder
from disdiff.evaluation.codes_file import read_labelled_codes
from disdiff.report.comparison import check_same_data, load_metrics
from disdiff.report.sentences import describe_controls
from disdiff.report.summary import list_controls, list_notes, list_scores
from disdiff.runs.controls import score_controls
from disdiff.runs.results import name_scores, progress_bar, score_codes
from disdiff.runs.run_folder import load_run
from ldm.errors import UserError
from ldm.files import expand_home, save_json

EXAMPLES = """examples:
  disdiff evaluate pretrained/shapes3d                        the published protocol, seed 0
  disdiff evaluate runs/disdiff-shapes3d-small-s0 --protocol fast --seeds 0,1,2
  disdiff evaluate runs/disdiff-shapes3d-small-s*             mean over runs of several seeds
  disdiff evaluate --codes codes.npz --out scores.json        codes of another code base
  disdiff evaluate RUN --controls                             codes without training, beside the run's

codes.npz holds `codes` (n, N) or (n, N, D), float, and `factors` (n, F), int. Units of several numbers are
reduced to their first principal component, as published; with --units all, every number is a unit. Scores of
different protocols, or of different --units, are not comparable.

--controls scores PCA, an untrained encoder and the start of the encoder beside the run, and keeps the scores
in its metrics.json for `disdiff report` and `disdiff compare`. By the paper protocol each takes one to two
minutes on one core."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("runs", metavar="RUN", nargs="*", type=find, help="run folder with codes.npz")
    parser.add_argument("--codes", metavar="FILE", nargs="+", type=find, help="code files instead of runs")
    parser.add_argument("--protocol", choices=("paper", "fast"), default="paper", help="(paper)")
    parser.add_argument(
        "--units",
        choices=("pca1", "all"),
        default="pca1",
        help="how units of several numbers are reduced (default: pca1)",
    )
    parser.add_argument("--seeds", default="0", help="seeds of the metrics, such as 0,1,2 (default: 0)")
    parser.add_argument("--controls", action="store_true", help="score controls of the runs instead")
    parser.add_argument("--out", type=expand_home, metavar="PATH", help="write all results as JSON")
    return parser


def choose_files(arguments: argparse.Namespace) -> list[Path]:
    """The `codes.npz` files to score.

    Raises:
        UserError: runs and --codes are both given or both missing, a file is given twice, or the runs have
            different data.
    """
    if bool(arguments.runs) == bool(arguments.codes):
        raise UserError("give either run folders or --codes FILE")
    named = arguments.runs or arguments.codes
    if len({path.resolve() for path in named}) < len(named):
        raise UserError("a run is given twice; give each run once")
    if len(arguments.runs) > 1:
        check_same_data([(run, load_metrics(run)) for run in arguments.runs])
    return arguments.codes or [run / "codes.npz" for run in arguments.runs]


def describe(values: np.ndarray) -> str:
    """Mean of values (runs, seeds), with standard deviations over runs and seeds if there are several."""
    num_runs, num_seeds = values.shape
    spread = f" +- {values.mean(axis=1).std():.4f} over {num_runs} runs" if num_runs > 1 else ""
    if num_seeds > 1:
        spread += f" +- {values.std(axis=1).mean():.4f} over {num_seeds} metric seeds"
    return f"{values.mean():.4f}{spread}"


def list_means(results: dict[str, dict[int, dict]]) -> list[str]:
    """One line per score that is defined for every run and seed; `results` is keyed by run, then seed."""
    tables = [
        [{name: rest for name, *rest in list_scores(scores)} for scores in by_seed.values()]
        for by_seed in results.values()
    ]
    shared = [name for name in tables[0][0] if all(name in table for by in tables for table in by)]
    values = {name: np.array([[table[name][0] for table in by] for by in tables]) for name in shared}
    return [f"  {name:<38} {describe(values[name])}   {tables[0][0][name][1]}" for name in shared]


def list_all_notes(results: dict[str, dict[int, dict]]) -> list[str]:
    """Notes on the scores, each once, with the name of the run if there are several."""
    notes = [
        f"note: {f'{run}: ' if len(results) > 1 else ''}{note}"
        for run, by_seed in results.items()
        for scores in by_seed.values()
        for note in list_notes(scores)
    ]
    return list(dict.fromkeys(notes))


def evaluate_controls(arguments: argparse.Namespace) -> None:
    """Score the controls of every run, print them, and add them to the run's `metrics.json`.

    Raises:
        UserError: no run is given, or a run has no factor labels.
    """
    if not arguments.runs:
        raise UserError("--controls needs run folders, which have the encoder; --codes FILE has codes only")
    results = {}
    for folder in arguments.runs:
        metrics, run = load_metrics(folder), load_run(folder)
        codes = run.require_codes("factors")
        if "factors" not in codes:
            raise UserError(f"{folder} has no factor labels, which controls are scored by; leave it out")
        with progress_bar("controls") as progress:
            found = score_controls(run.config, run.model, run.source, codes, arguments.protocol, progress)
        results[str(folder)] = found
        out = results_folder(folder) / "metrics.json"
        save_json(out, {**metrics, "controls": {**(metrics.get("controls") or {}), **found}})
        for protocol, scored in found.items():
            print(f"  {'codes':<60} FactorVAE       DCI")
            for name, _, *values in list_controls(scored):
                print(f"  {name:<60}", *(f"{v:>9}" if isinstance(v, str) else f"{v:9.3f}" for v in values))
            print(describe_controls(protocol, scored), f"Kept in {out}.", sep="\n")
    if arguments.out:
        save_json(arguments.out, {"protocol": arguments.protocol, "runs": results})


def main(arguments: argparse.Namespace) -> None:
    """Compute scores over runs and metric seeds, and print the means."""
    if arguments.controls:
        return evaluate_controls(arguments)
    paths, seeds, results = choose_files(arguments), parse_seeds(arguments.seeds), {}
    for path in paths:
        arrays, results[str(path)] = read_labelled_codes(path, ["factors"]), {}
        for seed in seeds:
            scored = score_codes(arrays, arguments.protocol, seed, arguments.units)
            results[str(path)][seed], reason = scored
            if reason is not None:
                raise UserError(f"{path}: {reason}")
    units = (
        ", every number of a unit as a unit (not the published reduction)" if arguments.units == "all" else ""
    )
    protocol, num_codes = name_scores(arguments.protocol, arrays), len(arrays["codes"])
    print(f"protocol {protocol}, {num_codes} codes, metric seeds {arguments.seeds}{units}")
    print(*list_means(results), *list_all_notes(results), sep="\n")
    if arguments.out:
        content = {"protocol": protocol, "units": arguments.units, "runs": results}
        save_json(arguments.out, content)
