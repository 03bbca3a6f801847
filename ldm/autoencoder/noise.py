"""Autoencoder whose decoder learns to read latents with noise of a share of each channel's spread.

    z_noisy = z_raw + a s_c eps,   eps ~ N(0, 1),   a ~ U(0, share) for each image

Images with little noise teach detail, those with much teach to be smooth; were all as noisy, the error by
the noise would hide the detail. s_c is the standard deviation of channel c over batch and positions, with its
gradient, so that a larger scale buys no better signal. A KL term prices what a channel says, and one that
says less than it costs collapses to noise; here nothing is priced, and no channel can hold more noise than
signal, however small the pixel errors of a data set are. What a KL gives a diffusion model stays: latents of
known scale and a decoder that is smooth at the scale of the noise. The regulariser holds the scale:
KL(N(m_c, s_c^2) || N(0, 1)), mean over channels. The latents themselves are deterministic.
"""

import torch
from torch import Tensor, nn

from ldm.autoencoder.blocks import LinearBlocks
from ldm.autoencoder.latent_space import Autoencoder, Reconstruction
from ldm.autoencoder.networks import Decoder, Encoder, NetworkConfig
from ldm.errors import look_up
from ldm.nn.layers import zero_init

LEAST_VARIANCE = 1e-8  # of a channel, where its logarithm is taken


def channel_moments(z_raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of (B, C, h, w) over batch and positions, shape (C,) each."""
    variance, mean = torch.var_mean(z_raw.float(), dim=(0, 2, 3), correction=0)
    return mean, variance


def add_noise(z_raw: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """`z_raw` (B, C, h, w) with noise of up to `share` times each channel's standard deviation, uniform over
    images.
    """
    _, variance = channel_moments(z_raw)
    device = generator.device
    amount = share * torch.rand(len(z_raw), 1, 1, 1, generator=generator, device=device)
    noise = amount * torch.randn(z_raw.shape, generator=generator, device=device)
    return z_raw + variance.clamp(min=LEAST_VARIANCE).sqrt()[:, None, None] * noise.to(z_raw)


def scale_penalty(z_raw: Tensor) -> Tensor:
    """KL of each channel's N(mean, variance) from N(0, 1) in nats, mean over channels, shape ()."""
    mean, variance = channel_moments(z_raw)
    return 0.5 * (mean.square() + variance - 1 - variance.clamp(min=LEAST_VARIANCE).log()).mean()


class NoiseAutoencoder(Autoencoder):
    """Encoder, noise in training, decoder.

    Args:
        network: the sizes of encoder and decoder.
        share: largest standard deviation of the noise over that of the channel, in [0, 1).
        start: `random`, or `principal`: encoder and decoder start at zero, beside linear maps of blocks.

    Raises:
        UserError: the start is unknown, or blocks are too small for it.
    """

    def __init__(self, network: NetworkConfig, share: float, start: str = "random") -> None:
        super().__init__()
        self.share = share
        self.latent_channels = network.z_channels
        self.downsampling_factor = network.downsampling_factor
        self.encoder = Encoder(network)
        self.decoder = Decoder(network)
        self.blocks = None
        self.starts_at_data = look_up("autoencoder.start", start, {"random": False, "principal": True})
        if self.starts_at_data:
            sizes = network.in_channels, network.downsampling_factor, network.z_channels
            self.blocks = LinearBlocks(*sizes)
            zero_init(self.encoder.conv_out)
            zero_init(self.decoder.conv_out)

    def fit_start(self, image: Tensor) -> None:
        """Fit the linear maps of the start `principal` to images (n, C, H, W)."""
        self.blocks.fit(image)

    def encode_statistics(self, image: Tensor) -> Tensor:  # image => z_raw
        """Latents, shape (B, latent_channels, h, w)."""
        z_raw = self.encoder(image)
        return z_raw if self.blocks is None else z_raw + self.blocks.encode(image)

    def decode(self, z_raw: Tensor, quantize: bool = True) -> Tensor:  # z_raw => image
        """Images (B, C, H, W) of latents (B, latent_channels, h, w); `quantize` is ignored."""
        image = self.decoder(z_raw)
        return image if self.blocks is None else image + self.blocks.decode(z_raw)

    def reconstruct(self, image: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Decode noisy latents (without a generator clean ones); the regulariser is the scale penalty."""
        z_raw = self.encode(image)
        penalty = scale_penalty(z_raw)
        seen = z_raw if generator is None else add_noise(z_raw, self.share, generator)
        return Reconstruction(self.decode(seen), penalty, {"scale_penalty": penalty.detach()})

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's output convolution."""
        return self.decoder.conv_out.weight
