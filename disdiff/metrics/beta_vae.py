"""beta-VAE score: accuracy of a linear classifier that predicts which factor pairs of images share.

A point is the mean of `|c - c'|` over a batch of pairs of images that have the same value of one factor and
are otherwise independent; its label is this factor. The score is the accuracy of logistic regression. Higgins
et al., "beta-VAE", ICLR 2017, section 3; sizes and estimator of disentanglement_lib.

Order of the random draws, from `RandomState(seed)`, for training then evaluation points: the shared
factors, the first rows of the pairs, then the uniform numbers that choose the second rows.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from disdiff.metrics._inputs import Result, check_inputs
from disdiff.metrics._sampling import RowsByValue
from ldm.errors import UserError

CHUNK = 1000


def compute_beta_vae(
    codes: np.ndarray,
    factors: np.ndarray,
    *,
    seed: int,
    num_train: int = 10_000,
    num_eval: int = 5_000,
    batch_size: int = 64,
) -> Result:
    """Compute the beta-VAE score.

    Args:
        codes: scalar units, shape (n, N).
        factors: integer labels, shape (n, F) with F >= 2.
        seed: seed of all random draws and of the classifier.
        num_train: number of points for fitting the classifier.
        num_eval: number of points for evaluating it.
        batch_size: pairs per point.

    Returns:
        `eval_accuracy` and `train_accuracy` in [0, 1].

    Raises:
        UserError: bad arrays, a single factor, or fewer rows than `batch_size`.
    """
    codes, factors = check_inputs(codes, factors, batch_size)
    if factors.shape[1] < 2:
        raise UserError(
            "factors have one column, but the beta-VAE score distinguishes factors: give two or more"
        )
    random = np.random.RandomState(seed)
    table = RowsByValue(factors)
    train = _sample_points(codes, table, num_train, batch_size, random)
    evaluation = _sample_points(codes, table, num_eval, batch_size, random)
    model = LogisticRegression(random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(*train)
    return {
        "eval_accuracy": float(model.score(*evaluation)),
        "train_accuracy": float(model.score(*train)),
        "estimator": "sklearn.LogisticRegression",
        "settings": {"batch_size": batch_size, "C": model.C, "max_iter": model.max_iter},
        "sizes": {"train": num_train, "eval": num_eval},
        "seed": seed,
    }


def _sample_points(
    codes: np.ndarray, table: RowsByValue, num_points: int, batch_size: int, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points (mean absolute differences of pairs, shape (p, N)) and their shared factors, shape (p,)."""
    num_rows, num_factors = table.factors.shape
    shared = random.randint(num_factors, size=num_points)
    points = np.empty((num_points, codes.shape[1]))
    for start in range(0, num_points, CHUNK):
        part = slice(start, start + CHUNK)
        first = random.randint(num_rows, size=(len(shared[part]), batch_size))
        second = table.draw(shared[part], first, random.random_sample(first.shape))
        points[part] = np.abs(codes[first] - codes[second]).mean(axis=1)
    return points, shared
