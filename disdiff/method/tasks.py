"""Training task of DisDiff and PDAE (Yang et al. 2023, arXiv:2301.13721).

    L = L_r + weight_disentangle * w * (L_in + L_va) + weight_kl * KL + weight_correlation * TC + L_aux

L_r is the error of eps_base + training_coefficient * sum_k grad_k. For L_in and L_va the frozen prediction is
shifted by one sampled unit and encoded again; both are small if the code shows which unit was sampled. TC is
the code's total correlation. L_aux is the loss of an optional auxiliary decoder
(`disdiff.method.auxiliary_decoder`), which can pre-train the code: only L_aux, KL and TC train at first.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from disdiff.method.auxiliary_decoder import AuxiliaryDecoder
from disdiff.method.code_task import CodeTask
from disdiff.method.factor_encoder import CodePosterior, FactorEncoderConfig
from disdiff.method.losses import (
    DisDiffLossConfig,
    change_weight,
    clean_weight,
    fit_whitener,
    invariant_logits,
    invariant_loss,
    snr_weight,
    variant_loss,
    whitened_error,
)
from disdiff.method.model import DisDiff, sampling_coefficient, shift_eps, training_coefficient
from ldm.diffusion.loss import KINDS, denoising_error
from ldm.diffusion.process import predict_eps, predict_z0, q_sample, sample_integers, sample_noise
from ldm.errors import UserError, check_option, look_up
from ldm.tasks import sample_latents
from ldm.training.optimizer import TrainSettings
from ldm.training.stage_task import spread


@dataclass
class Step:
    """Tensors of one training step that the loss terms share; B images.

    Attributes:
        z_0, z_t: clean and noisy latent, shape (B, C, h, w).
        t: diffusion step, shape (B,).
        eps_base: the frozen prediction, shape (B, C, h, w).
        grad: gradient fields, shape (B, N, C, h, w).
        code: the condition, shape (B, N, D).
    """

    z_0: Tensor
    z_t: Tensor
    t: Tensor
    eps_base: Tensor
    grad: Tensor
    code: Tensor


class DisDiffTask(CodeTask):
    """Trains the factor networks of a `DisDiff`; everything else in it stays frozen."""

    model: DisDiff

    def __init__(
        self, model: DisDiff, loss: DisDiffLossConfig, encoder: FactorEncoderConfig, settings: TrainSettings
    ) -> None:
        super().__init__(model, encoder, settings, loss)
        self.loss = loss
        self.keep_frozen(model.latent_space)
        self.keep_frozen(model.denoiser)
        self.keep_frozen(model.encoder_input)
        num_steps = model.schedule.num_steps
        self.t_range = (loss.t_min, num_steps if loss.t_max is None else loss.t_max)
        if not 0 <= loss.t_min < self.t_range[1] <= num_steps:
            raise UserError(
                f"code.loss.t_min={loss.t_min} and t_max={self.t_range[1]} leave no steps of "
                f"0 .. {num_steps - 1}; choose t_min < t_max"
            )
        weightings: dict[str, Callable[[Tensor], Tensor]] = {
            "none": torch.ones_like,
            "snr": lambda snr: snr_weight(snr, loss.snr_gamma),
            "clean": lambda snr: clean_weight(snr, loss.clean_cap) ** (0.5 if loss.norm == "l1" else 1.0),
        }
        weight = look_up("code.loss.weighting", loss.weighting, weightings)(model.schedule.snr)
        check_option("code.loss.norm", loss.norm, KINDS)
        check_option("code.loss.dis_weighting", loss.dis_weighting, ("change", "constant", "loss"))
        check_option("code.loss.change_space", loss.change_space, ("z", "image"))
        if loss.whiten_ridge is not None and loss.norm != "l2":
            raise UserError(
                f"code.loss.whiten_ridge needs squared errors, but code.loss.norm={loss.norm}; "
                "set norm=l2, or whiten_ridge=null"
            )
        if loss.contradiction and loss.weighting != "clean":
            raise UserError(
                f"code.loss.contradiction={loss.contradiction} needs code.loss.weighting=clean, because the "
                "noise that leads to another image has no limit at small t; set weighting=clean, or "
                "contradiction=0"
            )
        check_option("code.loss.contradict_by", loss.contradict_by, ("latent", "units"))
        if loss.contradiction and loss.contradict_by == "units" and not loss.auxiliary.weight:
            raise UserError(
                "code.loss.contradict_by=units needs an auxiliary decoder, which draws the swapped units; "
                "set code.loss.auxiliary.weight=1, or contradict_by=latent"
            )
        self.register_buffer("whitener", None, persistent=False)
        self.register_buffer("t_weight", weight, persistent=False)
        self.register_buffer("training_coefficient", training_coefficient(model.schedule), persistent=False)
        self.register_buffer("sampling_coefficient", sampling_coefficient(model.schedule), persistent=False)

    def fit_data(self, z_0: Tensor) -> None:
        """Fit the auxiliary decoder and the whitening matrix, if they are used, to latents (n, C, h, w)."""
        super().fit_data(z_0)
        if self.loss.whiten_ridge is not None:
            self.whitener = fit_whitener(z_0, self.loss.whiten_ridge).to(self.t_weight)

    def noise_error(self, eps_hat: Tensor, eps: Tensor) -> Tensor:
        """Noise error of each image, shape (B,), before its weight; whitened if `fit_data` set a whitener."""
        if self.whitener is None:
            return denoising_error(eps_hat, eps, self.loss.norm)
        return whitened_error(eps_hat, eps, self.whitener)

    def compute_loss(self, batch: dict[str, Tensor], step: int, generator: torch.Generator) -> Tensor:
        """Return the weighted sum of all loss terms, each a mean over the batch."""
        z_0 = sample_latents(self.model.latent_space, batch["statistics"], generator)
        posterior = self.encode(self.model.encoder_input.from_batch(batch, z_0), step)
        code = posterior.sample(generator)
        self.stats = {"code_std": spread(posterior.mean).mean()}
        loss = self.kl_term(posterior, step) + self.code_loss(z_0, posterior, code, step)
        if step >= self.pretrain_steps:
            loss = loss + self.diffusion_loss(z_0, posterior, code, step, generator)
        self.stats["loss"] = loss.detach()
        return loss

    def kl_term(self, posterior: CodePosterior, step: int) -> Tensor:
        """Weighted KL of the code, shape (); 0 while the encoder is frozen."""
        if not self.loss.weight_kl or step < self.freeze_steps:
            return self.t_weight.new_zeros(())
        ramp = min(1.0, (step + 1) / self.loss.kl_warmup_steps) if self.loss.kl_warmup_steps else 1.0
        kl = posterior.kl().mean()
        self.stats["kl"] = kl.detach()
        return self.price(step) * ramp * self.loss.weight_kl * kl

    def diffusion_loss(
        self, z_0: Tensor, posterior: CodePosterior, code: Tensor, step: int, generator: torch.Generator
    ) -> Tensor:
        """L_r and weighted L_dis, means over the batch, shape ()."""
        t = sample_integers(*self.t_range, z_0, generator)
        eps = sample_noise(z_0, generator)
        if self.loss.contradiction:
            z_t = q_sample(self.model.schedule, self.contradict(z_0, code.detach(), generator), t, eps)
            eps = predict_eps(self.model.schedule, z_t, t, z_0)
        else:
            z_t = q_sample(self.model.schedule, z_0, t, eps)
        eps_base, features = self.model.predict_base(z_t, t)
        grad = self.trained.decoder(features, code)

        eps_hat = shift_eps(eps_base, self.training_coefficient, t, grad.sum(dim=1))
        weight = self.t_weight[t]
        reconstruction = (weight * self.noise_error(eps_hat, eps)).mean()
        frozen = (weight * self.noise_error(eps_base, eps)).mean()
        self.stats |= {
            "reconstruction": reconstruction.detach(),
            "of_frozen": (reconstruction / frozen).detach(),  # below 1 if the code improves the prediction
        }
        loss = reconstruction
        if self.loss.weight_disentangle and step % self.loss.every == 0:
            parts = Step(z_0, z_t, t, eps_base, grad, code)
            unit = sample_integers(0, code.shape[1], t, generator)
            chosen = self._chosen_grad(parts, features, unit)
            terms = self.disentangling_loss(parts, chosen, posterior.mean.detach(), unit)
            loss = loss + self.loss.weight_disentangle * self.loss.every * terms.mean()
        return loss

    @torch.no_grad()
    def contradict(self, z_0: Tensor, code: Tensor, generator: torch.Generator) -> Tensor:
        """Latents (B, C, h, w), a share of them moved towards those of other images; see `contradiction`.

        The other image is the one before, or, for `contradict_by=units`, the own with units of that one.

        Args:
            z_0: latents, shape (B, C, h, w).
            code: their codes, shape (B, N, D).
            generator: source of the shares and units.
        """
        drawn, weight = (
            torch.rand(len(z_0), generator=generator, device=generator.device).to(z_0) for _ in range(2)
        )
        weight = weight * (drawn < self.loss.contradiction)
        if self.loss.contradict_by == "units":
            numbers = torch.rand(len(code), code.shape[1] + 1, generator=generator, device=generator.device)
            swapped = numbers[:, 1:] < numbers[:, :1]
            other = torch.where(swapped[..., None].to(code.device), code.roll(1, dims=0), code)
            draw = cast(AuxiliaryDecoder, self.auxiliary).draw
            shift = draw(other) - draw(code)
        else:
            shift = z_0.roll(1, dims=0) - z_0
        return z_0 + weight[:, None, None, None] * shift

    def _chosen_grad(self, parts: Step, features: object, unit: Tensor) -> Tensor:
        """Gradient field of each image's sampled unit, shape (B, C, h, w)."""
        rows = torch.arange(len(unit), device=unit.device)
        if not self.loss.detach_condition:
            return parts.grad[rows, unit]
        return self.trained.decoder(features, parts.code[rows, unit, None].detach(), unit[:, None]).squeeze(1)

    def disentangling_loss(self, parts: Step, chosen: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        """Return w * (L_in + L_va) of each image, shape (B,).

        The weights of the encoder that encodes predictions are constant, unless `train_evaluator` is set.

        Args:
            parts: tensors of the step.
            chosen: gradient field of the sampled unit, shape (B, C, h, w).
            target: code of the images, detached, shape (B, N, D).
            unit: the sampled unit, shape (B,).
        """
        schedule = self.model.schedule
        shifted = shift_eps(parts.eps_base, self.sampling_coefficient, parts.t, chosen)
        z0_hat = predict_z0(schedule, parts.z_t, parts.t, parts.eps_base)
        z0_hat_c = predict_z0(schedule, parts.z_t, parts.t, shifted)
        input_c = self.model.encoder_input.from_latent(z0_hat_c)
        with torch.no_grad():
            code_hat = encode_frozen(self.trained.encoder, self.model.encoder_input.from_latent(z0_hat))
        look = (
            self.trained.encoder
            if self.loss.train_evaluator
            else partial(encode_frozen, self.trained.encoder)
        )
        code_hat_c = look(input_c)

        weight = self._image_weight(parts, z0_hat, z0_hat_c)
        if self.loss.change_cap is not None:
            weight = weight.clamp(max=self.loss.change_cap)
        invariant = invariant_loss(code_hat_c, code_hat, unit, self.loss.temperature)
        variant = variant_loss(code_hat_c, code_hat, target, unit, self.loss.temperature)
        found = invariant_logits(code_hat_c, code_hat).argmax(dim=1) == unit
        self.stats |= {
            "invariant": invariant.detach().mean(),
            "variant": variant.detach().mean(),
            "unit_accuracy": found.float().mean(),
            "weight_mean": weight.mean(),
            "weight_max": weight.max(),
        }
        return weight * (self.loss.weight_invariant * invariant + self.loss.weight_variant * variant)

    def _image_weight(self, parts: Step, z0_hat: Tensor, z0_hat_c: Tensor) -> Tensor:
        """Per-image weight of L_dis, detached, shape (B,)."""
        if self.loss.dis_weighting == "constant":
            return torch.ones_like(parts.t, dtype=z0_hat.dtype)
        if self.loss.dis_weighting == "loss":
            eps = predict_eps(self.model.schedule, parts.z_t, parts.t, parts.z_0)
            eps_hat = shift_eps(parts.eps_base, self.training_coefficient, parts.t, parts.grad.sum(dim=1))
            return self.noise_error(eps_hat, eps).detach()
        return change_weight(
            *((z0_hat, z0_hat_c) if self.loss.change_space == "z" else self._images(z0_hat, z0_hat_c))
        )

    def _images(self, *latents: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return tuple(self.model.latent_space.decode(z, quantize=False) for z in latents)


def encode_frozen(encoder: nn.Module, x: Tensor) -> Tensor:
    """Encode `x` in evaluation mode with constant weights; gradients flow to `x` only."""
    training = encoder.training
    state = {
        name: tensor.detach() for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]
    }
    encoder.eval()
    code = torch.func.functional_call(encoder, state, (x,))
    encoder.train(training)
    return code
