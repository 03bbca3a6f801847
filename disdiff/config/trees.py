"""Operations on configuration trees (OmegaConf trees or nested dictionaries)."""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from disdiff.config.yaml_texts import list_kinds
from ldm.errors import UserError


def find_value(key: str, trees: list[DictConfig], default: Any) -> Any:
    """The value of a dotted key in the first tree that has it, else `default`."""
    parent, _, name = key.rpartition(".")
    sections = (OmegaConf.select(tree, parent) if parent else tree for tree in trees)
    return next((section[name] for section in sections if _has(section, name)), default)


@contextmanager
def refuse_bad_values() -> Iterator[None]:
    """Turn OmegaConf's errors about a value into a UserError of one sentence that names the key."""
    try:
        yield
    except OmegaConfBaseException as error:
        key, reason = getattr(error, "full_key", None) or "a key", str(error).splitlines()[0]
        if isinstance(error, InterpolationResolutionError):
            reason = reason.rsplit("interpolation: ", 1)[-1].strip('"')
            message = f"{key} cannot be resolved: {reason}; set that variable, or write the value itself"
            raise UserError(message) from error
        raise UserError(f"{key} has a value of the wrong type: {reason}") from error


def check_keys(tree: DictConfig, schema: type) -> None:
    """Raise UserError for an unknown key, naming the nearest valid one, or a value in place of a section."""
    valid = set(list_kinds(schema))
    sections = {key.rsplit(".", 1)[0] for key in valid if "." in key}
    for key, value in _items(OmegaConf.to_container(tree)):
        if key in sections and not isinstance(value, dict):
            raise UserError(
                f"{key} has a value of the wrong type: it is a section; set its keys {key}.<name> instead"
            )
        if key not in valid:
            last = key.rsplit(".", 1)[-1]
            same_name = [other for other in valid if other.rsplit(".", 1)[-1] == last]
            names = list(value) if isinstance(value, dict) else []
            fitting = [
                other for other in sections if names and valid >= {f"{other}.{name}" for name in names}
            ]
            nearest = (
                difflib.get_close_matches(key, sorted(fitting), n=1, cutoff=0.0)
                or difflib.get_close_matches(key, sorted(valid), n=1, cutoff=0.5)
                or same_name
            )
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise UserError(f"unknown configuration key {key!r}{hint}")


def first_difference(a: dict, b: dict, prefix: str = "") -> str | None:
    """Dotted key of the first value in which two configurations differ, or None.

    Sections that do not affect the trained weights (run, trainer, evaluation and so on) are skipped.
    """
    for key in a:
        if key in ("run", "trainer", "evaluation", "sampler", "weights", "stages"):
            continue
        if isinstance(a[key], dict):
            found = first_difference(a[key], b[key], f"{prefix}{key}.")
            if found:
                return found
        elif a[key] != b[key]:
            return prefix + key
    return None


def escape(tree: Any) -> Any:
    """Escape `${` in the texts of nested dictionaries, so that OmegaConf takes them literally."""
    if isinstance(tree, dict):
        return {key: escape(value) for key, value in tree.items()}
    if isinstance(tree, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", tree)
    return tree


def _items(tree: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values of nested dictionaries."""
    if not isinstance(tree, dict):
        return []
    nested = [[(f"{prefix}{key}", value), *_items(value, f"{prefix}{key}.")] for key, value in tree.items()]
    return [item for items in nested for item in items]


def _has(section: Any, name: str) -> bool:
    return isinstance(section, DictConfig) and name in section
