import importlib
import warnings

import pytest
import torch
from torchvision.models import vgg16

from ldm.autoencoder.perceptual import LPIPS, load_lpips
from ldm.errors import UserError


@pytest.fixture(scope="module")
def random_vgg(tmp_path_factory):
    """Weights of VGG16's layout with random numbers: they only show that the arithmetic is right."""
    with torch.device("meta"):
        features = vgg16(weights=None).features
    generator = torch.Generator().manual_seed(0)
    state = {
        f"features.{key}": torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        for key, value in features.state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "random_vgg16.pth"
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


@pytest.fixture(scope="module")
def taming_lpips(lpips):
    """Taming's module, imported after ours, which silences what its compilation warns of."""
    return importlib.import_module("taming.modules.losses.lpips")


@pytest.fixture(scope="module")
def lpips(random_vgg):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return LPIPS(random_vgg)


def make_images(seed):
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_equal_images_have_distance_0_others_more(lpips):
    image, other = make_images(0), make_images(1)
    near = lpips(image + 0.05 * other, image)
    far = lpips(other, image)
    assert torch.equal(lpips(image, image), torch.zeros(2))
    assert (near > 0).all() and (far > near).all()


def build_reference(taming_lpips, path, heads):
    """Taming's own LPIPS with the same weights; its constructor, which would download, is not run."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = taming_lpips.vgg16(pretrained=False)
    weights = torch.load(path, weights_only=True)
    net.load_state_dict(
        {key: weights["features." + key.split(".", 1)[1]] for key in net.state_dict()}, assign=True
    )
    reference = taming_lpips.LPIPS.__new__(taming_lpips.LPIPS)
    torch.nn.Module.__init__(reference)
    reference.chns, reference.net = [64, 128, 256, 512, 512], net
    reference.scaling_layer = taming_lpips.ScalingLayer()
    for index, head in enumerate(heads):
        layer = torch.nn.Module()
        layer.model = head
        setattr(reference, f"lin{index}", layer)
    return reference


def test_distance_is_the_published_one(lpips, taming_lpips, random_vgg):
    image, other = make_images(0), make_images(1)
    reference = build_reference(taming_lpips, random_vgg, lpips.heads)
    torch.testing.assert_close(lpips(other, image), reference(other, image).flatten())


def test_the_heads_are_trained(lpips):
    """Weights of a distance: none negative, unlike those of an untrained head."""
    for head, channels in zip(lpips.heads, (64, 128, 256, 512, 512), strict=True):
        assert head[0].weight.shape == (1, channels, 1, 1)
        assert head[0].weight.min() >= 0 and head[0].weight.max() > 0


def test_the_network_is_frozen_but_lets_gradients_through(lpips):
    image_hat = make_images(1).requires_grad_()
    lpips(image_hat, make_images(0)).sum().backward()
    assert image_hat.grad.abs().sum() > 0
    assert not lpips.training and not any(parameter.requires_grad for parameter in lpips.parameters())
    assert torch.equal(lpips.train()(image_hat, make_images(0)), lpips.eval()(image_hat, make_images(0)))


def test_vanishing_features_have_a_finite_gradient(taming_lpips, random_vgg):
    lpips = LPIPS(random_vgg)
    for layer in lpips.slices[0]:
        if isinstance(layer, torch.nn.Conv2d):
            layer.bias.fill_(-1e3)  # nothing passes the first rectifier
    image_hat = make_images(1).requires_grad_()
    lpips(image_hat, make_images(0)).sum().backward()
    assert torch.isfinite(image_hat.grad).all()
    dead = torch.zeros(1, 4, 2, 2, requires_grad=True)
    taming_lpips.normalize_tensor(dead).sum().backward()
    assert torch.isnan(dead.grad).all()  # the formula that is not used


def test_grey_images_are_repeated(lpips):
    grey, other = make_images(0)[:, :1], make_images(1)[:, :1]
    torch.testing.assert_close(
        lpips(grey, other), lpips(grey.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1))
    )


@pytest.mark.parametrize("content", [b"", b"no weights at all", "list", "other network"])
def test_a_file_that_is_not_vgg16_is_named(tmp_path, content):
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save([1] if content == "list" else {"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"file.pth is not a readable VGG16.*loss.perceptual=none"):
        load_lpips(str(path))
