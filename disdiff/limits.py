"""The limits of the numbers in a configuration, so that a slip is refused before anything is trained.

Whole numbers are at least 1 and others at least 0, but for the exceptions below, by the last part of their
key. What a value means together with others (sizes that must divide each other, ranges of steps) is checked
where it is used.
"""

from typing import Any

from ldm.errors import UserError

MAY_BE_ZERO = {
    *("seed", "stage_seed", "num_workers", "num_pairs"),
    *("num_res_blocks", "attention_levels", "hidden", "harmonics", "gan_start"),
    *("warmup_steps", "kl_warmup_steps", "hold_steps", "capacity_steps", "t_min"),
}
MAY_NOT_BE_ZERO = {"learning_rate", "grad_clip", "clean_cap", "change_cap", "temperature", "code_noise"}
MAY_BE_NEGATIVE = {"zeta", "num_heads", "initial_logvar"}
BELOW_ONE = {"ema_decay", "betas", "dropout", "noise_share"}


def check_limits(tree: dict[str, Any], prefix: str = "") -> None:
    """Check every number of a complete configuration, as nested dictionaries.

    Raises:
        UserError: a number is outside its limits.
    """
    for name, value in tree.items():
        if isinstance(value, dict):
            check_limits(value, f"{prefix}{name}.")
            continue
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check(f"{prefix}{name}", name, number)


def _check(key: str, name: str, number: int | float) -> None:
    if name in MAY_BE_NEGATIVE:
        return
    least = 1 if isinstance(number, int) and name not in MAY_BE_ZERO else 0
    if not number >= least or (number == 0 and name in MAY_NOT_BE_ZERO):  # NaN is not at least anything
        wanted = "more than 0" if name in MAY_NOT_BE_ZERO else f"at least {least}"
        raise UserError(f"{key}={number} is out of range; it must be {wanted}")
    if name in BELOW_ONE and number >= 1:
        raise UserError(f"{key}={number} is out of range; it must be less than 1")
