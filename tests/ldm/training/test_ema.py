import torch
from torch import nn

from ldm.training.ema import EMA


def test_the_average_is_the_recurrence_with_its_warm_up():
    module = nn.Linear(2, 2)
    ema = EMA(module, decay=0.5)
    expected = module.weight.detach().clone()
    for n in range(20):
        with torch.no_grad():
            module.weight.copy_(torch.randn(2, 2))
        ema.update(module, n)
        decay = min(0.5, (1 + n) / (10 + n))  # 0.1 at first, 0.5 from n = 8 on
        expected = decay * expected + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(ema.average.weight, expected)


def test_after_many_updates_on_constant_weights_the_average_is_a_power_of_the_decay_away():
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    ema = EMA(module, decay=0.9)
    nn.init.ones_(module.weight)
    for _ in range(30):
        ema.update(module, num_updates=1000)
    torch.testing.assert_close(1 - ema.average.weight, torch.full((1, 1), 0.9**30))


def test_buffers_are_copied_and_the_average_neither_trains_nor_learns():
    module = nn.BatchNorm1d(3)
    ema = EMA(module, decay=0.9)
    module(torch.randn(8, 3) + 5)
    ema.update(module, 0)
    assert torch.equal(ema.average.running_mean, module.running_mean)
    assert torch.equal(ema.average.num_batches_tracked, module.num_batches_tracked)
    ema.train()
    assert module.training and not ema.average.training
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert ema.average.weight is not module.weight


def test_the_average_is_saved_with_its_owner():
    owner = nn.Module()
    owner.ema = EMA(nn.Linear(2, 2), 0.9)
    assert set(owner.state_dict()) == {"ema.average.weight", "ema.average.bias"}
