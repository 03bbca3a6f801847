from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import disdiff.evaluation.image_features as module
from disdiff.evaluation.image_features import (
    ALIAS,
    INCEPTION,
    RESIZE_MODES,
    InceptionFeatures,
    RandomFeatures,
    build_inception,
    find_inception,
    resize,
)
from ldm.errors import UserError
from ldm.files import digest_file


@pytest.fixture(scope="module")
def images():
    return torch.randint(
        0, 256, (2, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weight file of the right layout, filled at random."""
    generator, values = torch.Generator().manual_seed(1), {}
    for name, value in build_inception().state_dict().items():
        if name.endswith("num_batches_tracked"):
            values[name] = torch.tensor(1)
        elif value.ndim > 1:
            noise = torch.randn(value.shape, generator=generator)
            values[name] = noise * (2 / value[0].numel()) ** 0.5
        else:
            near = 0.0 if name.endswith(("bias", "running_mean")) else 1.0
            values[name] = near + 0.1 * torch.rand(value.shape, generator=generator)
    path = tmp_path_factory.mktemp("weights") / INCEPTION.file_name
    torch.save(values, path)
    return path


@pytest.fixture
def extract(weights, monkeypatch):
    """The extractor, taking the random weights for the published ones."""
    monkeypatch.setattr(module, "INCEPTION", replace(INCEPTION, sha256=digest_file(weights)))
    return InceptionFeatures(weights, "tensorflow1")


@pytest.mark.parametrize("mode", RESIZE_MODES)
def test_every_resize_keeps_constants_and_the_right_size(mode, images):
    flat = torch.full((1, 3, 20, 33), 77, dtype=torch.uint8)
    torch.testing.assert_close(resize(flat, mode), torch.full((1, 3, 299, 299), 77.0), atol=1e-3, rtol=0)
    same = torch.rand(1, 3, 299, 299, generator=torch.Generator().manual_seed(0)) * 255
    torch.testing.assert_close(resize(same, mode), same, atol=1e-3, rtol=0)
    assert resize(images, mode).dtype == torch.float32


def test_resizes_differ_from_each_other():
    wide = torch.randint(0, 256, (1, 3, 400, 400), generator=torch.Generator().manual_seed(0))
    results = [resize(wide, mode) for mode in RESIZE_MODES]
    for a in range(4):
        assert all((results[a] - results[b]).abs().max() > 1 for b in range(a))
    with pytest.raises(UserError, match="resize=nearest is unknown; choose one of bilinear,"):
        resize(wide, "nearest")


@pytest.mark.parametrize("size", [64, 400])
def test_bicubic_is_pillows(size):
    channel = np.random.default_rng(0).integers(0, 256, (size, size)).astype(np.float32)
    expected = np.asarray(Image.fromarray(channel).resize((299, 299), Image.Resampling.BICUBIC))
    ours = resize(torch.from_numpy(channel).expand(1, 3, -1, -1), "bicubic_antialias")[0, 2]
    np.testing.assert_allclose(ours, expected, atol=0.01)


def test_tensorflow1_reads_pixels_at_their_upper_left_corners():
    ramp = torch.arange(10.0).expand(1, 3, 10, 10)
    row = resize(ramp, "tensorflow1")[0, 0, 0]
    expected = (torch.arange(299) * 10 / 299).clamp(max=9)
    torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)


def test_pooling_leaves_the_padding_out_and_the_last_block_takes_maxima(weights):
    net = module.load_inception(weights)
    x = torch.rand(1, 192, 9, 9, generator=torch.Generator().manual_seed(0))
    branch = net.Mixed_5b.branch_pool
    expected = branch(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))
    torch.testing.assert_close(net.Mixed_5b(x)[:, -32:], expected)
    assert (expected - branch(F.avg_pool2d(x, 3, 1, 1)))[..., 0, :].abs().max() > 0.01
    x = torch.rand(1, 2048, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = net.Mixed_7c.branch_pool(F.max_pool2d(x, 3, 1, 1))
    torch.testing.assert_close(net.Mixed_7c(x)[:, -192:], expected)


def test_features_of_the_network(extract, images):
    features = extract(images)
    assert features.shape == (2, 2048) and features.std() > 0 and (features >= 0).all()
    assert extract.identity["resize"] == "tensorflow1" and len(extract.identity["weights_sha256"]) == 64
    assert not any(parameter.requires_grad for parameter in extract.net.parameters())


def test_features_agree_with_torch_fidelity(extract, weights, images):
    fidelity = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="torch-fidelity, a second opinion, is absent"
    )
    net = fidelity.FeatureExtractorInceptionV3("test", ["2048"], feature_extractor_weights_path=weights)
    ours, theirs = extract(images), net(images)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4 * theirs.abs().max().item(), rtol=0)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The folders that are searched, empty."""
    monkeypatch.setenv("DISDIFF_WEIGHTS", str(tmp_path / "chosen"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "chosen").mkdir()
    return tmp_path / "chosen"


def test_both_names_of_the_weight_file_are_found(folders):
    (folders / ALIAS).write_bytes(b"")
    assert find_inception() == folders / ALIAS
    (folders / ALIAS).rename(folders / INCEPTION.file_name)
    assert find_inception() == folders / INCEPTION.file_name


def test_absence_is_one_sentence_that_says_all(folders):
    with pytest.raises(UserError) as caught:
        find_inception()
    message = str(caught.value)
    for part in (
        *("FID", INCEPTION.file_name, INCEPTION.url, "96 MB", INCEPTION.sha256, str(folders)),
        *("weights.inception=PATH", "weights.allow_download=true", "--features random", "PSNR", "SSIM"),
    ):
        assert part in message
    assert "\n" not in message


def test_a_file_that_is_no_inception_is_named(weights, tmp_path):
    with pytest.raises(UserError, match="is not the Inception file of FID .sha256 .*6726825d0af5f729"):
        InceptionFeatures(weights)  # the right layout, other numbers
    path = tmp_path / "other.pth"
    for content in ({"weight": torch.zeros(3)}, [1]):
        torch.save(content, path)
        with pytest.raises(UserError, match="other.pth cannot be read as the Inception file of FID"):
            module.load_inception(path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="other.pth cannot be read"):
        module.load_inception(path)


def test_random_features_say_what_they_are_and_do_not_change(images):
    extract = RandomFeatures()
    assert "not FID" in extract.name and extract.identity["name"] == extract.name
    torch.testing.assert_close(extract(images), RandomFeatures()(images), rtol=0, atol=0)
    assert extract(images).shape == (2, extract.dims)


def test_grey_images_have_the_features_of_their_three_equal_channels(images):
    grey = images[:, :1]
    assert torch.equal(RandomFeatures()(grey), RandomFeatures()(grey.repeat(1, 3, 1, 1)))


def test_images_that_are_not_8_bit_are_refused(images):
    with pytest.raises(UserError, match="images must be uint8"):
        RandomFeatures()(images.float())
