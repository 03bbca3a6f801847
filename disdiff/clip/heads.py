"""Trainable heads of the CLIP-guided encoder: one head per unit on a CLIP's image embeddings.

    code_k = norm(W_k (u - mean u) + head_k(u)),        u = f(image), |u| = 1

The initial code W is linear and fitted once to embeddings of training images. With start `text`, each of the
first F units k is anchored to factor k of the prompts: A_k are the D axes along which the texts of the
factor's values differ most, and W_k gives the coefficients of these axes in a least-squares fit of u by all
axes together, so parts that the axes of two factors share are not counted twice. The other units start at the
principal components of the residual. Without text all units start at principal components. The heads start at
zero.

The normalisation is per unit: every number has mean 0, and the D numbers of a unit have mean variance 1. So a
unit cannot collapse, and a circle of hues keeps its shape. For D = 1 it is batch normalisation.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.method.factor_encoder import Encoder, FactorEncoderConfig, Posterior
from disdiff.method.gradient_decoder import UnitLinear
from ldm.errors import UserError, check_option, look_up

STARTS = ("random", "principal", "text")
MOMENTUM, EPS = 0.1, 1e-5  # as in PyTorch's batch normalisation


class UnitNorm(nn.Module):
    """Normalises codes (B, N, D) to mean 0 per number and mean variance 1 per unit, over the batch."""

    def __init__(self, num_units: int, unit_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_units, unit_dim))
        self.register_buffer("variance", torch.ones(num_units))

    def forward(self, code: Tensor) -> Tensor:
        """Normalise `code` (B, N, D); running statistics are updated in training and used in evaluation."""
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = code.mean(dim=0), code.var(dim=0, correction=0).mean(dim=1)
            self.mean.lerp_(mean.detach(), MOMENTUM)
            self.variance.lerp_(variance.detach(), MOMENTUM)
        return (code - mean) / (variance + EPS).sqrt()[:, None]


class ClipHeads(Encoder):
    """Embeddings of a CLIP => codes.

    Args:
        options: options of the encoder; `hidden` is a head's width, `start` may also be `text`.
        embed_dim: width E of the embeddings.
        num_units: number of units N.
        unit_dim: numbers per unit D.
        fingerprint: fingerprint of the CLIP, saved with the weights, which work with this CLIP only.
        anchors: axes of the factors' texts for start `text`, shape (F, D, E), zero for missing axes.

    Raises:
        UserError: an option is unknown, or start is `text` and there are no anchors, or too many.
    """

    def __init__(
        self,
        options: FactorEncoderConfig,
        embed_dim: int,
        num_units: int,
        unit_dim: int,
        fingerprint: str,
        anchors: Tensor | None = None,
    ) -> None:
        super().__init__(num_units, unit_dim)
        check_option("code.encoder.posterior", options.posterior, ("none", "fixed", "gaussian"))
        check_option("code.encoder.start", options.start, STARTS)
        if options.start == "text" and (anchors is None or len(anchors) > num_units):
            raise UserError(
                "code.encoder.start=text needs clip.prompts and at least one unit per factor of the prompts: "
                f"{'none is set' if anchors is None else f'{len(anchors)} factors'}, "
                f"code.num_units={num_units}"
            )
        self.gaussian = options.posterior == "gaussian"
        self.fixed_logvar = 2 * math.log(options.code_noise) if options.posterior == "fixed" else None
        self.start, self.anchors = options.start, anchors
        hidden = options.hidden or embed_dim
        self.lift = UnitLinear(num_units, embed_dim, hidden)
        self.head = UnitLinear(num_units, hidden, unit_dim * (1 + self.gaussian))
        norms = {"none": nn.Identity, "batch": lambda: UnitNorm(num_units, unit_dim)}
        self.code_norm = look_up("code.encoder.code_norm", options.code_norm, norms)()
        if self.gaussian:
            nn.init.constant_(self.head.bias[:, unit_dim:], options.initial_logvar)
        if options.start != "random":
            nn.init.zeros_(self.head.weight[..., :unit_dim])
            nn.init.zeros_(self.head.bias[..., :unit_dim])
        self.register_buffer("center", torch.zeros(embed_dim))
        self.register_buffer("scale", torch.full((embed_dim,), embed_dim**-0.5))
        self.register_buffer("directions", torch.zeros(embed_dim, num_units * unit_dim))
        self.register_buffer("clip", torch.tensor(list(fingerprint.encode()), dtype=torch.uint8))

        self.is_fitted = True
        if options.start != "random":
            named = len(anchors) if options.start == "text" else 0
            self.images_needed = (num_units - named) * unit_dim

    @torch.no_grad()
    def fit_start(self, u: Tensor) -> None:
        """Fit the scales and the initial code to embeddings `u` (n, E) of training images.

        Raises:
            UserError: there are too few embeddings, or embeddings are too short, for the start.
        """
        u = u.double()
        center = u.mean(dim=0)
        self.center.copy_(center)
        self.scale.copy_(u.std(dim=0) + 1e-4)
        if self.start == "random":
            return
        shape = (self.num_units, self.unit_dim)
        maps = fit_directions(u - center, shape, self.anchors if self.start == "text" else None)
        self.directions.copy_(maps.flatten(0, 1).T)
        if isinstance(self.code_norm, UnitNorm):
            code = ((u - center) @ self.directions.double()).unflatten(1, shape)
            self.code_norm.mean.copy_(code.mean(dim=0))
            self.code_norm.variance.copy_(code.var(dim=0, correction=0).mean(dim=1))

    def initial_code(self, u: Tensor) -> Tensor:
        """The fitted start alone, without what was trained, shape (B, N, D), of embeddings (B, E)."""
        return ((u - self.center) @ self.directions).unflatten(1, (self.num_units, self.unit_dim))

    def posterior(self, u: Tensor) -> Posterior:
        """Codes of embeddings (B, E), with variance if the encoder has one."""
        centred = u - self.center
        x = (centred / self.scale)[:, None].expand(-1, self.num_units, -1)
        units = self.head(F.silu(self.lift(x, None)), None)
        mean, logvar = units.chunk(2, dim=2) if self.gaussian else (units, None)
        mean = self.code_norm(mean + self.initial_code(u))
        return Posterior.bounded(mean, logvar, self.fixed_logvar)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Load weights; if they belong to another CLIP, add an error to PyTorch's list of errors."""
        other = state.get(f"{prefix}clip")
        if other is not None and not torch.equal(other.cpu(), self.clip.cpu()):
            errors = rest[-1]
            errors.append("the heads were trained on another CLIP than clip.model and clip.pretrained name")
        super()._load_from_state_dict(state, prefix, *rest)


