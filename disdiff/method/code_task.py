"""Base class of the tasks that train an encoder together with networks that read its code.

The encoder may start training later and have a smaller learning rate than the other networks. Without this,
an encoder with an initial code (`code.encoder.start`) loses it: at first the other networks cannot use the
code yet, and their gradients are uninformative.
"""

import torch
from torch import Tensor

from disdiff.method.factor_encoder import CodePosterior, FactorEncoderConfig
from disdiff.method.model import ImageModel
from ldm.diffusion.process import sample_noise
from ldm.diffusion.sampler import sample_ddim
from ldm.tasks import PREVIEW_IMAGES, PREVIEW_STEPS, sample_latents
from ldm.training.optimizer import TrainSettings
from ldm.training.stage_task import StageTask


class CodeTask(StageTask):
    """Trains `model.networks`; their encoder is frozen for `freeze_steps` and has its own learning rate."""

    def __init__(self, model: ImageModel, encoder: FactorEncoderConfig, settings: TrainSettings) -> None:
        super().__init__(model.networks, settings)
        self.model = model
        self.freeze_steps, self.encoder_rate = encoder.freeze_steps, encoder.learning_rate_factor

    def encode(self, seen: Tensor, step: int) -> CodePosterior:
        """Encode `seen` at a training step; without gradients while the encoder is frozen."""
        learns = step >= self.freeze_steps and torch.is_grad_enabled()
        with torch.set_grad_enabled(learns):
            return self.trained.encoder.posterior(seen)

    def fit_data(self, z_0: Tensor) -> None:
        """Fit statistics that the loss needs to training latents (n, C, h, w), before the first step."""

    def parameter_groups(self) -> list[dict]:
        """Two groups, the encoder with its own learning rate and all other parameters.

        Muon trains the other parameters only; the encoder is then trained by AdamW.
        """
        encoder = list(self.trained.encoder.parameters())
        own = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.trained.parameters() if id(parameter) not in own]
        rate = self.budget.learning_rate * self.encoder_rate
        return [{"params": encoder, "lr": rate, "orthogonal": False}, {"params": rest}]

    @property
    def current(self) -> ImageModel:
        """The model with the averaged weights of its networks, if they are averaged."""
        return self.model.with_networks(self.result)

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """First-stage reconstructions, and samples for their codes, shape (2, columns, 3, H, W)."""
        model, rows = self.current, {name: tensor[:PREVIEW_IMAGES] for name, tensor in batch.items()}
        z_0 = sample_latents(model.latent_space, rows["statistics"], None)
        eps_fn = model.eps_fn(model.encode_input(model.encoder_input.from_batch(rows, z_0)))
        steps = min(PREVIEW_STEPS, model.schedule.num_steps)
        sampled = sample_ddim(eps_fn, model.schedule, sample_noise(z_0, generator), steps)
        return torch.stack([model.latent_space.decode(z) for z in (z_0, sampled)])
