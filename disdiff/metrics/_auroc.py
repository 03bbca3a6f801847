"""Exact area under the ROC curve (AUROC) of every column as a detector of every binary attribute.

With average ranks r of a column, P positives and M negatives, `AUROC = (sum of r over the positives - P (P
+ 1) / 2) / (P M)`, the Mann-Whitney statistic: ties count one half. One ranking per column and one matrix
product serve all attributes.
"""

import numpy as np
from scipy.stats import rankdata


def compute_auroc(columns: np.ndarray, attributes: np.ndarray) -> np.ndarray:
    """AUROC of `columns` (n, D) for `attributes` (n, A) in {0, 1}: (A, D); 0.5 for a constant attribute."""
    ranks = rankdata(columns, axis=0)
    positive = attributes.astype(np.float64)
    num_positive = positive.sum(axis=0)
    pairs = num_positive * (len(positive) - num_positive)
    wins = positive.T @ ranks - (num_positive * (num_positive + 1) / 2)[:, None]
    return np.where(pairs[:, None] > 0, wins / np.maximum(pairs, 1.0)[:, None], 0.5)
