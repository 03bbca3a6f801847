import itertools
import math

import pytest
import torch
from torch.overrides import TorchFunctionMode

from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.method.losses import (
    AuxiliaryConfig,
    DisDiffLossConfig,
    change_weight,
    fit_whitener,
    snr_weight,
    whitened_error,
)
from disdiff.method.model import DisDiff, shift_eps
from disdiff.method.tasks import DisDiffTask, encode_frozen
from ldm.diffusion.process import predict_z0
from ldm.errors import UserError
from ldm.tasks import sample_latents
from ldm.training.optimizer import Budget, TrainConfig, TrainSettings
from ldm.training.ranks import DRAWS

LEARNS = FactorEncoderConfig()
TRAIN = TrainConfig(optimizer="adam", weight_decay=0.0, learning_rate=1e-2, ema_decay=0.9)
BATCH = 6


def build_task(model, train=TRAIN, encoder=LEARNS, **loss):
    settings = TrainSettings(train, Budget(BATCH, 20, train.learning_rate), seed=0)
    return DisDiffTask(model, DisDiffLossConfig(**loss), encoder, settings).train()


def build_batch(model):
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (BATCH, 3, 16, 16), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        statistics = model.latent_space.autoencoder.encode_statistics(image.float() / 127.5 - 1)
    return {"statistics": statistics, **({"image": image} if model.encoder_input.array == "image" else {})}


def loss_at(task, step=0):
    """Loss of a step; the same step draws the same numbers."""
    return task.compute_loss(build_batch(task.model), step, task.step_generator(step))


def gradients(task, step=0):
    """Gradient of the loss for the encoder and for the decoder, each as one vector."""
    task.zero_grad()
    loss_at(task, step).backward()
    parts = (task.trained.encoder, task.trained.decoder)
    return [torch.cat([p.grad.flatten() for p in part.parameters()]) for part in parts]


def snapshot(*modules):
    named = [[*module.named_parameters(), *module.named_buffers()] for module in modules]
    return [tensor.clone() for group in named for _, tensor in group]


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(("space", "reads"), [("latent", "z"), ("latent", "image"), ("pixel", "image")])
def test_training_moves_every_weight_and_nothing_frozen(build_tiny_disdiff, space, reads, norm):
    model = build_tiny_disdiff(space, reads, norm=norm)
    task = build_task(model)
    (frozen, before) = snapshot(model.latent_space, model.denoiser), snapshot(task.trained)
    optimizer = task.configure_optimizers()["optimizer"]
    for step in range(4):  # the zero-initialised layers let the gradient through one after the other
        optimizer.zero_grad()
        loss_at(task, step).backward()
        optimizer.step()
    assert all(map(torch.equal, frozen, snapshot(model.latent_space, model.denoiser)))
    unmoved = [
        name
        for (name, tensor), old in zip(task.trained.named_parameters(), before, strict=False)
        if torch.equal(tensor, old)
    ]
    assert not unmoved
    assert all(parameter.grad is None for parameter in model.denoiser.parameters())


def test_frozen_parts_stay_in_evaluation_mode_through_train(build_tiny_disdiff):
    model = build_tiny_disdiff(norm="batch")
    task = build_task(model)
    assert task.trained.training and task.training
    for part in (model.latent_space, model.denoiser, task.ema.average):
        assert not any(module.training for module in part.modules())
        assert not any(parameter.requires_grad for parameter in part.parameters())
    task.eval()
    assert not task.trained.training


def test_the_average_covers_encoder_and_decoder(build_tiny_disdiff):
    task = build_task(build_tiny_disdiff())
    assert task.result is task.ema.average is task.current.networks
    names = [name for name, _ in task.result.named_parameters()]
    assert names == [name for name, _ in task.trained.named_parameters()]
    assert {name.split(".")[0] for name in names} == {"encoder", "decoder"}


@pytest.mark.parametrize("space", ["z", "image"])
@pytest.mark.parametrize("reads", ["z", "image"])
def test_detaching_the_condition_keeps_the_disentangling_loss_from_the_encoder(
    build_tiny_disdiff, reads, space
):
    model = build_tiny_disdiff(reads=reads, fields="random")

    def both(weight, detach):
        options = {"weight_disentangle": weight, "detach_condition": detach, "change_space": space}
        return gradients(build_task(model, **options))

    (encoder, decoder), (encoder_dis, decoder_dis) = both(0.0, True), both(100.0, True)
    assert torch.equal(encoder, encoder_dis)
    assert not torch.allclose(decoder, decoder_dis, rtol=0.1)
    encoder_dis, _ = both(100.0, False)
    assert not torch.allclose(encoder, encoder_dis, rtol=0.1)


