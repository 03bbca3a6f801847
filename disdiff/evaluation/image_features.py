"""What FID and KID look at: the pooled features of the Inception network of the original FID, 2048 numbers.

The network is torchvision's Inception v3 but for its pooling: averages leave the padding out, and the last
block takes maxima. Its weights are TensorFlow's of 2015-12-05 as converted by pytorch-fid, 1008 classes; the
same file (equal checksum) serves torch-fidelity, torchmetrics and DisDiff. It reads 299 x 299 pixels, scaled
by (x - 128) / 128 as in the original graph.

How 8-bit images become 299 x 299 changes the number, so the resize is ours, named and recorded (half-pixel
centres but for the last; results are not rounded):
    bilinear            as in pytorch-fid and the released DisDiff
    bilinear_antialias  as torchmetrics does by default
    bicubic_antialias   as Pillow, and so clean-fid and InfoDiffusion, do
    tensorflow1         as in the original and torch-fidelity: bilinear, but pixel i reads place i size / 299

Deviation: pytorch-fid scales by x / 127.5 - 1, 1/128 of the range away at most. torch-fidelity is not used
for the network, since it unpickles whatever its weight file holds.

`RandomFeatures` need no weights. They exist for tests of everything around them, they are no Inception and
their distances are no FID: `name` says so wherever they appear.
"""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.evaluation.row_cache import digest_file
from ldm.autoencoder.perceptual import LPIPS
from ldm.errors import UserError, choose
from ldm.weights import VGG16, WeightFile, resolve_weight, weight_folders

SIZE = 299
DIMS = 2048
ALIAS = "weights-inception-2015-12-05-6726825d.pth"  # what torch-fidelity calls the same file
INCEPTION = WeightFile(
    name="inception",
    file_name="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    megabytes=96,
    purpose="FID and KID",
    without="MSE, PSNR, SSIM and every disentanglement metric need no such file, and --features random tries "
    "out the script with features that are no FID",
)
LPIPS_VGG16 = replace(
    VGG16, purpose="LPIPS", without="leave out --lpips; MSE, PSNR, SSIM and FID need no such file"
)


def resize(images: Tensor, mode: str) -> Tensor:
    """Bring images to 299 x 299.

    Args:
        images: shape (n, 3, H, W) in 0..255, of any number type.
        mode: a name in `RESIZE_MODES`.

    Returns:
        Shape (n, 3, 299, 299), float32.

    Raises:
        UserError: the mode is unknown.
    """
    return choose("resize", mode, RESIZE_MODES)(images.float())


def _interpolate(mode: str, antialias: bool) -> Callable[[Tensor], Tensor]:
    def apply(images: Tensor) -> Tensor:
        return F.interpolate(images, (SIZE, SIZE), mode=mode, antialias=antialias, align_corners=False)

    return apply


def _interpolate_tensorflow1(images: Tensor) -> Tensor:
    rows, columns = (_tensorflow1_weights(size).to(images) for size in images.shape[2:])
    return rows @ images @ columns.T


def _tensorflow1_weights(size: int) -> Tensor:
    """Share of each of `size` pixels in each of 299, shape (299, size)."""
    place = torch.arange(SIZE, dtype=torch.float64) * (size / SIZE)
    low = place.floor()
    pixels = torch.arange(size, dtype=torch.float64)
    high = (low + 1).clamp(max=size - 1)
    share = (place - low)[:, None]
    return (pixels == low[:, None]) * (1 - share) + (pixels == high[:, None]) * share


RESIZE_MODES: dict[str, Callable[[Tensor], Tensor]] = {
    "bilinear": _interpolate("bilinear", antialias=False),
    "bilinear_antialias": _interpolate("bilinear", antialias=True),
    "bicubic_antialias": _interpolate("bicubic", antialias=True),
    "tensorflow1": _interpolate_tensorflow1,
}


class InceptionFeatures:
    """The FID Inception behind a resize, frozen.

    Args:
        path: its weight file.
        mode: of the resize, a name in `RESIZE_MODES`.
        device: where to compute.

    Attributes:
        name: of the features, "inception".
        dims: how many there are.
        identity: all that the features of an image depend on, JSON-ready.

    Raises:
        UserError: the file is another than FID's, or the mode is unknown.
    """

    name = "inception"
    dims = DIMS

    def __init__(self, path: Path, mode: str = "bilinear", device: str = "cpu") -> None:
        choose("resize", mode, RESIZE_MODES)
        self.mode, self.device, digest = mode, device, digest_file(path)
        if digest != INCEPTION.sha256:
            raise UserError(
                f"{path} is not the Inception of FID (sha256 {digest}); get it from {INCEPTION.url}"
                f" ({INCEPTION.megabytes} MB, sha256 {INCEPTION.sha256})"
            )
        self.net = load_inception(path).to(device)
        self.identity = {
            "name": self.name,
            "weights_sha256": digest,
            "resize": mode,
            "scale": "(x - 128) / 128",
            "dimensions": DIMS,
        }

    def __call__(self, images: Tensor) -> Tensor:
        """Features of 8-bit images (n, 3, H, W), shape (n, 2048)."""
        return self.net((resize(check_bytes(images).to(self.device), self.mode) - 128) / 128)


