"""Losses of DisDiff (Yang et al. 2023, arXiv:2301.13721), PDAE's loss weights, and the MMD for priors.

Notation: `code` is E(x_0); `code_hat` is E of the frozen model's prediction; `code_hat_c` is E of the
prediction shifted by the gradient field of one sampled unit c per image. All have shape (B, N, D); `unit` is
c, shape (B,) int64. The losses and `change_weight` return one value per image, shape (B,), and the logits one
per unit. Weights over t keep the shape of `snr`; `mmd` compares two samples and returns shape ().
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.errors import UserError

MAX_WHITENED = 4096  # entries of a latent whose covariance is inverted


@dataclass
class AuxiliaryConfig:
    """The auxiliary decoder (`disdiff.method.auxiliary_decoder`).

    Attributes:
        weight: weight of L_aux; 0 for no auxiliary decoder.
        pretrain_steps: for so many steps only L_aux, KL and total correlation train; the networks that read
            the code begin after that.
        network: `mlp`, or `conv`, convolutions at half the latent's size.
        hidden: width of the hidden linear layers.
        channels: channels of `conv`.
        ridge: ridge of the whitening, in units of the latents' covariance; see `code.loss.whiten_ridge`.
        blur: standard deviation of a blur of the latents, in their pixels: at first the decoder's error is
            that of blurred latents, so that large structures and places are learnt first; 0 for none.
        first_price: at first KL and total correlation have weights so many times larger.
        anneal_steps: over these steps the blur and the first price fade.
    """

    weight: float = 0.0
    pretrain_steps: int = 0
    network: str = "mlp"
    hidden: int = 256
    channels: int = 32
    ridge: float = 1.0
    blur: float = 0.0
    first_price: float = 1.0
    anneal_steps: int = 0


@dataclass
class DisDiffLossConfig:
    """The loss of DisDiff and PDAE.

    Attributes:
        norm: norm of the noise error, `l1` or `l2`.
        whiten_ridge: ridge for whitening the noise error by the latents' covariance (`whitened_error`, with
            `l2` only), in units of that covariance; null for the plain error.
        t_min, t_max: training draws t uniformly from t_min .. t_max - 1; a null t_max is the number of steps.
        contradiction: share of images whose z_t is made of another image's latent, mixed into their own by a
            weight that is uniform in [0, 1]. The target stays the own latent, so that fields learn to draw
            what the code says where z_t shows something else, as in edits and from random noise.
        contradict_by: what of the other image is mixed in: its `latent`, or some of its `units`: the own
            latent, shifted as the auxiliary decoder draws a swap of units; how many is random, too.
        weighting: weight of the noise error over t: `none` (DisDiff), `snr` (PDAE's lambda_t) or `clean` (the
            weight of an error of z0_hat, capped; with `l1` its square root).
        snr_gamma: gamma of `snr`.
        clean_cap: largest weight of `clean`.
        weight_disentangle: weight of L_dis; 0 switches L_dis off.
        temperature: divides the logits of L_in and L_va; 1 as released, less for codes of few numbers, whose
            distances are small.
        weight_invariant, weight_variant: weights of L_in and L_va within L_dis.
        dis_weighting: per-image weight of L_dis: `change` (the change of z0_hat by the sampled unit,
            DisDiff), `constant`, or `loss` (the image's noise error).
        train_evaluator: whether L_dis also trains the encoder that encodes predictions.
        change_space: space in which `change` is measured: `z` or `image`.
        change_cap: largest per-image weight; null for no limit (released).
        every: L_dis is computed only every so many steps, with its weight multiplied by this number.
        detach_condition: if false, gradients of L_dis reach the encoder through the condition z^c (released
            code); if true, they reach the decoder only (paper).
        weight_kl: weight of the code's KL divergence to the standard normal, for a Gaussian encoder.
        kl_warmup_steps: `weight_kl` rises linearly over these steps.
        weight_correlation: weight of the total correlation of a Gaussian code's units, in nats
            (`disdiff.method.kl_parts`).
        correlation_memory: number of earlier images with whose posteriors total correlation is estimated,
            beside those of the batch; the batch alone is enough only for codes of few nats.
        auxiliary: an auxiliary decoder of the code, which can train it alone at first.
    """

    norm: str = "l1"
    whiten_ridge: float | None = None
    t_min: int = 0
    t_max: int | None = None
    contradiction: float = 0.0
    contradict_by: str = "latent"
    weighting: str = "none"
    snr_gamma: float = 0.1
    clean_cap: float = 20.0
    weight_disentangle: float = 0.05
    temperature: float = 1.0
    weight_invariant: float = 1.0
    weight_variant: float = 1.0
    dis_weighting: str = "change"
    train_evaluator: bool = False
    change_space: str = "z"
    change_cap: float | None = None
    every: int = 1
    detach_condition: bool = False
    weight_kl: float = 0.0
    kl_warmup_steps: int = 0
    weight_correlation: float = 0.0
    correlation_memory: int = 0
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)


def invariant_logits(code_hat_c: Tensor, code_hat: Tensor) -> Tensor:
    """d_k = ||code_hat_c^k - code_hat^k||_2, the distance that the shift moved each unit, shape (B, N)."""
    return (code_hat_c - code_hat).norm(dim=-1)


def variant_logits(code_hat_c: Tensor, code_hat: Tensor, code: Tensor) -> Tensor:
    """d^n_k - d^p_k = ||code_hat^k - code^k||_2 - ||code_hat_c^k - code^k||_2, shape (B, N).

    This is the distance by which the shift moved each unit towards the code of the input.
    """
    return (code_hat - code).norm(dim=-1) - (code_hat_c - code).norm(dim=-1)


def invariant_loss(code_hat_c: Tensor, code_hat: Tensor, unit: Tensor, temperature: float = 1.0) -> Tensor:
    """L_in: cross-entropy of `invariant_logits` with the sampled unit as the target, in nats, shape (B,).

    It is small if the shift moved the sampled unit and left the other units in place.
    """
    logits = invariant_logits(code_hat_c, code_hat) / temperature
    return F.cross_entropy(logits, unit, reduction="none")


def variant_loss(
    code_hat_c: Tensor, code_hat: Tensor, code: Tensor, unit: Tensor, temperature: float = 1.0
) -> Tensor:
    """L_va: cross-entropy of `variant_logits` with the sampled unit as the target, in nats, shape (B,).

    It is small if the shift moved the sampled unit, and only this unit, towards the code of the input.
    """
    logits = variant_logits(code_hat_c, code_hat, code) / temperature
    return F.cross_entropy(logits, unit, reduction="none")


def change_weight(before: Tensor, after: Tensor) -> Tensor:
    """Mean of (before - after)^2 over all axes except the first, detached: the per-image weight of L_dis."""
    return (before - after).detach().square().flatten(1).mean(dim=1)


def snr_weight(snr: Tensor, gamma: float) -> Tensor:
    """PDAE's lambda_t = (1 / (1 + SNR))^(1 - gamma) * (SNR / (1 + SNR))^gamma = SNR^gamma / (1 + SNR)."""
    return snr**gamma / (1 + snr)


def clean_weight(snr: Tensor, cap: float) -> Tensor:
    """min(1 / SNR, cap); the factor 1 / SNR turns a squared error of eps into one of z0_hat."""
    return (1 / snr).clamp(max=cap)


def check_whitened(num_entries: int, option: str = "code.loss.whiten_ridge") -> None:
    """Raise UserError if latents have too many entries for a whitening, as the key `option` needs."""
    if num_entries > MAX_WHITENED:
        raise UserError(
            f"{option} is for latents of at most {MAX_WHITENED} entries, these have {num_entries}; "
            f"set it to {'null' if option.endswith('ridge') else 0}"
        )


def fit_whitener(z_0: Tensor, ridge: float) -> Tensor:
    """W = s (S + ridge I)^(-1/2) for latents (n, ...) of P entries and covariance S, shape (P, P).

    The scale s keeps the mean variance: tr(W S W) = tr(S). A large ridge gives the identity.

    Raises:
        UserError: there are too many entries, or the latents are constant.
    """
    x = z_0.flatten(1).double()
    check_whitened(x.shape[1])
    if len(x) > x.shape[1]:
        variance, directions = torch.linalg.eigh(torch.cov(x.T).reshape(x.shape[1], -1))
        variance = variance.clamp_min(0)
    else:  # all other directions have no variance
        _, singular, rows = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
        variance, directions = singular.square() / max(len(x) - 1, 1), rows.T
    if not variance.sum() > 0:
        raise UserError(
            "the latents are constant over the training images and cannot be whitened: either all images "
            "are the same, or the autoencoder has collapsed; use other images, or train it longer"
        )
    gain = 1 / (variance + ridge)
    scale = variance.sum() / (variance * gain).sum()
    whitener = (directions * (scale * gain).sqrt()) @ directions.T
    if len(x) <= x.shape[1]:
        rest = torch.eye(x.shape[1]).to(x) - directions @ directions.T
        whitener += (scale / ridge).sqrt() * rest
    return whitener.to(z_0)


def whitened_error(eps_hat: Tensor, eps: Tensor, whitener: Tensor) -> Tensor:
    """Mean over all P entries of (W (eps_hat - eps))^2, shape (B,).

    For every whitener (P, P) the minimiser is that of the plain squared error, the conditional mean. But a
    factor that changes the latents little gets the same weight as one that changes them much.
    """
    return ((eps_hat - eps).flatten(1) @ whitener).square().mean(dim=1)


def reference_kernel(squared_distance: Tensor, dim: int) -> Tensor:
    """exp(-||x - y||^2 / d^2), the kernel of InfoDiffusion.

    Its mean under the standard normal is (1 + 4 / d^2)^(-d / 2), which is 0.94 at d = 32: the kernel is
    almost flat and mainly limits the scale of the code.
    """
    return (-squared_distance / dim**2).exp()


def multi_scale_kernel(squared_distance: Tensor, dim: int) -> Tensor:
    """Mean over s in 1/4, 1/2, 1, 2, 4 of exp(-||x - y||^2 / (2 s d)).

    The scale s = 1 fits the standard normal, under which the mean of each term is (1 + 2 / (s d))^(-d / 2).
    """
    scales = squared_distance.new_tensor([0.25, 0.5, 1.0, 2.0, 4.0])
    return (-squared_distance[..., None] / (2 * dim * scales)).exp().mean(dim=-1)


KERNELS = {"multi_scale": multi_scale_kernel, "reference": reference_kernel}


def mmd(x: Tensor, y: Tensor, kernel: Callable[[Tensor, int], Tensor] = multi_scale_kernel) -> Tensor:
    """Squared maximum mean discrepancy (MMD) of two samples, biased estimator, shape ().

    E k(x, x') + E k(y, y') - 2 E k(x, y), including pairs of equal rows. It is not negative, and about
    2 (1 - E k) / n for two samples of size n from the same distribution.

    Args:
        x: shape (n, d).
        y: shape (m, d).
        kernel: (squared distance, d) => kernel value.
    """

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        """Mean of the kernel over all pairs of a row of `a` (n, d) and a row of `b` (m, d)."""
        squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1)
        return kernel((squares - 2 * a @ b.T).clamp(min=0), a.shape[1]).mean()

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
