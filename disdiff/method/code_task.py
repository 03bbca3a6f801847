"""Base class of the tasks that train an encoder together with networks that read its code.

The encoder may start training later and have a smaller learning rate than the other networks. Without this,
an encoder with an initial code (`code.encoder.start`) loses it: at first the other networks cannot use the
code yet, and their gradients are uninformative.

The code may also be learnt before the other networks: an auxiliary decoder
(`disdiff.method.auxiliary_decoder`) and the price of KL and total correlation train it alone for
`pretrain_steps`.
"""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor

from disdiff.method.auxiliary_decoder import AuxiliaryDecoder
from disdiff.method.factor_encoder import CodePosterior, FactorEncoderConfig, Posterior
from disdiff.method.kl_parts import PosteriorMemory, correlation_of_code, total_correlation
from disdiff.method.losses import DisDiffLossConfig
from disdiff.method.model import ImageModel
from ldm.diffusion.process import sample_noise
from ldm.diffusion.sampler import sample_ddim
from ldm.errors import UserError
from ldm.tasks import PREVIEW_IMAGES, PREVIEW_STEPS, sample_latents
from ldm.training.optimizer import TrainSettings, scale_learning_rate
from ldm.training.stage_task import StageTask

ENCODED_AT_ONCE = 64


class CodeTask(StageTask):
    """Trains `model.networks`; their encoder is frozen for `freeze_steps` and has its own learning rate.

    Args:
        model: the model to train.
        encoder: options of its encoder.
        settings: optimiser, budget and seed.
        loss: gives the auxiliary decoder, and weight and memory of total correlation; None for neither.

    Raises:
        UserError: pre-training leaves no step or has a frozen encoder, or total correlation has a price but
            codes have no variance.
    """

    def __init__(
        self,
        model: ImageModel,
        encoder: FactorEncoderConfig,
        settings: TrainSettings,
        loss: DisDiffLossConfig | None = None,
    ) -> None:
        super().__init__(model.networks, settings)
        loss = loss or DisDiffLossConfig()
        self.model = model
        self.freeze_steps, self.encoder_rate = encoder.freeze_steps, encoder.learning_rate_factor
        self.auxiliary_config = auxiliary = loss.auxiliary
        self.auxiliary: AuxiliaryDecoder | None = None  # built by `fit_data`
        self.pretrain_steps = auxiliary.pretrain_steps if auxiliary.weight else 0
        self.trial_step = self.pretrain_steps  # steps before it are cheaper
        self.weight_correlation = loss.weight_correlation
        self.memory_size = loss.correlation_memory if loss.weight_correlation else 0
        self.memory: PosteriorMemory | None = None  # built by `fit_data`
        if loss.weight_correlation and encoder.posterior != "gaussian":
            raise UserError(
                "code.loss.weight_correlation needs codes with a variance; set "
                "code.encoder.posterior=gaussian, or the weight to 0"
            )
        if self.freeze_steps and self.pretrain_steps:
            raise UserError(
                f"code.encoder.freeze_steps={self.freeze_steps} leaves nothing to train in the "
                f"{self.pretrain_steps} steps of code.loss.auxiliary.pretrain_steps; set one of them to 0"
            )
        if self.pretrain_steps >= self.budget.num_steps:
            raise UserError(
                f"code.loss.auxiliary.pretrain_steps={self.pretrain_steps} leaves nothing of "
                f"{self.budget.num_steps} steps; raise code.train.images, or lower it"
            )

    def encode(self, seen: Tensor, step: int) -> CodePosterior:
        """Encode `seen` at a training step; without gradients while the encoder is frozen."""
        learns = step >= self.freeze_steps and torch.is_grad_enabled()
        with torch.set_grad_enabled(learns):
            return self.trained.encoder.posterior(seen)

    def fit_data(self, z_0: Tensor) -> None:
        """Fit what the loss needs to training latents (n, C, h, w), before the first step."""
        if self.auxiliary_config.weight:
            numbers = self.trained.encoder.num_units * self.trained.encoder.unit_dim
            self.auxiliary = AuxiliaryDecoder(self.auxiliary_config, z_0, numbers)
        if self.memory_size:
            first = z_0[torch.arange(self.memory_size) % len(z_0)]
            self.memory = PosteriorMemory(self.encode_first(first))

    @torch.no_grad()
    def encode_first(self, z_0: Tensor) -> Posterior:
        """Posteriors of latents (n, C, h, w) by the encoder as it is now, shapes (n, N, D)."""
        encoder = self.trained.encoder
        training = encoder.training
        encoder.eval()
        seen = [self.model.encoder_input.from_latent(part) for part in z_0.split(ENCODED_AT_ONCE)]
        found = [cast(Posterior, encoder.posterior(part)) for part in seen]
        encoder.train(training)
        return Posterior(*(torch.cat(part) for part in zip(*found, strict=True)))

    def price(self, step: int) -> float:
        """Factor on the weights of KL and total correlation at a step; 1 without an auxiliary decoder."""
        return 1.0 if self.auxiliary is None else self.auxiliary.price(step)

    def code_loss(self, z_0: Tensor, posterior: CodePosterior, code: Tensor, step: int) -> Tensor:
        """Weighted L_aux and total correlation of `code` (B, N, D), a sample of the posterior, shape ().

        Their values go to `self.stats`. Both are left out while the encoder is frozen.
        """
        loss = code.new_zeros(())
        if step < self.freeze_steps:
            return loss
        if self.weight_correlation:
            gaussian = cast(Posterior, posterior)  # as the encoder's option says, see __init__
            correlation = (
                total_correlation(gaussian, code)
                if self.memory is None
                else correlation_of_code(self.memory.add(gaussian), code)
            )
            self.stats["correlation"] = correlation.detach()
            loss = loss + self.price(step) * self.weight_correlation * correlation
        if self.auxiliary is not None:
            error = self.auxiliary(z_0, code, step)
            self.stats["decoded"] = error.detach()
            loss = loss + self.auxiliary_config.weight * error
        return loss

    def parameter_groups(self) -> list[dict]:
        """The encoder with its own learning rate, all other networks, and the auxiliary decoder, if any.

        Muon trains the other networks only; the encoder is then trained by AdamW. While the code is
        pre-trained, the encoder has the full learning rate. The auxiliary decoder has the encoder's.
        """
        encoder = list(self.trained.encoder.parameters())
        own = {id(parameter) for parameter in encoder}
        rest = [parameter for parameter in self.trained.parameters() if id(parameter) not in own]
        rate = self.budget.learning_rate * (1.0 if self.pretrain_steps else self.encoder_rate)
        groups: list[dict] = [{"params": encoder, "lr": rate, "orthogonal": False}, {"params": rest}]
        return groups if self.auxiliary is None else [*groups, self.auxiliary.parameter_group(rate)]

    def rate_factors(self, num_groups: int) -> list[Callable[[int], float]]:
        """Warm-up and decay, once for pre-training and once for the rest."""
        first, num_steps = self.pretrain_steps, self.budget.num_steps
        if not first:
            return super().rate_factors(num_groups)

        def scale(step: int, after: float) -> float:
            if step < first:
                return scale_learning_rate(self.config, step, first)
            return after * scale_learning_rate(self.config, step - first, num_steps - first)

        with_encoder, alone = (partial(scale, after=after) for after in (self.encoder_rate, 1.0))
        return [alone if group == 1 else with_encoder for group in range(num_groups)]

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
