from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from disdiff.baselines.latent_dpm import SMALLEST_STD, LatentDPM, LatentDPMConfig
from disdiff.baselines.tasks import LatentDPMTask
from disdiff.build import SYSTEMS, list_stage_names
from disdiff.config.schema import CONFIGS, load_config
from disdiff.runs.stages import list_stages
from ldm.training.optimizer import Budget, TrainConfig, TrainSettings

PDAE = CONFIGS / "pdae" / "shapes3d.yaml"


@pytest.fixture
def latent_dpm():
    """Of codes of two units of one number."""
    torch.manual_seed(0)
    config = LatentDPMConfig(hidden=48, num_layers=4, loss="l2")
    return LatentDPM(replace(config, schedule=replace(config.schedule, num_steps=200, beta_end=0.04)), (2, 1))


def draw_codes(n):
    """Both numbers near -3 or near 5, together."""
    generator = torch.Generator().manual_seed(1)
    side = torch.randint(2, (n, 1, 1), generator=generator)
    return 8.0 * side - 3 + 0.1 * torch.randn(n, 2, 1, generator=generator)


def test_the_standardisation_is_that_of_the_codes_and_can_be_undone(latent_dpm):
    codes = torch.cat([draw_codes(500)[:, :1], torch.full((500, 1, 1), 7.0)], dim=1)
    latent_dpm.fit_standardisation(codes)
    x = latent_dpm.standardise(codes)
    assert x.shape == (500, 2) and x[:, 1].abs().max() == 0
    assert x[:, 0].mean().item() == pytest.approx(0, abs=1e-5) and x[:, 0].std().item() == pytest.approx(1)
    assert latent_dpm.std[1].item() == pytest.approx(SMALLEST_STD)
    torch.testing.assert_close(latent_dpm.restore(x), codes)
    assert {"mean", "std"} < set(latent_dpm.state_dict())  # they travel with the weights


def test_the_published_betas_are_constant():
    beta = LatentDPM(LatentDPMConfig(hidden=4, num_layers=2), (1, 1)).schedule.beta
    assert beta.shape == (1000,) and torch.equal(beta.unique(), torch.tensor([0.008]))


def test_every_layer_sees_the_input_and_the_time(latent_dpm):
    x, t = torch.randn(3, 2), torch.tensor([5, 100, 199])
    assert not torch.equal(latent_dpm(x, t), latent_dpm(x, t.flip(0)))
    for layer in latent_dpm.network.layers:
        torch.nn.init.zeros_(layer.norm.weight)  # what a layer hands on is constant now
    weight = latent_dpm.network.out.weight[:, -2:]
    moved = latent_dpm(x + 1, t) - latent_dpm(x, t)
    torch.testing.assert_close(moved, weight.sum(dim=1).expand(3, -1))


def test_it_learns_codes_that_hang_together(latent_dpm):
    """Samples lie at the two places, half of them each, and both numbers at the same one."""
    codes = draw_codes(4000)
    latent_dpm.fit_standardisation(codes)
    config = TrainConfig(learning_rate=3e-3, ema_decay=0.98, optimizer="adam", weight_decay=0.0)
    task = LatentDPMTask(latent_dpm, "l2", TrainSettings(config, Budget(128, 400, 3e-3), seed=0))
    optimizer = task.configure_optimizers()["optimizer"]
    for step in range(400):
        rows = torch.arange(128 * step, 128 * (step + 1)) % len(codes)
        optimizer.zero_grad()
        task.training_step({"code": codes[rows]}, step).backward()
        optimizer.step()
        task.ema.update(task.trained, step)
    with torch.no_grad():
        made = task.result.sample(400, 50, torch.Generator().manual_seed(0))
    assert made.shape == (400, 2, 1)
    upper = made > 1
    assert 0.35 < upper.float().mean() < 0.65 and (upper[:, 0] == upper[:, 1]).float().mean() > 0.97
    nearest = torch.where(upper, made - 5, made + 3).abs()
    assert nearest.median() < 0.4


def hashes(*overrides):
    config = load_config([PDAE], ["preset=smoke", "stages.pretrained=false", *overrides])
    return {s.name: s.hash for s in list_stages(config, SimpleNamespace(identity="images-1"), PDAE)}


def test_its_stage_depends_on_itself_and_the_code_and_nothing_below_on_it():
    plain, deeper, off = hashes(), hashes("latent_dpm.num_layers=7"), hashes("latent_dpm.enabled=false")
    assert list(plain) == ["autoencoder", "latent_diffusion", "code", "latent_dpm"]
    assert [name for name in plain if plain[name] != deeper[name]] == ["latent_dpm"]
    assert off == {name: plain[name] for name in list(plain)[:-1]}
    assert hashes("code.unit_dim=5")["latent_dpm"] != plain["latent_dpm"] != hashes("seed=1")["latent_dpm"]


def test_any_system_with_a_code_may_have_one_and_only_three_do():
    without, with_one = (
        load_config([PDAE], [f"latent_dpm.enabled={wanted}"]) for wanted in ("false", "true")
    )
    for system in SYSTEMS:
        plain, wanted = (list_stage_names(replace(config, system=system)) for config in (without, with_one))
        assert "latent_dpm" not in plain and ("latent_dpm" in wanted) == ("code" in wanted)
    by_default = [
        path.parent.name
        for path in sorted(CONFIGS.glob("*/shapes3d.yaml"))
        if path.parent.name in SYSTEMS and load_config([path]).latent_dpm.enabled
    ]
    assert by_default == ["diffae", "infodiffusion", "pdae"]
