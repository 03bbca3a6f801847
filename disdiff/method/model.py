"""The interface of all systems (image => code, code and noise => image), and the models DisDiff and PDAE.

DisDiff and PDAE consist of a frozen denoiser, a factor encoder and a gradient decoder:

    eps_hat = eps_base + coefficient(t) * sum_k grad_k(z_t, code_k, t)

There are two coefficients: training uses the paper's (with the posterior variance as sigma_t), sampling uses
that of classifier guidance. For t > 20 they differ by less than 5 %.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.initialisation.pixels import average_pixels
from disdiff.method.encoder_input import EncoderInput
from disdiff.method.factor_encoder import FactorEncoder
from disdiff.method.gradient_decoder import GradientDecoder
from ldm.autoencoder.latent_space import LatentSpace
from ldm.diffusion.sampler import EpsFunction, SamplerConfig, invert_ddim, sample
from ldm.diffusion.schedule import Schedule, gather
from ldm.errors import UserError
from ldm.nn.unet import Features, UNet


def check_units(units: list[int], num_units: int) -> list[int]:
    """Return `units` if they are a subset of 0 .. `num_units` - 1; else raise UserError."""
    wrong = [unit for unit in units if not 0 <= unit < num_units]
    if wrong:
        raise UserError(f"there is no unit {wrong[0]}: this model has units 0 to {num_units - 1}")
    if len(set(units)) < len(units):
        raise UserError(f"a unit occurs twice in {units}; give each unit once")
    return units


@dataclass(frozen=True)
class Generation:
    """Options for generating images from codes.

    Attributes:
        sampler: the sampler; with eta 0 an image is a function of code and noise.
        units: use the gradient fields of these units only; None for all.
        generator: source of new noise, for samplers that add noise.
    """

    sampler: SamplerConfig
    units: list[int] | None = None
    generator: torch.Generator | None = None


class ImageModel(nn.Module, ABC):
    """Interface of a trained system for scores, pictures, edits and scripts.

    Attributes:
        latent_space: the latent space; pixel space for systems without a first stage.
        networks: the networks trained by the last stage; its `encoder` returns codes (B, N, D).
        encoder_input: computes the encoder's input.
        has_unit_fields: whether every unit has its own gradient field, so that subsets of units can be used.
    """

    has_unit_fields = False

    def __init__(self, latent_space: LatentSpace, networks: nn.Module, encoder_input: EncoderInput) -> None:
        super().__init__()
        self.latent_space, self.networks, self.encoder_input = latent_space, networks, encoder_input

    @property
    def supervision(self) -> str | None:
        """Supervision used besides images, as text for outputs; None for none."""
        return self.encoder_input.supervision

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.latent_space.mean.device

    @property
    def num_units(self) -> int:
        """Number of units N for swaps and scores."""
        return self.networks.encoder.num_units

    @property
    def images_needed(self) -> int:
        """Smallest number of training images: two, so that codes vary, or more to fit the initial code."""
        return max(2, self.networks.encoder.images_needed)

    def encode(self, image: Tensor) -> Tensor:  # image => code
        """Code of `image` (B, 3, H, W) in [-1, 1], shape (B, N, D)."""
        return self.encode_input(self.encoder_input.from_image(image))

    def encode_input(self, x: Tensor) -> Tensor:  # input => code
        """Code, shape (B, N, D), of the encoder's input."""
        return self.networks.encoder(x)

    @torch.no_grad()
    def fit_start(self, z_0: Tensor) -> None:
        """Fit the initial code, if the encoder has one, to training latents (n, C, h, w)."""
        encoder = self.networks.encoder
        if not encoder.is_fitted:
            return
        parts = z_0[: self.encoder_input.fit_limit].split(self.encoder_input.fit_batch)
        x = torch.cat([self.encoder_input.from_latent(part) for part in parts])
        if needed := encoder.pixels_needed:
            parts = z_0[: min(needed, len(x))].split(self.encoder_input.fit_batch)
            decode = self.latent_space.decode
            encoder.fit_pixels(x[:needed], torch.cat([average_pixels(decode(part)) for part in parts]))
        encoder.fit_start(x)

    def with_networks(self, networks: nn.Module) -> Self:
        """The same model with other trained networks, such as an average of their weights."""
        model = copy.copy(self)
        model._modules = {**self._modules, "networks": networks}
        return model

    @abstractmethod
    def noise_shape(self, image_size: int) -> tuple[int, int, int]:
        """Shape of the noise z_T of one image; no entries if the code alone determines the image."""

    @abstractmethod
    def infer_noise(self, image: Tensor, code: Tensor, num_steps: int) -> Tensor:  # image => z_T
        """Noise z_T from which DDIM restores `image` (B, 3, H, W) with `code` in `num_steps` steps."""

    @abstractmethod
    def generate(self, code: Tensor, z_T: Tensor, how: Generation) -> Tensor:  # code => image
        """Generate images (B, 3, H, W), not clamped, from codes (B, N, D) and noise `z_T`."""


