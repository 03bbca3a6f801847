import pytest
import torch

from disdiff.clip.heads import ClipHeads, UnitNorm, fit_directions
from disdiff.clip.prompts import principal_text_axes
from disdiff.method.factor_encoder import FactorEncoderConfig
from ldm.errors import UserError

DIM = 12


def build(num_units=4, unit_dim=2, fingerprint="abc", anchors=None, **options):
    options = FactorEncoderConfig(**{"input": "clip", "hidden": 8, "code_norm": "batch", **options})
    torch.manual_seed(0)
    return ClipHeads(options, DIM, num_units, unit_dim, fingerprint, anchors)


@pytest.fixture
def anchors(directions):
    return torch.stack([principal_text_axes(rows, 2) for rows in directions.embeddings])


def test_one_number_per_unit_is_batch_normalisation():
    norm, theirs = UnitNorm(5, 1), torch.nn.BatchNorm1d(5, affine=False)
    x = 3 * torch.randn(64, 5, 1, generator=torch.Generator().manual_seed(0)) + 2
    torch.testing.assert_close(norm(x).squeeze(2), theirs(x.squeeze(2)))
    torch.testing.assert_close(norm.mean.squeeze(1), theirs.running_mean)
    torch.testing.assert_close(norm.eval()(x), (x - norm.mean) / (norm.variance + 1e-5).sqrt()[:, None])


def test_a_units_shape_survives_its_norm():
    x = torch.randn(500, 2, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([4.0, 1.0, 0.1])
    variance = UnitNorm(2, 3)(x).var(dim=0, correction=0)
    torch.testing.assert_close(variance.mean(dim=1), torch.ones(2), atol=1e-3, rtol=0)
    assert (variance[:, 0] / variance[:, 1] > 10).all()


def test_with_text_each_unit_starts_at_its_factor_alone():
    generator = torch.Generator().manual_seed(0)
    mixed = torch.eye(DIM)[:6] + 0.4 * torch.eye(DIM)[:6].roll(2, dims=0)  # factors share directions
    amounts = torch.randn(400, 6, generator=generator)
    u = amounts @ mixed + 0.05 * torch.randn(400, DIM, generator=generator)
    maps = fit_directions(u - u.mean(dim=0), (4, 2), mixed.unflatten(0, (3, 2)))
    code = torch.einsum("ne,kde->nkd", u - u.mean(dim=0), maps)
    for unit in range(3):
        own = amounts[:, 2 * unit : 2 * unit + 2]
        others = torch.cat([amounts[:, : 2 * unit], amounts[:, 2 * unit + 2 :]], dim=1)
        assert correlate(code[:, unit], own) > 0.95
        assert correlate(code[:, unit], others) < 0.25


def correlate(a, b):
    """Largest absolute correlation of any column of one with any column of the other."""
    rows = torch.cat([a, b], dim=1).T
    return torch.corrcoef(rows[rows.std(dim=1) > 1e-6])[: a.shape[1], a.shape[1] :].abs().max()


@pytest.mark.parametrize("start", ["principal", "text"])
def test_heads_start_at_the_fitted_code(anchors, embeddings, start):
    heads = build(start=start, anchors=anchors, posterior="gaussian").eval()
    heads.fit_start(embeddings)
    code = heads(embeddings)
    assert code.shape == (300, 4, 2)
    variance = code.var(dim=0, correction=0).mean(dim=1)
    torch.testing.assert_close(variance, torch.ones(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(code.mean(dim=0), torch.zeros(4, 2), atol=1e-4, rtol=0)
    logvar = heads.posterior(embeddings).logvar
    torch.testing.assert_close(logvar, torch.full((300, 4, 2), -3.5), atol=1.5, rtol=0)  # little noise


def test_noise_starts_as_configured(embeddings):
    heads = build(start="principal", posterior="gaussian", initial_logvar=-6.0).eval()
    heads.fit_start(embeddings)
    logvar = heads.posterior(embeddings).logvar
    torch.testing.assert_close(logvar, torch.full((300, 4, 2), -6.0), atol=1.5, rtol=0)


def test_a_random_start_reads_and_every_head_has_weights_of_its_own(embeddings):
    heads = build(start="random", code_norm="none")
    heads.fit_start(embeddings)
    before = heads(embeddings)
    with torch.no_grad():
        heads.head.weight[2] += 1
    changed = (heads(embeddings) != before).flatten(2).any(dim=2).any(dim=0)
    assert changed.tolist() == [False, False, True, False]
    fixed = build(start="random", posterior="fixed", code_noise=0.5).posterior(embeddings)
    torch.testing.assert_close(fixed.logvar.exp(), torch.full((300, 4, 2), 0.25))


def test_heads_of_another_clip_are_refused(embeddings):
    heads, other = build(), build(fingerprint="xyz")
    build().load_state_dict(heads.state_dict())
    with pytest.raises(RuntimeError, match="another CLIP"):
        other.load_state_dict(heads.state_dict())


def test_what_does_not_fit_is_refused(anchors, embeddings):
    with pytest.raises(UserError, match="none is set"):
        build(start="text")
    with pytest.raises(UserError, match="3 factors, code.num_units=2"):
        build(num_units=2, start="text", anchors=anchors)
    with pytest.raises(UserError, match="start=nowhere is unknown"):
        build(start="nowhere")
    with pytest.raises(UserError, match="at most 12 components"):
        build(num_units=20, start="principal").fit_start(embeddings)
