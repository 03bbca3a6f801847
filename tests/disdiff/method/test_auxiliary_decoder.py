import pytest
import torch
from torch import nn

from disdiff.method.auxiliary_decoder import (
    CRITIC_BETAS,
    PENALTY_EVERY,
    AuxiliaryDecoder,
    build_critic,
    build_decoder,
    draw_taken,
)
from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.method.losses import (
    AuxiliaryConfig,
    DisDiffLossConfig,
    check_whitened,
    critic_penalty,
    mix_units,
    recode_error,
)
from disdiff.method.model import PDAE
from disdiff.method.tasks import DisDiffTask
from ldm.autoencoder.losses import hinge_discriminator_loss
from ldm.data.batches import StepSampler, TensorBatches, build_loader
from ldm.errors import UserError
from ldm.training.fit import fit
from ldm.training.machine import Machine
from ldm.training.optimizer import TrainConfig, resolve_settings

UNITS, NUMBERS = 3, 2


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def z_0(generator):
    """Latents whose entries differ in spread and are correlated."""
    mixing = torch.randn(16, 16, generator=generator) * torch.logspace(-1, 1, 16)
    return (torch.randn(400, 16, generator=generator) @ mixing + 2).unflatten(1, (4, 2, 2))


@pytest.fixture
def auxiliary(z_0):
    torch.manual_seed(0)
    return AuxiliaryDecoder(
        AuxiliaryConfig(weight=2.0, hidden=8, weight_critic=0.5, weight_recode=1.0), z_0, UNITS * NUMBERS
    )


def test_units_are_taken_from_the_other_code(generator):
    code, other = torch.randn(2, 5, UNITS, NUMBERS, generator=generator)
    taken = torch.zeros(5, UNITS, dtype=torch.bool)
    assert torch.equal(mix_units(code, other, taken), code)
    assert torch.equal(mix_units(code, other, ~taken), other)
    taken[1, 2] = True
    mixed = mix_units(code, other, taken)
    assert torch.equal(mixed[1, 2], other[1, 2])
    assert torch.equal(mixed != code, taken[..., None].expand_as(code))


def test_every_number_of_taken_units_is_equally_likely(generator):
    """A share that is uniform in [0, 1] makes the number of units binomial with a uniform mean."""
    taken = draw_taken(torch.zeros(40_000, UNITS, NUMBERS), generator)
    assert taken.shape == (40_000, UNITS)
    counts = taken.sum(dim=1).bincount(minlength=UNITS + 1) / 40_000
    torch.testing.assert_close(counts, torch.full((UNITS + 1,), 1 / (UNITS + 1)), atol=0.01, rtol=0)
    torch.testing.assert_close(taken.float().mean(dim=0), torch.full((UNITS,), 0.5), atol=0.01, rtol=0)


def test_the_penalty_of_a_linear_critic_is_the_square_of_its_slope(generator):
    slope = torch.randn(7, generator=generator, requires_grad=True)
    real, fake, share = torch.randn(5, 7), torch.randn(5, 7), torch.rand(5, 1)
    penalty = critic_penalty(lambda y: y @ slope, real, fake, share)
    torch.testing.assert_close(penalty, slope.square().sum().expand(5))
    (grad,) = torch.autograd.grad(penalty.mean(), slope)
    torch.testing.assert_close(grad, 2 * slope)


def test_the_penalty_is_taken_between_real_and_fake():
    real, fake = torch.full((3, 1), 4.0), torch.full((3, 1), 1.0)
    share = torch.tensor([[0.0], [0.5], [1.0]])
    penalty = critic_penalty(lambda y: y.square().sum(dim=1) / 2, real, fake, share)  # its slope is y
    torch.testing.assert_close(penalty, torch.tensor([1.0, 6.25, 16.0]))


def test_whitened_latents_have_unit_variance_and_come_back(auxiliary, z_0):
    y = auxiliary.whiten(z_0)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(16), atol=1e-4, rtol=0)
    assert y.std().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(auxiliary.unwhiten(y, z_0), z_0, atol=1e-3, rtol=1e-3)


def test_blur_and_price_fade(z_0):
    config = AuxiliaryConfig(hidden=8, blur=9.0, first_price=4.0, anneal_steps=10)
    auxiliary = AuxiliaryDecoder(config, z_0, UNITS * NUMBERS)
    assert [auxiliary.price(step) for step in (0, 5, 10, 20)] == pytest.approx([4, 2, 1, 1])
    decoded = torch.zeros(len(z_0), 16)  # the mean of all latents
    errors = [auxiliary.decoding_error(decoded, z_0, step).item() for step in (0, 5, 10)]
    assert errors == pytest.approx([1, 1, 1], abs=0.02)
    ripple = auxiliary.whiten(z_0) + torch.tensor([1.0, -1.0]).repeat(8) @ auxiliary.whitener
    errors = [auxiliary.decoding_error(ripple, z_0, step).item() for step in (0, 10)]
    assert errors[0] < 0.02 * errors[1]  # a blur as wide as the latent hides what has a mean of zero


