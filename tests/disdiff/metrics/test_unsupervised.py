import json

import numpy as np
import pytest
import scipy.linalg

from disdiff.metrics.unsupervised import (
    compute_unsupervised,
    gaussian_total_correlation,
    gaussian_wasserstein_correlation,
)


def random_covariance(size):
    root = np.random.default_rng(0).normal(size=(size, size))
    return root @ root.T + 0.1 * np.eye(size)


def test_total_correlation_of_two_gaussians_is_known():
    assert gaussian_total_correlation(np.array([[4.0, 1.2], [1.2, 1.0]])) == pytest.approx(
        -0.5 * np.log(1 - 0.6**2)
    )
    assert gaussian_total_correlation(np.diag([1.0, 5.0, 0.01])) == pytest.approx(0, abs=1e-12)


def test_total_correlation_is_the_divergence_from_the_marginals():
    covariance = random_covariance(5)
    expected = 0.5 * (np.log(np.diag(covariance)).sum() - np.linalg.slogdet(covariance)[1])
    assert gaussian_total_correlation(covariance) == pytest.approx(expected, abs=1e-9)


def test_wasserstein_correlation_agrees_with_a_matrix_root():
    covariance = random_covariance(5)
    root = scipy.linalg.sqrtm(covariance * np.diag(covariance)[:, None])
    expected = 2 * np.trace(covariance) - 2 * np.trace(root).real
    assert gaussian_wasserstein_correlation(covariance) == pytest.approx(expected, abs=1e-9)
    assert gaussian_wasserstein_correlation(np.diag([1.0, 5.0])) == pytest.approx(0, abs=1e-12)


def test_independent_rotated_and_duplicated_codes(independent):
    plain = compute_unsupervised(independent, seed=0, num_train=3_000)
    assert plain["gaussian_total_correlation"] < 0.01
    assert plain["gaussian_wasserstein_correlation_norm"] < 0.01
    assert plain["mutual_information"] < 0.1
    mixed = compute_unsupervised(independent @ [[1, 1, 0], [0, 1, 0], [0, 0, 1]], seed=0, num_train=3_000)
    assert mixed["gaussian_total_correlation"] == pytest.approx(0.5 * np.log(2), abs=0.03)
    twice = compute_unsupervised(independent[:, [0, 0]], seed=0, num_train=3_000)
    assert twice["gaussian_total_correlation"] is None
    assert twice["mutual_information"] > 1.5


def test_constant_codes_are_left_out_and_a_single_code_depends_on_nothing(independent):
    result = compute_unsupervised(independent * [1, 0, 0], seed=0, num_train=3_000)
    assert result["num_active"] == 1
    assert result["gaussian_total_correlation"] == pytest.approx(0, abs=1e-12)
    assert result["mutual_information"] == 0.0
    json.dumps(result, allow_nan=False)


def test_scores_of_independent_units_are_never_below_0():
    for seed in range(5):
        turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
        for covariance in (np.diag([0.1, 0.7, 3.0, 1e-6, 1e6, 0.3]), turn @ turn.T):
            assert gaussian_wasserstein_correlation(np.diag(np.diag(covariance))) >= 0
            assert gaussian_total_correlation(np.diag(np.diag(covariance))) >= 0


def test_units_constant_but_for_rounding_are_left_out(independent):
    jitter = np.where(independent[:, :2] > 0, 0.3, 0.1 + 0.2)
    result = compute_unsupervised(np.hstack([independent, jitter]), seed=0, num_train=3_000)
    assert result == compute_unsupervised(independent, seed=0, num_train=3_000)
    assert result["num_active"] == 3
