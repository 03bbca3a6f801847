import math
from functools import partial

import pytest
import torch

from disdiff.editing.units import (
    check_units,
    decode_code,
    deterministic,
    in_batches,
    interpolate_codes,
    principal_directions,
    reconstruct,
    renew_noise,
    sample_start,
    slerp,
    swap_units,
    traverse_code,
)
from disdiff.method.model import sampling_coefficient
from disdiff.metrics._inputs import unit_scalars
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError

SAMPLER = SamplerConfig("ddim", 5, 0.0)


@pytest.fixture
def batch(model, generator):
    """Codes, noisy latents and steps of four images."""
    code = torch.randn(4, 3, 2, generator=generator)
    z_t = torch.randn(4, 3, 16, 16, generator=generator)
    return code, z_t, torch.tensor([0, 7, 20, 39])


def test_all_units_shift_by_the_sampling_coefficient(model, batch):
    code, z_t, t = batch
    prediction = model.predict(z_t, t, code)
    coefficient = sampling_coefficient(model.schedule)[t][:, None, None, None]
    expected = prediction.eps_base + coefficient * prediction.grad.sum(dim=1)
    torch.testing.assert_close(model.eps_fn(code)(z_t, t), expected)
    assert prediction.grad.abs().max() > 1e-3


def test_no_units_leave_the_frozen_prediction_bit_equal(model, batch):
    code, z_t, t = batch
    assert torch.equal(model.eps_fn(code, [])(z_t, t), model.denoiser(z_t, t))


def test_shifts_of_subsets_add_up(model, batch):
    code, z_t, t = batch
    base, both = (model.eps_fn(code, units)(z_t, t) for units in ([], [2, 0]))
    one, other = (model.eps_fn(code, [unit])(z_t, t) - base for unit in (0, 2))
    torch.testing.assert_close(both, base + one + other, atol=1e-5, rtol=0)


def test_only_the_units_asked_for_are_computed(model, batch, monkeypatch):
    code, z_t, t = batch
    seen = []
    forward = model.networks.decoder.forward
    monkeypatch.setattr(
        model.networks.decoder, "forward", lambda f, c, units: seen.append(c.shape[1]) or forward(f, c, units)
    )
    model.eps_fn(code, [1])(z_t, t)
    assert seen == [1]


def test_guidance_multiplies_every_shift_and_leaves_training_alone(model, batch):
    code, z_t, t = batch
    base, plain = model.eps_fn(code, [])(z_t, t), model.eps_fn(code)(z_t, t)
    some, trained = model.eps_fn(code, [1, 0])(z_t, t), model.predict(z_t, t, code)
    model.guidance = 2.0
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=0)
    close(model.eps_fn(code)(z_t, t), base + 2 * (plain - base))
    close(model.eps_fn(code, [1, 0])(z_t, t), base + 2 * (some - base))
    assert torch.equal(model.predict(z_t, t, code).grad, trained.grad)
    model.guidance = 0.0
    assert torch.equal(model.eps_fn(code)(z_t, t), base)


def test_inversion_undoes_guided_sampling(model, halves):
    image = halves.images(torch.arange(2)).float() / 127.5 - 1
    code, steps = model.encode(image), model.schedule.num_steps
    plain = model.infer_noise(image, code, steps)
    model.guidance = 1.5
    z_T = model.infer_noise(image, code, steps)
    assert not torch.allclose(z_T, plain, atol=1e-3)
    assert (decode_code(model, code, z_T, SamplerConfig("ddim", steps, 0.0)) - image).abs().mean() < 0.1


@pytest.mark.parametrize("units", [[3], [-1], [0, 0]])
def test_wrong_units_are_named(model, batch, units):
    with pytest.raises(UserError, match="unit"):
        model.eps_fn(batch[0], units)
    with pytest.raises(UserError, match="unit"):
        swap_units(batch[0], batch[0], units)
    assert check_units([2, 0], 3) == [2, 0]


def test_swap_takes_the_units_and_leaves_its_arguments(generator):
    source, target = torch.randn(2, 5, 3, 2, generator=generator)
    before = source.clone()
    swapped = swap_units(source, target, [2, 0])
    assert torch.equal(swapped[:, [0, 2]], target[:, [0, 2]]) and torch.equal(swapped[:, 1], source[:, 1])
    assert torch.equal(source, before)


def test_inversion_finds_noise_that_brings_the_image_back(model, halves):
    image = halves.images(torch.arange(2)).float() / 127.5 - 1
    code, steps = model.encode(image), model.schedule.num_steps
    z_T = model.infer_noise(image, code, steps)
    ddim = SamplerConfig("ddim", steps, 0.0)
    restored = decode_code(model, code, z_T, ddim)
    other = decode_code(model, code, z_T.flip(0), ddim)
    error, error_other = (restored - image).abs().mean(), (other - image).abs().mean()
    assert error < 0.1 < error_other
    assert torch.equal(restored, reconstruct(model, image, ddim, z_T))


