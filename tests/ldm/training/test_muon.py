import copy

import pytest
import torch
from torch import nn

from ldm.training.muon import Muon, is_matrix, orthogonalise


@pytest.mark.parametrize("shape", [(16, 16), (16, 90), (64, 20)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_singular_values_come_near_one_and_directions_stay(shape, scale):
    generator = torch.Generator().manual_seed(0)
    matrix = scale * torch.randn(shape, generator=generator)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.T @ orthogonalise(matrix) @ vh.T
    large = s > 0.05 * s[0]
    assert turned.diagonal()[large].min() > 0.6 and turned.diagonal().max() < 1.25
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-3


def test_a_zero_gradient_moves_nothing():
    assert torch.equal(orthogonalise(torch.zeros(16, 20)), torch.zeros(16, 20))


def test_wide_layers_are_matrices_and_the_rest_is_not():
    assert is_matrix(nn.Linear(16, 32).weight) and is_matrix(nn.Conv2d(20, 16, 3).weight)
    norm, narrow = nn.GroupNorm(4, 16), nn.Conv2d(3, 64, 3)
    assert not any(map(is_matrix, (norm.weight, narrow.weight, narrow.bias, torch.zeros(20, 20, 20))))


def build_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.SiLU(), nn.Conv2d(16, 24, 3))


def backward(layers, step):
    image = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(step))
    layers.zero_grad()
    loss = layers(image).square().mean()
    loss.backward()
    return loss


def test_steps_have_the_stated_size_and_the_rest_moves_as_by_adamw():
    layers, others = build_layers(), build_layers()
    optimizer = Muon(layers.parameters(), lr=0.01, weight_decay=0.0, fused=True)
    adamw = torch.optim.AdamW(others.parameters(), lr=0.01, weight_decay=0.0, fused=True)
    matrix, before = layers[2].weight, layers[2].weight.clone()
    for net, each in ((layers, optimizer), (others, adamw)):
        backward(net, 0)
        each.step()
    step = (matrix - before).square().mean().sqrt().item()
    assert step == pytest.approx(0.6 * 0.01, rel=0.25)
    assert matrix.grad is not None
    for name, parameter in layers.named_parameters():
        assert torch.equal(parameter, others.get_parameter(name)) == (name != "2.weight")


def test_a_group_may_be_left_to_adamw():
    layers, others = build_layers(), build_layers()
    groups = [{"params": list(layers.parameters()), "orthogonal": False}]
    for net, each in (
        (layers, Muon(groups, lr=0.01, weight_decay=0.0, fused=True)),
        (others, torch.optim.AdamW(others.parameters(), lr=0.01, weight_decay=0.0, fused=True)),
    ):
        backward(net, 0)
        each.step()
    assert all(map(torch.equal, layers.parameters(), others.parameters()))


def test_weight_decay_shrinks_matrices_too():
    layers, decayed = build_layers(), build_layers()
    for net, decay in ((layers, 0.0), (decayed, 0.5)):
        optimizer = Muon(net.parameters(), lr=0.01, weight_decay=decay)
        backward(net, 0)
        optimizer.step()
    shrunk = build_layers()[2].weight * (0.01 * 0.5)
    torch.testing.assert_close(layers[2].weight - decayed[2].weight, shrunk)


def test_a_closure_and_a_saved_state_give_the_same_weights():
    plain, closed, resumed = build_layers(), build_layers(), build_layers()
    optimizers = [Muon(net.parameters(), lr=0.01, fused=True) for net in (plain, closed)]
    for step in range(4):
        backward(plain, step)
        optimizers[0].step()
        optimizers[1].step(lambda step=step: backward(closed, step))
        if step == 1:
            weights = copy.deepcopy(plain.state_dict())
            state = copy.deepcopy(optimizers[0].state_dict())
    resumed.load_state_dict(weights)
    optimizer = Muon(resumed.parameters(), lr=0.01, fused=True)
    optimizer.load_state_dict(state)
    for step in (2, 3):
        backward(resumed, step)
        optimizer.step()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(closed.state_dict()[name], value, rtol=0, atol=0)
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)