def fit_directions(u: Tensor, shape: tuple[int, int], anchors: Tensor | None) -> Tensor:
    """Fit the linear maps from embeddings to the initial code.

    Args:
        u: centred embeddings of training images, shape (n, E).
        shape: (N, D) of the code.
        anchors: axes of factors, shape (F, D, E), F <= N; None for none.

    Returns:
        Shape (N, D, E); every unit's code has mean variance 1 over its D numbers.

    Raises:
        UserError: there are too few embeddings, or embeddings are too short.
    """
    num_units, unit_dim = shape
    maps, rest = u.new_zeros(0, unit_dim, u.shape[1]), u
    if anchors is not None:
        axes = anchors.to(u).flatten(0, 1)
        dual = torch.linalg.pinv(axes, rtol=1e-3)  # (E, F D): column i gives the coefficient of axis i
        maps, rest = dual.T.unflatten(0, anchors.shape[:2]), u - u @ dual @ axes
    count = (num_units - len(maps)) * unit_dim
    if min(rest.shape) < count:
        raise UserError(
            f"the initial code has at most {min(rest.shape)} components here, but {count} are needed; lower "
            "code.num_units or code.unit_dim"
        )
    components = torch.linalg.svd(rest, full_matrices=False).Vh[:count]
    largest = components.gather(1, components.abs().argmax(dim=1, keepdim=True))
    free = (components * largest.sign()).unflatten(0, (-1, unit_dim)) if count else maps[:0]
    maps = torch.cat([maps, free])
    spread = torch.einsum("ne,kde->nkd", u, maps).var(dim=0).mean(dim=1).sqrt()
    return maps / (spread + 1e-8)[:, None, None]
