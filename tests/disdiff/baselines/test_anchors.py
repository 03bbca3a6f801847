"""Anchors find the clusters of a unit and draw codes to them; skips are dropped as a whole."""

import pytest
import torch

from disdiff.baselines.anchors import Anchors, AnchorsConfig, Mixture, drop_skips
from ldm.nn.unet import Features


def draw(centres, n, std=0.1, seed=0):
    """Numbers (n, len(centres)): unit k is near one of `centres[k]`."""
    generator = torch.Generator().manual_seed(seed)
    columns = []
    for places in centres:
        chosen = torch.randint(len(places), (n,), generator=generator)
        columns.append(torch.tensor(places)[chosen] + std * torch.randn(n, generator=generator))
    return torch.stack(columns, dim=1)


def settle(centres, fits=12, **options):
    """Anchors after several fits to numbers near `centres`."""
    anchors = Anchors(AnchorsConfig(shift=0.5, memory=1000, every=1, **options), len(centres))
    for step in range(fits):
        anchors.remember(draw(centres, 1000, seed=step), step)
    return anchors


@pytest.fixture(scope="module")
def settled():
    return settle([[0.0], [-1.0, 1.0], [-2.0, 0.0, 1.0, 3.0]])


def test_every_unit_gets_as_many_anchors_as_it_has_clusters(settled):
    assert (settled.share > 0).sum(dim=1).tolist() == [1, 2, 4]
    for k, places in enumerate([[0.0], [-1.0, 1.0], [-2.0, 0.0, 1.0, 3.0]]):
        mean = settled.mean[k][settled.share[k] > 0].sort().values
        torch.testing.assert_close(mean, torch.tensor(places), atol=0.03, rtol=0)
    torch.testing.assert_close(settled.share.sum(dim=1), torch.ones(3))


def test_there_are_never_more_than_allowed():
    assert (settle([[-2.0, 0.0, 1.0, 3.0]], most=3).share > 0).sum() == 3


def test_clusters_that_vanish_lose_their_anchor(settled):
    settled = settle([[-2.0, 0.0, 1.0, 3.0]])
    for step in range(12):
        settled.remember(draw([[-2.0, 3.0]], 1000, seed=step), step)
    assert (settled.share > 0).sum() == 2


def test_codes_are_drawn_halfway_to_their_anchor_unless_it_is_alone(settled):
    code = torch.tensor([[0.4, 0.8, 0.2], [-5.0, -1.4, 2.8]])[..., None].requires_grad_()
    shifted = settled.shift(code)
    expected = torch.tensor([[0.4, 0.9, 0.1], [-5.0, -1.2, 2.9]])[..., None]
    torch.testing.assert_close(shifted, expected, atol=0.02, rtol=0)
    shifted.sum().backward()
    torch.testing.assert_close(code.grad[:, :, 0], torch.tensor([[1.0, 0.5, 0.5]] * 2))


def test_codes_stay_until_the_memory_is_full():
    anchors = Anchors(AnchorsConfig(shift=0.5, memory=100, every=1), 1)
    code = draw([[-1.0, 1.0]], 60)[..., None]
    assert torch.equal(anchors(code, 0), code) and not anchors.share.any()
    anchors(code, 1)
    assert anchors.share.any()


def test_the_memory_holds_the_latest_codes():
    anchors = Anchors(AnchorsConfig(memory=4, every=100), 1)
    anchors.remember(torch.tensor([[1.0], [2.0], [3.0]]), 0)
    anchors.remember(torch.tensor([[4.0], [5.0]]), 1)
    assert sorted(anchors.memory[:, 0].tolist()) == [2, 3, 4, 5]


def test_em_does_not_make_the_fit_worse():
    x = draw([[-1.0, 1.0, 1.5]], 500, std=0.3)
    mixture = Mixture(torch.full((1, 3), 1 / 3), torch.tensor([[-2.0, 0.0, 2.0]]), torch.ones(1, 3))
    scores = [mixture.bic(x)]
    for _ in range(4):
        mixture = mixture.refit(x)
        scores.append(mixture.bic(x))
    assert all(after <= before + 1e-2 for before, after in zip(scores, scores[1:], strict=False))
    reference = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.share[0]),
        torch.distributions.Normal(mixture.mean[0], mixture.variance[0].sqrt()),
    )
    expected = 9 * torch.tensor(500.0).log() - 2 * reference.log_prob(x[:, 0]).sum()
    torch.testing.assert_close(scores[-1][0], expected, rtol=1e-4, atol=1e-2)


def test_whole_skips_are_dropped_at_the_rate():
    torch.manual_seed(0)
    skips = (torch.ones(4000, 2, 3, 3), torch.ones(4000, 5, 1, 1))
    features = Features(torch.zeros(4000, 1), torch.ones(4000, 2, 1, 1), skips)
    dropped = drop_skips(features, 0.25)
    assert torch.equal(dropped.bottleneck, features.bottleneck) and dropped.emb is features.emb
    kept = [h.flatten(1) for h in dropped.skips]
    for h in kept:
        assert torch.equal(h, h[:, :1].expand_as(h))
        torch.testing.assert_close(h[:, 0].unique(), torch.tensor([0, 4 / 3]))
        assert (h[:, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert not torch.equal(kept[0][:, 0], kept[1][:, 0])


def test_a_unit_that_was_constant_gets_its_anchors_later():
    anchors = Anchors(AnchorsConfig(shift=0.5, memory=1000, every=1), 1)
    anchors.remember(torch.full((1000, 1), 0.3), 0)
    assert anchors.mean[0, 0] == pytest.approx(0.3) and torch.isfinite(torch.cat([*anchors.mixture])).all()
    for step in range(12):
        anchors.remember(draw([[-1.0, 1.0]], 1000, seed=step), step + 1)
    assert (anchors.share > 0).sum() == 2