class DiffusionModel(ImageModel):
    """A system whose code is an input of the noise prediction; subclasses define `eps_fn`."""

    def __init__(
        self, latent_space: LatentSpace, schedule: Schedule, networks: nn.Module, encoder_input: EncoderInput
    ) -> None:
        super().__init__(latent_space, networks, encoder_input)
        self.schedule = schedule

    @abstractmethod
    def eps_fn(self, code: Tensor, units: list[int] | None = None) -> EpsFunction:
        """Return the noise predictor for a code, or for some of its units.

        Args:
            code: codes of the batch to sample, shape (B, N, D).
            units: the units to use; None for all, an empty list for the frozen model only.

        Returns:
            (z_t (B, C, h, w), t (B,)) => eps_hat (B, C, h, w).

        Raises:
            UserError: a unit is out of range or occurs twice, or the system has no gradient field per unit.
        """

    def noise_shape(self, image_size: int) -> tuple[int, int, int]:
        """Shape (C, h, w) of z_T."""
        return self.latent_space.latent_shape(image_size)

    def infer_noise(self, image: Tensor, code: Tensor, num_steps: int) -> Tensor:  # image => z_T
        """Noise by DDIM inversion, shape (B, C, h, w)."""
        z_0 = self.latent_space.encode(image)
        return invert_ddim(self.eps_fn(code), self.schedule, z_0, num_steps)

    def generate(self, code: Tensor, z_T: Tensor, how: Generation) -> Tensor:  # code => image
        """Sample latents with the configured sampler and decode them."""
        eps_fn = self.eps_fn(code, how.units)
        z_0 = sample(how.sampler, eps_fn, self.schedule, z_T, how.generator)
        return self.latent_space.decode(z_0)


def training_coefficient(schedule: Schedule) -> Tensor:
    """-sqrt(alpha_t) (1 - alpha_bar_{t-1}) / sqrt(1 - alpha_bar_t), shape (T,); L_r of PDAE and DisDiff."""
    noise_prev = F.pad(schedule.noise_variance[:-1], (1, 0))  # 1 - alpha_bar_{t-1}, to full precision
    return -schedule.alpha.sqrt() * noise_prev / schedule.noise_variance.sqrt()


def sampling_coefficient(schedule: Schedule) -> Tensor:
    """-sqrt(1 - alpha_bar_t), shape (T,); classifier guidance, Dhariwal & Nichol 2021, Eq. (14)."""
    return -schedule.noise_variance.sqrt()


def shift_eps(eps_base: Tensor, coefficient: Tensor, t: Tensor, grad: Tensor) -> Tensor:
    """eps_base + coefficient_t * grad; eps_base and grad (B, C, h, w), coefficient (T,), t (B,)."""
    eps = eps_base.to(torch.promote_types(eps_base.dtype, torch.float32))  # bf16 would lose a small shift
    return eps + gather(coefficient, t, eps) * grad.to(eps)


@dataclass
class Prediction:
    """Output of the model for z_t.

    Attributes:
        eps_base: noise predicted by the frozen denoiser, shape (B, C, h, w).
        grad: gradient field of each unit, shape (B, N, C, h, w).
    """

    eps_base: Tensor
    grad: Tensor


