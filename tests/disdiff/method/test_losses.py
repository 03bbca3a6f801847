import math

import pytest
import torch

from disdiff.method.losses import (
    change_weight,
    clean_weight,
    fit_whitener,
    invariant_logits,
    invariant_loss,
    snr_weight,
    variant_logits,
    variant_loss,
    whitened_error,
)
from ldm.diffusion.loss import denoising_error
from ldm.errors import UserError

UNIT = torch.tensor([1])


def cross_entropy(logits, target):
    """By its definition, in nats."""
    return -logits[target] + math.log(sum(math.exp(value) for value in logits))


def code(*units):
    """One image's code from its units."""
    return torch.tensor([units])


def test_invariant_loss_by_hand():
    before, after = code([0.0, 0.0], [1.0, 0.0], [0.0, 2.0]), code([0.3, 0.4], [1.0, 2.0], [0.0, 2.0])
    assert invariant_logits(after, before)[0].tolist() == pytest.approx([0.5, 2.0, 0.0])
    assert invariant_loss(after, before, UNIT).item() == pytest.approx(cross_entropy([0.5, 2.0, 0.0], 1))


def test_variant_loss_by_hand():
    before, after, truth = (
        code([0.0, 0.0], [0.0, 0.0]),
        code([0.0, 4.0], [3.0, 0.0]),
        code([3.0, 4.0], [3.0, 4.0]),
    )
    assert variant_logits(after, before, truth)[0].tolist() == pytest.approx([5.0 - 3.0, 5.0 - 4.0])
    assert variant_loss(after, before, truth, UNIT).item() == pytest.approx(cross_entropy([2.0, 1.0], 1))


def test_the_temperature_divides_the_logits():
    before, after, truth = (torch.randn(4, 3, 2) for _ in range(3))
    unit = torch.tensor([0, 1, 2, 0])
    halved = invariant_loss(after, before, unit, temperature=0.5)
    torch.testing.assert_close(halved, invariant_loss(2 * after, 2 * before, unit))
    halved = variant_loss(after, before, truth, unit, temperature=0.5)
    torch.testing.assert_close(halved, variant_loss(2 * after, 2 * before, 2 * truth, unit))


@pytest.mark.parametrize("num_units", [2, 6, 10])
def test_no_change_costs_the_logarithm_of_the_number_of_units(num_units):
    same, truth = torch.randn(4, num_units, 3), torch.randn(4, num_units, 3)
    unit = torch.arange(4) % num_units
    expected = torch.full((4,), math.log(num_units))
    torch.testing.assert_close(invariant_loss(same, same, unit), expected)
    torch.testing.assert_close(variant_loss(same, same, truth, unit), expected)


def test_perfect_separation_costs_nothing_and_its_opposite_the_whole_distance():
    before = torch.zeros(1, 4, 2)
    truth, after = torch.full((1, 4, 2), 40.0), torch.zeros(1, 4, 2)
    after[0, 1] = 40.0  # unit 1 alone moved, all the way to the truth
    distance = 40 * math.sqrt(2)
    for loss in (
        lambda unit: invariant_loss(after, before, unit),
        lambda unit: variant_loss(after, before, truth, unit),
    ):
        assert loss(UNIT).item() == pytest.approx(0, abs=1e-6)
        assert loss(torch.tensor([0])).item() == pytest.approx(distance, rel=1e-5)


def test_one_value_per_image():
    codes = [torch.randn(5, 6, 3) for _ in range(3)]
    unit = torch.arange(5)
    together = variant_loss(*codes, unit)
    alone = [variant_loss(*(c[i : i + 1] for c in codes), unit[i : i + 1]) for i in range(5)]
    assert together.shape == (5,)
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_gradient_where_the_field_is_zero_is_finite():
    before, truth = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    after = before.clone().requires_grad_()
    unit = torch.tensor([0, 2])
    loss = invariant_loss(after, before, unit) + variant_loss(after, before, truth, unit)
    (gradient,) = torch.autograd.grad(loss.sum(), after)
    assert gradient.isfinite().all() and gradient.any()
    assert torch.autograd.grad(invariant_loss(after, before, unit).sum(), after)[0].eq(0).all()


def test_the_change_weight_is_a_mean_of_squares_without_gradient():
    before, after = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4, requires_grad=True)
    with torch.no_grad():
        after[0] += 2
        after[1, 0, 0, 0] = 3
    weight = change_weight(before, after)
    assert weight.tolist() == pytest.approx([4.0, 9 / 48])
    assert not weight.requires_grad


