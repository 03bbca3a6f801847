"""What every system is to the rest (image => code, code and noise => image), and DisDiff and PDAE, which are
that by a frozen denoiser, a factor encoder and a gradient decoder.

    eps_hat = eps_base + coefficient(t) * sum_k grad_k(z_t, code_k, t)

The gradient enters with one of two coefficients: the training one is the paper's (with the posterior variance
as sigma_t), the sampling one is classifier guidance's. Beyond t = 20 they differ by less than 5 %.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.method.encoder_input import EncoderInput
from disdiff.method.factor_encoder import FactorEncoder
from disdiff.method.gradient_decoder import GradientDecoder
from ldm.autoencoder.latent_space import LatentSpace
from ldm.diffusion.grid import Progress
from ldm.diffusion.sampler import EpsFunction, SamplerConfig, invert_ddim, sample
from ldm.diffusion.schedule import Schedule, gather
from ldm.errors import UserError
from ldm.nn.unet import Features, UNet


def check_units(units: list[int], num_units: int) -> list[int]:
    """Return `units` if they are a subset of 0 .. `num_units` - 1.

    Raises:
        UserError: one is out of range or named twice.
    """
    wrong = [unit for unit in units if not 0 <= unit < num_units]
    if wrong:
        raise UserError(f"there is no unit {wrong[0]}: this model has units 0 to {num_units - 1}")
    if len(set(units)) < len(units):
        raise UserError(f"the units {units} name one of them twice; name each once")
    return units


@dataclass(frozen=True)
class Generation:
    """How images are made of codes.

    Attributes:
        sampler: which; with eta 0 an image is a function of code and noise.
        units: only these take part; None for all.
        generator: source of new noise, for samplers that add any.
        progress: wraps the iterable of steps.
    """

    sampler: SamplerConfig
    units: list[int] | None = None
    generator: torch.Generator | None = None
    progress: Progress | None = None


class ImageModel(nn.Module, ABC):
    """A trained system, as scores, pictures, edits and scripts see it.

    Attributes:
        latent_space: where the system works; pixel space for one without a first stage.
        networks: what the last stage trains; its `encoder` gives codes (B, N, D).
        encoder_input: what the encoder reads.
        has_unit_fields: whether every unit has a gradient field, so that subsets of units can be sampled.
    """

    has_unit_fields = False

    def __init__(self, latent_space: LatentSpace, networks: nn.Module, encoder_input: EncoderInput) -> None:
        super().__init__()
        self.latent_space, self.networks, self.encoder_input = latent_space, networks, encoder_input

    @property
    def supervision(self) -> str | None:
        """What it learnt from beside images, for outputs; None if nothing."""
        return self.encoder_input.supervision

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.latent_space.mean.device

    @property
    def num_units(self) -> int:
        """N, the number of units that can be swapped and are scored."""
        return self.networks.encoder.num_units

    @property
    def images_needed(self) -> int:
        """Training images, at least: two, so that codes differ, or more where the code's start is fitted."""
        return max(2, self.networks.encoder.images_needed)

    def encode(self, image: Tensor) -> Tensor:  # image => code
        """Code of `image` (B, 3, H, W) in [-1, 1], shape (B, N, D)."""
        return self.encode_input(self.encoder_input.from_image(image))

    def encode_input(self, x: Tensor) -> Tensor:  # input => code
        """Code, shape (B, N, D), of the encoder's input."""
        return self.networks.encoder(x)

    @torch.no_grad()
    def fit_start(self, z_0: Tensor) -> None:
        """Fit the initial code to training latents (n, C, h, w), before the first step, where the encoder has
        one that is fitted.
        """
        if self.networks.encoder.is_fitted:
            parts = z_0[: self.encoder_input.fit_limit].split(self.encoder_input.fit_batch)
            self.networks.encoder.fit_start(torch.cat([self.encoder_input.from_latent(x) for x in parts]))

    @abstractmethod
    def noise_shape(self, image_size: int) -> tuple[int, int, int]:
        """Shape of the noise z_T beside the code of one image; empty where the code says all."""

    @abstractmethod
    def infer_noise(
        self, image: Tensor, code: Tensor, num_steps: int, progress: Progress | None = None
    ) -> Tensor:  # image => z_T
        """Noise from which `generate` makes `image` (B, 3, H, W) of `code` in `num_steps` steps of DDIM."""

    @abstractmethod
    def generate(self, code: Tensor, z_T: Tensor, how: Generation) -> Tensor:  # code => image
        """Images (B, 3, H, W), not clamped, of codes (B, N, D) and the noise `z_T`."""


