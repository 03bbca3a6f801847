"""Evaluation protocols: sample sizes and estimators of all metrics.

`paper` is the protocol of the published tables; `fast` is for smoke runs. Numbers of different protocols must
not be in the same table, and a protocol's sizes are never reduced to fit the data. Every metric starts with a
new `RandomState(seed)`, as in the released code, so a metric's score does not depend on which other metrics
are computed.

Data sets with fewer images than a protocol's rows have a protocol of their own, whose name says so: its rows
are drawn with replacement, training and test rows from different images. InfoMEC takes every image once.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from disdiff.metrics._inputs import (
    Result,
    check_binary,
    check_codes,
    check_enough,
    number_values,
    unit_scalars,
)
from disdiff.metrics._sampling import repeat_rows
from disdiff.metrics._undefined import collect_scores, drop_constant, restore_columns
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
from disdiff.metrics.tad import compute_tad, compute_tad_binarised, compute_tad_eleven_thresholds
from disdiff.metrics.unsupervised import compute_unsupervised
from ldm.errors import UserError, look_up


@dataclass(frozen=True)
class Protocol:
    """Sizes of a protocol; `num_train` and `num_test` rows are drawn without replacement, votes with it."""

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
        """Number of rows that the protocol needs."""
        return self.num_train + self.num_test


PROTOCOLS = {
    "paper": Protocol("paper", 10_000, 5_000, 10_000, 5_000, dci_estimator="gradient_boosting"),
    "fast": Protocol("fast", 1_500, 500, 2_000, 1_000, dci_estimator="gradient_boosting_20_rounds"),
}


LEAST_IMAGES = 30  # from which rows are drawn with replacement


def get_protocol(name: str) -> Protocol:
    """The protocol of a name; UserError if it is unknown."""
    return look_up("protocol", name, PROTOCOLS)


def compute_scores(
    codes: np.ndarray,
    factors: np.ndarray,
    protocol: str,
    seed: int,
    *,
    units: str = "pca1",
    only: Collection[str] | None = None,
    replacement: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, Result]:
    """Compute the factor-based metrics of a protocol.

    Args:
        codes: units, shape (n, N) or (n, N, D); vectors are reduced by `unit_scalars` over all n rows.
        factors: integer labels, shape (n, F).
        protocol: a name in `PROTOCOLS`.
        seed: seed of each metric.
        units: reduction of vector units, "pca1" (published) or "all".
        only: names of the metrics to compute; None for all.
        replacement: whether rows are drawn with replacement if there are fewer than the protocol needs.
        progress: called with the name of the current metric and the share of it that is done.

    Returns:
        One JSON-ready dictionary per metric name, `undefined` if a metric is left out, and `sampling` if rows
        were drawn with replacement.

    Raises:
        UserError: bad arrays, an unknown protocol, or fewer rows than it needs.
    """
    chosen = get_protocol(protocol)
    codes = check_codes(codes)
    factors, kept = drop_constant(number_values(factors, len(codes)), "factors")
    few = len(codes) < chosen.num_rows
    if few and not replacement:
        raise UserError(
            f"codes have {len(codes)} rows but protocol {protocol!r} needs {chosen.num_rows}:"
            " encode more images or choose the protocol 'fast'"
        )
    codes = unit_scalars(codes, units)
    report = progress or (lambda name, share: None)
    metrics = build_metrics(chosen, lambda share: report("dci", share))
    if few:
        check_enough(len(codes), LEAST_IMAGES)
        rows, num_images = repeat_rows(len(codes), seed, chosen.num_train, chosen.num_test), len(codes)
        # among repeated rows the nearest neighbours of a row would be its copies
        once = partial(compute_infomec, codes, factors, num_train=num_images)
        metrics["infomec"] = lambda _codes, _factors, seed: once(seed=seed)
        codes, factors = codes[rows], factors[rows]
    wanted = {name: metric for name, metric in metrics.items() if only is None or name in only}
    scores = collect_scores(
        {name: partial(metric, codes, factors, seed=seed) for name, metric in wanted.items()}, report
    )
    if few:
        scores["sampling"] = {"num_images": num_images, "rows": describe_sampling(num_images)}
    return restore_columns(scores, kept, "factor")


def name_protocol(protocol: str, num_images: int) -> str:
    """Name of a protocol on a number of encoded images; it says if rows are drawn with replacement."""
    few = num_images < get_protocol(protocol).num_rows
    return f"{protocol}, {describe_sampling(num_images)}" if few else protocol


def describe_sampling(num_images: int) -> str:
    """How rows are drawn from too few images, in words."""
    return f"with replacement from {num_images:,} images"


def compute_attribute_scores(
    codes: np.ndarray, attributes: np.ndarray, protocol: str, seed: int = 0, num_rows: int | None = None
) -> dict[str, Result]:
    """Compute the metrics for binary attributes (CelebA): the variants of TAD, and the linear probe.

    Args:
        codes: units, shape (n, N) or (n, N, D).
        attributes: labels in {0, 1}, shape (n, A).
        protocol: a name in `PROTOCOLS`; its number of training rows is used, from the first row on
            ("paper": 10,000).
        seed: seed of the folds; the published protocol uses 0.
        num_rows: number of rows instead of the protocol's.

    Returns:
        `tad` and `latent_quality` on every dimension, `tad_eleven_thresholds` on all rows, for vector units
        also `tad_pca1`, whose width is N, and `undefined` if a metric is left out.

    Raises:
        UserError: bad arrays, an unknown protocol, or fewer rows than it needs.
    """
    codes, rows = check_codes(codes), _choose_rows(codes, protocol, seed, num_rows)
    labels = number_values(check_binary(attributes), len(codes), "attributes")
    attributes, kept = drop_constant(labels, "attributes")
    metrics: dict[str, Callable[[], Result]] = {
        "tad": partial(compute_tad, codes, attributes, **rows),
        "tad_eleven_thresholds": partial(compute_tad_eleven_thresholds, codes, attributes),
        "latent_quality": partial(compute_latent_quality, codes, attributes, **rows),
    }
    if np.ndim(codes) == 3:
        metrics["tad_pca1"] = partial(compute_tad, codes, attributes, mapping="pca1", **rows)
    return restore_columns(collect_scores(metrics), kept, "attribute")


def compute_binarised_scores(
    codes: np.ndarray, factors: np.ndarray, protocol: str, seed: int = 0, num_rows: int | None = None
) -> dict[str, Result]:
    """Compute TAD and the linear probe for data with factors instead of attributes.

    Args:
        codes: units, shape (n, N) or (n, N, D).
        factors: integer labels, shape (n, F); each value of each factor is an attribute.
        protocol: see `compute_attribute_scores`.
        seed: see `compute_attribute_scores`.
        num_rows: see `compute_attribute_scores`.

    Returns:
        `tad_binarised` and `latent_quality` on every dimension, for vector units also `tad_binarised_pca1`,
        and `undefined` if a metric is left out.

    Raises:
        UserError: bad arrays, an unknown protocol, or fewer rows than it needs.
    """
    codes, rows = check_codes(codes), _choose_rows(codes, protocol, seed, num_rows)
    factors, kept = drop_constant(number_values(factors, len(codes)), "factors")
    metrics: dict[str, Callable[[], Result]] = {
        "tad_binarised": partial(compute_tad_binarised, codes, factors, **rows)
    }
    if codes.ndim == 3 and codes.shape[2] > 1:
        metrics["tad_binarised_pca1"] = partial(compute_tad_binarised, codes, factors, mapping="pca1", **rows)
    metrics["latent_quality"] = partial(compute_latent_quality, codes, factors, **rows)
    return restore_columns(collect_scores(metrics), kept, "factor")


def _choose_rows(codes: np.ndarray, protocol: str, seed: int, num_rows: int | None) -> dict[str, Any]:
    """Arguments `seed` and `num_rows` of the metrics with folds; UserError if there are not enough rows."""
    num_rows = get_protocol(protocol).num_train if num_rows is None else num_rows
    check_enough(len(codes), num_rows)
    return {"seed": seed, "num_rows": num_rows}


def build_metrics(
    protocol: Protocol, dci_progress: Callable[[float], None] | None = None
) -> dict[str, Callable[..., Result]]:
    """All factor-based metrics with a protocol's sizes: (codes (n, N), factors (n, F), seed) => scores.

    Args:
        protocol: the protocol.
        dci_progress: called with the share that is done of DCI, the slowest metric.
    """
    train, test = protocol.num_train, protocol.num_test
    votes: dict[str, Any] = {
        "num_train": protocol.num_votes,
        "num_eval": protocol.num_eval_votes,
        "batch_size": protocol.batch_size,
    }
    bins: dict[str, Any] = {"num_train": train, "num_bins": protocol.num_bins}
    split: dict[str, Any] = {"num_train": train, "num_test": test}
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
