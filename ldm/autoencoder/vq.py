"""Autoencoder with a vector-quantised bottleneck (VQ-VAE, arXiv 1711.00937; VQGAN, arXiv 2012.09841).

Every position of z_raw is replaced by the nearest of `codebook_size` learnt vectors, z_q; the gradient is
copied straight through. Codebook loss, mean over all entries: |z_q - sg(z_raw)|^2 + beta |sg(z_q) - z_raw|^2.
With `legacy` beta multiplies the first term instead, as in the released LDM and DisDiff code; the `paper`
preset and further training of their checkpoints need this.
The latents of the diffusion model are those before quantisation; decoding quantises them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ldm.autoencoder.latent_space import Autoencoder, Reconstruction
from ldm.autoencoder.networks import Decoder, Encoder, NetworkConfig
from ldm.errors import UserError


@dataclass
class Quantized:
    """Result of a quantisation."""

    z_q: Tensor  # (B, C, h, w), float32
    loss: Tensor  # (), float32: codebook and commitment terms, mean over all entries
    indices: Tensor  # (B, h, w), int64


def import_vector_quantizer() -> type[nn.Module]:
    """Import VectorQuantizer2 of taming.

    Raises:
        UserError: the package is missing, or the wheel taming-transformers has overwritten it.
    """
    try:
        from taming.modules.vqvae.quantize import VectorQuantizer2
    except ImportError as error:
        raise UserError(
            f"VectorQuantizer2 cannot be imported ({error}); taming-transformers is the wrong wheel: run "
            "`pip uninstall -y taming-transformers taming-transformers-rom1504` and then "
            "`pip install taming-transformers-rom1504==0.0.6 einops`"
        ) from error
    return VectorQuantizer2


def codebook_usage(indices: Tensor, codebook_size: int) -> dict[str, Tensor]:
    """How much of a codebook the chosen `indices` use (any shape, int64 in [0, codebook_size)).

    Returns:
        `perplexity`: exp of the entropy of the code frequencies, in [1, codebook_size]; `used`: fraction of
        the codes that occur, in (0, 1]. Both have shape ().
    """
    counts = torch.bincount(indices.flatten(), minlength=codebook_size)
    frequencies = counts / counts.sum()
    return {"perplexity": torch.special.entr(frequencies).sum().exp(), "used": (counts > 0).float().mean()}


class VQAutoencoder(Autoencoder):
    """Encoder, codebook, decoder.

    Args:
        network: the sizes of encoder and decoder.
        codebook_size: number of codes.
        beta: weight of the commitment term.
        legacy: multiply the codebook term by beta instead of the commitment term.
    """

    def __init__(
        self,
        network: NetworkConfig,
        codebook_size: int = 2048,
        beta: float = 0.25,
        legacy: bool = False,
    ) -> None:
        super().__init__()
        quantizer_class = import_vector_quantizer()
        self.codebook_size = codebook_size
        self.latent_channels = network.z_channels
        self.downsampling_factor = network.downsampling_factor
        self.encoder = Encoder(network)
        self.decoder = Decoder(network)
        self.quantizer = quantizer_class(
            codebook_size, self.latent_channels, beta, legacy=legacy, sane_index_shape=True
        )
        self.quant_conv = nn.Conv2d(network.z_channels, self.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(self.latent_channels, network.z_channels, 1)

    def encode_statistics(self, image: Tensor) -> Tensor:  # image => z_raw
        """Latents before quantisation, shape (B, latent_channels, h, w)."""
        return self.quant_conv(self.encoder(image))

    def quantize(self, z_raw: Tensor) -> Quantized:
        """Replace z_raw (B, C, h, w) by the nearest codes; in float32, as bf16 would change the indices."""
        with torch.autocast(device_type=z_raw.device.type, enabled=False):
            z_q, loss, (_, _, indices) = self.quantizer(z_raw.float())
        return Quantized(z_q, loss, indices)

    def decode(self, z_raw: Tensor, quantize: bool = True) -> Tensor:  # z_raw => image
        """Decode latents (B, latent_channels, h, w), by default quantised first, to images (B, C, H, W)."""
        return self.decoder(self.post_quant_conv(self.quantize(z_raw).z_q if quantize else z_raw))

    def reconstruct(self, image: Tensor, generator: torch.Generator | None = None) -> Reconstruction:
        """Decode the quantised latents; the regulariser is the codebook loss; the generator is ignored."""
        quantized = self.quantize(self.encode(image))
        stats = {"codebook_loss": quantized.loss.detach()}
        stats |= codebook_usage(quantized.indices, self.codebook_size)
        return Reconstruction(self.decode(quantized.z_q, quantize=False), quantized.loss, stats)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's output convolution."""
        return self.decoder.conv_out.weight
