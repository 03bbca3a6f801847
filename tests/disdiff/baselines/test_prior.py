import math

import pytest
import torch

from disdiff.baselines.conditional import interpolate_predictions, switch_by_step
from disdiff.baselines.encoders import RelaxedBernoulli
from disdiff.baselines.prior import (
    MODES,
    PRIORS,
    PriorConfig,
    check_prior,
    prior_loss,
    sample_bits,
    term_weights,
)
from disdiff.baselines.vae import normalise_beta, reconstruction_loss
from disdiff.method.factor_encoder import Posterior
from disdiff.method.losses import KERNELS, mmd, multi_scale_kernel, reference_kernel
from ldm.diffusion.sampler import sample_ddim
from ldm.diffusion.schedule import Schedule, ScheduleConfig
from ldm.errors import UserError


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("zeta", "weight", "expected"),
    [(0.0, 1.0, (1.0, 0.0)), (-3.0, 4.0, (4.0, 0.0)), (1.0, 0.1, (0.0, 0.1)), (1.0, 0.0, (0.0, 0.0))],
)
def test_the_special_cases_of_zeta_and_lambda(zeta, weight, expected):
    assert term_weights(PriorConfig(zeta, weight)) == pytest.approx(expected)


@pytest.mark.parametrize(("zeta", "weight"), [(1.5, 1.0), (0.0, 0.5)])
def test_negative_weights_are_refused(zeta, weight):
    with pytest.raises(UserError, match="negative weight"):
        term_weights(PriorConfig(zeta, weight))


@pytest.mark.parametrize("dim", [2, 32])
def test_mean_kernels_have_their_closed_forms(dim):
    x, y = normal(1500, dim, 1), normal(1500, dim, 2)
    squares = torch.cdist(x, y).square()
    expected = (1 + 4 / dim**2) ** (-dim / 2)
    assert reference_kernel(squares, dim).mean().item() == pytest.approx(expected, abs=5e-3)
    if dim == 32:
        assert expected == pytest.approx(0.9395, abs=5e-5)
    several = [(1 + 2 / (s * dim)) ** (-dim / 2) for s in (0.25, 0.5, 1, 2, 4)]
    assert multi_scale_kernel(squares, dim).mean().item() == pytest.approx(sum(several) / 5, abs=1e-2)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_mmd_is_its_bias_under_the_prior_and_more_elsewhere(kernel):
    n, dim = 1000, 32
    x, y = normal(n, dim, 1), normal(n, dim, 2)
    mean = kernel(torch.cdist(x, y).square(), dim).mean().item()
    same = mmd(x, y, kernel).item()
    assert same == pytest.approx(2 * (1 - mean) / n, abs=2e-4) and same >= 0
    assert mmd(x, x, kernel).item() == pytest.approx(0, abs=1e-6)
    assert mmd(3 * x, y, kernel) > 10 * same and mmd(0 * x, y, kernel) > 2 * same


def test_the_kl_and_its_capacity(generator):
    posterior = Posterior(torch.ones(4, 3, 1), torch.zeros(4, 3, 1))  # KL = 3 / 2
    code = posterior.sample(generator)

    def loss(step=0, **options):
        return prior_loss(PriorConfig(-3.0, 4.0, **options), posterior, code, step, generator)[0].item()

    assert loss() == pytest.approx(4 * 1.5)
    assert loss(capacity=25.0) == pytest.approx(4 * 23.5)
    assert loss(capacity=2.0, capacity_steps=10, step=5) == pytest.approx(4 * 0.5)
    assert loss(capacity=2.0, capacity_steps=10, step=0) == pytest.approx(4 * 1.5)


def test_bits_and_their_prior(generator):
    fair = RelaxedBernoulli(torch.zeros(2000, 4, 1))
    torch.testing.assert_close(fair.kl(), torch.zeros(2000), atol=1e-5, rtol=0)
    sure = RelaxedBernoulli(torch.full((3, 4, 1), 30.0))
    torch.testing.assert_close(sure.kl(), torch.full((3,), 4 * math.log(2)))
    assert sure.mean.eq(1).all() and sure.sample(generator).min() > 0.99
    assert fair.sample(generator).mean().item() == pytest.approx(0.5, abs=0.02)
    drawn = sample_bits(fair.logits.shape, generator)
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and drawn.mean().item() == pytest.approx(0.5, abs=0.02)


