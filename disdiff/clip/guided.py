"""CLIP-guided DisDiff: DisDiff whose encoder is a frozen CLIP image tower with trainable heads.

    code = heads(f(image)),        L_in, L_va on heads(f(D(z0_hat))) and heads(f(D(z0_hat^c)))

f is the tower behind its own preprocessing, D the first stage's decoder; gradients of the disentangling loss
reach the gradient decoder through both. All else is DisDiff's: frozen denoiser, a gradient field per unit,
L_r, L_in and L_va. Embeddings of clean images are data and come from a cache.

The design is ours: of the published variant a figure and one sentence are known (DisDiff, arXiv:2301.13721).
Whatever the CLIP knows it learnt from captions, so a guided system is weakly supervised, and says by what.
"""

import torch
from torch import Tensor

from disdiff.clip.tower import Clip
from disdiff.factor_encoder import FactorEncoderConfig
from disdiff.losses import FactorLossConfig
from disdiff.model import DisDiff, FactorNetworks
from disdiff.tasks import DisDiffTask
from ldm.autoencoder.latent_space import LatentSpace
from ldm.diffusion.schedule import Schedule
from ldm.nn.unet import UNet
from ldm.training.optimizer import Budget, TrainConfig

READS = "clip"  # the batch's array of embeddings, and what `ImageModel.reads` says
BATCH = 64  # images that are looked at at once, outside of training
START_IMAGES = 4096  # to which the heads' start is fitted, at most: each is decoded and embedded for it


class ClipDisDiff(DisDiff):
    """A DisDiff that sees images through a CLIP.

    Attributes:
        clip: frozen; its weights are not part of any stage.
    """

    def __init__(
        self,
        latent_space: LatentSpace,
        denoiser: UNet,
        schedule: Schedule,
        factors: FactorNetworks,
        clip: Clip,
        guidance: float = 1.0,
    ) -> None:
        super().__init__(latent_space, denoiser, schedule, factors, READS, guidance)
        self.clip = clip

    @property
    def supervision(self) -> str:
        """By what it is guided."""
        return f"weak: guided by {self.clip.facts.name}"

    def observe(self, z_0: Tensor) -> Tensor:  # z => u
        """Embeddings (B, E) of the images that predicted latents (B, C, h, w) decode to."""
        return self.clip(self.latent_space.decode(z_0, quantize=False))

    def encode(self, image: Tensor) -> Tensor:  # image => code
        """Code of `image` (B, 3, H, W) in [-1, 1], shape (B, N, D); the first stage has no part in it."""
        return self.encode_seen(self.clip(image))

    @property
    def images_needed(self) -> int:
        """Training images, at least: two, or more where the code's start is fitted."""
        return max(2, self.factors.encoder.images_needed)

    def fit_start(self, z_0: Tensor) -> None:
        """Fit what the code starts as to training latents (n, C, h, w), before the first step."""
        self.factors.encoder.fit_start(
            torch.cat([self.observe(part) for part in z_0[:START_IMAGES].split(BATCH)])
        )


class ClipDisDiffTask(DisDiffTask):
    """Trains heads and gradient decoder of a `ClipDisDiff`."""

    def __init__(
        self,
        model: ClipDisDiff,
        loss: FactorLossConfig,
        encoder: FactorEncoderConfig,
        config: TrainConfig,
        budget: Budget,
        seed: int,
    ) -> None:
        super().__init__(model, loss, encoder, config, budget, seed)
        self.keep_frozen(model.clip)

    def _seen(self, batch: dict[str, Tensor], z_0: Tensor) -> Tensor:
        """Embeddings of a batch's clean images: from the cache, else of its latents."""
        return batch[READS] if READS in batch else self.model.observe(z_0)

    @property
    def current(self) -> ClipDisDiff:
        """The model with the averaged factor networks."""
        model = self.model
        frozen = (model.latent_space, model.denoiser, model.schedule)
        return ClipDisDiff(*frozen, self.result, model.clip, model.guidance)
