"""Read YAML so that values of text keys are taken literally.

Where the configuration expects a text, `007`, `on` and `2024_06_01` are texts, not numbers or booleans. To
this end a YAML document is parsed into nodes, the scalars of text keys are quoted, and the nodes are written
back as YAML. All other values keep their YAML meaning.
"""

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args

import yaml

NULLS = ("", "~", "null", "Null", "NULL")
TEXT_TAG = "tag:yaml.org,2002:str"
MERGE_KEY = "<<"


def quote_texts(text: str, kind: Any) -> str:
    """The same YAML document with quotes around the scalars whose type is text.

    `kind` is the type of its content: a dataclass, a text, a list of texts, or anything else.

    Raises:
        yaml.YAMLError: the document is not valid YAML.
    """
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is None:
        return text
    return yaml.serialize(_quote(node, kind), Dumper=yaml.SafeDumper, allow_unicode=True)


def read_text(text: str, kind: Any) -> str | None:
    """Read a text value from the command line, without its quotes if the whole value is quoted.

    An empty value is None; so are `null` and `~` if the type allows None.
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
    """Whether a type is text, or text or None."""
    return str in _members(kind)


def may_be_none(kind: Any) -> bool:
    """Whether a type allows None."""
    return type(None) in _members(kind)


def list_kinds(schema: type, prefix: str = "") -> dict[str, Any]:
    """Type of every dotted key of a dataclass and its nested dataclasses, in order."""
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
