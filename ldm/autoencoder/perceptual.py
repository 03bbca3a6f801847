"""LPIPS, the perceptual distance in the autoencoder's loss (Zhang et al., arXiv 1801.03924).

d(a, b) = sum over five VGG16 layers of the mean over positions of <w, (a_l - b_l)^2>, with features a_l, b_l
of unit length in the channels. The heads w come with torchmetrics; VGG16 is a file (see `ldm.weights`).
"""

import pickle
import warnings
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.errors import UserError
from ldm.weights import VGG16, resolve_weight

# Ends of the slices of torchvision's `features`: after relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.
LAYER_ENDS = (4, 9, 16, 23, 30)
LAYER_CHANNELS = (64, 128, 256, 512, 512)


class LPIPS(nn.Module):
    """LPIPS with a VGG16 backbone, frozen; training and evaluation mode do not differ.

    Deviation: if a feature is 0 in all channels its gradient is 0; in taming's LPIPS it is NaN.

    Args:
        vgg16: torchvision's weight file of VGG16.

    Raises:
        UserError: the file is not a readable VGG16.
    """

    def __init__(self, vgg16: Path) -> None:
        super().__init__()
        scaling_class, head_class, build_vgg16 = import_parts()
        with torch.device("meta"):
            features = build_vgg16(weights=None).features[: LAYER_ENDS[-1]]
        load_features(features, vgg16)
        self.scaling = scaling_class()
        self.slices = nn.ModuleList(
            features[start:end] for start, end in zip((0, *LAYER_ENDS), LAYER_ENDS, strict=False)
        )
        self.heads = nn.ModuleList(head_class(channels).model for channels in LAYER_CHANNELS)
        with as_file(files("torchmetrics.functional.image") / "lpips_models" / "vgg.pth") as path:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        for index, head in enumerate(self.heads):
            head[0].weight.data.copy_(weights[f"lin{index}.model.1.weight"])
        self.requires_grad_(False)
        self.eval()

    def forward(self, image_hat: Tensor, image: Tensor) -> Tensor:
        """Distance of each pair of images (B, 3 or 1, H, W) in [-1, 1], sides at least 16, shape (B,).

        It is summed over the layers, a mean over positions, and 0 for equal images. Grey is repeated to RGB.
        """
        h_hat, h = self.scaling(image_hat), self.scaling(image)
        distance = torch.zeros(len(h), device=h.device)
        for part, head in zip(self.slices, self.heads, strict=True):
            h_hat, h = part(h_hat), part(h)
            difference = (F.normalize(h_hat, dim=1, eps=1e-10) - F.normalize(h, dim=1, eps=1e-10)).square()
            distance = distance + head(difference).mean(dim=(1, 2, 3))
        return distance


def load_lpips(path: str | None = None, allow_download: bool = False) -> LPIPS:
    """LPIPS with the VGG16 that `ldm.weights.resolve_weight` finds.

    Raises:
        UserError: the file is not found or is damaged.
    """
    return LPIPS(resolve_weight(VGG16, path, allow_download))


def import_parts() -> tuple[type[nn.Module], type[nn.Module], Callable[..., nn.Module]]:
    """Import taming's scaling layer and linear head, and torchvision's builder of VGG16.

    Raises:
        UserError: a package is missing, or torch and torchvision come from different indexes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # raised when taming's file is first compiled
            from taming.modules.losses.lpips import NetLinLayer, ScalingLayer
        from torchvision.models import vgg16
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"LPIPS cannot be imported ({error}); install torch and torchvision from the same index, and "
            "taming-transformers-rom1504==0.0.6 with requests, or set autoencoder.loss.perceptual=none"
        ) from error
    return ScalingLayer, NetLinLayer, vgg16


def load_features(features: nn.Sequential, path: Path) -> None:
    """Load torchvision's weights into the layers of VGG16 up to relu5_3, which may be on the meta device.

    Raises:
        UserError: the file is damaged or is not a VGG16.
    """
    prefix = "features."
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        own = {
            key.removeprefix(prefix): value.float()
            for key, value in weights.items()
            if key.startswith(prefix)
        }
        features.load_state_dict(own, assign=True)
    except (OSError, EOFError, RuntimeError, AttributeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} is not a readable VGG16 of torchvision ({type(error).__name__}); get it from "
            f"{VGG16.url} ({VGG16.megabytes} MB) or set {VGG16.without}"
        ) from error