def test_an_encoder_that_inverts_the_decoder_has_no_error(auxiliary, z_0, generator):
    """Codes of 16 numbers that are the whitened latents, and a decoder that returns them."""
    auxiliary.decoder = nn.Identity()
    code = auxiliary.whiten(z_0).unflatten(1, (8, 2))

    def terms(recode):
        return auxiliary(z_0, code, recode, 1, generator)[1]

    exact = terms(lambda z: auxiliary.whiten(z).unflatten(1, (8, 2)))
    assert exact["decoded"] < 1e-6 and exact["recoded"] < 1e-6
    doubled = terms(lambda z: 2 * auxiliary.whiten(z).unflatten(1, (8, 2)))
    assert doubled["recoded"].item() == pytest.approx(1, abs=0.1)  # the mean square of a code's number


def test_the_error_of_recoding_is_a_mean_over_numbers():
    mixed = torch.zeros(2, UNITS, NUMBERS)
    error = recode_error(mixed + torch.tensor([1.0, 3.0])[:, None, None], mixed)
    torch.testing.assert_close(error, torch.tensor([1.0, 9.0]))


@pytest.mark.parametrize("step", [0, 1])
def test_the_critic_learns_from_its_own_loss_and_nothing_else_does(auxiliary, z_0, generator, step):
    encode = nn.Linear(16, UNITS * NUMBERS)

    def recode(z):
        return encode(z.flatten(1)).unflatten(1, (UNITS, NUMBERS))

    def gradients(weight):
        auxiliary.config.weight = weight
        generator.manual_seed(1)
        loss, stats = auxiliary(z_0, recode(z_0), recode, step, generator)
        parts = [auxiliary.critic, auxiliary.decoder, encode]
        parameters = [list(part.parameters()) for part in parts]
        flat = torch.autograd.grad(loss, sum(parameters, []), allow_unused=True)
        places = (slice(0, 6), slice(6, 12), slice(12, 14))
        return [torch.cat([g.flatten() for g in flat[place]]) for place in places], stats

    (critic, decoder, encoder), stats = gradients(2.0)
    (same, doubled_decoder, doubled_encoder), _ = gradients(4.0)
    torch.testing.assert_close(same, critic)
    torch.testing.assert_close(doubled_decoder, 2 * decoder)
    torch.testing.assert_close(doubled_encoder, 2 * encoder)
    assert not torch.allclose(decoder, torch.zeros_like(decoder))

    generator.manual_seed(1)
    code = recode(z_0)
    mixed = mix_units(code, code.roll(1, dims=0), draw_taken(code, generator))
    real, fake = (auxiliary.decoder(c.flatten(1)).detach() for c in (code, mixed))
    loss = auxiliary.critic_loss(real, fake, step, generator)
    torch.testing.assert_close(loss.detach(), stats["critic"])
    own = torch.autograd.grad(loss, list(auxiliary.critic.parameters()))
    torch.testing.assert_close(torch.cat([g.flatten() for g in own]), critic)
    plain = hinge_discriminator_loss(auxiliary.critic(real), auxiliary.critic(fake))
    assert (loss - plain > 1e-5) == (step % PENALTY_EVERY == 0)


def test_the_encoder_is_asked_for_images_that_the_critic_takes_for_real(auxiliary, z_0, generator):
    """With a critic that likes large first entries, the encoder's gradient makes them larger."""
    config = auxiliary.config
    config.weight_recode, config.weight_critic = 0.0, 1e6
    auxiliary.decoder = nn.Identity()
    auxiliary.critic = nn.Linear(16, 1)
    nn.init.zeros_(auxiliary.critic.weight)
    auxiliary.critic.weight.data[0, 0] = 1
    code = auxiliary.whiten(z_0).unflatten(1, (8, 2)).requires_grad_()
    loss, stats = auxiliary(z_0, code, lambda z: code, 1, generator)
    (grad,) = torch.autograd.grad(loss, code)
    assert (grad[:, 0, 0].sum() / grad[:, 0, 0].abs().sum()) == -1
    assert grad[:, 0, 1].abs().max() < 1e-3 * grad[:, 0, 0].abs().max()


