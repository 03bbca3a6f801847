"""TAD: how many attributes are detected by a single code dimension, and how much better than by any other.

`A[i, j] = max(AUROC(c_j), AUROC(-c_j))` for attribute i and dimension j. Attribute i is captured if its best
dimension reaches 0.75 and no other attribute explains more than 20 % of its entropy, `max_{l != i} I(a_i;
a_l) / H(a_i) <= 0.2`. TAD is the *sum* over captured attributes of (best - second best), so it grows with
their number. From NashAE (Yeats et al., 2022).

There are three protocols, whose numbers are not comparable:
    `compute_tad`: InfoDiffusion's protocol. Exact AUROC on each of the 5 training folds of the first 10,000
        rows; mean and standard deviation over folds (not over seeds).
    `compute_tad_eleven_thresholds`: DisDiff's released script. AUROC from 11 thresholds over the range of a
        dimension, which must exceed 0.2, on all rows at once.
    `compute_tad_binarised`: for multi-valued factors. Each (factor, value) is an attribute.
The score depends on how vector units are mapped to dimensions; width and mapping are part of the result.
"""

import numpy as np

from disdiff.metrics._auroc import compute_auroc
from disdiff.metrics._information import compute_entropy, mutual_information_matrix
from disdiff.metrics._inputs import Result, check_attributes, check_codes, check_factors, unit_scalars
from disdiff.metrics._sampling import split_folds

MIN_AUROC = 0.75
MAX_REDUNDANCY = 0.2
MIN_RANGE = 0.2
NUM_ROWS = 10_000
NUM_FOLDS = 5


def compute_tad(
    codes: np.ndarray,
    attributes: np.ndarray,
    *,
    seed: int = 0,
    mapping: str = "all",
    num_rows: int = NUM_ROWS,
) -> Result:
    """Compute TAD by InfoDiffusion's protocol.

    Args:
        codes: dimensions (n, N) or vector units (n, N, D).
        attributes: labels in {0, 1}, shape (n, A).
        seed: seed of the folds; the published protocol uses 0.
        mapping: mapping of vector units to dimensions, "all" or "pca1" (see `unit_scalars`).
        num_rows: number of rows to use, from the first on.

    Returns:
        `score` and `score_std`, `num_captured` and `num_captured_std` over folds, `captured` (share of
        folds that capture each attribute, shape (A,)), `auroc` (mean over folds, shape (A, width)), `width`
        and `mapping`.

    Raises:
        UserError: bad arrays, attributes outside {0, 1} or constant, fewer rows than `num_rows`, or fewer
            rows than folds.
    """
    codes, mapping = _dimensions(codes, mapping)
    attributes = check_attributes(attributes, len(codes))
    result = _fold_scores(codes, attributes, np.arange(attributes.shape[1]), seed, num_rows)
    return result | {"width": codes.shape[1], "mapping": mapping}


def compute_tad_binarised(
    codes: np.ndarray, factors: np.ndarray, *, seed: int = 0, mapping: str = "all", num_rows: int = NUM_ROWS
) -> Result:
    """Compute TAD of multi-valued factors: an attribute is "factor f has value v".

    A binary factor gives one attribute. Values of one factor exclude each other, so an attribute's redundancy
    is computed over the other factors only.

    Args:
        codes: see `compute_tad`.
        factors: integer labels, shape (n, F).
        seed: see `compute_tad`.
        mapping: see `compute_tad`.
        num_rows: see `compute_tad`.

    Returns:
        As `compute_tad`, and `attributes`, the (factor, value) of each attribute, values numbered from 0.

    Raises:
        UserError: bad arrays, fewer rows than `num_rows`, or fewer rows than folds.
    """
    codes, mapping = _dimensions(codes, mapping)
    factors = check_factors(factors, len(codes))
    pairs = [(f, v) for f, last in enumerate(factors.max(axis=0)) for v in range(int(last == 1), last + 1)]
    attributes = np.stack([factors[:, f] == v for f, v in pairs], axis=1).astype(np.int64)
    result = _fold_scores(codes, attributes, np.array([f for f, _ in pairs]), seed, num_rows)
    return result | {
        "attributes": [list(pair) for pair in pairs],
        "width": codes.shape[1],
        "mapping": mapping,
    }


