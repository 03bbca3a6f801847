"""The one exception that is the user's to mend; entry points print it as one line and exit with status 2."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Bad input, named in one sentence that ends in its remedy."""


def choose(key: str, name: str, table: Mapping[str, T]) -> T:
    """The entry `name` of the choices that the configuration key `key` has.

    Raises:
        UserError: there is none of that name.
    """
    if name not in table:
        raise UserError(f"{key}={name} is unknown; choose one of {', '.join(table)}")
    return table[name]