class DiffusionModel(ImageModel):
    """A system whose code enters a noise prediction: everything follows from `eps_fn`."""

    def __init__(
        self,
        latent_space: LatentSpace,
        schedule: Schedule,
        networks: nn.Module,
        encoder_input: EncoderInput,
    ) -> None:
        super().__init__(latent_space, networks, encoder_input)
        self.schedule = schedule

    @abstractmethod
    def eps_fn(
        self, code: Tensor, units: list[int] | None = None, weights: Tensor | None = None
    ) -> EpsFunction:
        """The noise prediction of a code, or of some of its units.

        Args:
            code: of the batch to be sampled, shape (B, N, D).
            units: the subset S; None for all, an empty list for the frozen model alone.
            weights: w_k of each unit in `units`, shape (K,), times the guidance of a DisDiff; None for 1.

        Returns:
            (z_t (B, C, h, w), t (B,)) to eps_hat (B, C, h, w).

        Raises:
            UserError: a unit is out of range or named twice, or the system has no gradient field per unit.
        """

    def noise_shape(self, image_size: int) -> tuple[int, int, int]:
        """Shape (C, h, w) of z_T."""
        return self.latent_space.latent_shape(image_size)

    def infer_noise(
        self, image: Tensor, code: Tensor, num_steps: int, progress: Progress | None = None
    ) -> Tensor:  # image => z_T
        """DDIM walked backwards, shape (B, C, h, w)."""
        z_0 = self.latent_space.encode(image)
        return invert_ddim(self.eps_fn(code), self.schedule, z_0, num_steps, progress)

    def generate(self, code: Tensor, z_T: Tensor, how: Generation) -> Tensor:  # code => image
        """Sample latents with the configured sampler and decode them."""
        eps_fn = self.eps_fn(code, how.units)
        z_0 = sample(how.sampler, eps_fn, self.schedule, z_T, how.generator, how.progress)
        return self.latent_space.decode(z_0)


def training_coefficient(schedule: Schedule) -> Tensor:
    """-sqrt(alpha_t) (1 - alpha_bar_{t-1}) / sqrt(1 - alpha_bar_t), shape (T,)  # PDAE and DisDiff, L_r."""
    noise_prev = F.pad(schedule.noise_variance[:-1], (1, 0))  # 1 - alpha_bar_{t-1}, to full precision
    return -schedule.alpha.sqrt() * noise_prev / schedule.noise_variance.sqrt()


def sampling_coefficient(schedule: Schedule) -> Tensor:
    """-sqrt(1 - alpha_bar_t), shape (T,)  # score conditioning: Dhariwal & Nichol 2021, Eq. 14."""
    return -schedule.noise_variance.sqrt()


def shift_eps(eps_base: Tensor, coefficient: Tensor, t: Tensor, grad: Tensor) -> Tensor:
    """eps_base + coefficient_t * grad; eps_base and grad (B, C, h, w), coefficient (T,), t (B,)."""
    return eps_base + gather(coefficient, t, eps_base) * grad


@dataclass
class Prediction:
    """What the model says of z_t.

    Attributes:
        eps_base: noise predicted by the frozen denoiser, shape (B, C, h, w).
        grad: gradient field of each unit, shape (B, N, C, h, w).
    """

    eps_base: Tensor
    grad: Tensor


