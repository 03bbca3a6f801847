"""Time every metric of a protocol, on codes that mix the factors of a data set.

usage:
  python benchmarks/metrics.py                                  all cases, both protocols; takes minutes
  python benchmarks/metrics.py --protocols fast --repeats 3     median of three repeats
  python benchmarks/metrics.py --data cars3d --units 10 --metrics dci
  python benchmarks/metrics.py --codes runs/disdiff-shapes3d-small-s0/codes.npz

The codes are random mixtures of the standardised factors with noise, so that no metric is trivial. The
factors are drawn from the factor sizes of the data set; images are not needed. Time limits on two cores: 4
minutes for `paper` with at most 10 units, 20 seconds for `fast`.
"""

import argparse
import importlib.metadata
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import joblib
import numpy as np

from disdiff.commands.terminal import begin_parser, run_script
from disdiff.evaluation.codes_file import read_labelled_codes
from disdiff.metrics._inputs import check_factors, unit_scalars
from disdiff.metrics.protocols import PROTOCOLS, build_metrics, get_protocol
from ldm.errors import look_up
from ldm.files import save_json

SIZES = {"shapes3d": (10, 10, 10, 8, 4, 15), "cars3d": (183, 24, 4)}
CASES = (("shapes3d", 10), ("shapes3d", 16), ("cars3d", 10))
LIMITS = {"paper": 240.0, "fast": 20.0}  # seconds
LIMIT_UNITS = {"paper": 10, "fast": None}  # largest number of units for which the limit applies
NUM_ROWS = 15_000
PACKAGES = ("numpy", "scipy", "scikit-learn")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__)
    parser.add_argument("--codes", metavar="FILE", type=Path, help="your own codes.npz")
    parser.add_argument("--data", choices=SIZES, help="only the cases of this data set")
    parser.add_argument("--units", type=int, help="only this number of units")
    parser.add_argument("--protocols", nargs="+", choices=tuple(PROTOCOLS), default=["fast", "paper"])
    parser.add_argument("--metrics", nargs="+", metavar="NAME", help="only these, such as dci mig")
    parser.add_argument("--repeats", type=int, default=1, help="repeats; the median is used (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of codes and metrics (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/metrics.json"), help="JSON")
    return parser


def draw_codes(data: str, num_units: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated codes (n, N) and factors (n, F) with the factor sizes of a data set."""
    random = np.random.default_rng(seed)
    factors = random.integers(0, SIZES[data], (NUM_ROWS, len(SIZES[data])))
    mixed = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    codes = mixed @ random.normal(size=(mixed.shape[1], num_units))
    return codes + 0.5 * random.normal(size=codes.shape), factors


def list_cases(arguments: argparse.Namespace) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Codes and factors by name."""
    if arguments.codes:
        arrays = read_labelled_codes(arguments.codes, ["factors"])
        codes = unit_scalars(arrays["codes"])
        return {f"{arguments.codes.parent.name} N={codes.shape[1]}": (codes, arrays["factors"])}
    chosen = [case for case in CASES if arguments.data in (None, case[0])]
    units = arguments.units
    if units is not None:
        chosen = [(data, units) for data in dict.fromkeys(data for data, _ in chosen)]
    return {f"{data} N={units}": draw_codes(data, units, arguments.seed) for data, units in chosen}


def measure(codes: np.ndarray, factors: np.ndarray, protocol: str, arguments: argparse.Namespace) -> dict:
    """Median seconds of each metric, the total, and whether the total is within the limit."""
    metrics, factors = build_metrics(get_protocol(protocol)), check_factors(factors, len(codes))
    seconds = {}
    for name in arguments.metrics or metrics:
        metric, taken = look_up("--metrics", name, metrics), []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            metric(codes, factors, seed=arguments.seed)
            taken.append(time.perf_counter() - start)
        seconds[name] = float(np.median(taken))
        print(f"  {name:<14}{seconds[name]:8.2f} s", flush=True)
    total, most = sum(seconds.values()), LIMIT_UNITS[protocol]
    meant = arguments.metrics is None and (most is None or codes.shape[1] <= most)
    limit = LIMITS[protocol] if meant else None
    print(f"  {'all':<14}{total:8.2f} s" + (f" (limit {limit:.0f} s)" if limit else ""), flush=True)
    return {
        "seconds": seconds,
        "total": total,
        "limit": limit,
        "within": None if limit is None else total <= limit,
    }


def main(arguments: argparse.Namespace) -> None:
    """Time every case, print it, and write the JSON."""
    results: dict[str, dict] = {}
    for name, (codes, factors) in list_cases(arguments).items():
        for protocol in arguments.protocols:
            print(f"{name}, protocol {protocol}", flush=True)
            results.setdefault(name, {})[protocol] = measure(codes, factors, protocol, arguments)
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cores": joblib.cpu_count(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "load_at_end": os.getloadavg()[0],
    }
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "codes": str(arguments.codes) if arguments.codes else "random mixtures of drawn factors",
        "rows": NUM_ROWS if not arguments.codes else None,
        "repeats": arguments.repeats,
        "seed": arguments.seed,
        "results": results,
    }
    save_json(arguments.out, content)
    print(arguments.out)


if __name__ == "__main__":
    run_script(main, make_parser())
