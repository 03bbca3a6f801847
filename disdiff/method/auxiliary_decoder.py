"""The auxiliary decoder: it trains the code to hold the image, at first without the gradient decoder.

    L_aux = |W (A(code) - z_0)|^2 [- weight_critic C(A(mixed)) + weight_recode |E(A(mixed)) - mixed|^2]

A is a small decoder from codes to latents, W whitens the latents, so that small factors count. With the price
of KL and total correlation, code and A are a beta-TCVAE of latents (Chen et al. 2018, arXiv:1802.04942) whose
units may be vectors. Its steps are many times cheaper than those of the gradient decoder, and its loss asks
for all of the image at once, where the noise error at one t asks for little. So it can pre-train the code. It
exists only while training. With `blur` its error is at first that of blurred latents, of which places and
large areas are the largest components, and with `first_price` the code is dearer at first.

Recombination, the part in brackets, is optional: a code mixed from the units of two images must show an
image, and be read from it again.

    mixed^k = code'^k with probability s, else code^k;  s ~ U(0, 1) for each image, code' of another image
    L_C = hinge(C(A(code)), C(A(mixed))) + weight_penalty |grad C|^2

If units hold factors that combine freely, each mixture is the code of a possible image. If a factor is spread
over units, a mixture has parts of two of its values, and the critic C tells its image from a decoded code
(Hu et al. 2018, "Disentangling Factors of Variation by Mixing Them", arXiv:1711.07410). The critic learns in
the same step as all others, from detached latents. Deviation: the classification of units of Hu et al. is
left out; L_in and L_va ask for much the same.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from disdiff.method.losses import AuxiliaryConfig, critic_penalty, fit_whitener, mix_units, recode_error
from ldm.autoencoder.losses import hinge_discriminator_loss
from ldm.errors import UserError, check_option
from ldm.nn.layers import build_norm

CRITIC_BETAS = (0.5, 0.99)  # of Adam
PENALTY_EVERY = 4  # the gradient penalty is computed at every fourth step, four times as large
NORM_GROUPS = 8


class AuxiliaryDecoder(nn.Module):
    """The decoder A, the critic C and the loss; fitted to training latents when it is built.

    A and C work in whitened latents: centred, flattened, times W, divided by their standard deviation.

    Args:
        config: weights and sizes.
        z_0: training latents, shape (n, C, h, w).
        num_numbers: numbers of a code, N D.

    Raises:
        UserError: the latents are constant, or too large to be whitened.
    """

    def __init__(self, config: AuxiliaryConfig, z_0: Tensor, num_numbers: int) -> None:
        super().__init__()
        self.config = config
        whitener = fit_whitener(z_0, config.ridge)
        centre = z_0.flatten(1).mean(dim=0)
        whitener = whitener / ((z_0.flatten(1) - centre) @ whitener).std()
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("whitener", whitener, persistent=False)
        self.register_buffer("unwhitener", torch.linalg.inv(whitener.double()).to(whitener), persistent=False)
        self.shape = z_0.shape[1:]
        if config.blur:
            blurs = [blur_matrix(side, config.blur).to(centre) for side in self.shape[1:]]
            self.register_buffer("blur_rows", blurs[0], persistent=False)
            self.register_buffer("blur_columns", blurs[1], persistent=False)
            self.blurred_variance = self.blur(z_0.flatten(1) - centre).square().mean().item()
        self.decoder = build_decoder(config, num_numbers, z_0.shape[1:])
        self.critic = build_critic(config, z_0.shape[1:]) if config.mixes else None

    def parameter_groups(self, rate: float) -> list[dict]:
        """The decoder and the critic at a learning rate, without Muon; the critic has its own betas."""
        adam = {"lr": rate, "orthogonal": False}
        groups = [{"params": list(self.decoder.parameters()), **adam}]
        if self.critic is not None:
            groups.append({"params": list(self.critic.parameters()), **adam, "betas": CRITIC_BETAS})
        return groups

    def whiten(self, z_0: Tensor) -> Tensor:
        """Whitened latents (B, P) of latents (B, C, h, w) with P entries."""
        return (z_0.flatten(1) - self.centre) @ self.whitener

    def unwhiten(self, y: Tensor, like: Tensor) -> Tensor:
        """Latents in the shape of `like` (B, C, h, w) of whitened latents (B, P)."""
        return (y @ self.unwhitener + self.centre).view_as(like)

    def blur(self, x: Tensor) -> Tensor:
        """Flat latents (B, P), blurred along both axes of each channel, shape (B, P)."""
        maps = x.view(-1, *self.shape)
        return (self.blur_rows @ maps @ self.blur_columns.T).flatten(1)

    def progress(self, step: int) -> float:
        """How far annealing is at a step, in [0, 1]; 1 without it."""
        return min(1.0, step / self.config.anneal_steps) if self.config.anneal_steps else 1.0

    def price(self, step: int) -> float:
        """Factor on the weights of KL and total correlation: falls from `first_price` to 1."""
        return self.config.first_price ** (1 - self.progress(step))

    def decoding_error(self, decoded: Tensor, z_0: Tensor, step: int) -> Tensor:
        """Squared error of decoded whitened latents (B, P), shape (); of blurred latents at first."""
        difference = decoded - self.whiten(z_0)
        sharp, share = difference.square().mean(), self.progress(step)
        if not self.config.blur or share == 1:
            return sharp
        blurred = self.blur(difference @ self.unwhitener).square().mean() / self.blurred_variance
        return torch.lerp(blurred, sharp, share)

    def judge(self, y: Tensor) -> Tensor:
        """The critic's logits of whitened latents (B, P), shape (B,); its weights are constant."""
        state = {name: weight.detach() for name, weight in self.critic.named_parameters()}
        return torch.func.functional_call(self.critic, state, (y,)).squeeze(1)

    def forward(
        self,
        z_0: Tensor,
        code: Tensor,
        recode: Callable[[Tensor], Tensor],
        step: int,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of encoder, decoder and critic, weighted, shape (), and its terms, detached.

        The critic gets gradients of L_C only, and nothing else does. Without weights of critic and recoding
        nothing is mixed.

        Args:
            z_0: latents, shape (B, C, h, w).
            code: their codes, shape (B, N, D), with gradients.
            recode: the encoder, latents (B, C, h, w) => codes.
            step: the training step.
            generator: source of the mixtures.
        """
        if not self.config.mixes:
            error = self.decoding_error(self.decoder(code.flatten(1)), z_0, step)
            return self.config.weight * error, {"decoded": error.detach()}
        taken = draw_taken(code, generator)
        mixed = mix_units(code, code.roll(1, dims=0), taken)
        decoded, recombined = self.decoder(torch.cat([code, mixed]).flatten(1)).chunk(2)
        error = self.decoding_error(decoded, z_0, step)
        critic = -self.judge(recombined).mean()
        recoded = recode_error(recode(self.unwhiten(recombined, z_0)), mixed).mean()
        loss = error + self.config.weight_critic * critic + self.config.weight_recode * recoded
        critic_loss = self.critic_loss(decoded.detach(), recombined.detach(), step, generator)
        stats = {"decoded": error, "mixed": critic, "recoded": recoded, "critic": critic_loss}
        return self.config.weight * loss + critic_loss, {name: term.detach() for name, term in stats.items()}

    def critic_loss(self, real: Tensor, fake: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """L_C of decoded codes `real` and decoded mixtures `fake`, both detached, shape (B, P)."""
        logits = self.critic(torch.cat([real, fake])).squeeze(1)
        loss = hinge_discriminator_loss(*logits.chunk(2))
        if self.config.weight_penalty and step % PENALTY_EVERY == 0:
            share = torch.rand((len(real), 1), generator=generator, device=generator.device).to(real)
            penalty = critic_penalty(lambda y: self.critic(y).squeeze(1), real, fake, share).mean()
            loss = loss + PENALTY_EVERY * self.config.weight_penalty * penalty
        return loss


def draw_taken(code: Tensor, generator: torch.Generator) -> Tensor:
    """Which units of each image are taken from another one, shape (B, N): a random share of them."""
    size, count = code.shape[:2]
    draws = torch.rand((size, count + 1), generator=generator, device=generator.device).to(code.device)
    return draws[:, 1:] < draws[:, :1]


def build_decoder(config: AuxiliaryConfig, num_numbers: int, shape: torch.Size) -> nn.Module:
    """The decoder, codes (B, N D) => whitened latents (B, P).

    Args:
        config: kind and sizes.
        num_numbers: N D.
        shape: shape of a latent, (C, h, w), with P entries.

    Raises:
        UserError: the kind is unknown, or `conv` has latents of an odd side.
    """
    check_option("code.loss.auxiliary.network", config.network, ("mlp", "conv"))
    if config.network == "mlp":
        return build_mlp(num_numbers, config.hidden, math.prod(shape))
    if any(side % 2 for side in shape[1:]):
        raise UserError(
            f"code.loss.auxiliary.network=conv halves latents, and these have {shape[1]}x{shape[2]} "
            "pixels; choose network=mlp"
        )
    return ConvDecoder(config, num_numbers, shape)


def build_critic(config: AuxiliaryConfig, shape: torch.Size) -> nn.Module:
    """The critic, whitened latents (B, P) => logits (B, 1), of the decoder's kind; `shape` is (C, h, w)."""
    if config.network == "mlp":
        return build_mlp(math.prod(shape), config.hidden, 1)
    return ConvCritic(config, shape)


def blur_matrix(side: int, deviation: float) -> Tensor:
    """Gaussian weights of `side` points for each of them, rows summing to 1, shape (side, side)."""
    place = torch.arange(side, dtype=torch.float)
    return torch.softmax(-((place[:, None] - place) ** 2) / (2 * deviation**2), dim=1)


def build_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of `hidden` numbers with SiLU."""
    return nn.Sequential(
        *(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()),
        nn.Linear(hidden, outputs),
    )


class ConvDecoder(nn.Sequential):
    """A hidden layer, maps of half the latent's size, a residual block, and 2x2 pixels for each of theirs."""

    def __init__(self, config: AuxiliaryConfig, num_numbers: int, shape: torch.Size) -> None:
        channels, (depth, height, width) = config.channels, shape
        half = (channels, height // 2, width // 2)
        super().__init__(
            *(nn.Linear(num_numbers, config.hidden), nn.SiLU(), nn.Linear(config.hidden, math.prod(half))),
            *(nn.Unflatten(1, half), ResidualBlock(channels), nn.SiLU()),
            *(nn.Conv2d(channels, 4 * depth, 3, padding=1), nn.PixelShuffle(2), nn.Flatten()),
        )


class ConvCritic(nn.Sequential):
    """A convolution to half the latent's size, another, and a hidden layer."""

    def __init__(self, config: AuxiliaryConfig, shape: torch.Size) -> None:
        channels, (depth, height, width) = config.channels, shape
        wide, slope = 2 * channels, nn.LeakyReLU(0.2)
        super().__init__(
            *(nn.Unflatten(1, tuple(shape)), nn.Conv2d(depth, channels, 4, stride=2, padding=1), slope),
            *(nn.Conv2d(channels, wide, 3, padding=1), slope, nn.Flatten()),
            *(
                nn.Linear(wide * (height // 2) * (width // 2), config.hidden),
                slope,
                nn.Linear(config.hidden, 1),
            ),
        )


class ResidualBlock(nn.Module):
    """SiLU, 3x3 convolution, norm, SiLU, 1x1 convolution, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *(nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1), build_norm(channels, NORM_GROUPS)),
            *(nn.SiLU(), nn.Conv2d(channels, channels, 1)),
        )

    def forward(self, h: Tensor) -> Tensor:
        """Apply to `h` (B, C, H, W)."""
        return h + self.inner(h)
