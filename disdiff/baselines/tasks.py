"""Training tasks of the baselines: conditional diffusion, VAE and latent DPM."""

import torch
from torch import Tensor

from disdiff.baselines.anchors import Anchors
from disdiff.baselines.conditional import ConditionalDiffusion
from disdiff.baselines.latent_dpm import LatentDPM
from disdiff.baselines.prior import PriorConfig, prior_loss, term_weights
from disdiff.baselines.total_correlation import BetaTCVAETerm, FactorVAETerm
from disdiff.baselines.vae import VAE, normalise_beta, reconstruction_loss
from disdiff.method.code_task import CodeTask
from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.method.losses import DisDiffLossConfig
from ldm.data.source import to_float
from ldm.diffusion.loss import KINDS, denoising_error
from ldm.diffusion.process import q_sample, sample_integers, sample_noise
from ldm.errors import check_option
from ldm.tasks import PREVIEW_IMAGES, sample_latents
from ldm.training.optimizer import TrainSettings
from ldm.training.stage_task import StageTask, spread


class ConditionalTask(CodeTask):
    """Trains a `ConditionalDiffusion`: noise error at uniformly drawn t, plus the prior terms.

    The code may be pre-trained as that of `DisDiffTask` is; the denoiser then begins after that.
    """

    model: ConditionalDiffusion

    def __init__(
        self,
        model: ConditionalDiffusion,
        norm: str,
        prior: PriorConfig,
        encoder: FactorEncoderConfig,
        loss: DisDiffLossConfig,
        settings: TrainSettings,
        anchors: Anchors | None = None,
    ) -> None:
        super().__init__(model, encoder, settings, loss)
        check_option("conditional.norm", norm, KINDS)
        self.norm, self.prior, self.anchors = norm, prior, anchors
        self.keep_frozen(model.latent_space)

    def compute_loss(self, batch: dict[str, Tensor], step: int, generator: torch.Generator) -> Tensor:
        """Mean error of the predicted noise plus the weighted prior terms and those of pre-training."""
        z_0 = sample_latents(self.model.latent_space, batch["statistics"], generator)
        posterior = self.encode(self.model.encoder_input.from_batch(batch, z_0), step)
        code = posterior.sample(generator)
        self.stats = {"code_std": spread(posterior.mean).mean()}
        loss = self.code_loss(z_0, posterior, code, step)
        if step >= self.pretrain_steps:
            loss = loss + self.noise_error(z_0, code, step, generator)
        held, terms = prior_loss(self.prior, posterior, code, step, generator)
        loss = loss + self.price(step) * held
        self.stats |= {**terms, "loss": loss.detach()}
        return loss

    def noise_error(self, z_0: Tensor, code: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """Mean error of the predicted noise of latents (B, C, h, w), given their codes, shape ()."""
        schedule = self.model.schedule
        t, eps = sample_integers(0, schedule.num_steps, z_0, generator), sample_noise(z_0, generator)
        read = code if self.anchors is None else self.anchors(code, step)
        eps_hat = self.trained(q_sample(schedule, z_0, t, eps), t, read)
        error = denoising_error(eps_hat, eps, self.norm).mean()
        self.stats["reconstruction"] = error.detach()
        return error


class VAETask(CodeTask):
    """Trains a `VAE`, FactorVAE and beta-TCVAE with a term of their own."""

    model: VAE

    def __init__(
        self,
        model: VAE,
        prior: PriorConfig,
        encoder: FactorEncoderConfig,
        settings: TrainSettings,
        term: FactorVAETerm | BetaTCVAETerm | None = None,
    ) -> None:
        super().__init__(model, encoder, settings)
        self.prior, self.term = prior, term

    def compute_loss(self, batch: dict[str, Tensor], step: int, generator: torch.Generator) -> Tensor:
        """-log p(x | code) plus the weighted prior terms and `term`, averaged over the batch."""
        image = to_float(batch["image"])
        posterior = self.encode(image, step)
        code = posterior.sample(generator)
        output = self.trained.decoder(code)
        reconstruction = reconstruction_loss(output, image, self.model.bernoulli).mean()
        held, stats = prior_loss(self.prior, posterior, code, step, generator)
        loss = reconstruction + held
        if self.term is not None:
            added, parts = self.term(posterior, code, generator)
            loss, stats = loss + added, {**stats, **parts}
        beta = normalise_beta(term_weights(self.prior)[0], code[0].numel(), image.shape)
        self.stats = {
            "reconstruction": reconstruction.detach(),
            "mse": (self.model.to_image(output) - image).detach().square().mean() / 4,  # on the [0, 1] scale
            "code_std": spread(posterior.mean).mean(),
            **stats,
            "beta_normalised": loss.new_tensor(beta),
            "loss": loss.detach(),
        }
        return loss

    def parameter_groups(self) -> list[dict]:
        """The groups of the VAE and those of `term`."""
        scale = self.budget.learning_rate / self.config.learning_rate  # for larger batches on CUDA
        own = [] if self.term is None else self.term.parameter_groups(scale)
        return [*super().parameter_groups(), *own]

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Images and their reconstructions, shape (2, columns, 3, H, W)."""
        image = to_float(batch["image"][:PREVIEW_IMAGES])
        return torch.stack([image, self.model.to_image(self.result.decoder(self.result.encoder(image)))])


class LatentDPMTask(StageTask):
    """Trains a `LatentDPM` on codes: noise error at uniformly drawn t."""

    def __init__(self, latent_dpm: LatentDPM, norm: str, settings: TrainSettings) -> None:
        super().__init__(latent_dpm, settings)
        check_option("latent_dpm.loss", norm, KINDS)
        self.norm = norm

    def compute_loss(self, batch: dict[str, Tensor], step: int, generator: torch.Generator) -> Tensor:
        """Mean error of the predicted noise in standardised codes."""
        schedule, x_0 = self.trained.schedule, self.trained.standardise(batch["code"])
        t, eps = sample_integers(0, schedule.num_steps, x_0, generator), sample_noise(x_0, generator)
        loss = denoising_error(self.trained(q_sample(schedule, x_0, t, eps), t), eps, self.norm).mean()
        self.stats = {"loss": loss.detach()}
        return loss
