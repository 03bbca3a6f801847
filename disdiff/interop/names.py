"""Convert tensor names of a file to those of latent diffusion, without the prefixes of wrappers.

    first_stage_model.                      the autoencoder
    model.diffusion_model.                  the U-Net, and DisDiff's gradient decoder
    cond_stage_model.                       DisDiff's factor encoder
    model_ema.                              moving averages, named without the dots of the original names

A network is recognised by a name that no other network has. The prefix of that name (`model.`, `net.`,
`vae.`, a dictionary key) is then replaced for all tensors of the network. Prefixes of wrappers such as
`torch.compile` and data parallelism (`_orig_mod.`, `module.`) are removed everywhere. A second copy of a
network under a prefix such as `ema` is its moving average.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from disdiff.interop.autoencoders import COMPVIS, DIFFUSERS, Layout
from disdiff.interop.denoisers import ENCODER, UNET
from ldm.errors import UserError

T = TypeVar("T")

FIRST_STAGE, CONDITION, SHADOW = "first_stage_model.", ENCODER.removesuffix("encoder."), "model_ema."
WRAPPERS = {
    *("module", "_orig_mod", "_module", "_forward_module"),
    *("_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
}
AVERAGE = re.compile(r"(^|_)(ema|averaged?|avg|shadow|swa)(_|$)", re.IGNORECASE)
SCHEDULE = (
    "betas|alphas_cumprod(_prev)?|(sqrt|log)_\\w+|posterior_\\w+|shift_coef|ddim_coef|lvlb_weights|logvar"
)
OF_NO_NETWORK = re.compile(f"{SCHEDULE}|scale_factor")


def first_blocks(layout: Layout) -> list[str]:
    """Names that every autoencoder of this layout has, one in the encoder and one in the decoder."""
    block = f"{layout.block.format(0)}.conv1.weight"
    return [f"{side}.{levels.format(0)}.{block}" for side, levels in layout.levels.items()]


NETWORKS = {  # names by which each network is recognised
    FIRST_STAGE: [*first_blocks(COMPVIS), *first_blocks(DIFFUSERS)],
    UNET: ["input_blocks.0.0.weight", "output_blocks.0.0.in_layers.2.weight"],
    CONDITION: [f"{ENCODER}0.weight".removeprefix(CONDITION)],
}


@dataclass(frozen=True)
class Rule:
    """Replaces `prefix` by `canonical` at the start of names; `average` marks moving averages."""

    prefix: str
    canonical: str
    average: bool


def settle_names(tensors: Mapping[str, T]) -> tuple[dict[str, T], list[str]]:
    """Rename tensors to the names of latent diffusion; also returns names that belong to no network.

    Raises:
        UserError: a network occurs twice, and the names do not show which one is meant.
    """
    bare = {name: unwrap(name) for name in tensors}
    rules = sorted(find_rules(bare.values()), key=lambda rule: -len(rule.prefix))
    settled: dict[str, T] = {}
    others = []
    for name, tensor in tensors.items():
        rule = next((rule for rule in rules if bare[name].startswith(rule.prefix)), None)
        if rule is None and rules and not OF_NO_NETWORK.fullmatch(bare[name]):
            others.append(name)
            continue
        target = bare[name] if rule is None else rule.canonical + bare[name].removeprefix(rule.prefix)
        target = shadow_of(target) if rule is not None and rule.average else target
        if target in settled:
            raise UserError(f"the tensor {target} occurs twice, once as {name}; remove one of the two")
        settled[target] = tensor
    return settled, others


def unwrap(name: str) -> str:
    """`name` without wrapper prefixes; in names of moving averages these have no dots."""
    head, shadow, tail = name.rpartition(SHADOW)
    if shadow and "." not in tail:
        tail = re.sub("|".join(sorted(WRAPPERS, key=len, reverse=True)), "", tail)
    parts = [part for part in head.split(".") if part not in WRAPPERS]
    return ".".join(parts) + shadow + ".".join(part for part in tail.split(".") if part not in WRAPPERS)


def shadow_of(name: str) -> str:
    """Name of the moving average of a tensor."""
    return SHADOW + name.removeprefix("model.").replace(".", "")


def find_rules(names: Iterable[str]) -> set[Rule]:
    """Find the rules that rename the networks of a file.

    Raises:
        UserError: as `settle_names`.
    """
    names, rules = list(names), set()
    for network, marks in NETWORKS.items():
        places = {
            name.removesuffix(mark)
            for name in names
            for mark in marks
            if name.endswith(mark) and name.removesuffix(mark)[-1:] in ("", ".")
        }
        if network == CONDITION:  # its own names are not unique
            places = {place for place in places if place.endswith(network)}
        averaged = {place for place in places if any(map(AVERAGE.search, place.split(".")))}
        own = places - averaged or averaged
        for copies, average in ((own, False), (averaged - own, True)):
            full = {place for place in copies if place.endswith(network)}
            chosen = full or copies
            if len(chosen) > 1:
                told = ", ".join(sorted(place or "no prefix" for place in chosen))
                raise UserError(f"one network occurs {len(chosen)} times ({told}); keep one of them")
            for place in chosen:
                root, canonical = (place.removesuffix(network), "") if full else (place, network)
                rules.add(Rule(root, canonical, average))
    return rules
