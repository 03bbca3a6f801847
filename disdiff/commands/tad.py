"""TAD of codes: how many attributes single dimensions detect, and what a linear probe reads from them all.

With `attributes` (CelebA's, 0 or 1): TAD on exact AUROCs with the number of captured attributes, the form
with eleven thresholds, and the probe's AUROC. Without, each value of each factor is an attribute:
`tad_binarised`, whose numbers never stand beside those of CelebA.
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
  disdiff tad --codes codes.npz --num 4000             of fewer images: not as published

codes.npz holds `codes` (n, N) or (n, N, D), float, and `attributes` (n, A) in {0, 1} or `factors` (n, F),
int; their names, if any, in `attribute_names` or `factor_names`."""
HEADLINES = ("score", "num_captured", "auroc", "accuracy")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument("run", metavar="RUN", nargs="?", type=find, help="run folder, for its codes.npz")
    parser.add_argument("--codes", metavar="FILE", type=find, help="codes instead of a run folder's")
    parser.add_argument(
        "--protocol", choices=("paper", "fast"), default="paper", help="how many rows (paper)"
    )
    parser.add_argument("--num", type=int, metavar="N", help="the first N codes instead of the protocol's")
    parser.add_argument("--seeds", default="0", help="of the folds, such as 0,1,2; published: 0 (0)")
    parser.add_argument("--out", type=expand_home, metavar="PATH", help="write all results there as JSON")
    return parser


def score(arrays: dict[str, np.ndarray], protocol: str, seed: int, num_rows: int) -> dict[str, dict]:
    """Scores of one seed, by name."""
    compute: Any = compute_binarised_scores
    labels = arrays.get("factors")
    if "attributes" in arrays:
        compute, labels = compute_attribute_scores, arrays["attributes"]
    return compute(arrays["codes"], labels, protocol, seed, num_rows)


def choose_num(wanted: int | None, protocol: str, num_codes: int) -> int:
    """How many codes to score.

    Raises:
        UserError: there are not so many, or too few for folds.
    """
    num = get_protocol(protocol).num_train if wanted is None else wanted
    if num < NUM_FOLDS:
        raise UserError(f"--num {num} is too few: {NUM_FOLDS} folds need at least {NUM_FOLDS}")
    if num > num_codes:
        raise UserError(
            f"codes have {num_codes} rows but {num} are needed: encode more images, or give --num of"
            f" {num_codes} or less, which is no published number"
        )
    return num


def name_captured(arrays: dict[str, np.ndarray], result: dict) -> list[str]:
    """Attributes that most folds capture, by name or number."""
    names: Any = arrays.get("attribute_names", range(len(result["captured"])))
    if "attributes" in result:  # binarised: pairs of factor and value
        factors = arrays.get("factor_names", range(arrays["factors"].shape[1]))
        names = [f"{factors[factor]}={value}" for factor, value in result["attributes"]]
    return [str(name) for name, share in zip(names, result["captured"], strict=True) if share > 0.5]


def summarise(results: dict[int, dict[str, dict]]) -> dict[str, dict[str, float]]:
    """Mean of every headline over the seeds, and `_std` between them."""
    summary = {name: {} for name in next(iter(results.values())) if name != UNDEFINED}
    for name, key in ((name, key) for name in summary for key in HEADLINES):
        values = [scores[name][key] for scores in results.values() if key in scores.get(name, {})]
        if values:
            summary[name] |= {key: float(np.mean(values)), f"{key}_std": float(np.std(values))}
    return summary


def main(arguments: argparse.Namespace) -> None:
    """Measure codes over seeds and print the summary."""
    if (arguments.run is None) == (arguments.codes is None):
        raise UserError("name a run folder or --codes FILE, one of them")
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
