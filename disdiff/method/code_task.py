"""What the tasks of all systems share: networks with an encoder, which may learn later and slower than what
reads its code. An encoder that starts at something (`code.encoder.start`) unlearns it otherwise, by the
gradients of networks that do not know yet what the code means.
"""

import torch
from torch import Tensor, nn

from disdiff.method.factor_encoder import CodePosterior, FactorEncoderConfig
from ldm.training.optimizer import Budget, TrainConfig
from ldm.training.stage_task import StageTask


class CodeTask(StageTask):
    """Trains networks with an `encoder` that is frozen for `freeze_steps` and has its own learning rate."""

    def __init__(
        self,
        networks: nn.Module,
        encoder: FactorEncoderConfig,
        config: TrainConfig,
        budget: Budget,
        seed: int,
    ) -> None:
        super().__init__(networks, config, budget, seed)
        self.freeze_steps, self.encoder_rate = encoder.freeze_steps, encoder.learning_rate_factor

    def encode(self, seen: Tensor, step: int) -> CodePosterior:
        """What the encoder says of `seen` at a step: without a gradient as long as it is held."""
        learns = step >= self.freeze_steps and torch.is_grad_enabled()
        with torch.set_grad_enabled(learns):
            return self.trained.encoder.posterior(seen)

    def fit_data(self, z_0: Tensor) -> None:
        """Before the first step: some training latents (n, C, h, w), for tasks whose loss depends on their
        statistics.
        """

    def parameter_groups(self) -> list[dict]:
        """The encoder and the rest, each with its learning rate."""
        encoder = list(self.trained.encoder.parameters())
        own = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.trained.parameters() if id(parameter) not in own]
        return [{"params": encoder, "lr": self.budget.learning_rate * self.encoder_rate}, {"params": rest}]
