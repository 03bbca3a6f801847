"""Edit by attributes: fit a linear classifier on standardised codes, and move along its normal.

    code_n <- code_n + strength * sqrt(d) * w / ||w||,   code_n = (code - mean) / std

(Preechakul et al. 2022, arXiv:2111.15640; PDAE, Zhang et al. 2022, arXiv:2212.12990). The edited image is
sampled from the edited code and the noise inferred with the original code. Codes of every system can be used;
they are flattened to d numbers.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.data.factor_space import FactorSpace
from ldm.data.pictures import name_some
from ldm.errors import UserError
from ldm.numbers import as_whole

ITERATIONS = 100


@dataclass
class Attribute:
    """A linear classifier of one attribute.

    Attributes:
        mean: mean of the codes, shape (d,).
        std: standard deviation of the codes, shape (d,).
        weight: weight vector on standardised codes, shape (d,).
        bias: bias, shape ().
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def score(self, code: Tensor) -> Tensor:
        """Logit of the attribute for codes (B, N, D), shape (B,)."""
        return (code.flatten(1) - self.mean) / self.std @ self.weight + self.bias

    def move(self, code: Tensor, strength: float) -> Tensor:
        """Move codes (B, N, D) by `strength` (usually 0.1 to 0.3) towards the attribute; away if negative."""
        step = strength * len(self.weight) ** 0.5 * F.normalize(self.weight, dim=0) * self.std
        return code + step.view_as(code[0])


def fit_attribute(codes: Tensor, labels: Tensor, weight_decay: float = 1e-3) -> Attribute:
    """Fit logistic regression to codes (n, N, D) by L-BFGS; `labels` (n,) bool are images with the attribute.

    Raises:
        UserError: all images have the attribute, or none.
    """
    if labels.all() or not labels.any():
        raise UserError(
            "all images or no images have this attribute, so it cannot be learned; choose another"
        )
    flat, target = codes.flatten(1), labels.to(codes.dtype)
    mean, std = flat.mean(dim=0), flat.std(dim=0).clamp(min=1e-6)
    x = (flat - mean) / std
    weight, bias = torch.zeros(x.shape[1], requires_grad=True), torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        """Mean cross-entropy in nats plus weight decay (not on the bias); recomputes the gradients."""
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(x @ weight + bias, target)
        loss = loss + weight_decay * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return Attribute(mean, std, weight.detach(), bias.detach())


def find_value(space: FactorSpace | None, factor: str, value: int | str) -> int:
    """Number of a factor's value, which is given by its text where values have texts; else UserError."""
    if space is None or factor not in space.names or not space.values:
        return as_whole(value, "value")
    texts = space.values[space.names.index(factor)]
    if str(value) not in texts:
        raise UserError(f"{factor} has no value {value!r}; choose one of {name_some(texts)}")
    return texts.index(str(value))
