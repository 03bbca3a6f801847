"""Score codes by a named protocol: every disentanglement metric, over one or more seeds of the metrics."""

import argparse
from pathlib import Path

import numpy as np

from disdiff.cli import run_script
from disdiff.report.summary import list_scores
from disdiff.results import score_codes
from ldm.errors import UserError
from ldm.files import save_json

EXAMPLES = """examples:
  python scripts/evaluate.py pretrained/shapes3d                        the published protocol, seed 0
  python scripts/evaluate.py runs/disdiff-shapes3d-small-s0 --protocol fast --seeds 0,1,2
  python scripts/evaluate.py --codes codes.npz --out scores.json        codes of another code base

codes.npz holds `codes` (n, N) or (n, N, D), float, and `factors` (n, F), int. Units of several numbers are
reduced to their first principal component. Numbers of different protocols do not compare."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", nargs="?", type=Path, help="run folder, for its codes.npz")
    parser.add_argument("--codes", metavar="FILE", type=Path, help="codes instead of a run folder's")
    parser.add_argument("--protocol", choices=("paper", "fast"), default="paper", help="(paper)")
    parser.add_argument("--seeds", default="0", help="of the metrics, such as 0,1,2 (0)")
    parser.add_argument("--out", type=Path, metavar="PATH", help="write all results there as JSON")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def load_codes(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """The arrays to score.

    Raises:
        UserError: neither or both sources are named, or the file is missing, damaged or without labels.
    """
    if (arguments.run is None) == (arguments.codes is None):
        raise UserError("name a run folder or --codes FILE, one of them")
    path = arguments.codes or arguments.run / "codes.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # numpy and zipfile raise many kinds
        raise UserError(f"cannot read codes from {path}: {error}") from error
    missing = {"codes", "factors"} - set(arrays)
    if missing:
        raise UserError(f"{path} has no array {min(missing)!r}; scores need codes and factors")
    return arrays


def parse_seeds(text: str) -> list[int]:
    """Seeds of a `--seeds`, such as `0,1,2`."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text} is no list of whole numbers; write for example 0,1,2") from None


def main(arguments: argparse.Namespace) -> None:
    arrays, results = load_codes(arguments), {}
    for seed in parse_seeds(arguments.seeds):
        results[seed], reason = score_codes(arrays, arguments.protocol, seed)
        if reason is not None:
            raise UserError(reason)
    print(f"protocol {arguments.protocol}, {len(arrays['codes'])} codes, metric seeds {arguments.seeds}")
    for rows in zip(*(list_scores(scores) for scores in results.values()), strict=True):
        values = [value for _, value, _ in rows]
        spread = f" +- {np.std(values):.4f}" if len(values) > 1 else ""
        print(f"  {rows[0][0]:<38} {np.mean(values):.4f}{spread}   {rows[0][2]}")
    if arguments.out:
        save_json(arguments.out, {"protocol": arguments.protocol, "seeds": results})


if __name__ == "__main__":
    run_script(main, make_parser())
