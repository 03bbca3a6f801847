"""Training tasks of the first two stages: the autoencoder and the latent diffusion model."""

import torch
from torch import Tensor, nn

from ldm.autoencoder.latent_space import Autoencoder, LatentSpace
from ldm.autoencoder.losses import (
    AutoencoderLossConfig,
    PatchDiscriminator,
    adaptive_weight,
    adopt_weight,
    discriminator_loss,
    generator_loss,
    pixel_loss,
)
from ldm.data.source import to_float
from ldm.diffusion.loss import KINDS, denoising_error
from ldm.diffusion.process import q_sample, sample_integers, sample_noise, sample_noise_shape
from ldm.diffusion.sampler import sample_ddim
from ldm.diffusion.schedule import Schedule
from ldm.errors import check_option
from ldm.nn.unet import UNet
from ldm.training.optimizer import TrainSettings, build_optimizer, scale_learning_rate
from ldm.training.stage_task import StageTask, spread

PREVIEW_IMAGES = 8
PREVIEW_STEPS = 20


class AutoencoderTask(StageTask):
    """Stage 1: reconstruct images; with a GAN term each step also updates the discriminator."""

    def __init__(
        self,
        autoencoder: Autoencoder,
        loss: AutoencoderLossConfig,
        perceptual: nn.Module | None,
        settings: TrainSettings,
    ) -> None:
        super().__init__(autoencoder, settings)
        self.automatic_optimization = False
        self.loss = loss
        self.perceptual = None if perceptual is None else self.keep_frozen(perceptual)
        self.discriminator = None
        if loss.weight_gan:
            sizes = loss.discriminator_channels, loss.discriminator_layers
            self.discriminator = PatchDiscriminator(len(autoencoder.last_layer), *sizes)

    def training_step(self, batch: dict[str, Tensor], step: int) -> None:
        """Lightning's hook: one step of the autoencoder, then one of the discriminator on the same images."""
        image = to_float(batch["image"])
        torch.manual_seed(self.seed * 1_000_003 + step)
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.budget.learning_rate * scale_learning_rate(
                    self.config, step, self.budget.num_steps
                )
        reconstruction = self.trained.reconstruct(image, self.step_generator(step))
        self.stats = dict(reconstruction.stats)
        loss = self._autoencoder_loss(reconstruction.image_hat, image, reconstruction.regulariser, step)
        self._step(optimizers[0], loss, self.trained)
        if self.discriminator is not None:
            self._step(
                optimizers[1],
                self._discriminator_loss(reconstruction.image_hat, image, step),
                self.discriminator,
            )
        if self.ema is not None:
            self.ema.update(self.trained, step)

    def _autoencoder_loss(self, image_hat: Tensor, image: Tensor, regulariser: Tensor, step: int) -> Tensor:
        nll = pixel = pixel_loss(image_hat, image, self.loss.pixel)
        self.stats["pixel"] = pixel.detach()
        if self.perceptual is not None:
            perceptual = self.perceptual(image_hat, image).mean()
            nll = pixel + self.loss.weight_perceptual * perceptual
            self.stats["perceptual"] = perceptual.detach()
        loss = nll + self.loss.weight_regulariser * regulariser
        weight = adopt_weight(self.loss.weight_gan, step, self.loss.gan_start)
        if self.discriminator is not None and weight:
            g_loss = generator_loss(self.discriminator(image_hat))
            loss = loss + weight * adaptive_weight(nll, g_loss, self.trained.last_layer) * g_loss
            self.stats["generator"] = g_loss.detach()
        self.stats["loss"] = loss.detach()
        return loss

    def _discriminator_loss(self, image_hat: Tensor, image: Tensor, step: int) -> Tensor:
        real, fake = self.discriminator(image), self.discriminator(image_hat.detach())
        loss = discriminator_loss(real, fake, self.loss.discriminator)
        self.stats["discriminator"] = loss.detach()
        return loss * adopt_weight(1.0, step, self.loss.gan_start)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor, module: nn.Module) -> None:
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        self.manual_backward(loss)
        if self.config.grad_clip:
            nn.utils.clip_grad_norm_(module.parameters(), self.config.grad_clip)
        optimizer.step()
        self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Lightning's hook: one optimiser for the autoencoder, one for the discriminator if there is one."""
        modules = [self.trained] if self.discriminator is None else [self.trained, self.discriminator]
        return [build_optimizer(self.config, m.parameters(), self.budget.learning_rate) for m in modules]

    def compute_loss(self, batch: dict[str, Tensor], step: int, generator: torch.Generator) -> Tensor:
        """The sum of the losses of both optimisers; only used to measure the time of a step."""
        image = to_float(batch["image"])
        reconstruction = self.trained.reconstruct(image, generator)
        loss = self._autoencoder_loss(reconstruction.image_hat, image, reconstruction.regulariser, step)
        if self.discriminator is None:
            return loss
        return loss + self._discriminator_loss(reconstruction.image_hat, image, step)

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Images and their reconstructions, shape (2, columns, 3, H, W)."""
        image = to_float(batch["image"][:PREVIEW_IMAGES])
        return torch.stack([image, self.result.decode(self.result.encode(image))])


class LatentDiffusionTask(StageTask):
    """Stage 2: train the denoiser to predict the noise in latents."""

    def __init__(
        self,
        denoiser: UNet,
        latent_space: LatentSpace,
        schedule: Schedule,
        loss: str,
        settings: TrainSettings,
    ) -> None:
        super().__init__(denoiser, settings)
        self.latent_space = self.keep_frozen(latent_space)
        check_option("latent_diffusion.loss", loss, KINDS)
        self.schedule, self.loss = schedule, loss

    def compute_loss(self, batch: dict[str, Tensor], step: int, generator: torch.Generator) -> Tensor:
        """Error of the predicted noise at uniformly drawn t, mean over all entries; DDPM, Eq. (14)."""
        z_0 = sample_latents(self.latent_space, batch["statistics"], generator)
        t = sample_integers(0, self.schedule.num_steps, z_0, generator)
        eps = sample_noise(z_0, generator)
        eps_hat = self.trained(q_sample(self.schedule, z_0, t, eps), t)
        loss = denoising_error(eps_hat, eps, self.loss).mean()
        self.stats = {"loss": loss.detach(), "latent_std": spread(z_0.flatten())}
        return loss

    def preview(self, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """Samples, shape (1, columns, 3, H, W)."""
        shape = (PREVIEW_IMAGES, *batch["statistics"].shape[1:])
        like = sample_latents(self.latent_space, batch["statistics"][:1], None)
        z_T = sample_noise_shape((shape[0], *like.shape[1:]), generator, like.device)
        z_0 = sample_ddim(self.result, self.schedule, z_T, min(PREVIEW_STEPS, self.schedule.num_steps))
        return self.latent_space.decode(z_0)[None]


def sample_latents(
    latent_space: LatentSpace, statistics: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Cached statistics => z: a posterior sample (the mean if there is no generator), standardised."""
    return latent_space.standardise(latent_space.autoencoder.sample_raw(statistics, generator))
