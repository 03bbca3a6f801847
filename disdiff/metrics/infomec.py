"""InfoMEC: modularity (InfoM), compactness (InfoC) and explicitness (InfoE) from mutual information.

With `NMI[f, k] = I(v_f; c_k) / H(v_f)` over the active units,
    InfoM = (mean_k max_f NMI / sum_f NMI - 1/F) / (1 - 1/F)        each unit depends on one factor,
    InfoC = (mean_f max_k NMI / sum_k NMI - 1/N) / (1 - 1/N)        each factor is in one unit,
    InfoE = mean_f (H0 - H_f) / H0                                  factors are linearly predictable,
where H_f is the cross-entropy of unpenalised, class-balanced logistic regression on the standardised units,
and H0 = ln(number of values) is that of the same model without inputs. A unit is active if its range is above
1/20 of the largest range. The mutual information of a continuous unit and a discrete factor is the
nearest-neighbour estimate with 10 neighbours. Hsu et al., "Disentanglement via Latent Quantization", 2023,
arXiv:2305.18378, in the form for continuous codes.

Random draws: one permutation of the rows; the estimator's jitter uses the seed for each pair.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from disdiff.metrics._information import compute_entropy
from disdiff.metrics._inputs import Result, check_inputs, check_variation, find_varying, standardise
from disdiff.metrics._sampling import split_rows

NUM_NEIGHBOURS = 10
ACTIVE_SHARE = 1 / 20


def compute_infomec(codes: np.ndarray, factors: np.ndarray, *, seed: int, num_train: int = 10_000) -> Result:
    """Compute InfoM, InfoE and InfoC.

    Args:
        codes: scalar units, shape (n, N).
        factors: integer labels, shape (n, F).
        seed: seed of the choice of rows and of the estimator's jitter.
        num_train: number of rows for all estimates; InfoE is measured on the rows of its fit.

    Returns:
        `infom` and `infoc` in [0, 1] (1 by definition with one factor or one active unit; a unit or factor
        without any information counts 0), `infoe` (at most 1), `active` unit indices and `nmi`, shape (N, F).

    Raises:
        UserError: bad arrays, fewer rows than `num_train`, or no unit varies on the rows drawn.
    """
    codes, factors = check_inputs(codes, factors, num_train)
    (rows,) = split_rows(np.random.RandomState(seed), len(codes), num_train)
    codes, factors = codes[rows], factors[rows]
    check_variation(codes)
    spread = np.where(find_varying(codes), np.ptp(codes, axis=0), 0.0)
    active = np.flatnonzero(spread > spread.max() * ACTIVE_SHARE)
    codes = standardise(codes, codes)
    nmi = np.stack([_normalised_information(codes, labels, seed) for labels in factors.T], axis=1)
    return {
        "infom": _preference(nmi[active]),
        "infoe": float(np.mean([_readable_share(codes, labels) for labels in factors.T])),
        "infoc": _preference(nmi[active].T),
        "active": active.tolist(),
        "nmi": nmi.tolist(),
        "estimator": "sklearn.mutual_info_classif, sklearn.LogisticRegression",
        "settings": {"n_neighbors": NUM_NEIGHBOURS, "active_share": ACTIVE_SHARE, "max_iter": 100},
        "sizes": {"train": num_train},
        "seed": seed,
    }


def _normalised_information(codes: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Information of every unit about one factor as a share of its entropy, shape (N,)."""
    entropy = compute_entropy(labels)
    if entropy == 0:
        return np.zeros(codes.shape[1])
    information = [
        mutual_info_classif(unit[:, None], labels, n_neighbors=NUM_NEIGHBOURS, random_state=seed)[0]
        for unit in codes.T
    ]
    return np.array(information) / entropy


def _preference(rows: np.ndarray) -> float:
    """Mean share of each row's largest entry, rescaled so that a uniform row is 0 and a single entry 1."""
    if rows.shape[1] == 1:
        return 1.0
    flat = 1 / rows.shape[1]
    total = rows.sum(axis=1)
    share = np.where(total > 0, rows.max(axis=1) / np.where(total > 0, total, 1.0), flat)
    return float(np.clip((share.mean() - flat) / (1 - flat), 0.0, 1.0))  # rounding can exceed the range


def _readable_share(codes: np.ndarray, labels: np.ndarray) -> float:
    """Share of a factor's class-balanced entropy that a linear classifier of the units removes."""
    num_values = len(np.unique(labels))
    if num_values == 1:
        return 0.0
    model = LogisticRegression(C=np.inf, class_weight="balanced", max_iter=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(codes, labels)
    return float(1.0 - log_loss(labels, model.predict_proba(codes)) / np.log(num_values))
