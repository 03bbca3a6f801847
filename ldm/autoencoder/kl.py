"""Autoencoder with a Gaussian posterior and a small KL term towards N(0, 1) (LDM, arXiv 2112.10752, 3.1).

q(z_raw | image) = N(mean, exp(logvar)), independent entries.
KL(q || N(0, 1)) = 1/2 sum (mean^2 + exp(logvar) - 1 - logvar), in nats, summed over the latent.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm.autoencoder.latent_space import Autoencoder, Reconstruction
from ldm.autoencoder.networks import Decoder, Encoder, NetworkConfig


@dataclass
class DiagonalGaussian:
    """Independent normal distributions, one for each entry of a latent."""

    mean: Tensor  # (B, C, h, w), float32
    logvar: Tensor  # (B, C, h, w), float32, in [-30, 20]

    @classmethod
    def from_moments(cls, moments: Tensor) -> "DiagonalGaussian":
        """Split (B, 2 C, h, w) into mean and log variance, clamped to [-30, 20]; always float32."""
        mean, logvar = moments.float().chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    def sample(self, generator: torch.Generator) -> Tensor:
        """Reparameterised sample, shape (B, C, h, w); the noise is drawn on the generator's device."""
        noise = torch.randn(self.mean.shape, generator=generator, device=generator.device)
        return self.mean + (0.5 * self.logvar).exp() * noise.to(self.mean)

    def kl(self) -> Tensor:
        """KL divergence from N(0, 1) in nats, shape (B,): summed over C, h and w."""
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1.0 - self.logvar).flatten(1).sum(1)


class KLAutoencoder(Autoencoder):
    """Encoder, Gaussian bottleneck, decoder; `network` has their sizes."""

    def __init__(self, network: NetworkConfig) -> None:
        super().__init__()
        self.latent_channels = network.z_channels
        self.downsampling_factor = network.downsampling_factor
        self.encoder = Encoder(network, double_z=True)
        self.decoder = Decoder(network)
        self.quant_conv = nn.Conv2d(2 * network.z_channels, 2 * self.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(self.latent_channels, network.z_channels, 1)

    def encode_statistics(self, image: Tensor) -> Tensor:  # image => moments
        """Mean and log variance side by side, shape (B, 2 latent_channels, h, w)."""
        return self.quant_conv(self.encoder(image))

    def moments(self, image: Tensor) -> DiagonalGaussian:
        """Posterior of images (B, C, H, W) in [-1, 1]."""
        return DiagonalGaussian.from_moments(self.encode_statistics(image))

    def sample_raw(
        self, statistics: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:  # moments => z_raw
        """Sample from the posterior, shape (B, latent_channels, h, w); its mean if there is no generator."""
        posterior = DiagonalGaussian.from_moments(statistics)
        return posterior.mean if generator is None else posterior.sample(generator)

    def sample_variance(self, statistics: Tensor) -> Tensor:
        """Variance of the posterior, shape (B, latent_channels, h, w)."""
        return DiagonalGaussian.from_moments(statistics).logvar.exp()

    def decode(self, z_raw: Tensor, quantize: bool = True) -> Tensor:  # z_raw => image
        """Images (B, C, H, W) of latents (B, latent_channels, h, w); `quantize` is ignored."""
        return self.decoder(self.post_quant_conv(z_raw))

    def reconstruct(self, image: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Decode a posterior sample (without a generator the mean); regulariser: KL in nats, mean over B."""
        posterior = self.moments(image)
        z_raw = posterior.mean if generator is None else posterior.sample(generator)
        kl = posterior.kl().mean()
        stats = {"kl": kl.detach(), "posterior_std": (0.5 * posterior.logvar.detach()).exp().mean()}
        return Reconstruction(self.decode(z_raw), kl, stats)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's output convolution."""
        return self.decoder.conv_out.weight