class CodeNetworks(nn.Module):
    """The trained networks of DisDiff and PDAE: factor encoder and gradient decoder."""

    def __init__(self, encoder: FactorEncoder, decoder: GradientDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class DisDiff(DiffusionModel):
    """DisDiff: a latent space, a frozen denoiser, a factor encoder and a gradient decoder."""

    has_unit_fields = True

    def __init__(
        self,
        latent_space: LatentSpace,
        denoiser: UNet,
        schedule: Schedule,
        networks: CodeNetworks,
        encoder_input: EncoderInput,
        guidance: float = 1.0,
    ) -> None:
        """Assemble the model; `guidance` scales the gradient fields in sampling and inversion only."""
        super().__init__(latent_space, schedule, networks, encoder_input)
        self.denoiser, self.guidance = denoiser, guidance

    def predict(self, z_t: Tensor, t: Tensor, code: Tensor, units: Tensor | None = None) -> Prediction:
        """Compute the frozen noise prediction for `z_t` (B, C, h, w) at `t` (B,), and the field of each unit.

        `code` has K units, shape (B, K, D); `units` are their numbers, shape (K,) or (B, K), None for all N.
        """
        eps_base, features = self.predict_base(z_t, t)
        return Prediction(eps_base, self.networks.decoder(features, code, units))

    def predict_base(self, z_t: Tensor, t: Tensor) -> tuple[Tensor, Features]:
        """Noise predicted by the frozen denoiser, shape (B, C, h, w), and its features."""
        with torch.no_grad():  # the denoiser is frozen and z_t is data, so no gradient is needed
            features = self.denoiser.features(z_t, t)
            return self.denoiser.decode(features), features

    def eps_fn(self, code: Tensor, units: list[int] | None = None) -> EpsFunction:
        """The frozen prediction, shifted by the gradient fields of `units` times `guidance`.

        Only the gradient fields of `units` are computed.
        """
        count = code.shape[1]
        chosen = check_units(list(range(count)) if units is None else units, count)
        index = torch.tensor(chosen, dtype=torch.int64, device=code.device)
        part, coefficient = code[:, index], sampling_coefficient(self.schedule)

        def predict_eps(z_t: Tensor, t: Tensor) -> Tensor:
            """The frozen prediction for z_t (B, C, h, w) at t (B,), shifted by the gradient fields."""
            eps_base, features = self.predict_base(z_t, t)
            if not chosen:
                return eps_base
            grad = self.networks.decoder(features, part, index)  # (B, K, C, h, w)
            return shift_eps(eps_base, coefficient, t, self.guidance * grad.sum(dim=1))

        return predict_eps


class PDAE(DisDiff):
    """PDAE (Zhang et al. 2022, arXiv:2212.12990): DisDiff with one unit, trained by the same task.

    All D numbers of the code share one gradient field. For swaps, traversals and scores each number counts as
    a unit, so codes have shape (B, D, 1) outside this class.
    """

    has_unit_fields = False

    @property
    def num_units(self) -> int:
        """Number of units outside this class: D."""
        return self.networks.encoder.unit_dim

    def encode_input(self, x: Tensor) -> Tensor:  # input => code
        """Code of the encoder's input, shape (B, D, 1)."""
        return super().encode_input(x).transpose(1, 2)

    def predict(self, z_t: Tensor, t: Tensor, code: Tensor, units: Tensor | None = None) -> Prediction:
        """Frozen noise prediction and the one gradient field (B, 1, C, h, w) for a code (B, D, 1)."""
        refuse_units(units)
        return super().predict(z_t, t, code.transpose(1, 2))

    def eps_fn(self, code: Tensor, units: list[int] | None = None) -> EpsFunction:
        """The frozen prediction shifted by the whole code (B, D, 1)."""
        refuse_units(units)
        return super().eps_fn(code.transpose(1, 2))


def refuse_units(units: list[int] | Tensor | None) -> None:
    """Raise UserError if a subset of units is given to a system without a gradient field per unit."""
    if units is not None:
        raise UserError("the units of this system have no separate gradient fields; do not choose units")