def test_without_critic_and_recoding_nothing_is_mixed(auxiliary, z_0, generator):
    auxiliary.config.weight_recode = auxiliary.config.weight_critic = 0.0
    state = generator.get_state()
    code = torch.randn(len(z_0), UNITS, NUMBERS, generator=torch.Generator().manual_seed(1))
    loss, stats = auxiliary(z_0, code, lambda z: pytest.fail("read again"), 1, generator)
    error = (auxiliary.decoder(code.flatten(1)) - auxiliary.whiten(z_0)).square().mean()
    assert set(stats) == {"decoded"} and torch.equal(generator.get_state(), state)
    torch.testing.assert_close(loss, 2 * error)
    loss.backward()
    assert all(weight.grad is None for weight in auxiliary.critic.parameters())
    bare = AuxiliaryDecoder(AuxiliaryConfig(weight=1.0), z_0, UNITS * NUMBERS)
    assert bare.critic is None and len(bare.parameter_groups(1.0)) == 1


BATCH, STEPS = 4, 6


def build_task(model, weight=1.0, pretrain_steps=0, weight_correlation=0.0, mixes=True, **encoder):
    config = TrainConfig(
        images=BATCH * STEPS,
        batch_size=BATCH,
        learning_rate=1e-2,
        weight_decay=0.0,
        ema_decay=0.9,
        grad_clip=1.0,
        checkpoint_seconds=0.0,
    )
    torch.manual_seed(4)
    mixing = {"weight_critic": 0.5, "weight_recode": 1.0} if mixes else {}
    auxiliary = AuxiliaryConfig(weight=weight, hidden=8, pretrain_steps=pretrain_steps, **mixing)
    loss = DisDiffLossConfig(auxiliary=auxiliary, weight_correlation=weight_correlation)
    return DisDiffTask(model, loss, FactorEncoderConfig(**encoder), resolve_settings(config, 0, "cpu"))


def build_statistics(model):
    image = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
    with torch.no_grad():
        return model.latent_space.autoencoder.encode_statistics(image)


def prepare(task):
    """Fit the task to its data; returns the statistics of its images."""
    statistics = build_statistics(task.model)
    raw = task.model.latent_space.autoencoder.sample_raw(statistics, None)
    task.fit_data(task.model.latent_space.standardise(raw))
    return statistics


def test_without_a_weight_nothing_is_built_or_drawn(build_tiny_disdiff):
    task = build_task(build_tiny_disdiff(), weight=0.0)
    state = torch.get_rng_state()
    statistics = prepare(task)
    assert task.auxiliary is None
    counts = [len(group["params"]) for group in task.parameter_groups()]
    assert sum(counts) == len(list(task.trained.parameters()))
    assert torch.equal(torch.get_rng_state(), state)
    task.compute_loss({"statistics": statistics[:BATCH]}, 0, task.step_generator(0))
    assert "mixed" not in task.stats


def test_the_term_is_added_once_the_encoder_learns_and_leaves_the_other_draws_alone(build_tiny_disdiff):
    model = build_tiny_disdiff(fields="random")
    bare, task = build_task(model, 0.0, freeze_steps=2), build_task(model, freeze_steps=2)
    statistics = prepare(task)
    batch = {"statistics": statistics[:BATCH]}
    for step in (1, 2):
        expected = bare.compute_loss(batch, step, bare.step_generator(step))
        loss = task.compute_loss(batch, step, task.step_generator(step))
        assert task.stats["reconstruction"] == bare.stats["reconstruction"]
        assert (loss == expected) == (step < 2) == ("mixed" not in task.stats)


def test_every_network_is_trained_and_only_the_model_s_are_kept(build_tiny_disdiff):
    task = build_task(build_tiny_disdiff(fields="random"))
    statistics = prepare(task)
    optimizer = task.configure_optimizers()["optimizer"]
    encoder, fields, decoder, critic = optimizer.param_groups
    assert [group.get("orthogonal", True) for group in (encoder, fields, decoder, critic)] == [
        *(False, True, False, False)  # Muon is for the gradient decoder
    ]
    assert decoder["lr"] == critic["lr"] == encoder["lr"]
    assert {id(p) for p in critic["params"]} == {id(p) for p in task.auxiliary.critic.parameters()}
    assert critic["betas"] == CRITIC_BETAS != decoder["betas"]
    before = {name: tensor.clone() for name, tensor in task.auxiliary.named_parameters()}
    task.compute_loss({"statistics": statistics[:BATCH]}, 0, task.step_generator(0)).backward()
    optimizer.step()
    moved = {name for name, p in task.auxiliary.named_parameters() if not torch.equal(before[name], p)}
    assert moved >= before.keys() - {"critic.4.bias"}  # which the hinge pulls both ways
    assert {name.split(".")[0] for name in task.result.state_dict()} == {"encoder", "decoder"}


