"""The auxiliary decoder: it trains the code to hold the image, at first without diffusion.

    L_aux = |W (A(code) - z_0)|^2

A is a small decoder from codes to latents, W whitens the latents, so that small factors count. With the price
of KL and total correlation, code and A are a beta-TCVAE of latents (Chen et al. 2018, arXiv:1802.04942) whose
units may be vectors. Its steps are many times cheaper than those of a diffusion model, and its loss asks
for all of the image at once, where the noise error at one t asks for little. So it can pre-train the code. It
exists only while training. With `blur` its error is at first that of blurred latents, of which places and
large areas are the largest components, and with `first_price` the code is dearer at first.
"""

import math

import torch
from torch import Tensor, nn

from disdiff.method.losses import AuxiliaryConfig, fit_whitener
from ldm.errors import UserError, check_option
from ldm.nn.layers import build_norm

NORM_GROUPS = 8


class AuxiliaryDecoder(nn.Module):
    """The decoder A and its loss; fitted to training latents when it is built.

    A gives whitened latents: centred, flattened, times W, divided by their standard deviation.

    Args:
        config: weights and sizes.
        z_0: training latents, shape (n, C, h, w).
        num_numbers: numbers of a code, N D.

    Raises:
        UserError: the latents are constant, or too large to be whitened.
    """

    def __init__(self, config: AuxiliaryConfig, z_0: Tensor, num_numbers: int) -> None:
        super().__init__()
        self.config = config
        whitener = fit_whitener(z_0, config.ridge)
        centre = z_0.flatten(1).mean(dim=0)
        whitener = whitener / ((z_0.flatten(1) - centre) @ whitener).std()
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("whitener", whitener, persistent=False)
        self.shape = z_0.shape[1:]
        unwhitener = torch.linalg.inv(whitener.double()).to(whitener)
        self.register_buffer("unwhitener", unwhitener, persistent=False)
        if config.blur:
            blurs = [blur_matrix(side, config.blur).to(centre) for side in self.shape[1:]]
            self.register_buffer("blur_rows", blurs[0], persistent=False)
            self.register_buffer("blur_columns", blurs[1], persistent=False)
            self.blurred_variance = self.blur(z_0.flatten(1) - centre).square().mean().item()
        self.decoder = build_decoder(config, num_numbers, z_0.shape[1:])

    def parameter_group(self, rate: float) -> dict:
        """The decoder at a learning rate, without Muon."""
        return {"params": list(self.decoder.parameters()), "lr": rate, "orthogonal": False}

    def whiten(self, z_0: Tensor) -> Tensor:
        """Whitened latents (B, P) of latents (B, C, h, w) with P entries."""
        return (z_0.flatten(1) - self.centre) @ self.whitener

    def draw(self, code: Tensor) -> Tensor:
        """Latents (B, C, h, w) that the decoder draws of `code` (B, N, D)."""
        return (self.decoder(code.flatten(1)) @ self.unwhitener + self.centre).unflatten(1, self.shape)

    def blur(self, x: Tensor) -> Tensor:
        """Flat latents (B, P), blurred along both axes of each channel, shape (B, P)."""
        maps = x.view(-1, *self.shape)
        return (self.blur_rows @ maps @ self.blur_columns.T).flatten(1)

    def progress(self, step: int) -> float:
        """How far annealing is at a step, in [0, 1]; 1 without it."""
        return min(1.0, step / self.config.anneal_steps) if self.config.anneal_steps else 1.0

    def price(self, step: int) -> float:
        """Factor on the weights of KL and total correlation: falls from `first_price` to 1."""
        return self.config.first_price ** (1 - self.progress(step))

    def forward(self, z_0: Tensor, code: Tensor, step: int) -> Tensor:
        """L_aux without its weight, shape (); at first it is the error of blurred latents.

        Args:
            z_0: latents, shape (B, C, h, w).
            code: their codes, shape (B, N, D).
            step: the training step.
        """
        difference = self.decoder(code.flatten(1)) - self.whiten(z_0)
        sharp, share = difference.square().mean(), self.progress(step)
        if not self.config.blur or share == 1:
            return sharp
        blurred = self.blur(difference @ self.unwhitener).square().mean() / self.blurred_variance
        return torch.lerp(blurred, sharp, share)


def build_decoder(config: AuxiliaryConfig, num_numbers: int, shape: torch.Size) -> nn.Module:
    """The decoder, codes (B, N D) => whitened latents (B, P).

    Args:
        config: kind and sizes.
        num_numbers: N D.
        shape: shape of a latent, (C, h, w), with P entries.

    Raises:
        UserError: the kind is unknown, or `conv` has latents of an odd side.
    """
    check_option("code.loss.auxiliary.network", config.network, ("mlp", "conv"))
    if config.network == "mlp":
        return build_mlp(num_numbers, config.hidden, math.prod(shape))
    if any(side % 2 for side in shape[1:]):
        raise UserError(
            f"code.loss.auxiliary.network=conv halves latents, and these have {shape[1]}x{shape[2]} "
            "pixels; choose network=mlp"
        )
    return ConvDecoder(config, num_numbers, shape)


def blur_matrix(side: int, deviation: float) -> Tensor:
    """Gaussian weights of `side` points for each of them, rows summing to 1, shape (side, side)."""
    place = torch.arange(side, dtype=torch.float)
    return torch.softmax(-((place[:, None] - place) ** 2) / (2 * deviation**2), dim=1)


def build_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of `hidden` numbers with SiLU."""
    return nn.Sequential(
        *(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()),
        nn.Linear(hidden, outputs),
    )


class ConvDecoder(nn.Sequential):
    """A hidden layer, maps of half the latent's size, a residual block, and 2x2 pixels for each of theirs."""

    def __init__(self, config: AuxiliaryConfig, num_numbers: int, shape: torch.Size) -> None:
        channels, (depth, height, width) = config.channels, shape
        half = (channels, height // 2, width // 2)
        super().__init__(
            *(nn.Linear(num_numbers, config.hidden), nn.SiLU(), nn.Linear(config.hidden, math.prod(half))),
            *(nn.Unflatten(1, half), ResidualBlock(channels), nn.SiLU()),
            *(nn.Conv2d(channels, 4 * depth, 3, padding=1), nn.PixelShuffle(2), nn.Flatten()),
        )


class ResidualBlock(nn.Module):
    """SiLU, 3x3 convolution, norm, SiLU, 1x1 convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1), build_norm(channels, NORM_GROUPS)),
            *(nn.SiLU(), nn.Conv2d(channels, channels, 1)),
        )

    def forward(self, h: Tensor) -> Tensor:
        """Apply to `h` (B, C, H, W)."""
        return h + self.inner(h)