def test_snr_weight_gives_the_published_table(linear_schedule):
    table = {
        0: 0.0003, 10: 0.0040, 50: 0.0425, 100: 0.1299, 200: 0.3666,
        300: 0.5805, 500: 0.7202, 700: 0.6039, 900: 0.4396, 999: 0.3636,
    }  # fmt: skip
    weight = snr_weight(linear_schedule.snr, gamma=0.1)
    assert {t: round(weight[t].item(), 4) for t in table} == table
    assert weight.max().item() == pytest.approx(snr_weight(torch.tensor(1 / 9), 0.1).item(), rel=1e-4)
    assert snr_weight(torch.tensor(1 / 9), 0.1).item() == pytest.approx(0.7225, abs=5e-5)


def test_both_forms_of_the_snr_weight_agree(linear_schedule):
    snr = linear_schedule.snr.double()
    product = (1 / (1 + snr)) ** 0.9 * (snr / (1 + snr)) ** 0.1
    torch.testing.assert_close(snr_weight(snr, 0.1), product)


def test_clean_weight_is_the_noise_over_the_signal_and_capped():
    snr = torch.tensor([100.0, 1.0, 0.1, 1e-4])
    torch.testing.assert_close(clean_weight(snr, cap=20.0), torch.tensor([0.01, 1.0, 10.0, 20.0]))


@pytest.fixture
def latents():
    """Two correlated entries of variance 5 and 5: along (1, 1) 9, along (1, -1) 1; exactly so."""
    x = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    spread = torch.tensor([3.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    return (x * spread[:, None] * (3 / 4) ** 0.5).view(4, 2, 1, 1)


@pytest.mark.parametrize("ridge", [0.0, 1.0, 7.0])
def test_the_whitener_by_hand(latents, ridge):
    """Variances v become v / (v + ridge), scaled so that their sum stays."""
    whitener = fit_whitener(latents, ridge)
    white = torch.cov((latents.flatten(1) @ whitener).T)
    wanted = [9 / (9 + ridge), 1 / (1 + ridge)]
    wanted = [value * 10 / sum(wanted) for value in wanted]
    directions = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    assert (directions @ white @ directions.T).diagonal().tolist() == pytest.approx(wanted)
    assert white.trace().item() == pytest.approx(10)
    assert torch.equal(whitener, whitener.T)


@pytest.mark.parametrize("num", [2, 5, 6])
def test_the_whitener_of_fewer_latents_than_entries(num):
    """By definition: s (S + ridge I)^(-1/2), from all eigenvectors of the covariance."""
    x = torch.randn(num, 6, 1, 1, generator=torch.Generator().manual_seed(num), dtype=torch.float64)
    covariance = torch.cov(x.flatten(1).T)
    variance, directions = torch.linalg.eigh(covariance)
    root = (directions / (variance + 0.5).sqrt()) @ directions.T
    scale = (covariance.trace() / (root @ covariance @ root).trace()).sqrt()
    assert torch.allclose(fit_whitener(x, 0.5), scale * root, atol=1e-12)


def test_under_a_large_ridge_the_whitened_error_is_the_plain_one(latents):
    generator = torch.Generator().manual_seed(0)
    eps_hat, eps = torch.randn(2, 5, 2, 1, 1, generator=generator, dtype=torch.float64)
    whitener = fit_whitener(latents, 1e12)
    assert torch.allclose(
        whitened_error(eps_hat, eps, whitener), denoising_error(eps_hat, eps, "l2"), rtol=1e-10
    )


@pytest.mark.parametrize("ridge", [0.0, 1.0, 1e12])
def test_the_whitened_error_is_least_at_the_mean(latents, ridge):
    generator = torch.Generator().manual_seed(0)
    eps = torch.randn(50, 2, 1, 1, generator=generator, dtype=torch.float64)
    guess = eps.mean(dim=0, keepdim=True).requires_grad_()
    whitened_error(guess.expand_as(eps), eps, fit_whitener(latents, ridge)).mean().backward()
    assert guess.grad.abs().max() < 1e-15


@pytest.mark.parametrize(
    ("shape", "named"),
    [((2, 1, 65, 64), "whiten_ridge"), ((3, 4, 2, 2), "constant")],
    ids=["large", "constant"],
)
def test_latents_that_cannot_be_whitened_are_refused(shape, named):
    with pytest.raises(UserError, match=named):
        fit_whitener(torch.ones(shape), 1.0)
