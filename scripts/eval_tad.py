"""TAD of codes: how many attributes single dimensions detect, and what a linear probe reads from them all.

With `attributes` (CelebA's, 0 or 1): TAD on exact AUROCs with the number of captured attributes, the form
with eleven thresholds, and the probe's AUROC. Without, each value of each factor is an attribute:
`tad_binarised`, whose numbers never stand beside those of CelebA.
"""

import argparse

import numpy as np

from disdiff.cli import begin_parser, load_codes_file, parse_seeds, run_script
from disdiff.metrics.latent_quality import compute_latent_quality
from disdiff.metrics.protocols import compute_attribute_scores, get_protocol
from disdiff.metrics.tad import compute_tad_binarised
from ldm.errors import UserError
from ldm.files import expand_home, save_json

EXAMPLES = """examples:
  python scripts/eval_tad.py pretrained/shapes3d                      the first 10,000 codes, folds of seed 0
  python scripts/eval_tad.py runs/disdiff-celeba-small-s0 --seeds 0,1,2 --out tad.json
  python scripts/eval_tad.py --codes codes.npz                        codes of another code base

codes.npz holds `codes` (n, N) or (n, N, D), float, and `attributes` (n, A) in {0, 1} or `factors` (n, F),
int; their names, if any, in `attribute_names` or `factor_names`."""
HEADLINES = ("score", "num_captured", "auroc", "accuracy")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    parser.add_argument(
        "run", metavar="RUN", nargs="?", type=expand_home, help="run folder, for its codes.npz"
    )
    parser.add_argument("--codes", metavar="FILE", type=expand_home, help="codes instead of a run folder's")
    parser.add_argument(
        "--protocol", choices=("paper", "fast"), default="paper", help="how many rows (paper)"
    )
    parser.add_argument("--seeds", default="0", help="of the folds, such as 0,1,2; published: 0 (0)")
    parser.add_argument("--out", type=expand_home, metavar="PATH", help="write all results there as JSON")
    return parser


def score(arrays: dict[str, np.ndarray], protocol: str, seed: int) -> dict[str, dict]:
    """Scores of one seed, by name."""
    codes = arrays["codes"]
    if "attributes" in arrays:
        return compute_attribute_scores(codes, arrays["attributes"], protocol, seed)
    factors, options = arrays["factors"], {"seed": seed, "num_rows": get_protocol(protocol).num_train}
    scores = {"tad_binarised": compute_tad_binarised(codes, factors, **options)}
    if codes.ndim == 3 and codes.shape[2] > 1:
        scores["tad_binarised_pca1"] = compute_tad_binarised(codes, factors, mapping="pca1", **options)
    return {**scores, "latent_quality": compute_latent_quality(codes, factors, **options)}


def name_captured(arrays: dict[str, np.ndarray], result: dict) -> list[str]:
    """Attributes that most folds capture, by name or number."""
    names = arrays.get("attribute_names", range(len(result["captured"])))
    if "attributes" in result:  # binarised: pairs of factor and value
        factors = arrays.get("factor_names", range(arrays["factors"].shape[1]))
        names = [f"{factors[factor]}={value}" for factor, value in result["attributes"]]
    return [str(name) for name, share in zip(names, result["captured"], strict=True) if share > 0.5]


def summarise(results: dict[int, dict[str, dict]]) -> dict[str, dict[str, float]]:
    """Mean of every headline over the seeds, and `_std` between them."""
    summary = {name: {} for name in next(iter(results.values()))}
    for name, key in ((name, key) for name in summary for key in HEADLINES):
        values = [scores[name][key] for scores in results.values() if key in scores[name]]
        if values:
            summary[name] |= {key: float(np.mean(values)), f"{key}_std": float(np.std(values))}
    return summary


def main(arguments: argparse.Namespace) -> None:
    """Measure codes over seeds and print the summary."""
    if (arguments.run is None) == (arguments.codes is None):
        raise UserError("name a run folder or --codes FILE, one of them")
    path = arguments.codes or arguments.run / "codes.npz"
    arrays = load_codes_file(path, {"attributes", "factors"})
    results = {seed: score(arrays, arguments.protocol, seed) for seed in parse_seeds(arguments.seeds)}
    summary, first = summarise(results), next(iter(results.values()))
    print(f"{path}: {len(arrays['codes'])} codes, protocol {arguments.protocol}, seeds {arguments.seeds}")
    for name, values in summary.items():
        result = first[name]
        print(f"{name}: {result['estimator']}, width {result['width']} ({result['mapping']})")
        for key in (key for key in HEADLINES if key in values):
            spread = f" +- {values[f'{key}_std']:.4f} over seeds" if len(results) > 1 else ""
            print(f"  {key:<14}{values[key]:.4f}{spread}")
        if "captured" in result:
            print("  captured      " + (", ".join(name_captured(arrays, result)) or "none"))
    if arguments.out:
        content = {"codes": str(path), "protocol": arguments.protocol, "summary": summary, "seeds": results}
        save_json(arguments.out, content)


if __name__ == "__main__":
    run_script(main, make_parser())
