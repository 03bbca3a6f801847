"""Named protocols: which sample sizes and which estimator stand behind a number.

`paper` is the protocol of the published tables; `fast` is for smoke runs. Numbers of different protocols
never stand in the same table, and a protocol's sizes are never shrunk to fit the data. Every metric starts
from a fresh `RandomState(seed)`, as in the released code, so that a metric's number does not depend on
which others are computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from disdiff.metrics._inputs import Result, check_codes, check_factors, unit_scalars
from disdiff.metrics.beta_vae import compute_beta_vae
from disdiff.metrics.dci import compute_dci
from disdiff.metrics.factor_vae import compute_factor_vae
from disdiff.metrics.infomec import compute_infomec
from disdiff.metrics.irs import compute_irs
from disdiff.metrics.latent_quality import compute_latent_quality
from disdiff.metrics.med import compute_med
from disdiff.metrics.mig import compute_mig
from disdiff.metrics.modularity import compute_explicitness, compute_modularity
from disdiff.metrics.sap import compute_sap
from disdiff.metrics.tad import compute_tad, compute_tad_eleven_thresholds
from disdiff.metrics.unsupervised import compute_unsupervised
from ldm.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """Sizes of a protocol. `num_train` and `num_test` rows are drawn without replacement, votes with."""

    name: str
    num_train: int
    num_test: int
    num_votes: int
    num_eval_votes: int
    dci_estimator: str
    batch_size: int = 64
    prune_std: float = 0.05
    num_bins: int = 20

    @property
    def num_rows(self) -> int:
        """Rows the protocol needs."""
        return self.num_train + self.num_test


PROTOCOLS = {
    "paper": Protocol("paper", 10_000, 5_000, 10_000, 5_000, dci_estimator="gradient_boosting"),
    "fast": Protocol("fast", 1_500, 500, 2_000, 1_000, dci_estimator="gradient_boosting_20_rounds"),
}


def get_protocol(name: str) -> Protocol:
    """Look up a protocol.

    Raises:
        UserError: no such protocol.
    """
    if name not in PROTOCOLS:
        raise UserError(f"protocol {name!r} is unknown: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def compute_scores(
    codes: np.ndarray,
    factors: np.ndarray,
    protocol: str,
    seed: int,
    *,
    units: str = "pca1",
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Result]:
    """Compute every factor-based metric of a protocol.

    Args:
        codes: units, shape (n, N) or (n, N, D); vectors are reduced by `unit_scalars` over all n rows.
        factors: integer labels, shape (n, F).
        protocol: a name in `PROTOCOLS`.
        seed: of each metric.
        units: how vector units are reduced, "pca1" (published) or "all".
        progress: called with the name of the metric at work and the share of it that is done.

    Returns:
        One JSON-ready dictionary per metric name.

    Raises:
        UserError: bad arrays, an unknown protocol, or fewer rows than it needs.
    """
    chosen = get_protocol(protocol)
    codes = check_codes(codes)
    factors = check_factors(factors, len(codes))
    if len(codes) < chosen.num_rows:
        raise UserError(
            f"codes have {len(codes)} rows but protocol {protocol!r} needs {chosen.num_rows}:"
            " encode more images or choose the protocol 'fast'"
        )
    codes = unit_scalars(codes, units)
    report = progress or (lambda name, share: None)
    scores = {}
    for name, metric in build_metrics(chosen, lambda share: report("dci", share)).items():
        report(name, 0.0)
        scores[name] = metric(codes, factors, seed=seed)
        report(name, 1.0)
    return scores


def compute_attribute_scores(
    codes: np.ndarray, attributes: np.ndarray, protocol: str, seed: int = 0
) -> dict[str, Result]:
    """Compute the metrics of binary attributes (CelebA): TAD in its forms and the linear probe.

    Args:
        codes: units, shape (n, N) or (n, N, D).
        attributes: labels in {0, 1}, shape (n, A).
        protocol: a name in `PROTOCOLS`; its training rows, the first ones, are used ("paper": 10,000).
        seed: of the folds; the published protocol uses 0.

    Returns:
        `tad` and `latent_quality` on every dimension, `tad_eleven_thresholds` on all rows, and for vectors
        `tad_pca1`, whose width is N.

    Raises:
        UserError: bad arrays, an unknown protocol, or fewer rows than it needs.
    """
    rows = {"seed": seed, "num_rows": get_protocol(protocol).num_train}
    scores = {
        "tad": compute_tad(codes, attributes, **rows),
        "tad_eleven_thresholds": compute_tad_eleven_thresholds(codes, attributes),
        "latent_quality": compute_latent_quality(codes, attributes, **rows),
    }
    if np.ndim(codes) == 3:
        scores["tad_pca1"] = compute_tad(codes, attributes, mapping="pca1", **rows)
    return scores


def build_metrics(
    protocol: Protocol, dci_progress: Callable[[float], None] | None = None
) -> dict[str, Callable[..., Result]]:
    """Every factor-based metric, a protocol's sizes bound: (codes (n, N), factors (n, F), seed) to scores.

    Args:
        protocol: whose sizes and estimators.
        dci_progress: called with the share of DCI, the slowest, that is done.
    """
    train, test = protocol.num_train, protocol.num_test
    votes = {
        "num_train": protocol.num_votes,
        "num_eval": protocol.num_eval_votes,
        "batch_size": protocol.batch_size,
    }
    bins = {"num_train": train, "num_bins": protocol.num_bins}
    split = {"num_train": train, "num_test": test}
    return {
        "factor_vae": partial(compute_factor_vae, num_variance=train, prune_std=protocol.prune_std, **votes),
        "beta_vae": partial(compute_beta_vae, **votes),
        "mig": partial(compute_mig, **bins),
        "med": partial(compute_med, **bins),
        "modularity": partial(compute_modularity, **bins),
        "irs": partial(compute_irs, **bins),
        "unsupervised": lambda codes, factors, *, seed: compute_unsupervised(codes, seed=seed, **bins),
        "sap": partial(compute_sap, **split),
        "explicitness": partial(compute_explicitness, **split),
        "infomec": partial(compute_infomec, num_train=train),
        "dci": partial(compute_dci, estimator=protocol.dci_estimator, progress=dci_progress, **split),
    }
