import pytest
import torch
from torch import nn

from disdiff.method.auxiliary_decoder import (
    AuxiliaryDecoder,
    build_decoder,
)
from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.method.losses import (
    AuxiliaryConfig,
    DisDiffLossConfig,
    check_whitened,
)
from disdiff.method.tasks import DisDiffTask
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
    return AuxiliaryDecoder(AuxiliaryConfig(hidden=8), z_0, UNITS * NUMBERS)


def test_whitened_latents_have_unit_variance(auxiliary, z_0):
    y = auxiliary.whiten(z_0)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(16), atol=1e-4, rtol=0)
    assert y.std().item() == pytest.approx(1, abs=1e-4)


def test_blur_and_price_fade(z_0):
    config = AuxiliaryConfig(hidden=8, blur=9.0, first_price=4.0, anneal_steps=10)
    auxiliary = AuxiliaryDecoder(config, z_0, UNITS * NUMBERS)
    assert [auxiliary.price(step) for step in (0, 5, 10, 20)] == pytest.approx([4, 2, 1, 1])
    auxiliary.decoder = nn.Identity()  # a code is then what is decoded

    def errors(decoded, *steps):
        return [auxiliary(z_0, decoded.unflatten(1, (8, 2)), step).item() for step in steps]

    mean = torch.zeros(len(z_0), 16)  # of all latents
    assert errors(mean, 0, 5, 10) == pytest.approx([1, 1, 1], abs=0.02)
    ripple = auxiliary.whiten(z_0) + torch.tensor([1.0, -1.0]).repeat(8) @ auxiliary.whitener
    blurred, sharp = errors(ripple, 0, 10)
    assert blurred < 0.02 * sharp  # a blur as wide as the latent hides what has a mean of zero


def test_the_loss_is_the_squared_error_of_whitened_latents(auxiliary, z_0, generator):
    code = torch.randn(len(z_0), UNITS, NUMBERS, generator=generator)
    error = (auxiliary.decoder(code.flatten(1)) - auxiliary.whiten(z_0)).square().mean()
    torch.testing.assert_close(auxiliary(z_0, code, 0), error)
    auxiliary.decoder = nn.Identity()
    assert auxiliary(z_0, auxiliary.whiten(z_0).unflatten(1, (8, 2)), 0) < 1e-6


BATCH, STEPS = 4, 6


def build_task(model, weight=1.0, pretrain_steps=0, weight_correlation=0.0, memory=0, **encoder):
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
    auxiliary = AuxiliaryConfig(weight=weight, hidden=8, pretrain_steps=pretrain_steps)
    loss = DisDiffLossConfig(
        auxiliary=auxiliary, weight_correlation=weight_correlation, correlation_memory=memory
    )
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
    assert "decoded" not in task.stats


def test_the_term_is_added_once_the_encoder_learns_and_leaves_the_other_draws_alone(build_tiny_disdiff):
    model = build_tiny_disdiff(fields="random")
    bare, task = build_task(model, 0.0, freeze_steps=2), build_task(model, freeze_steps=2)
    statistics = prepare(task)
    batch = {"statistics": statistics[:BATCH]}
    for step in (1, 2):
        expected = bare.compute_loss(batch, step, bare.step_generator(step))
        loss = task.compute_loss(batch, step, task.step_generator(step))
        assert task.stats["reconstruction"] == bare.stats["reconstruction"]
        assert (loss == expected) == (step < 2) == ("decoded" not in task.stats)


def test_every_network_is_trained_and_only_the_model_s_are_kept(build_tiny_disdiff):
    task = build_task(build_tiny_disdiff(fields="random"))
    statistics = prepare(task)
    optimizer = task.configure_optimizers()["optimizer"]
    encoder, fields, decoder = optimizer.param_groups
    muon = [group.get("orthogonal", True) for group in (encoder, fields, decoder)]
    assert muon == [False, True, False] and decoder["lr"] == encoder["lr"]
    before = {name: tensor.clone() for name, tensor in task.auxiliary.named_parameters()}
    task.compute_loss({"statistics": statistics[:BATCH]}, 0, task.step_generator(0)).backward()
    optimizer.step()
    moved = {name for name, p in task.auxiliary.named_parameters() if not torch.equal(before[name], p)}
    assert moved == before.keys()
    assert {name.split(".")[0] for name in task.result.state_dict()} == {"encoder", "decoder"}


