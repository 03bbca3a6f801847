import pytest
import torch

from disdiff.evaluation.mean_gap import compute_mean_gap, gap_factor, summarise_gap
from ldm.diffusion.process import posterior, predict_z0, q_sample
from ldm.diffusion.schedule import Schedule, ScheduleConfig


def test_the_gap_is_that_of_the_posterior_means():
    schedule, t = Schedule(ScheduleConfig()), torch.tensor([20, 400, 900])
    z_0, eps, eps_hat = torch.randn(3, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    z_t = q_sample(schedule, z_0, t, eps)
    means = [posterior(schedule, z, z_t, t).mean for z in (z_0, predict_z0(schedule, z_t, t, eps_hat))]
    gap = (means[0] - means[1]).square().flatten(1).mean(dim=1)
    expected = gap_factor(schedule)[t] * (eps - eps_hat).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(gap, expected, rtol=2e-3, atol=0)


def test_a_new_decoder_corrects_nothing_and_a_random_one_something(build_tiny_disdiff):
    image, steps = torch.rand(3, 3, 16, 16) * 2 - 1, torch.tensor([0, 100, 700])

    def measure(fields):
        model = build_tiny_disdiff(fields=fields).eval()
        return compute_mean_gap(model, image, steps, torch.Generator().manual_seed(0))

    zero, random = measure("zero"), measure("random")
    assert torch.equal(zero[0], zero[1])
    assert random[0, 0] == random[1, 0] and (random[0, 1:] != random[1, 1:]).all()  # k_0 = 0


def test_the_summary_counts_from_its_first_step():
    steps = torch.tensor([0, 49, 50, 60])
    gaps = torch.tensor([[1.0, 1.0, 1.0, 1.0], [9.0, 9.0, 0.5, 1.1]]).double()
    summary = summarise_gap(steps, gaps)
    assert summary["lowered_share"] == 0.5 and summary["mean_ratio"] == pytest.approx(0.8)
