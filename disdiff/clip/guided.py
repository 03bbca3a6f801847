"""CLIP-guided DisDiff: the encoder is a frozen CLIP image tower with trainable heads.

    code = heads(f(image)),        L_in, L_va on heads(f(D(z0_hat))) and heads(f(D(z0_hat^c)))

f is the tower with its preprocessing and D the first stage's decoder; gradients of the disentangling loss
reach the gradient decoder through both. Everything else is as in DisDiff: frozen denoiser, a gradient field
per unit, L_r, L_in and L_va. Embeddings of clean images are read from a cache.

The design is ours: the paper (DisDiff, arXiv:2301.13721) describes the variant by a figure and one sentence
only. A CLIP is trained on captions, so a guided system is weakly supervised; outputs name the CLIP.
"""

from torch import Tensor

from disdiff.clip.tower import Clip
from disdiff.method.encoder_input import EncoderInput
from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.source import to_float


class ClipInput(EncoderInput):
    """CLIP embedding of the image; given images are not passed through the first stage.

    Attributes:
        clip: the frozen CLIP; its weights are not saved in any stage.
    """

    array = "clip"
    fit_batch, fit_limit = 64, 4096  # each latent is decoded and embedded

    def __init__(self, latent_space: LatentSpace, clip: Clip) -> None:
        super().__init__()
        self._decode, self.clip = latent_space.decode, clip

    @property
    def supervision(self) -> str:
        """The kind of supervision and the name of the CLIP."""
        return f"weak: guided by {self.clip.description.name}"

    def from_latent(self, z_0: Tensor) -> Tensor:  # z => u
        """Embeddings (B, E) of the decoded images."""
        return self.clip(self._decode(z_0, quantize=False))

    def from_image(self, image: Tensor) -> Tensor:  # image => u
        """Embeddings (B, E) of images."""
        return self.clip(image)

    def from_batch(self, batch: dict[str, Tensor], z_0: Tensor | None) -> Tensor:
        """Embeddings (B, E) of the batch's images, from the cache."""
        return batch[self.array]

    def to_array(self, image: Tensor) -> Tensor:
        """Embeddings (B, E) of images uint8."""
        return self.clip(to_float(image))
