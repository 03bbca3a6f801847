"""The parts of the KL have their known values; FactorVAE and beta-TCVAE are the VAE where they should be."""

import math

import pytest
import torch
from torch import nn

from disdiff.baselines.total_correlation import (
    BetaTCVAEConfig,
    BetaTCVAETerm,
    Discriminator,
    FactorVAEConfig,
    FactorVAETerm,
    discriminator_loss,
    permute_units,
)
from disdiff.method.factor_encoder import Posterior
from disdiff.method.kl_parts import (
    PosteriorMemory,
    correlation_of_code,
    decompose_kl,
    log_normal,
    total_correlation,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def posterior_at(mean, std):
    """Posterior of means (B, N) and one standard deviation."""
    mean = torch.as_tensor(mean, dtype=torch.float)[..., None]
    return Posterior(mean, torch.full_like(mean, 2 * math.log(std)))


def test_the_parts_add_up_to_the_log_ratio(generator):
    posterior = Posterior(torch.randn(16, 5, 2), torch.randn(16, 5, 2))
    code = posterior.sample(generator)
    zero = torch.zeros_like(code)
    ratio = log_normal(code, *posterior) - log_normal(code, zero, zero)
    torch.testing.assert_close(sum(decompose_kl(posterior, code)), ratio.flatten(1).sum(dim=1).mean())


def test_the_log_ratio_is_the_kl_on_average(generator):
    posterior = Posterior(0.5 * torch.randn(4, 3, 1), torch.randn(4, 3, 1))
    sums = [sum(decompose_kl(posterior, posterior.sample(generator))) for _ in range(3000)]
    assert torch.stack(sums).mean().item() == pytest.approx(posterior.kl().mean().item(), rel=0.03)


def test_a_product_of_units_has_no_total_correlation(generator):
    """A grid of means is a product of its units, whatever the noise; nine images are log 9 of information."""
    grid = [[10 * a, 10 * b] for a in (-1, 0, 1) for b in (-1, 0, 1)]
    posterior = posterior_at(grid, 0.1)
    parts = decompose_kl(posterior, posterior.sample(generator))
    assert parts.total_correlation.item() == pytest.approx(0, abs=1e-4)
    assert parts.mutual_information.item() == pytest.approx(math.log(9), abs=1e-4)


def test_a_repeated_unit_is_told_from_a_product(generator):
    """Two units of one value in four: H(z1) + H(z2) - H(z1, z2) = log 4."""
    posterior = posterior_at([[10 * a, 10 * a] for a in range(4)], 0.1)
    parts = decompose_kl(posterior, posterior.sample(generator))
    assert parts.total_correlation.item() == pytest.approx(math.log(4), abs=1e-4)


def test_a_code_without_information_has_the_kl_of_its_units_only(generator):
    posterior = posterior_at(torch.full((6, 3), 0.7), 1.0)
    parts = [decompose_kl(posterior, posterior.sample(generator)) for _ in range(1500)]
    assert max(abs(p.mutual_information) + abs(p.total_correlation) for p in parts) < 1e-5
    mean = torch.stack([p.dimension_wise for p in parts]).mean().item()
    assert mean == pytest.approx(3 * 0.7**2 / 2, rel=0.05)


def correlated(num, generator, rho=0.8):
    """Posteriors of little noise around normal means of correlation `rho`, of which TC is known."""
    first, second = torch.randn(2, num, generator=generator)
    return posterior_at(torch.stack([first, rho * first + (1 - rho**2) ** 0.5 * second], dim=1), 0.2)


def test_total_correlation_needs_more_images_than_a_batch(generator):
    """Mean of squares 1 + 0.04, product 0.8: TC = -log(1 - r^2) / 2 with r = 0.8 / 1.04."""
    exact = -0.5 * math.log(1 - (0.8 / 1.04) ** 2)
    batch = correlated(32, generator)
    memory = PosteriorMemory(correlated(8192, generator))
    code = batch.sample(generator)
    assert total_correlation(memory.add(batch), code).item() == pytest.approx(exact, abs=0.15)
    assert total_correlation(batch, code).item() > 1.5 * exact


def test_the_memory_keeps_the_newest_posteriors_without_gradients(generator):
    memory = PosteriorMemory(posterior_at(torch.zeros(5, 1), 1.0))
    for value in (1.0, 2.0):
        batch = posterior_at(torch.full((2, 1), value), 0.5)
        batch.mean.requires_grad_()
        known = memory.add(batch)
        assert known.mean.flatten()[:2].tolist() == [value] * 2 and not known.mean.requires_grad
    assert memory.mean.flatten().tolist() == [2, 2, 1, 1, 0]
    torch.testing.assert_close(memory.logvar.flatten().exp(), torch.tensor([0.25] * 4 + [1.0]))
    code = batch.sample(generator)
    total_correlation(known, code).backward()
    assert batch.mean.grad is not None


def test_the_gradient_through_the_code_alone_is_that_of_the_estimate_on_average(generator):
    """The rest of the derivative is zero in expectation; means scaled by s have another TC."""
    parts = []
    for detached in (False, True):
        scale, total = torch.ones((), requires_grad=True), 0.0
        for _ in range(300):
            base = correlated(256, generator)
            posterior = Posterior(base.mean * scale, base.logvar)
            code = posterior.sample(generator)
            mixture = Posterior(posterior.mean.detach(), posterior.logvar) if detached else posterior
            total = total + total_correlation(mixture, code) / 300
        total.backward()
        parts.append(scale.grad.item())
    assert parts[1] == pytest.approx(parts[0], rel=0.15)


@pytest.mark.parametrize("dim", [1, 3])
def test_the_fast_estimate_is_the_plain_one(generator, dim):
    mixture = Posterior(
        torch.randn(50, 4, dim, generator=generator), torch.randn(50, 4, dim, generator=generator) - 2
    )
    plain, fast = (
        torch.randn(7, 4, dim, generator=generator.manual_seed(1)).requires_grad_() for _ in range(2)
    )
    values = total_correlation(mixture, plain), correlation_of_code(mixture, fast)
    torch.testing.assert_close(*values)
    for value in values:
        (3 * value).backward()
    torch.testing.assert_close(plain.grad, fast.grad, rtol=1e-4, atol=1e-5)


def test_the_fast_estimate_is_made_in_full_precision(generator):
    posterior = posterior_at(torch.randn(20, 4, generator=generator), 0.05)
    code = posterior.sample(generator)
    expected = correlation_of_code(posterior, code)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(correlation_of_code(posterior, code), expected)


def test_a_beta_tcvae_of_ones_adds_nothing(generator):
    posterior = Posterior(torch.randn(8, 3, 1), torch.randn(8, 3, 1))
    code = posterior.sample(generator)
    assert BetaTCVAETerm(BetaTCVAEConfig(1.0, 1.0, 1.0))(posterior, code, generator)[0] == 0
    parts = decompose_kl(posterior, code)
    added, told = BetaTCVAETerm(BetaTCVAEConfig(0.5, 4.0, 2.0))(posterior, code, generator)
    expected = -0.5 * parts.mutual_information + 3 * parts.total_correlation + parts.dimension_wise
    torch.testing.assert_close(added, expected)
    assert told.keys() == parts._asdict().keys()


def test_permuting_keeps_every_unit_and_breaks_their_relation(generator):
    code = torch.randn(500, 1, 2).expand(-1, 3, -1) + torch.tensor([0.0, 100, 200])[:, None]
    permuted = permute_units(code, generator)
    for k in range(3):
        assert torch.equal(permuted[:, k].sort(dim=0).values, code[:, k].sort(dim=0).values)
        first, second = permuted[:, k], code[:, k]  # numbers of one unit stay together
        assert set(map(tuple, first.tolist())) == set(map(tuple, second.tolist()))
    assert abs(torch.corrcoef(permuted[:, :2, 0].T)[0, 1]) < 0.2


def test_a_trained_discriminator_knows_the_total_correlation_of_gaussians(generator):
    """TC of two standard normal units of correlation r is -log(1 - r^2) / 2."""
    correlation = 0.9
    torch.manual_seed(0)
    discriminator = Discriminator(2, 64, 2)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=5e-3)

    def draw(n):
        x = torch.randn(n, 2, generator=generator)
        x[:, 1] = correlation * x[:, 0] + math.sqrt(1 - correlation**2) * x[:, 1]
        return x[..., None]

    for _ in range(300):
        optimizer.zero_grad()
        discriminator_loss(discriminator, draw(512), generator).backward()
        optimizer.step()
    found = discriminator.total_correlation(draw(4000)).item()
    assert found == pytest.approx(-0.5 * math.log(1 - correlation**2), abs=0.12)


