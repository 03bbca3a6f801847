import pytest
import torch

from disdiff.clip.guided import ClipInput
from disdiff.clip.heads import ClipHeads
from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.method.losses import DisDiffLossConfig
from disdiff.method.model import CodeNetworks, DisDiff
from disdiff.method.tasks import DisDiffTask
from ldm.diffusion.sampler import SAMPLERS, SamplerConfig, sample
from ldm.diffusion.schedule import Schedule, ScheduleConfig
from ldm.training.optimizer import Budget, TrainConfig, TrainSettings

TRAIN = TrainConfig(optimizer="adam", weight_decay=0.0, learning_rate=1e-2, ema_decay=0.9)


@pytest.fixture
def model(build_tiny_disdiff, random_clip):
    plain = build_tiny_disdiff("latent", reads="z", num_units=3, unit_dim=2, fields="random")
    options = FactorEncoderConfig(input="clip", hidden=8, code_norm="batch", start="principal")
    heads = ClipHeads(options, random_clip.embed_dim, 3, 2, random_clip.description.fingerprint)
    factors = CodeNetworks(heads, plain.networks.decoder)
    clip_input = ClipInput(plain.latent_space, random_clip)
    return DisDiff(plain.latent_space, plain.denoiser, plain.schedule, factors, clip_input)


@pytest.fixture
def batch(model):
    image = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        statistics = model.latent_space.autoencoder.encode_statistics(image)
        model.eval().fit_start(
            model.latent_space.encode(image.repeat(3, 1, 1, 1) + 0.1 * torch.randn(18, 3, 16, 16))
        )
        return {"statistics": statistics, "clip": model.encoder_input.from_image(image)}


def build_task(model, **loss):
    settings = TrainSettings(TRAIN, Budget(6, 20, 1e-2), seed=0)
    return DisDiffTask(model, DisDiffLossConfig(**loss), FactorEncoderConfig(), settings).train()


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_a_zero_decoder_it_samples_as_its_latent_diffusion(model, name):
    model.eval()
    model.schedule = Schedule(ScheduleConfig(num_steps=10))  # of which ddpm takes every one
    last = model.networks.decoder.decoder.out_conv
    torch.nn.init.zeros_(last.weight), torch.nn.init.zeros_(last.bias)
    code, z_T = torch.randn(2, 3, 2), torch.randn(2, *model.noise_shape(16))
    made, base = (
        sample(SamplerConfig(name, 3, 0.0), eps_fn, model.schedule, z_T, torch.Generator().manual_seed(0))
        for eps_fn in (model.eps_fn(code), model.denoiser)
    )
    assert torch.equal(made, base) and not torch.equal(made, z_T)


def test_clean_images_are_read_from_the_cache(model, batch, monkeypatch):
    task = build_task(model, weight_disentangle=0.0)
    tower = type(model.encoder_input.clip)
    monkeypatch.setattr(tower, "forward", lambda *_: pytest.fail("the tower was asked"))
    task.compute_loss(batch, 0, torch.Generator().manual_seed(1))
    assert model.encoder_input.from_batch(batch, None) is batch["clip"]


def test_the_disentangling_loss_reaches_the_decoder_through_the_tower(model, batch):
    def gradient(weight):
        task = build_task(model, weight_disentangle=weight, detach_condition=True)
        task.zero_grad()
        task.compute_loss(batch, 0, torch.Generator().manual_seed(1)).backward()
        assert "invariant" in task.stats or not weight
        return torch.cat([p.grad.flatten() for p in task.trained.decoder.parameters() if p.grad is not None])

    assert not torch.allclose(gradient(0.0), gradient(100.0), rtol=1e-2)


def test_training_moves_heads_and_decoder_and_nothing_frozen(model, batch):
    task = build_task(model, weight_disentangle=1.0)
    frozen = [model.encoder_input.clip, model.latent_space, model.denoiser]
    before = [tensor.clone() for module in frozen for tensor in module.state_dict().values()]
    start = {name: tensor.clone() for name, tensor in task.trained.named_parameters()}
    optimizer = task.configure_optimizers()["optimizer"]
    for step in range(4):
        optimizer.zero_grad()
        task.compute_loss(batch, step, task.step_generator(step)).backward()
        optimizer.step()
    after = [tensor for module in frozen for tensor in module.state_dict().values()]
    assert all(map(torch.equal, before, after))
    assert not [name for name, tensor in task.trained.named_parameters() if torch.equal(tensor, start[name])]
    assert not any(module.training for module in model.encoder_input.clip.modules())
    assert not [key for key in task._own_keys() if "clip.net" in key]  # of no checkpoint


def test_images_are_seen_without_the_first_stage(model, batch):
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    code = model.eval().encode(image)
    assert code.shape == (2, 3, 2)
    torch.testing.assert_close(code, model.networks.encoder(model.encoder_input.clip(image)))


def test_it_says_by_what_it_is_guided(model):
    assert model.supervision == "weak: guided by tiny CLIP with random weights (means nothing)"
    task = build_task(model)
    assert task.current.supervision == model.supervision and task.current.networks is task.result


def test_the_preview_has_reconstructions_and_samples(model, batch):
    task = build_task(model)
    assert task.preview(batch, torch.Generator().manual_seed(0)).shape == (2, 6, 3, 16, 16)
