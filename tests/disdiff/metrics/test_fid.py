import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torchmetrics.image.fid import FrechetInceptionDistance

from disdiff.metrics.fid import check_num_images, compute_fid
from ldm.errors import UserError


def whitened(num, dims, seed=0):
    """Rows whose sample mean is 0 and unbiased sample covariance the identity, to float precision."""
    rows = np.random.default_rng(seed).normal(size=(num, dims))
    rows -= rows.mean(axis=0)
    return rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T


def test_equal_sets_are_at_distance_0():
    rows = np.random.default_rng(0).normal(size=(200, 20))
    assert compute_fid(rows, rows)["score"] == pytest.approx(0, abs=1e-9)
    assert compute_fid(rows, rows[::-1])["score"] == pytest.approx(0, abs=1e-9)


def test_gaussians_of_known_moments_have_the_closed_form():
    spread_1, spread_2 = np.diag([1.0, 2.0, 3.0]), np.diag([2.0, 2.0, 0.5])
    result = compute_fid(whitened(50, 3) @ spread_1 + [1, 0, -2], whitened(80, 3, 1) @ spread_2)
    assert result["mean_term"] == pytest.approx(5)
    assert result["covariance_term"] == pytest.approx(1 + 0 + 2.5**2)  # sum of (std_1 - std_2)^2
    assert result["score"] == pytest.approx(5 + 1 + 2.5**2)
    assert result["sizes"] == {"images": 50, "reference": 80, "dimensions": 3} and result["full_rank"]


def test_covariances_that_do_not_commute_agree_with_the_matrix_square_root():
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(4, 4)))
    a, b = whitened(60, 4) @ np.diag([1, 2, 3, 4.0]), whitened(70, 4, 1) @ np.diag([3, 1, 5, 0.2]) @ turn
    s_1, s_2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.trace(s_1 + s_2 - 2 * sqrtm(s_1 @ s_2).real)
    assert compute_fid(a, b)["score"] == pytest.approx(expected, abs=1e-9)
    assert compute_fid(b, a)["score"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("num", "few"), [(300, False), (40, True)])
def test_agrees_with_torchmetrics_on_the_same_features(num, few):
    class Given(torch.nn.Module):
        num_features = 60

        def forward(self, rows):
            return rows

    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(60, 60, generator=generator, dtype=torch.float64)
    real, fake = (torch.randn(num, 60, generator=generator, dtype=torch.float64) @ mix for _ in range(2))
    metric = FrechetInceptionDistance(feature=Given(), normalize=True).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(1.3 * fake + 0.2, real=False)
    ours = compute_fid((1.3 * fake + 0.2).numpy(), real.numpy(), allow_few=few)
    assert ours["score"] == pytest.approx(metric.compute().item(), rel=1e-6)
    assert ours["full_rank"] is not few


def test_too_few_images_are_refused_with_the_number_that_is_enough():
    rows = np.random.default_rng(0).normal(size=(10, 10))
    with pytest.raises(UserError, match="at least 11 images"):
        compute_fid(rows, np.vstack([rows, rows]))
    assert not compute_fid(rows, np.vstack([rows, rows]), allow_few=True)["full_rank"]
    with pytest.raises(UserError, match="at least 2 images"):
        compute_fid(rows[:1], rows, allow_few=True)
    check_num_images(11, 10)


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (np.full((20, 3), np.nan), "contain NaN"),
        (np.zeros((20, 4)), "4 and 3 dimensions"),
        (np.zeros((20, 3, 1)), r"\(20, 3, 1\)"),
        (np.array([["a"] * 3] * 20), "must be numbers"),
    ],
)
def test_bad_features_are_named(features, says):
    with pytest.raises(UserError, match=says):
        compute_fid(features, np.random.default_rng(0).normal(size=(20, 3)))


@pytest.mark.parametrize("num", [40, 400])  # without full rank, and with it
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_equal_sets_are_never_below_0(num, scale):
    """Roots of the eigenvalues of S_1 S_2 gave as much as -7e-5 of the traces' sum."""
    rows = np.abs(np.random.default_rng(2).normal(size=(num, 120))) * scale
    for other in (rows, rows[::-1].copy(), np.vstack([rows[:1], rows[1:]])):
        result = compute_fid(other, rows, allow_few=True)
        assert min(result["score"], result["mean_term"], result["covariance_term"]) >= 0
        assert result["score"] <= 1e-10 * scale**2


def test_a_small_distance_is_not_lost_in_rounding():
    rows = np.random.default_rng(3).normal(size=(60, 100))  # without full rank
    assert compute_fid(rows * (1 + 1e-4), rows, allow_few=True)["covariance_term"] == pytest.approx(
        1e-8 * np.trace(np.cov(rows, rowvar=False)), rel=1e-3
    )
