import math

import pytest
import torch

from disdiff.baselines.conditional import mix, two_phase
from disdiff.baselines.encoders import RelaxedBernoulli
from disdiff.baselines.prior import PriorConfig, prior_loss, sample_prior, term_weights
from disdiff.baselines.vae import normalise_beta, reconstruction_loss
from disdiff.factor_encoder import Posterior
from disdiff.losses import KERNELS, mmd, multi_scale_kernel, reference_kernel
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
    drawn = sample_prior(fair.logits, True, generator)
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
    sample_ddim(two_phase(record("noisy"), record("clean"), 500), schedule, torch.randn(2, 1, 4, 4), 20)
    assert len(seen["noisy"]) + len(seen["clean"]) == 20
    assert min(seen["noisy"]) >= 500 > max(seen["clean"])


def test_mixing_is_linear():
    ones, zeros = (lambda z_t, t, value=value: torch.full_like(z_t, value) for value in (1.0, 0.0))
    z_t, t = torch.randn(2, 3), torch.zeros(2)
    torch.testing.assert_close(mix(ones, zeros, 0.25)(z_t, t), torch.full((2, 3), 0.75))
