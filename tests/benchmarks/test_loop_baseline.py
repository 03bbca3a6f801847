"""The plain step is the oracle of the fast one: same losses, same gradients."""

import pytest
import torch

from disdiff.build import build_encoder_input
from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.method.gradient_decoder import GradientDecoder, GradientDecoderConfig
from disdiff.method.losses import DisDiffLossConfig
from disdiff.method.model import CodeNetworks, DisDiff
from disdiff.method.tasks import DisDiffTask
from ldm.nn import cpu_kernels
from ldm.nn.unet import UNet, UNetConfig
from ldm.training.optimizer import TrainConfig, resolve_settings

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
# Joined with skips of 8 channels and split into 4 groups, one of these widths ends where a group does.
WIDTHS = {"border-at-join": 8, "group-straddles": 12}
LOSSES = {
    "paper": {},
    "small": {
        **{"norm": "l2", "weighting": "clean", "temperature": 0.5, "change_cap": 1.0, "weight_kl": 1e-3},
        **{"kl_warmup_steps": 20, "every": 2},
    },
}


@pytest.fixture
def build_tasks(build_tiny_disdiff, randomise, load_benchmark, monkeypatch):
    """Return a function that gives the fast and the plain task of one model, and a batch of three images."""

    def build(num_units, width, loss="paper", dtype=torch.float64):
        torch.manual_seed(0)
        reads = "image" if loss == "paper" else "z"
        posterior = "none" if loss == "paper" else "gaussian"
        tiny = build_tiny_disdiff("latent", reads, num_units, posterior=posterior)
        unet = UNetConfig(
            channels=8, channel_mult=[1, 1], num_res_blocks=1, attention_levels=[1], num_heads=2, num_groups=4
        )
        options = GradientDecoderConfig(channels=width, unit_embedding="learned")
        decoder = GradientDecoder(options, unet, num_units, 2, 4)
        randomise(decoder.decoder)
        factors = CodeNetworks(tiny.networks.encoder, decoder)
        denoiser = randomise(UNet(unet, 4))
        encoder_input = build_encoder_input(reads, tiny.latent_space, denoiser)
        model = DisDiff(tiny.latent_space, denoiser, tiny.schedule, factors, encoder_input).to(dtype)
        config = TrainConfig(images=300, batch_size=3, ema_decay=None)
        encoder = FactorEncoderConfig(freeze_steps=5 if loss == "small" else 0)
        arguments = model, DisDiffLossConfig(**LOSSES[loss]), encoder, resolve_settings(config, 0, "cpu")
        plain = load_benchmark("loop_baseline").LoopTask
        module = "disdiff.method.encoder_input"  # float64 from the images on
        monkeypatch.setattr(f"{module}.to_float", lambda image: image.to(dtype) / 127.5 - 1)
        generator = torch.Generator().manual_seed(1)
        batch = {"statistics": torch.randn(3, 8, 8, 8, generator=generator).to(dtype)}
        if reads == "image":
            batch["image"] = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator)
        return DisDiffTask(*arguments).to(dtype), plain(*arguments).to(dtype), batch

    return build


def run(task, batch, step):
    """Loss terms and gradients of everything that learns."""
    loss = task.compute_loss(batch, step, task.step_generator(step))
    parameters = list(task.trained.parameters())
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
    return torch.stack([task.stats["reconstruction"], task.stats["loss"]]), found


def difference(a, b):
    """Norm of the difference over the norm of `b`, of tensors or of lists of them."""
    a, b = (torch.cat([x.flatten() for x in side]) for side in (a, b))
    assert b.any()
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("num_units", [1, 6, 10])
@pytest.mark.parametrize("layout", ["channels-first", "channels-last"])
def test_the_fast_step_is_the_plain_one(build_tasks, layout, num_units, width, dtype, monkeypatch):
    monkeypatch.setattr(cpu_kernels, "CHANNELS", 0 if layout == "channels-last" else 2**10)
    fast, plain, batch = build_tasks(num_units, width, dtype=dtype)
    (losses, gradients), (plain_losses, plain_gradients) = run(fast, batch, 7), run(plain, batch, 7)
    assert difference(losses, plain_losses) <= TOLERANCE[dtype]
    assert difference(gradients, plain_gradients) <= TOLERANCE[dtype]


@pytest.mark.parametrize("step", [3, 7, 8])  # encoder held; without L_dis; with all terms
def test_with_the_options_of_the_small_preset_too(build_tasks, step):
    fast, plain, batch = build_tasks(4, 12, "small")
    (losses, gradients), (plain_losses, plain_gradients) = run(fast, batch, step), run(plain, batch, step)
    assert difference(losses, plain_losses) <= 1e-9
    assert difference(gradients, plain_gradients) <= 1e-9


def test_groups_straddle_in_one_width_and_not_in_the_other(build_tasks):
    for name, width in WIDTHS.items():
        norms = [level.res.in_norm for level in build_tasks(1, width)[0].trained.decoder.decoder.up]
        sizes = [(norm.num_channels - 8, norm.num_channels // norm.num_groups) for norm in norms]
        straddles = [own % size != 0 for own, size in sizes]
        assert (all if name == "group-straddles" else any)(straddles) == (name == "group-straddles")


def test_options_that_the_plain_step_does_not_know_are_refused(build_tasks):
    _, plain, batch = build_tasks(2, 8)
    plain.loss = DisDiffLossConfig(detach_condition=True)
    with pytest.raises(ValueError, match="detach_condition"):
        plain.compute_loss(batch, 0, plain.step_generator(0))


def test_the_plain_step_works_unit_by_unit(build_tasks, load_benchmark, monkeypatch):
    baseline, rows = load_benchmark("loop_baseline"), []
    decode = baseline.decode
    monkeypatch.setattr(baseline, "decode", lambda *a: rows.append(len(a[2])) or decode(*a))
    _, plain, batch = build_tasks(5, 8)
    plain.compute_loss(batch, 0, plain.step_generator(0))
    assert rows == [3] * 5