def test_a_resumed_run_is_the_uninterrupted_one(build_tiny_disdiff, tmp_path, monkeypatch):
    def run(folder, kill_at=None):
        options = {"weight_correlation": 0.1, "memory": 6, "posterior": "gaussian"}
        task = build_task(build_tiny_disdiff(posterior="gaussian"), **options)
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
    assert {"auxiliary", "memory"} <= {name.split(".")[0] for name in whole}
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_pretraining_trains_the_code_alone_with_a_schedule_of_its_own(build_tiny_disdiff):
    task = build_task(build_tiny_disdiff(), pretrain_steps=2, learning_rate_factor=0.5)
    assert task.trial_step == 2
    statistics = prepare(task)
    optimizer = task.configure_optimizers()["optimizer"]
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2] * 3
    batch = {"statistics": statistics[:BATCH]}
    for step in (1, 2):
        task.compute_loss(batch, step, task.step_generator(step)).backward()
        read = [p.grad is not None for p in task.trained.decoder.parameters()]
        assert any(read) == ("reconstruction" in task.stats) == (step == 2)
    assert any(p.grad is not None for p in task.trained.encoder.parameters())
    task.config.decay = "cosine"
    encoder, rest, auxiliary = task.rate_factors(3)
    assert [factor(0) for factor in (encoder, rest, auxiliary)] == [1] * 3
    assert [factor(1) for factor in (encoder, rest, auxiliary)] == pytest.approx([0.5] * 3)
    assert [factor(2) for factor in (encoder, rest, auxiliary)] == [0.5, 1, 0.5]
    assert [factor(4) for factor in (encoder, rest, auxiliary)] == pytest.approx([0.25, 0.5, 0.25])


def test_pretraining_as_long_as_the_budget_is_refused(build_tiny_disdiff):
    with pytest.raises(UserError, match=r"pretrain_steps=6 .* 6 steps"):
        build_task(build_tiny_disdiff(), pretrain_steps=STEPS)
    with pytest.raises(UserError, match="freeze_steps=2 leaves nothing to train"):
        build_task(build_tiny_disdiff(), pretrain_steps=2, freeze_steps=2)


def test_total_correlation_is_priced_by_its_weight(build_tiny_disdiff):
    model = build_tiny_disdiff(posterior="gaussian")
    bare, task = (build_task(model, 0.0, weight_correlation=w, posterior="gaussian") for w in (0.0, 3.0))
    batch = {"statistics": prepare(task)[:BATCH]}
    expected = bare.compute_loss(batch, 0, bare.step_generator(0))
    loss = task.compute_loss(batch, 0, task.step_generator(0))
    torch.testing.assert_close(loss, expected + 3 * task.stats["correlation"])
    with pytest.raises(UserError, match=r"posterior=gaussian"):
        build_task(build_tiny_disdiff(), weight_correlation=1.0)


def test_total_correlation_is_estimated_with_earlier_images(build_tiny_disdiff):
    model = build_tiny_disdiff(posterior="gaussian")
    task = build_task(model, 0.0, weight_correlation=3.0, memory=30, posterior="gaussian")
    statistics = prepare(task)  # of 12 images, which fill the memory more than once
    first = task.memory.mean.clone()
    assert torch.equal(first[:6], first[12:18]) and torch.equal(first[:6], first[24:])
    task.compute_loss({"statistics": statistics[:BATCH]}, 0, task.step_generator(0))
    assert torch.equal(task.memory.mean[BATCH:], first[:-BATCH])
    assert build_task(model, 0.0, memory=30).memory_size == 0  # without a price there is nothing to estimate


def test_a_convolutional_decoder_has_the_shape_of_the_linear_one():
    config = AuxiliaryConfig(network="conv", hidden=8, channels=4)
    decoder = build_decoder(config, 6, torch.Size((3, 4, 6)))
    assert decoder(torch.randn(5, 6)).shape == (5, 72)
    with pytest.raises(UserError, match="network=mlp"):
        build_decoder(config, 6, torch.Size((3, 5, 6)))


def test_latents_too_large_to_be_whitened_are_refused():
    with pytest.raises(UserError, match=r"code\.loss\.auxiliary\.weight .* 5000; set it to 0"):
        check_whitened(5000, "code.loss.auxiliary.weight")
