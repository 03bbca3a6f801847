import math

import pytest
import torch

from ldm.autoencoder.kl import KLAutoencoder
from ldm.autoencoder.losses import (
    AutoencoderLossConfig,
    PatchDiscriminator,
    adaptive_weight,
    adopt_weight,
    check_regulariser,
    discriminator_loss,
    generator_loss,
    pixel_loss,
    psnr,
    reconstruction_scores,
)
from ldm.autoencoder.networks import NetworkConfig
from ldm.errors import UserError
from ldm.tasks import AutoencoderTask
from ldm.training.optimizer import TrainConfig, resolve_settings


def test_pixel_losses_are_means():
    image_hat, image = torch.full((2, 3, 4, 4), 0.5), torch.zeros(2, 3, 4, 4)
    assert pixel_loss(image_hat, image, "l1") == 0.5
    assert pixel_loss(image_hat, image, "l2") == 0.25


def test_discriminator_losses_at_known_logits():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx(0.5 * (0.25 + 1.0))
    zero = torch.zeros(5)
    assert discriminator_loss(zero, zero, "vanilla").item() == pytest.approx(math.log(2))
    assert discriminator_loss(real + 50, fake - 50, "vanilla").item() == pytest.approx(0, abs=1e-6)
    assert generator_loss(fake) == 1.0


@pytest.mark.parametrize("maximum, expected", [(1e4, 3.0 / (4.0 + 1e-4)), (0.5, 0.5)])
def test_adaptive_weight_by_hand(maximum, expected):
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    nll = 3.0 * weight[0]  # gradient (3, 0)
    g_loss = 2.0 * weight[1] ** 2 / weight[1].detach()  # gradient (0, 4)
    factor = adaptive_weight(nll, g_loss, weight, maximum)
    assert factor.item() == pytest.approx(expected) and not factor.requires_grad
    (nll + factor * g_loss).backward()  # the graphs are still there
    torch.testing.assert_close(weight.grad, torch.tensor([3.0, 4.0 * expected]))


def test_adaptive_weight_is_bounded_when_the_generator_has_no_gradient():
    weight = torch.ones(1, requires_grad=True)
    assert adaptive_weight(100 * weight.sum(), 0 * weight.sum(), weight) == 1e4


def test_adopt_weight_starts_at_its_step():
    assert [adopt_weight(0.75, step, start=2) for step in range(4)] == [0.0, 0.0, 0.75, 0.75]


def test_patch_discriminator_gives_a_map_of_logits():
    config = AutoencoderLossConfig()
    discriminator = PatchDiscriminator(3, config.discriminator_channels, config.discriminator_layers)
    assert discriminator(torch.zeros(2, 3, 64, 64)).shape == (2, 1, 6, 6)
    assert sum(p.numel() for p in discriminator.parameters()) == pytest.approx(2.77e6, rel=0.01)
    convs = [m.weight for m in discriminator.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convs[2].std().item() == pytest.approx(0.02, rel=0.02)


def test_grey_images_train_with_a_discriminator_of_grey_images():
    network = NetworkConfig(in_channels=1, channels=8, channel_mult=(1,), z_channels=2, num_groups=4)
    loss = AutoencoderLossConfig(perceptual="none", discriminator_channels=4, discriminator_layers=1)
    settings = resolve_settings(TrainConfig(images=8, batch_size=2), 0, "cpu")
    task = AutoencoderTask(KLAutoencoder(network), loss, None, settings)
    image = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    task.compute_loss({"image": image}, 0, torch.Generator()).backward()
    assert all(parameter.grad.any() for parameter in task.discriminator.parameters() if parameter.ndim > 1)


@pytest.mark.parametrize("key", ["pixel", "perceptual", "discriminator"])
def test_unknown_kinds_are_the_users_error(key):
    with pytest.raises(UserError, match=f"loss.{key}=nonsense is unknown; choose one of"):
        AutoencoderLossConfig(**{key: "nonsense"})


@pytest.mark.parametrize(
    ("kind", "weight", "usual"), [("vq", 1e-5, "use e.g. 1.0"), ("kl", 1.0, "use e.g. 1.0e-5")]
)
def test_a_weight_that_suits_the_other_bottleneck_is_refused(kind, weight, usual):
    with pytest.raises(UserError, match=f"weight_regulariser={weight:g} .*kind={kind}.*{usual}"):
        check_regulariser(kind, weight)


@pytest.mark.parametrize(("kind", "weight"), [("vq", 1.0), ("kl", 1e-5), ("kl", 0.0), ("identity", 0.0)])
def test_usual_weights_are_accepted(kind, weight):
    check_regulariser(kind, weight)


def test_scores_are_on_the_unit_scale_and_of_the_pooled_error():
    image = torch.zeros(2, 3, 4, 4)
    image_hat = image.clone()
    image_hat[0] += 0.2  # 0.1 on the [0, 1] scale, in one of two images
    scores = reconstruction_scores(image_hat, image)
    assert scores["mse"] == pytest.approx(0.005)
    assert scores["psnr"] == pytest.approx(-10 * math.log10(0.005)) == psnr(scores["mse"])


def test_scores_clip_and_stay_finite():
    image = torch.ones(1, 3, 4, 4)
    assert reconstruction_scores(image + 5, image) == {"mse": 0.0, "psnr": 100.0}
