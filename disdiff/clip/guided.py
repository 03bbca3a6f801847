"""CLIP-guided DisDiff: DisDiff whose encoder is a frozen CLIP image tower with trainable heads.

    code = heads(f(image)),        L_in, L_va on heads(f(D(z0_hat))) and heads(f(D(z0_hat^c)))

f is the tower behind its own preprocessing, D the first stage's decoder; gradients of the disentangling loss
reach the gradient decoder through both. All else is DisDiff's: frozen denoiser, a gradient field per unit,
L_r, L_in and L_va. Embeddings of clean images are data and come from a cache.

The design is ours: of the published variant a figure and one sentence are known (DisDiff, arXiv:2301.13721).
Whatever the CLIP knows it learnt from captions, so a guided system is weakly supervised, and says by what.
"""

from torch import Tensor

from disdiff.clip.tower import Clip
from disdiff.method.encoder_input import EncoderInput
from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.source import to_float


class ClipInput(EncoderInput):
    """The image as a CLIP embeds it; the first stage has no part in the embedding of a given image.

    Attributes:
        clip: frozen; its weights are not part of any stage.
    """

    array = "clip"
    fit_batch, fit_limit = 64, 4096  # each latent is decoded and embedded

    def __init__(self, latent_space: LatentSpace, clip: Clip) -> None:
        super().__init__()
        self._decode, self.clip = latent_space.decode, clip

    @property
    def supervision(self) -> str:
        """Which CLIP guides."""
        return f"weak: guided by {self.clip.facts.name}"

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
