"""The autoencoder interface, and the latent space: images => standardised latents and back.

An autoencoder maps `image` to `z_raw` and back; the diffusion model works on z = (z_raw - mean) / std. The
released code uses mean 0 and one scalar std (its `scale_factor` is 1 / std).
Deviation: the released code measures std on the first training batch; here it is measured on the data set.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ldm.errors import UserError


@dataclass
class Reconstruction:
    """Output of an autoencoder in training, the same for every bottleneck."""

    image_hat: Tensor  # (B, C, H, W)
    regulariser: Tensor  # (); codebook loss or mean KL, to be weighted and added
    stats: dict[str, Tensor] = field(default_factory=dict)  # (), to be logged


class Autoencoder(nn.Module, ABC):
    """First stage: image (B, C, H, W) <=> z_raw (B, latent_channels, H / f, W / f).

    Encoding has two parts. `encode_statistics` is deterministic, so a cache can keep its result. `sample_raw`
    samples z_raw from it; only a KL bottleneck is random here.
    """

    latent_channels: int
    downsampling_factor: int
    starts_at_data: bool = False

    @abstractmethod
    def encode_statistics(self, image: Tensor) -> Tensor:  # image => statistics of z_raw
        """Compute the input of `sample_raw`, shape (B, S, h, w)."""

    def sample_raw(self, statistics: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Sample latents (B, latent_channels, h, w) from statistics; the mean if there is no generator."""
        return statistics

    def fit_start(self, image: Tensor) -> None:
        """Fit what the weights start at to training images (n, C, H, W), where `starts_at_data`."""
        raise NotImplementedError

    def sample_variance(self, statistics: Tensor) -> Tensor:
        """Variance of what `sample_raw` draws, entry by entry, shape (B, latent_channels, h, w)."""
        return torch.zeros_like(self.sample_raw(statistics))

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:  # image => z_raw
        """Latents z_raw (B, latent_channels, H / f, W / f) of images (B, C, H, W) in [-1, 1].

        VQ latents are not quantised. KL latents are posterior samples, or its mean without a generator.
        """
        return self.sample_raw(self.encode_statistics(image), generator)

    @abstractmethod
    def decode(self, z_raw: Tensor, quantize: bool = True) -> Tensor:  # z_raw => image
        """Decode latents to images (B, C, H, W); only a VQ bottleneck uses `quantize`."""

    @abstractmethod
    def reconstruct(self, image: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Encode and decode as in training."""

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter | None:
        """The weight at which the adaptive GAN weight compares gradients; None if there are no parameters."""


class LatentSpace(nn.Module):
    """An autoencoder and the standardisation of its latents; mean and std are saved with the weights.

    Args:
        autoencoder: the first stage; the caller decides whether to freeze it.
        mean, std: one number, or one per latent channel, shape (C,).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, autoencoder: Autoencoder, mean: float | Tensor = 0.0, std: float | Tensor = 1.0
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.register_buffer("mean", torch.zeros(autoencoder.latent_channels, 1, 1))
        self.register_buffer("std", torch.ones(autoencoder.latent_channels, 1, 1))
        self.set_standardisation(mean, std)

    @property
    def latent_channels(self) -> int:
        """Channels C of z."""
        return self.autoencoder.latent_channels

    @property
    def downsampling_factor(self) -> int:
        """Image size over latent size, f."""
        return self.autoencoder.downsampling_factor

    def latent_shape(self, image_size: int) -> tuple[int, int, int]:
        """Shape (C, h, w) of the latent of a square image.

        Raises:
            UserError: the image size is not a multiple of f.
        """
        if image_size % self.downsampling_factor:
            raise UserError(
                f"images of {image_size} pixels do not fit an autoencoder that reduces "
                f"{self.downsampling_factor}-fold; choose a multiple of that, or fewer levels (channel_mult)"
            )
        size = image_size // self.downsampling_factor
        return self.latent_channels, size, size

    def set_standardisation(self, mean: float | Tensor, std: float | Tensor) -> None:
        """Set mean and std to numbers or to tensors of shape () or (C,); see `fit_standardisation`."""
        for buffer, value in ((self.mean, mean), (self.std, std)):
            value = torch.as_tensor(value, dtype=buffer.dtype, device=buffer.device)
            buffer.copy_(value.reshape(-1, 1, 1))

    def standardise(self, z_raw: Tensor) -> Tensor:  # z_raw => z
        """(z_raw - mean) / std, shape (B, C, h, w), float32."""
        return (z_raw - self.mean) / self.std

    def to_raw(self, z: Tensor) -> Tensor:  # z => z_raw
        """Inverse of `standardise`, shape (B, C, h, w)."""
        return z * self.std + self.mean

    def encode(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:  # image => z
        """Encode images (B, 3, H, W) in [-1, 1] to latents (B, C, h, w); see `Autoencoder.encode`."""
        return self.standardise(self.autoencoder.encode(image, generator))

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:  # z => image
        """Decode standardised latents (B, C, h, w) to images (B, 3, H, W), not clipped."""
        return self.autoencoder.decode(self.to_raw(z), quantize=quantize)


@dataclass
class LatentMoments:
    """First and second moments of each latent channel over a data set and all positions, (C,) float64.

    Attributes:
        mean: of the latents.
        signal: variance of the most likely latents.
        noise: mean variance of what is drawn around them; 0 where nothing is drawn.
    """

    mean: np.ndarray
    signal: np.ndarray
    noise: np.ndarray

    @property
    def noisy_channels(self) -> list[int]:
        """Channels of which a draw says less about the image than about the noise: noise > signal."""
        return np.flatnonzero(self.noise > self.signal).tolist()

    def describe_noise(self) -> str:
        """What `noisy_channels` mean for later stages and what helps, in one line."""
        channels, count = self.noisy_channels, len(self.signal)
        return (
            f"note: {len(channels)} of {count} latent channels ({', '.join(map(str, channels))}) hold more "
            "noise than signal, and later stages would learn the noise; lower "
            "autoencoder.loss.weight_regulariser, or take autoencoder.kind=noise, where noise follows signal"
        )


def measure_latents(autoencoder: Autoencoder, chunks: Iterable[Tensor]) -> LatentMoments:
    """Moments of a data set's latents as later stages draw them, in one pass, float64 inside.

    `chunks` are batches of the autoencoder's statistics, each of shape (B, S, h, w).

    Raises:
        UserError: there are no latents.
    """
    count, mean, spread, noise = 0, np.zeros(1), np.zeros(1), np.zeros(1)  # spread: sum of squared deviations
    for chunk in chunks:
        values = _channels_first(autoencoder.sample_raw(chunk))
        added, total = values.shape[1], count + values.shape[1]
        delta = values.mean(axis=1) - mean
        spread = spread + values.var(axis=1) * added + delta**2 * (count * added / total)
        noise = noise + _channels_first(autoencoder.sample_variance(chunk)).sum(axis=1)
        mean, count = mean + delta * (added / total), total
    if count == 0:
        raise UserError("there are no latents to standardise; check that the data set is not empty")
    return LatentMoments(mean, spread / count, noise / count)


def _channels_first(latents: Tensor) -> np.ndarray:
    """(B, C, h, w) => (C, B h w), float64."""
    return latents.detach().cpu().double().movedim(1, 0).flatten(1).numpy()


def fit_standardisation(moments: LatentMoments, per_channel: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents that later stages are trained on: of draws, noise included.

    Returns:
        mean and std, float32: one per channel, shape (C,), or mean 0 and the std of all entries, shape ().

    Raises:
        UserError: the latents are constant or not finite.
    """
    signal, noise = moments.signal, moments.noise
    if not per_channel:
        signal, noise = np.mean(signal) + np.var(moments.mean), np.mean(noise)
    variance = signal + noise
    if not np.all(np.isfinite(variance)) or np.any(signal < 1e-12):
        raise UserError(
            f"the latents cannot be standardised (variance {np.round(signal, 6)}): the autoencoder has "
            "collapsed; train it longer or with a smaller learning rate"
        )
    center = moments.mean if per_channel else np.zeros(())
    return torch.tensor(center, dtype=torch.float32), torch.tensor(np.sqrt(variance), dtype=torch.float32)