class RandomFeatures:
    """Random features (not FID), for tests only: 8 x 8 block means, a fixed random matrix and a ReLU."""

    name = "random features (not FID)"
    dims = 64

    def __init__(self, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.matrix = (torch.randn(192, self.dims, generator=generator) / 192**0.5).to(device)
        self.device = device
        self.identity = {"name": self.name, "resize": "block means, 8 x 8", "dimensions": self.dims}

    def __call__(self, images: Tensor) -> Tensor:
        """Features of 8-bit images (n, 3, H, W), shape (n, 64)."""
        pixels = check_bytes(images).to(self.device).float() / 127.5 - 1
        return (F.adaptive_avg_pool2d(pixels, 8).flatten(1) @ self.matrix).relu()


class VGGDistance:
    """LPIPS with VGG16; papers that use AlexNet report other numbers.

    Args:
        path: torchvision's weight file of VGG16.
        device: where to compute.

    Attributes:
        identity: all that a pair's distance depends on, JSON-ready.

    Raises:
        UserError: the file is another, or damaged.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        digest = digest_file(path)
        if not digest.startswith(LPIPS_VGG16.sha256):
            raise UserError(
                f"{path} is not torchvision's VGG16 (sha256 {digest}); get it from {LPIPS_VGG16.url}"
                f" ({LPIPS_VGG16.megabytes} MB, sha256 {LPIPS_VGG16.sha256}...)"
            )
        self.net, self.device = LPIPS(path).to(device), device
        self.identity = {"network": LPIPS_VGG16.name, "weights_sha256": digest}

    def __call__(self, image_hat: Tensor, image: Tensor) -> Tensor:
        """Distance of pairs of images (n, 3, H, W) in [-1, 1], shape (n,), on the CPU."""
        return self.net(image_hat.to(self.device), image.to(self.device)).cpu()


def check_bytes(images: Tensor) -> Tensor:
    """Return `images` if they are 8-bit RGB, shape (n, 3, H, W).

    Raises:
        UserError: they are not.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise UserError(
            f"images must be uint8 of shape (n, 3, H, W) in 0..255, but are {images.dtype} of shape"
            f" {tuple(images.shape)}: round (x + 1) * 127.5 and put channels second"
        )
    return images


def find_inception(path: str | None = None, allow_download: bool = False, option: str = "") -> Path:
    """The weight file by the project's rule, under pytorch-fid's name or torch-fidelity's.

    Args:
        path: `weights.inception` of the configuration.
        allow_download: `weights.allow_download`.
        option: see `ldm.weights.resolve_weight`.

    Raises:
        UserError: see `ldm.weights.resolve_weight`.
    """
    if path is None:
        for folder in weight_folders():
            if (folder / ALIAS).is_file():
                return folder / ALIAS
    return resolve_weight(INCEPTION, path, allow_download, option)


def load_inception(path: Path) -> nn.Module:
    """The network from scaled pixels (n, 3, 299, 299) to features (n, 2048), frozen, in evaluation mode.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    net = build_inception()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    except (OSError, EOFError, RuntimeError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} cannot be read as the Inception of FID ({type(error).__name__});"
            f" get it from {INCEPTION.url}"
        ) from error
    net.fc = nn.Identity()
    return net.requires_grad_(False).eval()


def build_inception() -> nn.Module:
    """The network with its classifier, without memory for its weights.

    Raises:
        UserError: torchvision cannot be imported.
    """
    try:
        from torchvision.models import Inception3
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"torchvision cannot be imported ({error}); install torch and torchvision from the same index"
        ) from error
    with torch.device("meta"):
        net = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
        _replace_pooling(getattr(net, f"Mixed_{name}"), _average_inside)
    _replace_pooling(net.Mixed_7c, _maximum)
    return net


def _average_inside(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _maximum(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _replace_pooling(block: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
    """Compute the pooling branch, the last channels of a block's output, with another pooling."""

    def hook(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        branch = block.branch_pool(pool(inputs[0]))
        return torch.cat([output[:, : -branch.shape[1]], branch], dim=1)

    block.register_forward_hook(hook)