class CodeNetworks(nn.Module):
    """What stage 3 trains: the encoder that finds the code and the decoder that turns it into gradient
    fields.
    """

    def __init__(self, encoder: FactorEncoder, decoder: GradientDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


class DisDiff(DiffusionModel):
    """A latent space, a frozen denoiser in it, and the factor networks on both."""

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
        """Put the parts together.

        Args:
            latent_space: where everything happens.
            denoiser: frozen.
            schedule: its noise schedule.
            networks: encoder and gradient decoder.
            encoder_input: what the encoder reads.
            guidance: scale of the gradient fields at sampling and inversion; unused in training.
        """
        super().__init__(latent_space, schedule, networks, encoder_input)
        self.denoiser, self.guidance = denoiser, guidance

    def predict(self, z_t: Tensor, t: Tensor, code: Tensor, units: Tensor | None = None) -> Prediction:
        """Frozen noise prediction and the gradient field of each unit.

        Args:
            z_t: noisy latent, shape (B, C, h, w).
            t: diffusion step, shape (B,).
            code: of K units, shape (B, K, D).
            units: which units these are, shape (K,) or (B, K); None for all N.
        """
        eps_base, features = self.predict_base(z_t, t)
        return Prediction(eps_base, self.networks.decoder(features, code, units))

    def predict_base(self, z_t: Tensor, t: Tensor) -> tuple[Tensor, Features]:
        """Noise predicted by the frozen denoiser, shape (B, C, h, w), and its features."""
        with torch.no_grad():  # frozen, and z_t is data: nothing upstream wants a gradient
            features = self.denoiser.features(z_t, t)
            return self.denoiser.decode(features), features

    def eps_fn(
        self, code: Tensor, units: list[int] | None = None, weights: Tensor | None = None
    ) -> EpsFunction:
        """The frozen prediction shifted by some units, each times `guidance`; only their gradient fields are
        computed.
        """
        count = code.shape[1]
        chosen = check_units(list(range(count)) if units is None else units, count)
        index = torch.tensor(chosen, dtype=torch.int64, device=code.device)
        part, coefficient = code[:, index], sampling_coefficient(self.schedule)
        scale = self.guidance * (part.new_ones(len(chosen)) if weights is None else weights.to(part))

        def predict_eps(z_t: Tensor, t: Tensor) -> Tensor:
            """The frozen prediction for z_t (B, C, h, w) at t (B,), shifted by the chosen fields."""
            eps_base, features = self.predict_base(z_t, t)
            if not chosen:
                return eps_base
            grad = self.networks.decoder(features, part, index)  # (B, K, C, h, w)
            return shift_eps(eps_base, coefficient, t, torch.einsum("bkchw,k->bchw", grad, scale))

        return predict_eps


class PDAE(DisDiff):
    """DisDiff's case of one unit (Zhang et al. 2022, arXiv:2212.12990), trained by the same task.

    The D numbers of its code have one gradient field together. To swap, traverse and score them, each counts
    as a unit: outside, a code has shape (B, D, 1).
    """

    has_unit_fields = False

    @property
    def num_units(self) -> int:
        """D."""
        return self.networks.encoder.unit_dim

    def encode_input(self, x: Tensor) -> Tensor:  # input => code
        """Code of the encoder's input, shape (B, D, 1)."""
        return super().encode_input(x).transpose(1, 2)

    def predict(self, z_t: Tensor, t: Tensor, code: Tensor, units: Tensor | None = None) -> Prediction:
        """Frozen noise prediction and the one gradient field, shape (B, 1, C, h, w), of a code (B, D, 1)."""
        refuse_units(units)
        return super().predict(z_t, t, code.transpose(1, 2))

    def eps_fn(
        self, code: Tensor, units: list[int] | None = None, weights: Tensor | None = None
    ) -> EpsFunction:
        """The frozen prediction shifted by the whole code (B, D, 1)."""
        refuse_units(units)
        return super().eps_fn(code.transpose(1, 2), None, weights)


def refuse_units(units: list[int] | Tensor | None) -> None:
    """Refuse a subset of units where only the whole code means something.

    Raises:
        UserError: there is one.
    """
    if units is not None:
        raise UserError(
            "the units of this system have no gradient fields of their own; leave out the choice of units"
        )
