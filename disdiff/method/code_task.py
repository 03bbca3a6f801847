"""Base class of the tasks that train an encoder together with networks that read its code.

The encoder may start training later and have a smaller learning rate than the other networks. Without this,
an encoder with an initial code (`code.encoder.start`) loses it: at first the other networks cannot use the
code yet, and their gradients are uninformative.
"""

import torch
from torch import Tensor

from disdiff.method.factor_encoder import CodePosterior, FactorEncoderConfig
from disdiff.method.model import ImageModel
from ldm.training.optimizer import TrainSettings
from ldm.training.stage_task import StageTask


class CodeTask(StageTask):
    """Trains `model.networks`; their encoder is frozen for `freeze_steps` and has its own learning rate."""

    def __init__(
        self,
        model: ImageModel,
        encoder: FactorEncoderConfig,
        settings: TrainSettings,
    ) -> None:
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
        """Two groups, the encoder with its own learning rate and all other parameters."""
        encoder = list(self.trained.encoder.parameters())
        own = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.trained.parameters() if id(parameter) not in own]
        return [{"params": encoder, "lr": self.budget.learning_rate * self.encoder_rate}, {"params": rest}]