class TestFactorVAETerm:
    @pytest.fixture
    def term(self):
        return FactorVAETerm(FactorVAEConfig(gamma=2.0, width=8, num_layers=2), 3, seed=1)

    def test_the_two_gradients_do_not_mix(self, term, generator):
        code = torch.randn(8, 3, 1, requires_grad=True)
        posterior = Posterior(code, torch.zeros_like(code))
        alone = FactorVAETerm(FactorVAEConfig(gamma=0.0, width=8, num_layers=2), 3, seed=1)
        assert all(map(torch.equal, term.parameters(), alone.parameters()))
        for each in (term, alone):
            each(posterior, code, torch.Generator().manual_seed(0))[0].backward()
        for one, other in zip(term.parameters(), alone.parameters(), strict=True):
            assert one.grad.any() and torch.equal(one.grad, other.grad)  # gamma does not reach it
        (expected,) = torch.autograd.grad(2 * term.discriminator(code).mean(), code)
        torch.testing.assert_close(code.grad, expected)  # the discriminator's loss does not reach the code

    def test_the_discriminator_has_its_own_optimiser_settings(self, term):
        (group,) = term.parameter_groups(2.0)
        assert group["lr"] == 2e-4 and group["betas"] == (0.5, 0.9)
        assert len(group["params"]) == len(list(term.parameters())) == 6

    def test_it_has_leaky_layers_and_one_output(self, term):
        kinds = [type(layer) for layer in term.discriminator.layers]
        assert kinds == [nn.Linear, nn.LeakyReLU, nn.Linear, nn.LeakyReLU, nn.Linear]
        assert term.discriminator(torch.zeros(4, 3, 1)).shape == (4,)
