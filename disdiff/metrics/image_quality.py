"""Image reconstruction quality: MSE, PSNR, SSIM, edge error and LPIPS per pair, then the mean over pairs.

With x_hat and x mapped from [-1, 1] to [0, 1],

    MSE = mean (x_hat - x)^2        PSNR = -10 log10 MSE, at most 100 dB
    SSIM = mean (2 m_hat m + C_1)(2 c + C_2) / ((m_hat^2 + m^2 + C_1)(s_hat^2 + s^2 + C_2))
    edge error = sum |g_hat - g| / sum |g|

with means m, variances s^2 and covariance c under a Gaussian window of 11 x 11 pixels with sigma 1.5, C_1 =
0.01^2 and C_2 = 0.03^2 (Wang et al., 2004; computed by torchmetrics), and gradients g of every channel at
every pixel (Sobel filter, borders repeated; computed by kornia). The edge error is 0 for equal images and 1
for an image without edges; blur and misplaced edges raise it. LPIPS is computed if it is passed.

Deviation: Wang et al. keep the window within the image, and some scripts pad with zeros; torchmetrics centres
the window on every pixel and reflects the image at its borders.
Deviation: EncDiff's script passes images with channels last to SSIM, so its window covers columns and
channels. Ours covers rows and columns, as defined, so the two numbers are not comparable.
"""

from collections.abc import Callable, Mapping

import torch
from kornia.filters import spatial_gradient
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from disdiff.metrics._inputs import Result
from disdiff.metrics._ranges import check_range
from ldm.errors import UserError

WINDOW = 11  # side of the SSIM window in pixels
PEAK = 100.0  # largest PSNR in dB, that of equal images
LEAST_EDGES = 1e-8  # mean gradient of a reference image without edges
Distance = Callable[[Tensor, Tensor], Tensor]


def compute_image_quality(image_hat: Tensor, image: Tensor, lpips: Distance | None = None) -> Result:
    """Compare images with reference images.

    Args:
        image_hat: images to evaluate, shape (n, 3, H, W): floats in [-1, 1], or uint8 if both are.
        image: reference images, same shape and range.
        lpips: computes LPIPS of pairs in [-1, 1], shape (n,); None for no LPIPS.

    Returns:
        `mse`, `psnr` in dB, `ssim`, `edge_error` and, if `lpips` is given, `lpips`: means over the pairs, and
        standard deviations with the suffix `_std`.

    Raises:
        UserError: bad arrays, values outside [-1, 1], or floats without a value below 0, which look like
            images in [0, 1] (`check_range`).
    """
    if image_hat.dtype == image.dtype == torch.uint8:
        floats, others = (part.float() / 127.5 - 1 for part in (image_hat, image))
        return summarise_quality(compare_images(floats, others, lpips))
    for part, name in ((image_hat, "image_hat"), (image, "image")):
        check_images(part, name)
        check_range(part.min().item(), part.max().item(), name)
    return summarise_quality(compare_images(image_hat, image, lpips))


def compare_images(image_hat: Tensor, image: Tensor, lpips: Distance | None = None) -> dict[str, Tensor]:
    """Return the scores of every pair, shape (n,) each.

    Arguments and errors are those of `compute_image_quality`, but images must be floats, and images without a
    value below 0 are accepted, because a batch is only a part of a set.
    """
    check_images(image_hat, "image_hat")
    check_images(image, "image")
    if image_hat.shape != image.shape:
        raise UserError(
            f"image_hat has shape {tuple(image_hat.shape)} but image has {tuple(image.shape)}: give pairs"
        )
    if min(image.shape[2:]) < WINDOW:
        raise UserError(
            f"images of {tuple(image.shape[2:])} pixels are smaller than SSIM's window of {WINDOW}"
        )
    x_hat, x = ((part.double() + 1) / 2 for part in (image_hat, image))
    mse = (x_hat - x).square().mean(dim=(1, 2, 3))
    singles = x_hat.float(), x.float()  # SSIM in float64 takes twenty times as long
    ssim = structural_similarity_index_measure(*singles, data_range=1.0, sigma=1.5, reduction="none")
    ssim = ssim.double().reshape(len(x)).clamp(-1, 1)  # float32 rounding can exceed the range slightly
    peak = (-10 * mse.log10()).clamp(max=PEAK)
    scores = {"mse": mse, "psnr": peak, "ssim": ssim, "edge_error": compute_edge_error(x_hat, x)}
    return scores if lpips is None else {**scores, "lpips": lpips(image_hat, image).double()}


def compute_edge_error(image_hat: Tensor, image: Tensor) -> Tensor:
    """Difference of the gradients of two images (n, C, H, W), relative to the reference's, shape (n,).

    Scaling both images by a number, or adding one to either, changes nothing.
    """
    edges_hat, edges = spatial_gradient(image_hat), spatial_gradient(image)
    difference, reference = (part.abs().flatten(1).mean(dim=1) for part in (edges_hat - edges, edges))
    return difference / reference.clamp_min(LEAST_EDGES)


def summarise_quality(scores: Mapping[str, Tensor]) -> Result:
    """Mean and standard deviation over pairs of each score (n,) from `compare_images`."""
    moments = {}
    for name, values in scores.items():
        moments |= {name: values.mean().item(), f"{name}_std": values.std(correction=0).item()}
    return {
        **moments,
        "estimator": "per pair of images on the [0, 1] scale, then the mean",
        "settings": {
            "ssim_window": WINDOW,
            "ssim_sigma": 1.5,
            "ssim_border": "reflect",
            "psnr_at_most": PEAK,
            "edge_filter": "sobel",
        },
        "sizes": {"images": len(scores["mse"])},
        "seed": None,
    }


def check_images(images: Tensor, name: str) -> None:
    """Raise UserError unless a tensor has floats of shape (n, 3, H, W) in [-1, 1]."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape or not images.is_floating_point():
        raise UserError(
            f"{name} must be floating-point numbers of shape (n, 3, H, W), but are {images.dtype} of shape"
            f" {tuple(images.shape)}: put channels second and map 0..255 to [-1, 1]"
        )
    low, high = torch.aminmax(images)
    if not (low >= -1.001 and high <= 1.001):  # NaN fails too
        raise UserError(
            f"{name} must lie in [-1, 1], but go from {low:.4g} to {high:.4g}: map 0..255 by x / 127.5 - 1,"
            " or clamp the decoder's output"
        )