def compute_tad_eleven_thresholds(
    codes: np.ndarray, attributes: np.ndarray, *, mapping: str = "all"
) -> Result:
    """Compute TAD as DisDiff's released script does: coarse AUROC on all rows at once, without random draws.

    Args:
        codes: see `compute_tad`.
        attributes: labels in {0, 1}, shape (n, A).
        mapping: see `compute_tad`.

    Returns:
        `score`, `num_captured`, `captured` (0 or 1 per attribute), `auroc`, shape (A, width), `width` and
        `mapping`; `note` if no dimension's range exceeds the threshold, which applies to the codes' own
        scale.

    Raises:
        UserError: bad arrays, or attributes outside {0, 1} or constant.
    """
    codes, mapping = _dimensions(codes, mapping)
    attributes = check_attributes(attributes, len(codes))
    auroc = _coarse_auroc(codes, attributes)
    score, captured = _total_gap(auroc, attributes, np.arange(attributes.shape[1]))
    widest = float(np.ptp(codes, axis=0).max())
    return {
        **({} if widest > MIN_RANGE else {"note": _explain_no_range(widest)}),
        "score": score,
        "num_captured": int(captured.sum()),
        "captured": captured.astype(int).tolist(),
        "auroc": auroc.tolist(),
        "estimator": "AUROC from 11 thresholds",
        "settings": {"min_auroc": MIN_AUROC, "max_redundancy": MAX_REDUNDANCY, "min_range": MIN_RANGE},
        "sizes": {"rows": len(codes)},
        "seed": None,
        "width": codes.shape[1],
        "mapping": mapping,
    }


def _explain_no_range(widest: float) -> str:
    return (
        f"no dimension counts: the widest range is {widest:.3g}, and the released script leaves out ranges up"
        f" to {MIN_RANGE:g}, so the score is 0 for any codes; multiply all codes by one number so that they"
        " vary more, and state this number with the score"
    )


def _dimensions(codes: np.ndarray, mapping: str) -> tuple[np.ndarray, str]:
    """Map vector units to dimensions by `mapping`; for scalar units the mapping is named "scalar"."""
    codes = check_codes(codes)
    return unit_scalars(codes, mapping), mapping if codes.ndim == 3 else "scalar"


def _fold_scores(
    codes: np.ndarray, attributes: np.ndarray, groups: np.ndarray, seed: int, num_rows: int
) -> Result:
    """Scores on the training folds of the first `num_rows` rows; AUROC needs no standardisation."""
    scores, captured, aurocs = [], [], []
    for rows, _ in split_folds(num_rows, len(codes), NUM_FOLDS, seed):
        auroc = compute_auroc(codes[rows], attributes[rows])
        auroc = np.maximum(auroc, 1.0 - auroc)
        score, kept = _total_gap(auroc, attributes[rows], groups)
        scores.append(score)
        captured.append(kept)
        aurocs.append(auroc)
    counts = np.sum(captured, axis=1)
    return {
        "score": float(np.mean(scores)),
        "score_std": float(np.std(scores)),
        "num_captured": float(counts.mean()),
        "num_captured_std": float(counts.std()),
        "captured": np.mean(captured, axis=0).tolist(),
        "auroc": np.mean(aurocs, axis=0).tolist(),
        "estimator": "exact AUROC",
        "settings": {"min_auroc": MIN_AUROC, "max_redundancy": MAX_REDUNDANCY, "num_folds": NUM_FOLDS},
        "sizes": {"rows": num_rows},
        "seed": seed,
    }


def _total_gap(auroc: np.ndarray, attributes: np.ndarray, groups: np.ndarray) -> tuple[float, np.ndarray]:
    """Sum of the captured attributes' gaps, and whether each attribute is captured, shape (A,).

    Args:
        auroc: AUROC of every attribute and dimension, shape (A, D).
        attributes: labels in {0, 1}, shape (n, A).
        groups: group of each attribute, shape (A,); redundancy within a group is ignored.
    """
    ranked = np.sort(np.hstack([np.zeros((len(auroc), 1)), auroc]), axis=1)
    entropy = np.array([compute_entropy(column) for column in attributes.T])
    shared = mutual_information_matrix(attributes, attributes) * (groups[:, None] != groups)
    redundancy = shared.max(axis=1) / np.where(entropy > 0, entropy, 1.0)
    captured = (ranked[:, -1] >= MIN_AUROC) & (redundancy <= MAX_REDUNDANCY) & (entropy > 0)
    return float((ranked[:, -1] - ranked[:, -2])[captured].sum()), captured


def _coarse_auroc(codes: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """Larger AUROC of the two polarities, by the right-hand rule over 11 thresholds, shape (A, D)."""
    low, high = codes.min(axis=0), codes.max(axis=0)
    thresholds = low + np.linspace(0, 1, 11)[:, None] * (high - low)
    positive = attributes.astype(np.float64)
    sides = np.hstack([positive / positive.sum(axis=0), (1 - positive) / (1 - positive).sum(axis=0)])
    rates = np.stack([(c >= level[:, None]) @ sides for c, level in zip(codes.T, thresholds.T, strict=True)])
    areas = []
    for polarity in (rates, 1.0 - rates):
        true, false = np.split(np.sort(polarity, axis=1), 2, axis=2)
        areas.append((true[:, 1:] * np.diff(false, axis=1)).sum(axis=1).T)
    return np.where(high - low > MIN_RANGE, np.clip(np.maximum(*areas), 0.0, 1.0), 0.5)
