"""Putting the tensors of others into our modules, every one accounted for: placed, or named with a reason.

Files are poured into one pool in which the first stage's names begin with `first_stage_model.`, as in a file
of latent diffusion; of a name that several files hold, the last file's tensor counts. Moving averages lie
under `model_ema.` with the dots of their names left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from disdiff.interop.autoencoders import COMPVIS, DIFFUSERS, Layout, detect_layout
from disdiff.interop.files import NamedTensor, WeightsFile
from ldm.errors import UserError

FIRST_STAGE, SHADOW = "first_stage_model.", "model_ema."
SCHEDULE = (
    "betas|alphas_cumprod(_prev)?|(sqrt|log)_\\w+|posterior_\\w+|shift_coef|ddim_coef|lvlb_weights|logvar"
)
# what no stage of ours holds, by pattern of the whole name; the first that fits decides
REASONS = {
    rf"({FIRST_STAGE})?loss\..*": "of training only: discriminator and LPIPS",
    rf"({FIRST_STAGE})?model_ema\.(decay|num_updates)": "of training only: counters of the moving average",
    rf"{FIRST_STAGE}model_ema\..*": "moving average of the first stage, which latent diffusion does not use",
    rf"({FIRST_STAGE})?colorize": "for pictures of segmentations only",
    SCHEDULE: "follows from the noise schedule",
    r"(model\.diffusion_model\.)?scale_factor": "is in the standardisation of the latents",
    r"model_ema\..*": "moving average; another choice of weights was asked for",
}
# to which stage of ours the rest belongs, by pattern of how the name begins
STAGES = {
    FIRST_STAGE: "autoencoder",
    r"cond_stage_model\.": "factors",
    r"(model\.|model_ema\.)diffusion_model\.?(shift_|part_|repre_embed)": "factors",
    r"model\.|model_ema\.": "latent_diffusion",
}


@dataclass
class Pool:
    """Tensors of several files by name, and which of them were placed or read.

    Attributes:
        tensors: all of them.
        layout: of the first stage's names; None when there is none.
        used: names that were placed, with where.
        unread: names that are no tensors.
    """

    tensors: dict[str, NamedTensor] = field(default_factory=dict)
    layout: Layout | None = None
    used: dict[str, str] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @classmethod
    def pour(cls, files: list[WeightsFile]) -> "Pool":
        """All files in one, later ones over earlier ones."""
        pool = cls()
        for file in files:
            shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
            layout = detect_layout(shapes)
            prefix = "" if layout is None else FIRST_STAGE
            if layout is DIFFUSERS or (layout is COMPVIS and pool.layout is DIFFUSERS):
                pool.tensors = {n: t for n, t in pool.tensors.items() if not n.startswith(FIRST_STAGE)}
            pool.tensors |= {prefix + name: tensor for name, tensor in file.tensors.items()}
            pool.unread += file.others
            inside = {name.removeprefix(FIRST_STAGE): shape for name, shape in shapes.items()}
            pool.layout = layout or detect_layout(inside) or pool.layout
        return pool

    def shapes(self, prefix: str = "") -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors whose names begin with `prefix`, without it."""
        return {
            name.removeprefix(prefix): tensor.shape
            for name, tensor in self.tensors.items()
            if name.startswith(prefix)
        }

    def find(self, name: str, averaged: bool) -> str:
        """`name`, or that of its moving average if it is wanted and there."""
        if averaged and name.startswith("model."):
            shadow = SHADOW + name.removeprefix("model.").replace(".", "")
            return shadow if shadow in self.tensors else name
        return name

    def scalar(self, *names: str) -> float | None:
        """The number under the first of some names; None if none is there."""
        for name in names:
            if name in self.tensors and self.tensors[name].shape in ((), (1,)):
                return float(self.tensors[name].load())
        return None

    def place(self, module: nn.Module, names: Mapping[str, str], stage: str, averaged: bool = False) -> None:
        """Fill `module` with the tensors that `names` (our name to theirs) finds in the pool.

        Raises:
            UserError: a tensor is missing, has another shape, or is not finite.
        """
        state = module.state_dict()
        found = {target: self.find(names[target], averaged) for target in state if target in names}
        missing = [names.get(target, target) for target in state if found.get(target) not in self.tensors]
        if missing:
            raise UserError(
                f"{stage}: the file lacks {len(missing)} of {len(state)} tensors, such as {missing[0]}; "
                "it is another network, or --kind is wrong"
            )
        for target, name in found.items():
            state[target] = fit(self.tensors[name].load(), state[target], name, stage)
            self.used[name] = f"{stage}: {target}"
            if name != names[target] and names[target] in self.tensors:
                self.used[names[target]] = f"{stage}: replaced by its moving average"
        module.load_state_dict(state)

    def explain_rest(self) -> tuple[dict[str, str], list[str]]:
        """Reasons for the tensors that were not placed, and the names for which there is no reason."""
        reasons, unknown = {}, []
        imported = {place.split(":")[0] for place in self.used.values()}
        for name in self.tensors.keys() - self.used.keys():
            reason = next((why for pattern, why in REASONS.items() if re.fullmatch(pattern, name)), None)
            stage = next((stage for pattern, stage in STAGES.items() if re.match(pattern, name)), None)
            if stage is not None and stage not in imported:
                reason = f"of the stage {stage}, which --kind does not ask for"
            if reason is None:
                unknown.append(name)
            else:
                reasons[name] = reason
        reasons |= dict.fromkeys(self.unread, "no tensor")
        return dict(sorted(reasons.items())), sorted(unknown)


def fit(tensor: Tensor, expected: Tensor, name: str, stage: str) -> Tensor:
    """`tensor` with the type of `expected` and its shape; a matrix serves as a convolution of one pixel.

    Raises:
        UserError: the shapes differ otherwise, or a number is not finite.
    """
    shape = tuple(tensor.shape)
    as_matrix = tuple(expected.shape[:2]) == shape and expected.shape[2:].numel() == 1
    if shape != tuple(expected.shape) and not as_matrix:
        raise UserError(
            f"{stage}: {name} has shape {shape} where {tuple(expected.shape)} is wanted; this network cannot "
            "be imported"
        )
    if not torch.isfinite(tensor).all():
        raise UserError(f"{stage}: {name} has numbers that are not finite; the file is damaged")
    return tensor.to(expected.dtype).reshape(expected.shape)