def test_the_likelihoods_are_sums():
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    torch.testing.assert_close(
        reconstruction_loss(image + 1, image, bernoulli=False), torch.full((2,), 0.5 * 3 * 64)
    )
    white, logits = torch.ones(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    expected = torch.full((2,), 3 * 64 * math.log(2))
    torch.testing.assert_close(reconstruction_loss(logits, white, bernoulli=True), expected)
    assert normalise_beta(4.0, 10, image.shape) == pytest.approx(4 * 10 / (3 * 64))


def test_two_phases_switch_where_they_should():
    seen = {"noisy": [], "clean": []}

    def record(name):
        return lambda z_t, t: seen[name].append(int(t[0])) or torch.zeros_like(z_t)

    schedule = Schedule(ScheduleConfig())
    sample_ddim(
        switch_by_step(0, 500, record("clean"), record("noisy")), schedule, torch.randn(2, 1, 4, 4), 20
    )
    assert len(seen["noisy"]) == len(seen["clean"]) == 10
    assert min(seen["noisy"]) >= 500 > max(seen["clean"])


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_every_prior_is_near_itself_and_of_unit_scale(kind, kernel, generator):
    shape = torch.Size((800, 16, 2))
    x, y = (PRIORS[kind](shape, generator).flatten(1) for _ in range(2))
    assert x.square().mean().item() == pytest.approx(1, abs=0.02)
    same = mmd(x, y, kernel).item()
    assert same == pytest.approx(
        2 * (1 - kernel(torch.cdist(x, y).square(), 32).mean().item()) / 800, abs=3e-4
    )
    assert mmd(0 * x, y, kernel) > 2 * same


def test_the_priors_in_the_plane_have_their_shapes(generator):
    pairs = torch.Size((3000, 1, 2))
    ring = PRIORS["mixture"](pairs, generator)[:, 0]
    angle = torch.atan2(ring[:, 1], ring[:, 0]) * MODES / (2 * math.pi)
    assert (angle - angle.round()).abs().mean() < 0.15  # uniform angles would give 0.25
    assert len(angle.round().remainder(MODES).unique()) == MODES
    roll = PRIORS["swiss_roll"](pairs, generator)[:, 0]
    radius, turns = roll.norm(dim=1), torch.atan2(roll[:, 1], roll[:, 0]) / (2 * math.pi)
    assert 0 <= radius.min() and radius.max() <= 2
    off = (radius - turns).remainder(1)
    assert torch.minimum(off, 1 - off).max() < 1e-4


def test_a_ring_tells_itself_from_the_normal(generator):
    """Only a kernel of more than one scale does: the reference one sees little but the spread."""
    x, y = (PRIORS["mixture"](torch.Size((1500, 1, 2)), generator).flatten(1) for _ in range(2))
    normal = PRIORS["normal"](torch.Size((1500, 1, 2)), generator).flatten(1)
    assert mmd(x, normal) > 5 * mmd(x, y)


def test_the_prior_in_the_loss_is_the_configured_one(generator):
    ring = PRIORS["mixture"](torch.Size((1000, 1, 2)), generator)

    def distance(kind):
        config = PriorConfig(1.0, 1.0, kind)
        return prior_loss(config, Posterior(ring, None), ring, 0, torch.Generator().manual_seed(9))[0]

    assert distance("mixture") < 0.2 * distance("normal")


@pytest.mark.parametrize(
    ("config", "posterior", "numbers"),
    [
        (PriorConfig(0.0, 1.0, "mixture"), "gaussian", 4),
        (PriorConfig(1.0, 0.1, "swiss_roll"), "bernoulli", 4),
        (PriorConfig(1.0, 0.1, "swiss_roll"), "none", 5),
    ],
)
def test_priors_without_density_or_pairs_are_refused(config, posterior, numbers):
    with pytest.raises(UserError, match=f"prior.kind={config.kind} needs"):
        check_prior(config, posterior, numbers)
    check_prior(PriorConfig(1.0, 0.1, config.kind), "none", 4)


def test_mixing_is_linear():
    ones, zeros = (lambda z_t, t, value=value: torch.full_like(z_t, value) for value in (1.0, 0.0))
    z_t, t = torch.randn(2, 3), torch.zeros(2)
    torch.testing.assert_close(interpolate_predictions(ones, zeros, 0.25)(z_t, t), torch.full((2, 3), 0.75))
