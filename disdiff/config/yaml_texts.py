"""YAML whose texts stay as they are written: where a configuration has a text, `007`, `on` and `2024_06_01`
are texts and neither numbers nor truth values.

A YAML text is read into nodes, the scalars whose key is a text are quoted, and the nodes are written again;
whoever reads the result finds the texts literal and all else as YAML has it.
"""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args

import yaml

NULLS = ("", "~", "null", "Null", "NULL")
TEXT_TAG = "tag:yaml.org,2002:str"
MERGE_KEY = "<<"


def quote_texts(text: str, kind: Any) -> str:
    """The same YAML with the scalars in quotes whose type is text.

    Args:
        text: a YAML document.
        kind: type of what it says: a dataclass, a text, a list of texts, or anything else.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return text
    return yaml.serialize(_quote(node, kind), Dumper=yaml.SafeDumper, allow_unicode=True)


def read_text(text: str, kind: Any) -> str | None:
    """A text of the command line: what stands between quotes if all of it does, else every character of it.

    Nothing, and for a text that may be absent `null` or `~`, is None.
    """
    if text == "" or (may_be_none(kind) and text in NULLS):
        return None
    if text[0] in "'\"" and text[-1] == text[0]:
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            return text
        if isinstance(node, yaml.ScalarNode) and node.style and node.end_mark.index == len(text):
            return node.value
    return text


def is_text(kind: Any) -> bool:
    """Whether values of a type are texts, or texts or None."""
    return str in _members(kind)


def may_be_none(kind: Any) -> bool:
    """Whether a type has None."""
    return type(None) in _members(kind)


def list_kinds(schema: type, prefix: str = "") -> dict[str, Any]:
    """Type of every dotted key of a dataclass and the dataclasses within it, in order."""
    kinds = {}
    for item in fields(schema):
        kinds[prefix + item.name] = item.type
        if isinstance(item.type, type) and is_dataclass(item.type):
            kinds |= list_kinds(item.type, f"{prefix}{item.name}.")
    return kinds


def _members(kind: Any) -> tuple:
    """The types of a union, or the type itself."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _quote(node: yaml.Node, kind: Any) -> yaml.Node:
    if isinstance(node, yaml.ScalarNode) and is_text(kind):
        absent = node.value == "" or (may_be_none(kind) and node.value in NULLS)
        return node if absent and not node.style else yaml.ScalarNode(TEXT_TAG, node.value, style='"')
    if isinstance(node, yaml.SequenceNode) and list[str] in _members(kind):
        return yaml.SequenceNode(node.tag, [_quote(child, str) for child in node.value])
    if isinstance(node, yaml.MappingNode) and is_dataclass(kind):
        kinds = {item.name: item.type for item in fields(kind)} | {MERGE_KEY: kind}
        pairs = [(key, _quote(value, kinds.get(key.value))) for key, value in node.value if _is_name(key)]
        return yaml.MappingNode(node.tag, pairs + [pair for pair in node.value if not _is_name(pair[0])])
    return node


def _is_name(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)
