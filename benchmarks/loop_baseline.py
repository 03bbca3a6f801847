"""The plain training step of stage 3, which loops over the units; the reference for the fast step.

Units are computed one after the other, every block concatenates its input and processes all of it, and the
two predictions are decoded and encoded one after the other. The comparison is fair: the frozen model runs
once and without gradients; attention, memory, optimiser and precision are the same; no network is copied;
norms and convolutions are PyTorch's own in the default memory format. Random numbers are drawn in the order
of the fast step, so the losses of both can be compared.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from disdiff.method.gradient_decoder import GradientDecoder
from disdiff.method.losses import change_weight, invariant_loss, variant_loss
from disdiff.method.model import shift_eps
from disdiff.method.tasks import DisDiffTask, encode_frozen
from ldm.diffusion.loss import denoising_error
from ldm.diffusion.process import predict_z0, q_sample, sample_noise
from ldm.nn.layers import ResBlock
from ldm.nn.unet import Features, Level, UNetDecoder
from ldm.tasks import sample_latents


class LoopTask(DisDiffTask):
    """A plain implementation of `DisDiffTask`; supports only the options that the presets use."""

    def compute_loss(self, batch: dict[str, Tensor], step: int, generator: torch.Generator) -> Tensor:
        """The sum of all loss terms, each a mean over the batch."""
        self._check_options()
        model, loss, schedule = self.model, self.loss, self.model.schedule
        z_0 = sample_latents(model.latent_space, batch["statistics"], generator)
        posterior = self.trained.encoder.posterior(model.encoder_input.from_batch(batch, z_0))
        code = posterior.sample(generator)
        if step < self.freeze_steps:
            code = code.detach()
        t = draw(*self.t_range, z_0, generator)
        eps = sample_noise(z_0, generator)
        z_t = q_sample(schedule, z_0, t, eps)
        with torch.no_grad():
            features = model.denoiser.features(z_t, t)
            eps_base = model.denoiser.decode(features)
        fields = compute_fields(self.trained.decoder, features, code)

        eps_hat = shift_eps(eps_base, self.training_coefficient, t, sum(fields))
        total = (self.t_weight[t] * denoising_error(eps_hat, eps, loss.norm)).mean()
        self.stats = {"reconstruction": total.detach()}
        if loss.weight_kl and step >= self.freeze_steps:
            ramp = min(1.0, (step + 1) / loss.kl_warmup_steps) if loss.kl_warmup_steps else 1.0
            total = total + ramp * loss.weight_kl * posterior.kl().mean()
        if loss.weight_disentangle and step % loss.every == 0:
            unit = draw(0, code.shape[1], z_0, generator)
            chosen = torch.stack([fields[k][i] for i, k in enumerate(unit.tolist())])
            shifted = shift_eps(eps_base, self.sampling_coefficient, t, chosen)
            z0_hat, z0_hat_c = (predict_z0(schedule, z_t, t, e) for e in (eps_base, shifted))
            terms = self._disentangle(z0_hat, z0_hat_c, posterior.mean.detach(), unit)
            total = total + loss.weight_disentangle * loss.every * terms.mean()
        self.stats["loss"] = total.detach()
        return total

    def _disentangle(self, z0_hat: Tensor, z0_hat_c: Tensor, target: Tensor, unit: Tensor) -> Tensor:
        loss, encoder = self.loss, self.trained.encoder
        with torch.no_grad():
            code_hat = encode_frozen(encoder, self.model.encoder_input.from_latent(z0_hat))
        code_hat_c = encode_frozen(encoder, self.model.encoder_input.from_latent(z0_hat_c))
        weight = change_weight(z0_hat, z0_hat_c)
        if loss.change_cap is not None:
            weight = weight.clamp(max=loss.change_cap)
        invariant = invariant_loss(code_hat_c, code_hat, unit, loss.temperature)
        variant = variant_loss(code_hat_c, code_hat, target, unit, loss.temperature)
        return weight * (loss.weight_invariant * invariant + loss.weight_variant * variant)

    def _check_options(self) -> None:
        loss = self.loss
        if (loss.detach_condition, loss.train_evaluator) != (False, False):
            raise ValueError(
                "expected detach_condition=false and train_evaluator=false, but one of them is true"
            )
        if (loss.dis_weighting, loss.change_space) != ("change", "z"):
            raise ValueError(
                "expected dis_weighting=change and change_space=z, "
                f"got {loss.dis_weighting} and {loss.change_space}"
            )


def draw(low: int, high: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one integer in low .. high - 1 per row of `like`, shape (B,) int64, on its device."""
    return torch.randint(low, high, (len(like),), generator=generator, device=generator.device).to(
        like.device
    )


def compute_fields(decoder: GradientDecoder, features: Features, code: Tensor) -> list[Tensor]:
    """Compute the gradient fields with one pass per unit, N tensors of shape (B, C, h, w)."""
    embedding = None if decoder.unit_embedding is None else decoder.unit_embedding()
    fields = []
    for k in range(code.shape[1]):
        condition = decoder.condition(code[:, k : k + 1], torch.tensor([k], device=code.device)).flatten(0, 1)
        emb = features.emb if embedding is None else features.emb + embedding[k]
        fields.append(decode(decoder.decoder, features, emb, condition))
    return fields


def decode(decoder: UNetDecoder, features: Features, emb: Tensor, cond: Tensor) -> Tensor:
    """Decode one map per input and condition, shape (B, C, h, w)."""
    h = apply_block(decoder.middle_in, features.bottleneck, emb, cond)
    h = apply_block(decoder.middle_out, decoder.middle_attention(h), emb, cond)
    skips = features.skips[::-1]
    for i, level in enumerate(decoder.up):
        depth, block = divmod(i, decoder.num_blocks)
        h = apply_level(level, torch.cat([h, skips[depth * decoder.stride + block]], dim=1), emb, cond)
    return decoder.out_conv(F.silu(decoder.out_norm(h)))


def apply_level(level: Level, h: Tensor, emb: Tensor, cond: Tensor) -> Tensor:
    """Apply residual block, self-attention and resampling; the last two only if the level has them."""
    h = apply_block(level.res, h, emb, cond)
    h = h if level.attention is None else level.attention(h)
    if isinstance(level.resample, ResBlock):
        return apply_block(level.resample, h, emb, cond)
    return h if level.resample is None else level.resample(h)


def apply_block(block: ResBlock, h: Tensor, emb: Tensor, cond: Tensor) -> Tensor:
    """Apply a residual block.

    The residual branch is GN, SiLU, optional nearest upsampling (also on the shortcut), convolution, GN,
    scale and shift by the time, scale and shift by the condition, SiLU, convolution.
    """
    update = F.silu(block.in_norm(h))
    if block.resample == "up":
        update, h = (F.interpolate(x, scale_factor=2.0, mode="nearest") for x in (update, h))
    update = block.out_norm(block.in_conv(update))
    for affine, x in ((block.emb_affine, emb), (block.cond_affine, cond)):
        scale, shift = affine(F.silu(x))[..., None, None].chunk(2, dim=1)
        update = update * (1 + scale) + shift
    return block.shortcut(h) + block.out_conv(block.dropout(F.silu(update)))
