"""Recombination: a code mixed from the units of two images must show an image, and be read from it again.

    mixed^k = code'^k with probability s, else code^k;  s ~ U(0, 1) for each image, code' of another image
    L_rec = |W (A(code) - z_0)|^2 - weight_critic C(A(mixed)) + weight_recode |E(A(mixed)) - mixed|^2
    L_C = hinge(C(A(code)), C(A(mixed))) + weight_penalty |grad C|^2

If units hold factors that combine freely, each mixture is the code of a possible image. If a factor is spread
over units, a mixture has parts of two of its values, and the critic C tells its image from a decoded code. So
the encoder E learns units that combine (Hu et al. 2018, "Disentangling Factors of Variation by Mixing Them",
arXiv:1711.07410). The first term keeps the image in the code. W whitens the latents, so small factors count.

A is a small decoder from codes to latents. The gradient decoder could decode mixtures, too, but it would take
another pass for each unit, and its z_t shows an image of its own. A and C exist only while training: they
change the encoder, and nothing else depends on them. The critic learns in the same step as all others, from
detached latents. Deviation: the classification of units of Hu et al. is left out; L_in and L_va ask for much
the same.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from disdiff.method.losses import RecombinationConfig, critic_penalty, fit_whitener, mix_units, recode_error
from ldm.autoencoder.losses import hinge_discriminator_loss

PENALTY_EVERY = 4  # the gradient penalty is computed at every fourth step, four times as large


class Recombination(nn.Module):
    """The small decoder A, the critic C and the loss; fitted to training latents when it is built.

    A and C work in whitened latents: centred, flattened, times W, divided by their standard deviation.

    Args:
        config: weights and sizes.
        z_0: training latents, shape (n, C, h, w).
        num_numbers: numbers of a code, N D.

    Raises:
        UserError: the latents are constant, or too large to be whitened.
    """

    def __init__(self, config: RecombinationConfig, z_0: Tensor, num_numbers: int) -> None:
        super().__init__()
        self.config = config
        whitener = fit_whitener(z_0, config.ridge)
        centre = z_0.flatten(1).mean(dim=0)
        whitener = whitener / ((z_0.flatten(1) - centre) @ whitener).std()
        self.register_buffer("centre", centre, persistent=False)
        self.register_buffer("whitener", whitener, persistent=False)
        self.register_buffer("unwhitener", torch.linalg.inv(whitener.double()).to(whitener), persistent=False)
        self.decoder = build_mlp(num_numbers, config.hidden, len(centre))
        self.critic = build_mlp(len(centre), config.hidden, 1)

    def whiten(self, z_0: Tensor) -> Tensor:
        """Whitened latents (B, P) of latents (B, C, h, w) with P entries."""
        return (z_0.flatten(1) - self.centre) @ self.whitener

    def unwhiten(self, y: Tensor, like: Tensor) -> Tensor:
        """Latents in the shape of `like` (B, C, h, w) of whitened latents (B, P)."""
        return (y @ self.unwhitener + self.centre).view_as(like)

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
        """The loss of encoder, small decoder and critic, weighted, shape (), and its terms, detached.

        The critic gets gradients of L_C only, and nothing else does.

        Args:
            z_0: latents, shape (B, C, h, w).
            code: their codes, shape (B, N, D), with gradients.
            recode: the encoder, latents (B, C, h, w) => codes.
            step: the training step.
            generator: source of the mixtures.
        """
        taken = draw_taken(code, generator)
        mixed = mix_units(code, code.roll(1, dims=0), taken)
        decoded, recombined = self.decoder(torch.cat([code, mixed]).flatten(1)).chunk(2)
        error = (decoded - self.whiten(z_0)).square().mean()
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


def build_mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers of `hidden` numbers with SiLU."""
    return nn.Sequential(
        *(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()),
        nn.Linear(hidden, outputs),
    )
