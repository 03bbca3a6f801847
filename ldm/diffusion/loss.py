"""The denoising loss: the error of the predicted noise.

With "l2", its mean over samples, steps and noise is the simple loss of Ho, Jain, Abbeel, "Denoising Diffusion
Probabilistic Models", 2020, arXiv:2006.11239, Eq. (14). DisDiff's released configurations use "l1". The
caller weights the steps and takes the mean over the batch.
"""

from torch import Tensor

from ldm.errors import check_option

KINDS = ("l1", "l2")


def denoising_error(eps_hat: Tensor, eps: Tensor, kind: str) -> Tensor:
    """Error of the noise `eps_hat` (B, ...), predicted for `eps`: mean over all axes but the batch, (B,).

    `kind` is "l1" for the absolute or "l2" for the squared difference.

    Raises:
        UserError: `kind` is unknown.
        ValueError: the shapes differ.
    """
    if eps_hat.shape != eps.shape:
        raise ValueError(f"expected eps_hat of shape {tuple(eps.shape)} like eps, got {tuple(eps_hat.shape)}")
    check_option("norm", kind, KINDS)
    if kind == "l1":
        return (eps_hat - eps).abs().flatten(1).mean(1)
    return (eps_hat - eps).square().flatten(1).mean(1)
