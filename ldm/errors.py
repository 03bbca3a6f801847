"""The exception for bad user input; entry points print it as one line and exit with status 2."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Bad input from the user; the message is one sentence that names the input and the remedy."""


def choose(key: str, name: str, table: Mapping[str, T]) -> T:
    """Look up `name` in the `table` of values that the configuration key `key` may take.

    Raises:
        UserError: `name` is not in the table.
    """
    if name not in table:
        raise UserError(f"{key}={name} is unknown; choose one of {', '.join(table)}")
    return table[name]