def test_detaching_the_condition_does_not_change_the_loss(build_tiny_disdiff):
    model = build_tiny_disdiff(fields="random")
    values = [loss_at(build_task(model, detach_condition=detach)) for detach in (True, False)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("training", [True, False])
def test_the_frozen_encoder_leaves_its_statistics_and_weights_alone(build_tiny_disdiff, training):
    encoder = build_tiny_disdiff(norm="batch").networks.encoder
    x = torch.randn(4, 4, 8, 8)
    encoder.train()(3 * x + 1)  # running statistics that differ from the batch's
    expected = encoder.eval()(x)
    encoder.train(training)
    before = snapshot(encoder)
    x.requires_grad_()
    code = encode_frozen(encoder, x)
    code.sum().backward()
    assert torch.equal(code, expected) and encoder.training == training
    assert all(map(torch.equal, before, snapshot(encoder)))
    assert x.grad.any() and all(parameter.grad is None for parameter in encoder.parameters())


def test_the_loss_is_the_sum_of_its_terms(build_tiny_disdiff):
    model = build_tiny_disdiff(fields="random")
    bare, single, double = (
        loss_at(build_task(model, weight_disentangle=weight)) for weight in (0.0, 1.0, 2.0)
    )
    torch.testing.assert_close(double - bare, 2 * (single - bare))
    task = build_task(model, weight_disentangle=0.0)
    assert loss_at(task).item() == pytest.approx(task.stats["reconstruction"].item())
    assert "invariant" not in task.stats


def test_disentangling_at_some_steps_with_a_larger_weight(build_tiny_disdiff):
    model = build_tiny_disdiff(fields="random")
    often, seldom, never = (build_task(model, **o) for o in ({}, {"every": 3}, {"weight_disentangle": 0.0}))
    base = loss_at(never, 6)
    torch.testing.assert_close(loss_at(seldom, 6) - base, 3 * (loss_at(often, 6) - base))
    for step in (7, 8):
        assert loss_at(seldom, step) == loss_at(never, step) and "invariant" not in seldom.stats


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_a_new_model_starts_at_the_frozen_error(build_tiny_disdiff, norm):
    task = build_task(build_tiny_disdiff(), norm=norm)
    loss = loss_at(task)
    assert task.stats["of_frozen"] == 1
    assert loss == task.stats["reconstruction"]  # the weight of L_dis is the change, and that is zero
    assert task.stats["weight_mean"] == 0


@pytest.mark.parametrize("t", [5, 300, 900])
def test_the_weightings_over_t(build_tiny_disdiff, t):
    model = build_tiny_disdiff(fields="random")

    def reconstruction(**options):
        task = build_task(model, t_min=t, t_max=t + 1, weight_disentangle=0.0, **options)
        return loss_at(task).item()

    snr = model.schedule.snr[t]
    for norm in ("l1", "l2"):
        plain = reconstruction(norm=norm)
        assert reconstruction(norm=norm, weighting="snr") == pytest.approx(
            plain * snr_weight(snr, 0.1).item(), rel=1e-4
        )
        clean = min(1 / snr.item(), 20.0) ** (0.5 if norm == "l1" else 1)
        assert reconstruction(norm=norm, weighting="clean") == pytest.approx(plain * clean, rel=1e-4)


def test_steps_are_drawn_from_the_configured_range(build_tiny_disdiff, monkeypatch):
    task, seen = build_task(build_tiny_disdiff(), t_min=100, t_max=110), []
    predict = task.model.predict_base
    monkeypatch.setattr(task.model, "predict_base", lambda z_t, t: seen.append(t) or predict(z_t, t))
    for step in range(20):
        loss_at(task, step)
    assert set(torch.cat(seen).tolist()) == set(range(100, 110))


@pytest.mark.parametrize(("t_min", "t_max"), [(500, 500), (0, 1001), (-1, None), (1000, None), (0, 0)])
def test_a_range_without_steps_is_refused(build_tiny_disdiff, t_min, t_max):
    with pytest.raises(UserError, match="t_min"):
        build_task(build_tiny_disdiff(), t_min=t_min, t_max=t_max)


@pytest.mark.parametrize(
    "option", [{"weighting": "snrr"}, {"change_space": "pixels"}, {"dis_weighting": "equal"}]
)
def test_unknown_options_are_refused(build_tiny_disdiff, option):
    with pytest.raises(UserError, match=f"{next(iter(option.values()))} is unknown"):
        build_task(build_tiny_disdiff(), **option)


def test_the_kl_term_of_a_gaussian_encoder(build_tiny_disdiff):
    model = build_tiny_disdiff(posterior="gaussian")
    without, with_kl = build_task(model), build_task(model, weight_kl=0.3)
    base, priced = loss_at(without), loss_at(with_kl)
    posterior = model.networks.encoder.posterior(build_batch_z(with_kl))
    variance = posterior.logvar.exp()
    kl = 0.5 * (posterior.mean**2 + variance - 1 - variance.log()).sum(dim=(1, 2)).mean()
    torch.testing.assert_close(with_kl.stats["kl"], kl)
    torch.testing.assert_close(priced - base, 0.3 * kl, rtol=1e-4, atol=1e-6)
    rising = loss_at(build_task(model, weight_kl=0.3, kl_warmup_steps=4))  # at its first step
    torch.testing.assert_close(rising - base, 0.3 / 4 * kl, rtol=1e-4, atol=1e-6)


def build_batch_z(task):
    """The latents that the task draws at step 0."""
    statistics = build_batch(task.model)["statistics"]
    latent_space = task.model.latent_space
    return latent_space.standardise(latent_space.autoencoder.sample_raw(statistics, task.step_generator(0)))


@pytest.mark.parametrize("space", ["z", "image"])
def test_the_change_is_measured_where_configured_and_capped(build_tiny_disdiff, space, monkeypatch):
    model = build_tiny_disdiff(reads="image", fields="random")
    task = build_task(model, change_space=space, t_min=400, t_max=500)
    seen = []
    monkeypatch.setattr(
        "disdiff.method.tasks.change_weight", lambda *pair: seen.append(pair) or change_weight(*pair)
    )
    loss_at(task)
    assert seen[0][0].shape == (BATCH, *((4, 8, 8) if space == "z" else (3, 16, 16)))
    weight = change_weight(*seen[0])
    assert task.stats["weight_max"] == weight.max() > 0
    capped = build_task(model, change_space=space, t_min=400, t_max=500, change_cap=weight.median().item())
    loss_at(capped)
    assert capped.stats["weight_max"] == weight.median()
    torch.testing.assert_close(capped.stats["weight_mean"], weight.clamp(max=weight.median()).mean())


@pytest.mark.parametrize("t", [1, 20, 500])
def test_the_change_follows_from_the_field_by_the_sampling_coefficient(build_tiny_disdiff, t, monkeypatch):
    """w = (1 - alpha_bar)^2 / alpha_bar * mean(grad_c^2) in the latent space."""
    model = build_tiny_disdiff(fields="random")
    task, seen = build_task(model, t_min=t, t_max=t + 1), []
    compute = task.disentangling_loss
    monkeypatch.setattr(task, "disentangling_loss", lambda *parts: seen.append(parts) or compute(*parts))
    loss_at(task)
    parts, chosen, _, unit = seen[0]
    torch.testing.assert_close(chosen, parts.grad[torch.arange(BATCH), unit])
    noise, signal = model.schedule.noise_variance[t], model.schedule.alpha_bar[t]
    expected = (noise**2 / signal * chosen.square().mean()).item()
    assert task.stats["weight_mean"].item() == pytest.approx(expected, rel=2e-2 if t == 1 else 1e-3)


def test_the_decoder_reads_a_draw_and_the_loss_aims_at_the_mean(build_tiny_disdiff, monkeypatch):
    model = build_tiny_disdiff(fields="random", posterior="fixed", code_noise=0.5)
    task, seen = build_task(model), []
    compute = task.disentangling_loss
    monkeypatch.setattr(task, "disentangling_loss", lambda *parts: seen.append(parts) or compute(*parts))
    loss_at(task)
    parts, _, target, _ = seen[0]
    torch.testing.assert_close(target, model.networks.encoder(parts.z_0))
    assert not target.requires_grad
    assert 0.3 < (parts.code - target).std() < 0.7


def test_the_accuracy_is_of_finding_the_unit_that_was_changed(build_tiny_disdiff, monkeypatch):
    task, units = build_task(build_tiny_disdiff(fields="random")), []
    compute = task.disentangling_loss
    monkeypatch.setattr(task, "disentangling_loss", lambda *parts: units.append(parts[-1]) or compute(*parts))
    for shift, accuracy in ((0, 1.0), (1, 0.0)):

        def point_at_unit(after, before, shift=shift):
            return torch.nn.functional.one_hot((units[-1] + shift) % 3, 3).float()

        monkeypatch.setattr("disdiff.method.tasks.invariant_logits", point_at_unit)
        loss_at(task)
        assert task.stats["unit_accuracy"] == accuracy


TERMS = [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.5, 3.0), (0.0, 0.0)]  # weights of L_in and L_va


