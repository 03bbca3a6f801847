import math

import pytest
import torch

from ldm.errors import UserError
from ldm.training.optimizer import TrainConfig, build_optimizer, resolve_budget, scale_learning_rate


def test_warm_up_is_linear_and_then_constant():
    config = TrainConfig(warmup_steps=4)
    factors = [scale_learning_rate(config, step, 100) for step in range(7)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1])


def test_cosine_falls_from_one_to_zero():
    config = TrainConfig(decay="cosine")
    assert scale_learning_rate(config, 0, 100) == 1
    assert scale_learning_rate(config, 25, 100) == pytest.approx(0.5 + math.sqrt(0.5) / 2)
    assert scale_learning_rate(config, 50, 100) == pytest.approx(0.5)
    assert 0 < scale_learning_rate(config, 99, 100) < 1e-3


def test_warm_up_multiplies_the_decay():
    both = scale_learning_rate(TrainConfig(decay="cosine", warmup_steps=20), 9, 100)
    assert both == pytest.approx(0.5 * scale_learning_rate(TrainConfig(decay="cosine"), 9, 100))


def test_the_budget_is_in_images():
    config = TrainConfig(images=1000, batch_size=30, learning_rate=1e-3, cuda_batch_factor=4)
    budget = resolve_budget(config, "cpu")
    assert (budget.batch_size, budget.num_steps, budget.learning_rate) == (30, 33, 1e-3)


def test_on_cuda_batches_are_larger_fewer_and_learned_faster():
    config = TrainConfig(images=1000, batch_size=30, learning_rate=1e-3, cuda_batch_factor=4)
    budget = resolve_budget(config, "cuda")
    assert (budget.batch_size, budget.num_steps, budget.learning_rate) == (120, 8, 2e-3)


def test_a_budget_below_one_batch_is_refused():
    with pytest.raises(UserError, match="train.images=100 is less than one batch of 128"):
        resolve_budget(TrainConfig(images=100), "cpu")


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_the_optimiser_takes_its_options(name):
    config = TrainConfig(optimizer=name, betas=[0.5, 0.9], weight_decay=0.3)
    optimizer = build_optimizer(config, [torch.nn.Parameter(torch.zeros(1))], 0.1)
    assert type(optimizer).__name__.lower() == name
    group = optimizer.param_groups[0]
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (0.1, (0.5, 0.9), 0.3)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_the_fused_optimiser_is_the_plain_one_to_rounding(name):
    generator, learned = torch.Generator().manual_seed(0), []
    start, gradients = torch.randn(2, 5, 7, generator=generator), torch.randn(4, 7, generator=generator)
    for fused in (True, False):
        parameters = [torch.nn.Parameter(row.clone()) for row in start]
        optimizer = build_optimizer(TrainConfig(optimizer=name), [{"params": parameters, "lr": 0.2}], 0.1)
        assert optimizer.param_groups[0]["fused"]
        optimizer.param_groups[0]["fused"] = fused
        for gradient in gradients:
            for parameter in parameters:
                parameter.grad = gradient.expand(5, 7).clone()
            optimizer.step()
        learned.append(torch.stack([parameter.detach() for parameter in parameters]))
    assert (learned[0] - start).abs().mean() > 0.1
    torch.testing.assert_close(*learned, rtol=1e-6, atol=1e-6)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match="sgdd"):
        build_optimizer(TrainConfig(optimizer="sgdd"), [torch.nn.Parameter(torch.zeros(1))], 0.1)
    with pytest.raises(UserError, match="cosin"):
        scale_learning_rate(TrainConfig(decay="cosin"), 0, 10)
