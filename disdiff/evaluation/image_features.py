"""Image features for FID and KID: the 2048 pooled features of the Inception network of the original FID.

The network is torchvision's Inception v3 with two changes in pooling: averages exclude the padding, and the
last block takes maxima. The weights are TensorFlow's of 2015-12-05 as converted by pytorch-fid, with 1008
classes; torch-fidelity, torchmetrics and DisDiff use the same file (equal checksum). The input is 299 x 299
pixels, scaled by (x - 128) / 128 as in the original graph.

The method of resizing images to 299 x 299 changes the result, so it is chosen by name and recorded (results
are not rounded; all but the last method use half-pixel centres):

    bilinear            as in pytorch-fid and the released DisDiff
    bilinear_antialias  as in torchmetrics by default
    bicubic_antialias   as in Pillow, and so in clean-fid and InfoDiffusion
    tensorflow1         as in the original and torch-fidelity: bilinear, pixel i at position i * size / 299

Deviation: pytorch-fid scales by x / 127.5 - 1, which differs by at most 1/128 of the range. torch-fidelity is
not used for the network, because it unpickles its weight file without restriction.

`RandomFeatures` need no weights and exist for tests. Distances of random features are not FID, and their
`name` says so wherever results appear.
"""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.perceptual import LPIPS
from ldm.errors import UserError, check_option, look_up
from ldm.files import digest_file
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
    without="MSE, PSNR, SSIM and the disentanglement metrics do not need it, and --features random tries "
    "the command with features that do not give FID",
)
LPIPS_VGG16 = replace(
    VGG16, purpose="LPIPS", without="leave out --lpips; MSE, PSNR, SSIM and FID do not need it"
)


def resize(images: Tensor, mode: str) -> Tensor:
    """Resize images (n, 3, H, W) in 0..255, of any number type, to 299 x 299, by one of `RESIZE_MODES`.

    Raises:
        UserError: the mode is unknown.
    """
    return look_up("resize", mode, RESIZE_MODES)(images.float())


def _interpolate(mode: str, antialias: bool) -> Callable[[Tensor], Tensor]:
    def apply(images: Tensor) -> Tensor:
        return F.interpolate(images, (SIZE, SIZE), mode=mode, antialias=antialias, align_corners=False)

    return apply


def _interpolate_tensorflow1(images: Tensor) -> Tensor:
    rows, columns = (_tensorflow1_weights(size).to(images) for size in images.shape[2:])
    return rows @ images @ columns.T


def _tensorflow1_weights(size: int) -> Tensor:
    """Interpolation weights from `size` to 299 pixels, shape (299, size)."""
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
    """Resizing followed by the frozen Inception network of FID.

    Args:
        path: weight file of the network.
        mode: resize method, a name in `RESIZE_MODES`.
        device: compute device.

    Attributes:
        name: name of the features, "inception".
        dims: number of features.
        identity: everything that the features of an image depend on, JSON-ready.

    Raises:
        UserError: the file does not hold the weights of FID, or the mode is unknown.
    """

    name = "inception"
    dims = DIMS

    def __init__(self, path: Path, mode: str = "bilinear", device: str = "cpu") -> None:
        check_option("resize", mode, RESIZE_MODES)
        self.mode, self.device, digest = mode, device, digest_file(path)
        if digest != INCEPTION.sha256:
            raise UserError(
                f"{path} is not the Inception file of FID (sha256 {digest}); download {INCEPTION.url}"
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
        """Features of 8-bit images (n, 3 or 1, H, W), shape (n, 2048)."""
        return self.net((resize(as_rgb(images).to(self.device), self.mode) - 128) / 128)


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
        """Features of 8-bit images (n, 3 or 1, H, W), shape (n, 64)."""
        pixels = as_rgb(images).to(self.device).float() / 127.5 - 1
        return (F.adaptive_avg_pool2d(pixels, 8).flatten(1) @ self.matrix).relu()


class VGGDistance:
    """LPIPS with VGG16; papers that use AlexNet report other numbers.

    Args:
        path: torchvision's weight file of VGG16.
        device: compute device.

    Attributes:
        identity: everything that the distance of a pair depends on, JSON-ready.

    Raises:
        UserError: the file is damaged or is not torchvision's VGG16.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        digest = digest_file(path)
        if not digest.startswith(LPIPS_VGG16.sha256):
            raise UserError(
                f"{path} is not torchvision's VGG16 (sha256 {digest}); download {LPIPS_VGG16.url}"
                f" ({LPIPS_VGG16.megabytes} MB, sha256 {LPIPS_VGG16.sha256}...)"
            )
        self.net, self.device = LPIPS(path).to(device), device
        self.identity = {"network": LPIPS_VGG16.name, "weights_sha256": digest}

    def __call__(self, image_hat: Tensor, image: Tensor) -> Tensor:
        """Distance of pairs of images (n, 3, H, W) in [-1, 1], shape (n,), on the CPU."""
        return self.net(image_hat.to(self.device), image.to(self.device)).cpu()


def as_rgb(images: Tensor) -> Tensor:
    """8-bit images (n, 3 or 1, H, W) as RGB, shape (n, 3, H, W); UserError if they are anything else."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"images must be uint8 of shape (n, 3, H, W) in 0..255, but are {images.dtype} of shape"
            f" {tuple(images.shape)}; round (x + 1) * 127.5 and put channels second"
        )
    return images.expand(-1, 3, -1, -1)


def find_inception(path: str | None = None, allow_download: bool = False, option: str = "") -> Path:
    """Find the Inception weight file, under pytorch-fid's or torch-fidelity's file name.

    `path` and `allow_download` are from the section `weights`; see `ldm.weights.resolve_weight`.

    Raises:
        UserError: the file is not found or cannot be downloaded.
    """
    if path is None:
        for folder in weight_folders():
            if (folder / ALIAS).is_file():
                return folder / ALIAS
    return resolve_weight(INCEPTION, path, allow_download, option)


def load_inception(path: Path) -> nn.Module:
    """Load the network from scaled pixels (n, 3, 299, 299) to features (n, 2048), frozen, in eval mode.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    net = build_inception()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    except (OSError, EOFError, RuntimeError, TypeError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} cannot be read as the Inception file of FID ({type(error).__name__});"
            f" download {INCEPTION.url}"
        ) from error
    net.fc = nn.Identity()
    return net.requires_grad_(False).eval()


def build_inception() -> nn.Module:
    """The network with its classifier, on the meta device (no memory for weights).

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
    """Replace the pooling of a block's pooling branch, the last channels of its output."""

    def hook(block: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        branch = block.branch_pool(pool(inputs[0]))
        return torch.cat([output[:, : -branch.shape[1]], branch], dim=1)

    block.register_forward_hook(hook)