@pytest.mark.parametrize(("invariant", "variant"), TERMS)
def test_each_disentangling_term_counts_by_its_weight(build_tiny_disdiff, invariant, variant):
    options = {"weight_disentangle": 0.3, "weight_invariant": invariant, "weight_variant": variant}
    task = build_task(build_tiny_disdiff(fields="random"), dis_weighting="constant", **options)
    loss, stats = loss_at(task), task.stats
    expected = stats["reconstruction"] + 0.3 * (invariant * stats["invariant"] + variant * stats["variant"])
    torch.testing.assert_close(loss.detach(), expected)
    assert stats["invariant"] != stats["variant"]


@pytest.mark.parametrize(("invariant", "variant"), TERMS)
def test_where_nothing_has_moved_yet_each_term_costs_the_logarithm_of_the_units(
    build_tiny_disdiff, invariant, variant
):
    options = {"weight_disentangle": 0.3, "weight_invariant": invariant, "weight_variant": variant}
    task = build_task(build_tiny_disdiff(num_units=5), dis_weighting="constant", **options)
    extra = loss_at(task) - task.stats["reconstruction"]
    assert extra.item() == pytest.approx(0.3 * (invariant + variant) * math.log(5), abs=1e-6)


def test_a_term_of_weight_zero_trains_nothing(build_tiny_disdiff):
    model = build_tiny_disdiff(fields="random")

    def all_gradients(**options):
        return torch.cat(gradients(build_task(model, dis_weighting="constant", **options)))

    none = all_gradients(weight_disentangle=0.0)
    assert torch.equal(all_gradients(weight_invariant=0.0, weight_variant=0.0), none)
    only_in, only_va = (all_gradients(**{f"weight_{name}": 0.0}) for name in ("variant", "invariant"))
    assert not torch.allclose(only_in, none) and not torch.allclose(only_va, none)
    torch.testing.assert_close(only_in + only_va - none, all_gradients(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("t", [2, 900])
def test_constant_weighting_is_one_at_every_step_whatever_the_field(build_tiny_disdiff, t):
    """The weight by change differs by orders of magnitude between these steps."""
    for fields in ("zero", "random"):
        task = build_task(build_tiny_disdiff(fields=fields), dis_weighting="constant", t_min=t, t_max=t + 1)
        loss_at(task)
        assert task.stats["weight_mean"] == task.stats["weight_max"] == 1


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_loss_weighting_is_each_image_s_own_noise_error_without_gradient(
    build_tiny_disdiff, norm, monkeypatch
):
    model = build_tiny_disdiff(fields="random")
    task = build_task(model, dis_weighting="loss", norm=norm, t_min=100)
    seen, measure = [], task._image_weight
    monkeypatch.setattr(task, "_image_weight", lambda *a: seen.append((a[0], measure(*a))) or seen[-1][1])
    loss_at(task)
    parts, weight = seen[0]
    assert weight.shape == (BATCH,) and not weight.requires_grad and weight.std() > 0
    # without a weight over t, the batch's mean noise error is the reconstruction loss itself
    torch.testing.assert_close(weight.mean(), task.stats["reconstruction"], rtol=1e-3, atol=1e-5)
    # and one over t does not enter it
    weighted = build_task(model, dis_weighting="loss", norm=norm, t_min=100, weighting="clean")
    loss_at(weighted)
    torch.testing.assert_close(weighted.stats["weight_mean"], task.stats["weight_mean"])


def test_without_detach_the_disentangling_loss_also_trains_the_encoder_that_looks(build_tiny_disdiff):
    model = build_tiny_disdiff(fields="random")

    def of_encoder(weight, train_evaluator):
        options = {"detach_condition": True, "train_evaluator": train_evaluator}
        return gradients(build_task(model, weight_disentangle=weight, **options))[0]

    bare = of_encoder(0.0, True)
    assert torch.equal(of_encoder(100.0, False), bare)
    assert not torch.allclose(of_encoder(100.0, True), bare, rtol=0.1)


def test_the_noise_error_is_whitened_once_the_data_are_seen(build_tiny_disdiff):
    generator = torch.Generator().manual_seed(0)
    z_0 = torch.randn(50, 4, 8, 8, generator=generator) * torch.tensor([3.0, 1.0, 1.0, 1.0])[:, None, None]
    plain, white = (
        build_task(build_tiny_disdiff(fields="random"), norm="l2", whiten_ridge=ridge)
        for ridge in (None, 0.5)
    )
    expected = loss_at(plain)
    assert torch.equal(loss_at(white), expected)
    for task in (plain, white):
        task.fit_data(z_0)
    assert torch.equal(loss_at(plain), expected)
    eps_hat, eps = torch.randn(2, BATCH, 4, 8, 8, generator=generator)
    by_hand = whitened_error(eps_hat, eps, fit_whitener(z_0, 0.5))
    assert torch.allclose(white.noise_error(eps_hat, eps), by_hand)
    assert not torch.isclose(loss_at(white), expected)


def test_contradicted_images_show_another_one_and_aim_at_their_own(build_tiny_disdiff, monkeypatch):
    seen = []
    monkeypatch.setattr(
        DisDiffTask, "noise_error", lambda task, eps_hat, eps: seen.append(eps) or (eps_hat - eps)[:, 0, 0, 0]
    )
    frozen = DisDiff.predict_base
    monkeypatch.setattr(DisDiff, "predict_base", lambda *given: seen.append(given[1:]) or frozen(*given))
    task = build_task(
        build_tiny_disdiff(fields="random"), contradiction=1.0, weighting="clean", weight_disentangle=0.0
    )
    batch = build_batch(task.model)
    loss_at(task)
    (z_t, t), eps, _ = seen
    z_0 = sample_latents(task.model.latent_space, batch["statistics"], task.step_generator(0))
    torch.testing.assert_close(predict_z0(task.model.schedule, z_t, t, eps), z_0, rtol=1e-3, atol=1e-3)
    assert (eps.flatten(1).std(dim=1) - 1).abs().max() > 0.2  # not the noise alone


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_images_is_mixed_with_the_one_before(build_tiny_disdiff, share):
    task = build_task(build_tiny_disdiff(), contradiction=share, weighting="clean")
    z_0 = torch.arange(4000.0).view(-1, 1, 1, 1) ** 2
    weight = (
        (z_0 - task.contradict(z_0, z_0, torch.Generator().manual_seed(0))) / (z_0 - z_0.roll(1, 0))
    ).flatten()
    assert (weight > 1e-3).float().mean().item() == pytest.approx(share, abs=0.03)
    assert weight.min() > -1e-3 and weight.max() < 1.001
    assert weight.mean().item() == pytest.approx(share / 2, abs=0.02)


def test_images_that_are_all_the_same_cannot_contradict(build_tiny_disdiff):
    task = build_task(build_tiny_disdiff(), contradiction=1.0, weighting="clean")
    z_0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).expand(BATCH, -1, -1, -1)
    assert torch.equal(task.contradict(z_0, z_0, torch.Generator().manual_seed(1)), z_0)


def test_swapped_units_contradict_as_the_auxiliary_decoder_draws_them(build_tiny_disdiff):
    model = build_tiny_disdiff()
    task = build_task(
        model,
        contradiction=1.0,
        contradict_by="units",
        weighting="clean",
        auxiliary=AuxiliaryConfig(weight=1.0),
    )
    z_0 = torch.randn(800, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    task.fit_data(z_0)
    code = torch.randn(800, 3, 2, generator=torch.Generator().manual_seed(1))
    shift = task.contradict(z_0, code, torch.Generator().manual_seed(2)) - z_0
    ways = []  # all subsets of the three units
    for subset in itertools.product([False, True], repeat=3):
        other = torch.where(torch.tensor(subset)[:, None], code.roll(1, 0), code)
        ways.append(task.auxiliary.draw(other) - task.auxiliary.draw(code))
    cosine = torch.stack([torch.cosine_similarity(shift.flatten(1), way.flatten(1)) for way in ways])
    moves = shift.flatten(1).norm(dim=1) > 1e-4
    best, way = cosine[:, moves].max(dim=0)
    assert best.min() > 0.999
    count = torch.bincount(way, minlength=8) / len(z_0)
    count[0] = 1 - moves.float().mean()
    size = torch.tensor([sum(subset) for subset in itertools.product([0, 1], repeat=3)])
    by_size = [count[size == k].sum().item() for k in range(4)]
    assert by_size == pytest.approx([0.25] * 4, abs=0.05)  # as many of one unit as of all


def test_swapped_units_need_an_auxiliary_decoder(build_tiny_disdiff):
    with pytest.raises(UserError, match=r"contradict_by=units needs an auxiliary decoder"):
        build_task(build_tiny_disdiff(), contradiction=0.5, contradict_by="units", weighting="clean")


def test_contradiction_needs_an_error_of_clean_latents(build_tiny_disdiff):
    with pytest.raises(UserError, match=r"contradiction=0.5 needs .*weighting=clean"):
        build_task(build_tiny_disdiff(), contradiction=0.5)


def test_only_a_squared_error_is_whitened(build_tiny_disdiff):
    with pytest.raises(UserError, match="code.loss.norm"):
        build_task(build_tiny_disdiff(), norm="l1", whiten_ridge=1.0)


def test_a_held_encoder_gets_no_gradient_and_then_learns_at_its_own_rate(build_tiny_disdiff):
    held = FactorEncoderConfig(freeze_steps=2, learning_rate_factor=0.25)
    task = build_task(build_tiny_disdiff(fields="random", posterior="gaussian"), encoder=held, weight_kl=1.0)
    encoder, rest = task.configure_optimizers()["optimizer"].param_groups
    assert encoder["initial_lr"] == pytest.approx(0.25 * rest["initial_lr"])
    names = {id(parameter): name for name, parameter in task.trained.named_parameters()}
    assert all(names[id(parameter)].startswith("encoder.") for parameter in encoder["params"])
    assert len(encoder["params"]) + len(rest["params"]) == len(names)
    for step, learns in ((1, False), (2, True)):
        loss_at(task, step).backward()
        assert [parameter.grad is not None for parameter in task.trained.encoder.parameters()] == [
            learns
        ] * len(encoder["params"])
        assert all(parameter.grad is not None for parameter in task.trained.decoder.parameters())


class Draws(TorchFunctionMode):
    """Records the shapes that are drawn from generators."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        drawn = func(*args, **(kwargs or {}))
        if func in DRAWS and (kwargs or {}).get("generator") is not None:
            self.shapes.append(tuple(drawn.shape))
        return drawn


@pytest.mark.parametrize("by", ["latent", "units"])
def test_the_first_axis_of_every_draw_is_the_batch(build_tiny_disdiff, by):
    """So each process draws the numbers of its own rows, see `ldm.training.ranks`."""
    loss = dict(contradiction=0.5, contradict_by=by, weighting="clean", auxiliary=AuxiliaryConfig(weight=1.0))
    task = build_task(build_tiny_disdiff("latent", reads="z"), **loss)
    task.fit_data(sample_latents(task.model.latent_space, build_batch(task.model)["statistics"], None))
    with Draws() as draws:
        loss_at(task)
    assert len(draws.shapes) > 4 and {shape[0] for shape in draws.shapes} == {BATCH}


def test_an_unknown_norm_is_refused_by_its_key(build_tiny_disdiff):
    with pytest.raises(UserError, match="code.loss.norm=l3 is unknown; choose one of l1, l2"):
        build_task(build_tiny_disdiff(), norm="l3")


def test_half_precision_does_not_lose_a_small_shift():
    base, grad = torch.ones(2, 1, 4, 4), torch.full((2, 1, 4, 4), 1e-3)
    half = shift_eps(base.bfloat16(), torch.ones(3), torch.tensor([0, 2]), grad.bfloat16())
    torch.testing.assert_close(half, base + grad, atol=1e-5, rtol=0)
