"""The range of floating images that come from outside: [-1, 1], which [0, 1] must not be taken for."""

from ldm.errors import UserError

SLACK = 1e-3  # by which numbers may leave [-1, 1]


def check_range(low: float, high: float, name: str) -> None:
    """Refuse floating images that do not lie in [-1, 1], or that look as if they lay in [0, 1].

    Images without a value below 0 are taken for images in [0, 1]; read as [-1, 1] they would be washed out.
    The few that are so bright in [-1, 1] can be given as uint8.

    Args:
        low: smallest value, or NaN.
        high: largest value, or NaN.
        name: of the images in errors.

    Raises:
        UserError: they do.
    """
    if not (low >= -1 - SLACK and high <= 1 + SLACK):  # NaN fails too
        raise UserError(
            f"{name} holds floats outside [-1, 1]: map 0..255 by x / 127.5 - 1, or give uint8; floats must"
            f" lie in [-1, 1], here are values up to {max(-low, high):.4g}"
        )
    if low >= -SLACK:
        raise UserError(
            f"{name} holds floats without a value below 0, from {low:.4g} to {high:.4g}, as images in [0, 1]"
            " do, but floats must lie in [-1, 1]: convert them by 2 * x - 1; images in [-1, 1] that are so"
            " bright go in as uint8, by ((x + 1) * 127.5).round()"
        )
