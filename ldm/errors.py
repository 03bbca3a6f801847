"""The exception for bad user input; entry points print it as one line and exit with status 2."""

from collections.abc import Collection, Mapping
from typing import TypeVar

T = TypeVar("T")


class UserError(Exception):
    """Bad input from the user; the message is one sentence that names the input and the remedy."""


def look_up(key: str, name: str, table: Mapping[str, T]) -> T:
    """The entry `name` of `table`, which lists the values of the configuration key `key`; else UserError."""
    check_option(key, name, table)
    return table[name]


def check_option(key: str, value: str, options: Collection[str]) -> None:
    """Raise UserError, naming the options, if a value of the configuration key `key` is not one of them."""
    if value not in options:
        raise UserError(f"{key}={value} is unknown; choose one of {', '.join(options)}")
