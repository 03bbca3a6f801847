"""Range checks for the numbers of a configuration, made before anything is computed.

Every number must be finite. Integers must be at least 1 and floats at least 0; the exceptions are listed
below by the last part of their key. Conditions on several values (sizes that must divide each other, ranges
of steps) are checked where the values are used.
"""

from typing import Any

from ldm.errors import UserError
from ldm.numbers import (
    COUNT,
    COUNT_OR_ZERO,
    FINITE,
    FRACTION,
    FRACTION_BELOW_ONE,
    LARGEST,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    WHOLE,
    Range,
)

MAY_BE_ZERO = {
    *("num_workers", "num_pairs"),
    *("num_res_blocks", "attention_levels", "hidden", "harmonics", "gan_start"),
    *("warmup_steps", "kl_warmup_steps", "freeze_steps", "capacity_steps", "t_min"),
    *("pretrain_steps", "anneal_steps", "correlation_memory"),
}
MAY_NOT_BE_ZERO = {
    "learning_rate",
    "grad_clip",
    "clean_cap",
    "change_cap",
    "temperature",
    "code_noise",
    "std",
}
MAY_BE_NEGATIVE = {"zeta", "num_heads", "initial_logvar"}
BELOW_ONE = {"ema_decay", "betas", "dropout", "skip_dropout", "noise_share"}
LENGTHS = {"betas": 2, "mean": 3, "std": 3}  # required lengths of lists


OF_NAME = {
    "probe_steps": Range(whole=True, least=10, most=LARGEST),  # fewer are no schedule of learning rates
    **dict.fromkeys(("eta", "shift", "contradiction"), FRACTION),
    **dict.fromkeys(("seed", "stage_seed", "nuisance_seed"), SEED),
    **dict.fromkeys(MAY_NOT_BE_ZERO, POSITIVE),
    **dict.fromkeys(BELOW_ONE, FRACTION_BELOW_ONE),
}


def check_limits(tree: dict[str, Any], prefix: str = "") -> None:
    """Raise UserError if a number of a complete configuration, or the length of a list, is out of range."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            check_limits(value, f"{key}.")
        elif isinstance(value, list):
            if len(value) != LENGTHS.get(name, len(value)):
                raise UserError(f"{key}={value} must be {LENGTHS[name]} numbers")
            if name == "channel_mult" and not value:
                raise UserError(f"{key}={value} must have a number for each level, at least one")
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                choose_range(name, number).check(key, number)
        if name == "num_heads" and value == 0:
            raise UserError(
                f"{key}=0 is out of range; give a number of heads, or minus the channels per head"
            )


def choose_range(name: str, number: int | float) -> Range:
    """The valid range of a configuration number, chosen by the last part of its key and its type."""
    if name in OF_NAME:
        return OF_NAME[name]
    if not isinstance(number, int):
        return FINITE if name in MAY_BE_NEGATIVE else NOT_NEGATIVE
    if name in MAY_BE_NEGATIVE:
        return WHOLE
    return COUNT_OR_ZERO if name in MAY_BE_ZERO else COUNT
