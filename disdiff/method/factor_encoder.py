"""The factor encoder: image or latent => N latent units of D numbers, E(x_0) = {z^1, ..., z^N} of DisDiff.

The network is the released one: stride-2 convolutions down to 4x4, two residual blocks, one linear layer. All
units share the trunk; only the rows of the last layer belong to single units. The input
(`disdiff.method.encoder_input`) is the image (as published), the latent z or the denoiser's features.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.initialisation.bilinear import BilinearCoordinates
from disdiff.initialisation.circular import CircularCoordinates
from disdiff.initialisation.eigenmaps import EigenmapCoordinates
from disdiff.initialisation.initial_code import InitialCode, check_components
from disdiff.initialisation.pixels import NUM_IMAGES, SIDE, PixelCode
from disdiff.initialisation.principal import PrincipalComponents
from ldm.errors import UserError, check_option, look_up
from ldm.nn.layers import build_norm

OUTPUT_SIZE = 4  # side of the map that is flattened; the input's own side if that is smaller
NORM_GROUPS = 8
STARTS: dict[str, type[InitialCode] | None] = {
    "random": None,
    "principal": PrincipalComponents,
    "circular": CircularCoordinates,
    "bilinear": BilinearCoordinates,
    "eigenmaps": EigenmapCoordinates,
}
RELEASED_256 = 6  # number of strided convolutions in the released encoder for images of 256 pixels
# A Gaussian code starts with little noise, so the decoder learns to use it before the KL term matters.
INITIAL_LOGVAR = -3.5


@dataclass
class FactorEncoderConfig:
    """Factor encoder.

    Attributes:
        input: `image`, `z`, or `features` (the denoiser's bottleneck features of the clean latent).
        channels: width of every convolution.
        norm: `batch` (released), or `group`, which has no running statistics and so treats data and
            predictions alike.
        hidden: width of a linear layer before the last; 0 for none (released).
        code_norm: `none` (released), or `batch`: every number of the code has mean 0 and variance 1 over the
            batch (running statistics in evaluation). Then no unit can collapse, and scaling the code cannot
            lower a loss.
        posterior: `none`; `fixed`: Gaussian noise of standard deviation `code_noise` is added to the code in
            training, which limits the information in one number; or `gaussian`: each number has its own
            variance, and a KL term can be added.
        code_noise: standard deviation of the noise for `fixed`.
        initial_logvar: initial log-variance of every number for `gaussian`.
        start: `random`, or the initial code (`disdiff.initialisation`), fitted once to the encoder's inputs
            of training images; the network starts at zero and is added to it. `principal`: principal
            components;
            `circular`: the angles of loops in the data, then components of the rest; `bilinear`: the same
            angles, then modes whose effect may depend on the angles; `eigenmaps`: the same angles, then slow
            coordinates of a random walk over the rest. The last three are spectral: an initialisation that
            assumes loops and colour-linear images.
        start_reads: what the start is fitted to: `input`, or `pixels`: the image averaged to 8x8 pixels, as a
            linear regression estimates it from the input.
        freeze_steps: the encoder is frozen for this many steps while the networks that read its code train.
        learning_rate_factor: the encoder's learning rate as a multiple of the other networks'.
    """

    input: str = "image"
    channels: int = 128
    norm: str = "batch"
    hidden: int = 0
    code_norm: str = "none"
    posterior: str = "none"
    code_noise: float = 0.1
    initial_logvar: float = INITIAL_LOGVAR
    start: str = "random"
    start_reads: str = "input"
    freeze_steps: int = 0
    learning_rate_factor: float = 1.0


class CodePosterior(Protocol):
    """Distribution of the codes of a batch; B images, N units of D numbers."""

    @property
    def mean(self) -> Tensor:
        """The most likely code, shape (B, N, D)."""

    def sample(self, generator: torch.Generator) -> Tensor:
        """A sampled code, shape (B, N, D)."""

    def kl(self) -> Tensor:
        """KL divergence to the prior in nats, shape (B,)."""


class Posterior(NamedTuple):
    """Gaussian posterior of the codes of a batch, the encoder's output.

    Attributes:
        mean: the code, shape (B, N, D).
        logvar: log-variance of each number, shape (B, N, D); None for a deterministic encoder.
    """

    mean: Tensor
    logvar: Tensor | None

    @classmethod
    def bounded(cls, mean: Tensor, logvar: Tensor | None, fixed: float | None = None) -> "Posterior":
        """The posterior with `logvar` clamped to [-12, 6]; without it, with log-variance `fixed`, if any."""
        if logvar is not None:
            return cls(mean, logvar.view_as(mean).clamp(-12, 6))
        return cls(mean, None if fixed is None else torch.full_like(mean, fixed))

    def sample(self, generator: torch.Generator) -> Tensor:
        """A sampled code, shape (B, N, D); the mean if there is no variance."""
        if self.logvar is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device).to(self.mean)
        return self.mean + (0.5 * self.logvar).exp() * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard normal in nats, summed over units and numbers, shape (B,)."""
        if self.logvar is None:
            return self.mean.new_zeros(len(self.mean))
        return 0.5 * (self.mean**2 + self.logvar.exp() - 1 - self.logvar).flatten(1).sum(dim=1)


class EncoderBlock(nn.Module):
    """Pre-activation residual block: ReLU, 3x3 convolution, norm, ReLU, 1x1 convolution."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = _norm(norm, channels)
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Apply to `h` (B, C, H, W)."""
        return h + self.conv1(F.relu(self.norm(self.conv3(F.relu(h)))))


class Encoder(nn.Module, ABC):
    """Inputs => codes of N units of D numbers; subclasses define the posterior.

    Attributes:
        num_units: N.
        unit_dim: D.
        is_fitted: whether `fit_start` fits something, such as the initial code.
        images_needed: smallest number of training inputs for this fit.
        pixels_needed: number of images whose averaged pixels `fit_pixels` wants before it; 0 for none.
    """

    is_fitted, images_needed, pixels_needed = False, 0, 0

    def __init__(self, num_units: int, unit_dim: int) -> None:
        super().__init__()
        self.num_units, self.unit_dim = num_units, unit_dim

    @abstractmethod
    def posterior(self, x: Tensor) -> CodePosterior:
        """Distribution of the codes of inputs `x` (B, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        """Code of inputs `x` (B, ...), shape (B, N, D): the posterior's mean."""
        return self.posterior(x).mean


class FactorEncoder(Encoder):
    """Stride-2 convolutions to 4x4, two residual blocks, a linear layer for all units."""

    def __init__(
        self,
        config: FactorEncoderConfig,
        in_channels: int,
        size: int,
        num_units: int,
        unit_dim: int,
        image_channels: int = 3,
    ) -> None:
        """Build for inputs of `in_channels` maps of `size` x `size`; `image_channels` is for `start_reads`.

        Raises:
            UserError: `size` is not a power of two, or an option is unknown.
        """
        super().__init__(num_units, unit_dim)
        side = min(size, OUTPUT_SIZE)
        depth = count_halvings(size, side, "the factor encoder needs inputs of 1, 2, 4, 8, 16")
        check_option("code.encoder.posterior", config.posterior, ("none", "fixed", "gaussian"))
        self.gaussian = config.posterior == "gaussian"
        self.fixed_logvar = 2 * math.log(config.code_noise) if config.posterior == "fixed" else None
        self.trunk = nn.Sequential()
        if not depth:
            self.trunk.append(nn.Conv2d(in_channels, config.channels, 3, padding=1))
        for i in range(depth):
            channels = in_channels if i == 0 else config.channels
            self.trunk.append(nn.Conv2d(channels, config.channels, 4, stride=2, padding=1))
            self.trunk.append(_norm(config.norm, config.channels))
            # The released network has no ReLU after the second last convolution; that for 256 pixels has
            # none from the third to the second last.
            if i != depth - 2 and not (depth == RELEASED_256 and 2 <= i < depth - 1):
                self.trunk.append(nn.ReLU())
        blocks = [EncoderBlock(config.channels, config.norm) for _ in range(2)]
        self.trunk.extend(
            [blocks[0], _norm(config.norm, config.channels), nn.ReLU(), blocks[1], nn.Flatten()]
        )
        width, outputs = config.channels * side**2, num_units * unit_dim * (1 + self.gaussian)
        if config.hidden:
            self.trunk.extend([nn.Linear(width, config.hidden), nn.ReLU()])
        self.head = nn.Linear(config.hidden or width, outputs)
        if self.gaussian:
            nn.init.constant_(self.head.bias[num_units * unit_dim :], config.initial_logvar)
        norms = {"none": nn.Identity, "batch": lambda: nn.BatchNorm1d(num_units * unit_dim, affine=False)}
        self.code_norm = look_up("code.encoder.code_norm", config.code_norm, norms)()
        features = in_channels * size**2, num_units * unit_dim, image_channels
        self.components = build_start(config, *features)
        if self.components is not None:
            nn.init.zeros_(self.head.weight[: num_units * unit_dim])
            nn.init.zeros_(self.head.bias[: num_units * unit_dim])
            self.is_fitted, self.images_needed = True, self.components.images_needed
            self.pixels_needed = NUM_IMAGES if isinstance(self.components, PixelCode) else 0

    def fit_pixels(self, x: Tensor, pixels: Tensor) -> None:
        """Fit the estimate of averaged pixels (n, P) to training inputs `x` (n, C, size, size)."""
        self.components.fit_pixels(x, pixels)

    def fit_start(self, x: Tensor) -> None:
        """Fit the initial code to training inputs `x` (n, C, size, size), before the first step."""
        if self.components is not None:
            self.components.fit(x)

    def initial_code(self, x: Tensor) -> Tensor:
        """The fitted start alone, without what was trained, shape (B, N D), of `x` (B, C, size, size)."""
        with torch.autocast(x.device.type, enabled=False):  # the sums have cancellation
            return self.components(x.to(self.head.weight))

    def posterior(self, x: Tensor) -> Posterior:
        """Codes of `x` (B, C, size, size), with variance if the encoder has one."""
        units = self.head(self.trunk(x))
        mean, logvar = units.chunk(2, dim=1) if self.gaussian else (units, None)
        if self.components is not None:
            mean = mean + self.initial_code(x)
        mean = self.code_norm(mean).unflatten(1, (self.num_units, self.unit_dim))
        return Posterior.bounded(mean, logvar, self.fixed_logvar)


def build_start(
    config: FactorEncoderConfig, in_features: int, num_components: int, image_channels: int
) -> InitialCode | None:
    """The initial code for inputs of `in_features` numbers; None for a random start.

    Raises:
        UserError: an option is unknown, or the start has fewer dimensions than the code.
    """
    start = look_up("code.encoder.start", config.start, STARTS)
    check_option("code.encoder.start_reads", config.start_reads, ("input", "pixels"))
    if start is None:
        return None
    num_pixels = image_channels * SIDE**2
    width = in_features if config.start_reads == "input" else num_pixels
    check_components(width, num_components)
    code = start(width, num_components)
    return code if config.start_reads == "input" else PixelCode(in_features, code, num_pixels)


def count_halvings(size: int, side: int, needs: str, fewest: int = 0) -> int:
    """Number of times a map of side `size` is halved to get side `side`.

    Raises:
        UserError: halving never gives `side`, or does so in fewer than `fewest` times; `needs` is the first
            part of the message.
    """
    depth = max(size // side, 1).bit_length() - 1
    if side & (side - 1) or side << depth != size or depth < fewest:
        raise UserError(
            f"{needs}, ... pixels a side, got {size}; choose another data.image_size or "
            "code.encoder.input, or other levels of autoencoder.network.channel_mult and "
            "latent_diffusion.unet.channel_mult"
        )
    return depth


def _norm(kind: str, channels: int) -> nn.Module:
    kinds = {"batch": nn.BatchNorm2d, "group": lambda channels: build_norm(channels, NORM_GROUPS)}
    return look_up("code.encoder.norm", kind, kinds)(channels)