def test_a_resumed_run_is_the_uninterrupted_one(build_tiny_disdiff, tmp_path, monkeypatch):
    def run(folder, kill_at=None):
        task = build_task(build_tiny_disdiff(posterior="gaussian"))
        statistics, compute = prepare(task), task.compute_loss

        def stop(batch, step, generator):
            if step == kill_at:
                raise SystemExit("killed")
            return compute(batch, step, generator)

        monkeypatch.setattr(task, "compute_loss", stop)
        batches = TensorBatches({"statistics": statistics})

        def make_loader(first_step):
            sampler = StepSampler(len(batches), BATCH, STEPS, 0, first_step)
            return build_loader(batches, sampler, num_workers=0, pin_memory=False)

        folder.mkdir(exist_ok=True)
        fit(task, make_loader, folder, "code", Machine("cpu", "32-true"), ())
        return task.state_dict()

    whole = run(tmp_path / "whole")
    with pytest.raises(SystemExit):
        run(tmp_path / "killed", kill_at=3)
    resumed = run(tmp_path / "killed")
    assert any(name.startswith("auxiliary.critic") for name in whole)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_pretraining_trains_the_code_alone_with_a_schedule_of_its_own(build_tiny_disdiff):
    task = build_task(build_tiny_disdiff(), pretrain_steps=2, learning_rate_factor=0.5)
    assert task.trial_step == 2
    statistics = prepare(task)
    optimizer = task.configure_optimizers()["optimizer"]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2] * 4
    batch = {"statistics": statistics[:BATCH]}
    for step in (1, 2):
        task.compute_loss(batch, step, task.step_generator(step)).backward()
        read = [p.grad is not None for p in task.trained.decoder.parameters()]
        assert any(read) == ("reconstruction" in task.stats) == (step == 2)
    assert any(p.grad is not None for p in task.trained.encoder.parameters())
    task.config.decay = "cosine"
    encoder, rest, *mixing = task.rate_factors(4)
    assert [factor(0) for factor in (encoder, rest, *mixing)] == [1] * 4
    assert [factor(1) for factor in (encoder, rest, *mixing)] == pytest.approx([0.5] * 4)
    assert [factor(2) for factor in (encoder, rest, *mixing)] == [0.5, 1, 0.5, 0.5]
    assert [factor(4) for factor in (encoder, rest, *mixing)] == pytest.approx([0.25, 0.5, 0.25, 0.25])


def test_pretraining_as_long_as_the_budget_is_refused(build_tiny_disdiff):
    with pytest.raises(UserError, match=r"pretrain_steps=6 .* 6 steps"):
        build_task(build_tiny_disdiff(), pretrain_steps=STEPS)


def test_total_correlation_is_priced_by_its_weight(build_tiny_disdiff):
    model = build_tiny_disdiff(posterior="gaussian")
    bare, task = (build_task(model, 0.0, weight_correlation=w, posterior="gaussian") for w in (0.0, 3.0))
    batch = {"statistics": prepare(task)[:BATCH]}
    expected = bare.compute_loss(batch, 0, bare.step_generator(0))
    loss = task.compute_loss(batch, 0, task.step_generator(0))
    torch.testing.assert_close(loss, expected + 3 * task.stats["correlation"])
    with pytest.raises(UserError, match=r"posterior=gaussian"):
        build_task(build_tiny_disdiff(), weight_correlation=1.0)


def test_convolutional_networks_have_the_shapes_of_the_linear_ones():
    config = AuxiliaryConfig(network="conv", hidden=8, channels=4)
    shape = torch.Size((3, 4, 6))
    decoder, critic = build_decoder(config, 6, shape), build_critic(config, shape)
    decoded = decoder(torch.randn(5, 6))
    assert decoded.shape == (5, 72) and critic(decoded).shape == (5, 1)
    with pytest.raises(UserError, match="network=mlp"):
        build_decoder(config, 6, torch.Size((3, 5, 6)))


def test_latents_too_large_to_be_whitened_are_refused():
    with pytest.raises(UserError, match=r"code\.loss\.auxiliary\.weight .* 5000; set it to 0"):
        check_whitened(5000, "code.loss.auxiliary.weight")


def test_a_code_of_one_unit_cannot_be_mixed(build_tiny_disdiff):
    model = build_tiny_disdiff(num_units=1, unit_dim=6)
    model = PDAE(model.latent_space, model.denoiser, model.schedule, model.networks, model.encoder_input)
    with pytest.raises(UserError, match="one"):
        build_task(model)