def test_decoding_is_a_function_of_code_and_noise(model, batch, generator):
    code, z_T, _ = batch
    image = decode_code(model, code, z_T, SAMPLER)
    assert image.shape == (4, 3, 16, 16) and image.abs().max() <= 1
    assert torch.equal(image, decode_code(model, code, z_T, SAMPLER))
    assert not torch.allclose(image, decode_code(model, code.flip(0), z_T, SAMPLER), atol=1e-3)
    noisy = SamplerConfig("dpm_solver", 7, 0.5)
    assert deterministic(noisy) == SamplerConfig("ddim", 7, 0.0)


def test_random_reconstruction_needs_a_generator(model, halves):
    image = halves.images(torch.arange(2)).float() / 127.5 - 1
    runs = [reconstruct(model, image, SAMPLER, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*runs)
    with pytest.raises(ValueError, match="generator"):
        reconstruct(model, image, SAMPLER)


def test_batches_join_to_the_whole_and_report_progress():
    shares = []
    rows = torch.arange(70.0)
    doubled = in_batches(lambda a, b: a + b, rows, rows, progress=shares.append)
    assert torch.equal(doubled, 2 * rows) and shares == [32 / 70, 64 / 70, 1.0]


def test_start_is_standard_normal_in_the_latent_shape(model, generator):
    z_T = sample_start(model, 500, 16, generator)
    assert z_T.shape == (500, 3, 16, 16) and abs(z_T.std() - 1) < 0.01


def test_directions_agree_with_the_metrics(generator):
    codes = (
        torch.randn(400, 3, 4, generator=generator) @ torch.randn(3, 4, 4, generator=generator)[:, None][0]
    )
    directions = principal_directions(codes)
    scalars = torch.from_numpy(unit_scalars(codes.numpy())).float()
    projected = torch.einsum("nkd,kd->nk", codes - directions.mean, directions.axis)
    torch.testing.assert_close(projected, scalars, atol=1e-4, rtol=0)
    torch.testing.assert_close(directions.std, scalars.std(dim=0, correction=0), atol=1e-4, rtol=0)
    assert directions.axis.norm(dim=1) == pytest.approx(1.0)


def test_direction_of_a_scalar_unit_is_the_unit_itself():
    directions = principal_directions(torch.tensor([[[1.0], [5.0]], [[3.0], [5.0]]]))
    assert directions.axis.tolist() == [[1.0], [1.0]]
    assert directions.mean.tolist() == [[2.0], [5.0]] and directions.std.tolist() == [1.0, 0.0]


def test_traversal_moves_one_unit_to_given_places_and_nothing_else(generator):
    codes = torch.randn(200, 3, 2, generator=generator) * torch.tensor([2.0, 0.3])
    directions, amounts = principal_directions(codes), torch.tensor([-2.0, 0.0, 1.5])
    moved = traverse_code(codes[:5], 1, directions, amounts)
    assert moved.shape == (5, 3, 3, 2)
    for other in (0, 2):
        assert torch.equal(moved[:, :, other], codes[:5, None, other].expand(-1, 3, -1))
    places = (moved[:, :, 1] - directions.mean[1]) @ directions.axis[1] / directions.std[1]
    torch.testing.assert_close(places, amounts.expand(5, -1), atol=1e-5, rtol=0)
    across = torch.tensor([-directions.axis[1, 1], directions.axis[1, 0]])
    torch.testing.assert_close(moved[:, :, 1] @ across, (codes[:5, 1] @ across)[:, None].expand(-1, 3))
    with pytest.raises(UserError, match="no unit 3"):
        traverse_code(codes, 3, directions, amounts)


def test_interpolation_is_straight_and_includes_its_ends(generator):
    start, end = torch.randn(2, 4, 3, 2, generator=generator)
    path = interpolate_codes(start, end, 5)
    assert path.shape == (4, 5, 3, 2)
    torch.testing.assert_close(path[:, 0], start)
    torch.testing.assert_close(path[:, -1], end)
    torch.testing.assert_close(path[:, 2], (start + end) / 2)


def test_slerp_keeps_the_norm_and_its_ends(generator):
    start = torch.randn(3, 2, 4, 4, generator=generator)
    end = torch.randn(3, 2, 4, 4, generator=generator)
    unit = [tensor / tensor.flatten(1).norm(dim=1)[:, None, None, None] for tensor in (start, end)]
    path = slerp(*unit, torch.linspace(0, 1, 5))
    torch.testing.assert_close(path.flatten(2).norm(dim=2), torch.ones(3, 5))
    torch.testing.assert_close(path[:, 0], unit[0])
    torch.testing.assert_close(path[:, -1], unit[1])
    same = slerp(start, start, torch.tensor([0.3]))
    torch.testing.assert_close(same[:, 0], start, rtol=1e-3, atol=1e-3)
    assert math.isfinite(slerp(start, -start, torch.tensor([0.5])).sum())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_renewed_noise_is_normal_and_has_the_rest_of_the_old(generator, share):
    z_T = torch.randn(64, 4, 8, 8, generator=generator)
    renewed = renew_noise(z_T, share, generator)
    assert renewed.std() == pytest.approx(1, abs=0.02)
    correlation = torch.corrcoef(torch.stack([z_T.flatten(), renewed.flatten()]))[0, 1]
    assert correlation == pytest.approx((1 - share) ** 0.5, abs=0.02)
