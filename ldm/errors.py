"""The exception for bad user input; entry points print it as one line and exit with status 2."""

from collections.abc import Collection, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Bad input from the user; the message is one sentence that names the input and the remedy."""


def look_up(key: str, name: str, table: Mapping[str, T]) -> T:
    """The entry `name` of `table`, whose names are the values that the configuration key `key` may take.

    Raises:
        UserError: `name` is not in the table.
    """
    check_option(key, name, table)
    return table[name]


def check_option(key: str, value: str, options: Collection[str]) -> None:
    """Refuse a value of the configuration key `key` that is not one of `options`.

    Raises:
        UserError: naming the key and the options.
    """
    if value not in options:
        raise UserError(f"{key}={value} is unknown; choose one of {', '.join(options)}")
