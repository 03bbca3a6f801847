"""Compute TAD (total AUROC difference) of codes, and the AUROC of a linear probe.

TAD measures how many attributes single dimensions of the code detect. With binary `attributes` (CelebA) the
output is TAD from exact AUROCs, the number of captured attributes, TAD from eleven thresholds, and the AUROC
of the probe. Without attributes, each value of each factor serves as one: `tad_binarised`, which is not
comparable with TAD on CelebA.
"""

import argparse
from typing import Any

import numpy as np

from disdiff.commands.common import parse_seeds
from disdiff.commands.terminal import begin_parser
from disdiff.config.places import find
from disdiff.evaluation.codes_file import NAME, read_labelled_codes
from disdiff.metrics._undefined import UNDEFINED
from disdiff.metrics.protocols import compute_attribute_scores, compute_binarised_scores, get_protocol
from disdiff.metrics.tad import NUM_FOLDS
from disdiff.report.summary import list_notes
from ldm.errors import UserError
from ldm.files import expand_home, save_json

EXAMPLES = """examples:
  disdiff tad pretrained/shapes3d                      the first 10,000 codes, folds of seed 0
  disdiff tad runs/disdiff-celeba-small-s0 --seeds 0,1,2 --out tad.json
  disdiff tad --codes codes.npz                        codes of another code base
  disdiff tad --codes codes.npz --num 4000             fewer codes than published

codes.npz holds `codes` (n, N) or (n, N, D), float, and `attributes` (n, A) in {0, 1} or `factors` (n, F),
int; their names, if any, in `attribute_names` or `factor_names`."""
HEADLINES = ("score", "num_captured", "auroc", "accuracy")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("run", metavar="RUN", nargs="?", type=find, help="run folder with codes.npz")
    parser.add_argument("--codes", metavar="FILE", type=find, help="code file instead of a run folder")
    parser.add_argument(
        "--protocol", choices=("paper", "fast"), default="paper", help="number of codes (default: paper)"
    )
    parser.add_argument(
        "--num", type=int, metavar="N", help="use the first N codes, not the protocol's number"
    )
    parser.add_argument("--seeds", default="0", help="seeds of the folds, such as 0,1,2 (default: 0)")
    parser.add_argument("--out", type=expand_home, metavar="PATH", help="write all results as JSON")
    return parser


def score(arrays: dict[str, np.ndarray], protocol: str, seed: int, num_rows: int) -> dict[str, dict]:
    """The scores of one seed, by name."""
    compute: Any = compute_binarised_scores
    labels = arrays.get("factors")
    if "attributes" in arrays:
        compute, labels = compute_attribute_scores, arrays["attributes"]
    return compute(arrays["codes"], labels, protocol, seed, num_rows)


def choose_num(wanted: int | None, protocol: str, num_codes: int) -> int:
    """Number of codes to score; UserError if there are fewer codes, or too few for the folds."""
    num = get_protocol(protocol).num_train if wanted is None else wanted
    if num < NUM_FOLDS:
        raise UserError(f"--num {num} is too few for {NUM_FOLDS} folds; give at least {NUM_FOLDS}")
    if num > num_codes:
        raise UserError(
            f"there are {num_codes} codes but {num} are needed; encode more images, or give --num"
            f" {num_codes} or less, which differs from the published protocol"
        )
    return num


def name_captured(arrays: dict[str, np.ndarray], result: dict) -> list[str]:
    """Attributes that are captured in most folds, by name or number."""
    names: Any = arrays.get("attribute_names", range(len(result["captured"])))
    if "attributes" in result:  # binarised: pairs of factor and value
        factors = arrays.get("factor_names", range(arrays["factors"].shape[1]))
        names = [f"{factors[factor]}={value}" for factor, value in result["attributes"]]
    return [str(name) for name, share in zip(names, result["captured"], strict=True) if share > 0.5]


def summarise(results: dict[int, dict[str, dict]]) -> dict[str, dict[str, float]]:
    """Mean of every headline score over the seeds, and its standard deviation as `<name>_std`."""
    summary = {name: {} for name in next(iter(results.values())) if name != UNDEFINED}
    for name, key in ((name, key) for name in summary for key in HEADLINES):
        values = [scores[name][key] for scores in results.values() if key in scores.get(name, {})]
        if values:
            summary[name] |= {key: float(np.mean(values)), f"{key}_std": float(np.std(values))}
    return summary


def main(arguments: argparse.Namespace) -> None:
    """Compute the scores over seeds and print a summary."""
    if (arguments.run is None) == (arguments.codes is None):
        raise UserError("give either a run folder or --codes FILE")
    path, protocol = arguments.codes or arguments.run / NAME, arguments.protocol
    arrays, seeds = read_labelled_codes(path, ["attributes", "factors"]), parse_seeds(arguments.seeds)
    num = choose_num(arguments.num, protocol, len(np.atleast_1d(arrays["codes"])))
    results = {seed: score(arrays, protocol, seed, num) for seed in seeds}
    summary, first = summarise(results), next(iter(results.values()))
    named = f"protocol {protocol}" + (f", but {num} of its codes" if arguments.num is not None else "")
    print(f"{path}: {len(arrays['codes'])} codes, {named}, seeds {arguments.seeds}")
    for name, values in summary.items():
        result = first[name]
        print(f"{name}: {result['estimator']}, width {result['width']} ({result['mapping']})")
        for key in (key for key in HEADLINES if key in values):
            spread = f" +- {values[f'{key}_std']:.4f} over seeds" if len(results) > 1 else ""
            print(f"  {key:<14}{values[key]:.4f}{spread}")
        if "captured" in result:
            print("  captured      " + (", ".join(name_captured(arrays, result)) or "none"))
    for note in dict.fromkeys(note for scores in results.values() for note in list_notes(scores)):
        print(f"note: {note}")
    if arguments.out:
        content = {"codes": str(path), "protocol": protocol, "num_rows": num}
        save_json(arguments.out, {**content, "summary": summary, "seeds": results})
