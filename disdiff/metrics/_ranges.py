"""Check that floating-point images from users are in [-1, 1], not in [0, 1]."""

from ldm.errors import UserError

SLACK = 1e-3  # values may be this far outside [-1, 1]


def check_range(low: float, high: float, name: str) -> None:
    """Check the value range of floating-point images.

    Images without a value below 0 are assumed to be in [0, 1] by mistake; read as [-1, 1] they would be
    washed out. Images in [-1, 1] that are really so bright can be given as uint8.

    Args:
        low: smallest value, or NaN.
        high: largest value, or NaN.
        name: name of the images in errors.

    Raises:
        UserError: values are outside [-1, 1], or none is below 0.
    """
    if not (low >= -1 - SLACK and high <= 1 + SLACK):  # NaN fails too
        raise UserError(
            f"{name} holds floats outside [-1, 1], up to {max(-low, high):.4g}: map 0..255 by x / 127.5 - 1,"
            " or use uint8"
        )
    if low >= -SLACK:
        raise UserError(
            f"{name} holds floats from {low:.4g} to {high:.4g}, which look like images in [0, 1], but floats"
            " must be in [-1, 1]: convert them by 2 * x - 1, or, if they are in [-1, 1] and really so bright,"
            " give uint8 by ((x + 1) * 127.5).round()"
        )
