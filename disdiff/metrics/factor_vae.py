"""FactorVAE score: accuracy of predicting a batch's fixed factor from the unit that varies least.

All images of a batch have the same value of factor f. Its vote is the unit with the smallest variance
relative to its variance over the data, `argmin_k Var_batch(c_k) / Var(c_k)`. The classifier maps each unit to
the factor of most of its votes on training batches. Units whose standard deviation is below a threshold do
not vote. Kim and Mnih, "Disentangling by Factorising", 2018, arXiv:1802.05983, section 4.

Order of the random draws, all from `RandomState(seed)`: the rows of the data variance (one permutation),
then per batch set (training, evaluation) the fixed factors, the anchor rows that give the values, the
uniform numbers.
"""

import numpy as np

from disdiff.metrics._inputs import Result, check_inputs, find_varying
from disdiff.metrics._sampling import RowsByValue, split_rows

CHUNK = 1000


def compute_factor_vae(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    seed: int,
    num_variance: int = 10_000,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch_size: int = 64,
    prune_std: float = 0.05,
) -> Result:
    """Compute the FactorVAE score on the codes' own scale.

    Args:
        codes: scalar units, shape (n, N).
        factors: integer labels, shape (n, F).
        seed: seed of all random draws.
        num_variance: number of rows, without replacement, for the variance of each unit over the data.
        num_train: number of votes for fitting the classifier.
        num_eval: number of votes for evaluating it.
        batch_size: rows per vote.
        prune_std: a unit with a smaller standard deviation does not vote.

    Returns:
        `eval_accuracy` (the published number) and `train_accuracy` in [0, 1], both 0 if no unit is active;
        `num_active`, `active` (indices) and `votes`, the training votes, shape (N, F); `note` if no unit is
        active. The threshold applies to the codes' own scale, so the score depends on this scale.

    Raises:
        UserError: bad arrays, or fewer rows than `num_variance`.
    """
    codes, factors = check_inputs(codes, factors, num_variance)
    random = np.random.RandomState(seed)
    (rows,) = split_rows(random, len(codes), num_variance)
    variance = codes[rows].var(axis=0, ddof=1)
    deviation = np.sqrt(variance)
    active = np.flatnonzero((deviation >= prune_std) & find_varying(codes[rows]))
    shape = (codes.shape[1], factors.shape[1])
    train, evaluation = np.zeros(shape), np.zeros(shape)
    if len(active):
        table = RowsByValue(factors)
        scaled = codes[:, active] / np.sqrt(variance[active])
        train[active] = _count_votes(scaled, table, num_train, batch_size, random)
        evaluation[active] = _count_votes(scaled, table, num_eval, batch_size, random)
    winners = train.argmax(axis=1)
    return {
        "eval_accuracy": float(evaluation[np.arange(len(winners)), winners].sum() / num_eval),
        "train_accuracy": float(train.max(axis=1).sum() / num_train),
        "num_active": len(active),
        "active": active.tolist(),
        "votes": train.astype(int).tolist(),
        "estimator": "majority vote",
        "settings": {"batch_size": batch_size, "prune_std": prune_std},
        "sizes": {"variance": num_variance, "train": num_train, "eval": num_eval},
        "seed": seed,
        **({} if len(active) else {"note": _explain_no_active(deviation.max(), prune_std)}),
    }


def _explain_no_active(largest: float, prune_std: float) -> str:
    return (
        f"no unit is active: the largest standard deviation is {largest:.3g}, and the published protocol"
        f" leaves out units below {prune_std:g}, so the score is 0 for any codes; multiply all codes by one"
        " number so that their units vary more, and state this number with the score"
    )


def _count_votes(
    codes: np.ndarray, table: RowsByValue, num_votes: int, batch_size: int, random: np.random.RandomState
) -> np.ndarray:
    """Count votes (unit, fixed factor) of `num_votes` batches of codes with unit variance, shape (N, F)."""
    num_rows, num_factors = table.factors.shape
    which = random.randint(num_factors, size=num_votes)
    anchors = random.randint(num_rows, size=num_votes)
    votes = np.zeros((codes.shape[1], num_factors))
    for start in range(0, num_votes, CHUNK):
        part = slice(start, start + CHUNK)
        uniform = random.random_sample((len(which[part]), batch_size))
        batch = codes[table.draw(which[part], anchors[part], uniform)]
        np.add.at(votes, (batch.var(axis=1, ddof=1).argmin(axis=1), which[part]), 1)
    return votes
