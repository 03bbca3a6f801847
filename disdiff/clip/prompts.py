"""Prompts files (factors in words), and the directions between their values in a CLIP's text space.

The embedding of a value is the mean of the unit-length text embeddings over its texts and all templates,
normalised again ("template ensembling", Radford et al. 2021, arXiv:2103.00020). The direction from value a to
value b of a factor is

    e_ab = norm(T_b - T_a),        T_v the embedding of value v.

The subspace of a factor is spanned by the T_v - mean_v T_v of all its values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from disdiff.config.places import find
from ldm.errors import UserError

EXAMPLE = "factors: {wall colour: {red: [a red wall], blue: [a blue wall]}}, templates: ['a photo of {}']"
KEYS = ("factors", "templates", "labels")
SAME_TEXTS = 1e-4  # largest distance by rounding of two unit-length embeddings of the same texts


class LiteralLoader(yaml.BaseLoader):
    """YAML loader that keeps every scalar as text: `no`, `007` and `null` are names like any other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; a key that occurs twice is an error."""
        mapping, seen = super().construct_mapping(node, deep=True), set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"{key.value!r} occurs twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return mapping


@dataclass
class Prompts:
    """Content of a prompts file.

    Attributes:
        factors: factor => value => texts.
        templates: templates with `{}` as the place of a text.
        labels: name of a factor in the data set, if it differs; used only to evaluate names.
    """

    factors: dict[str, dict[str, list[str]]]
    templates: list[str]
    labels: dict[str, str]


@dataclass
class TextDirections:
    """Directions in text space.

    Attributes:
        factors: names of the factors.
        values: names of the values of each factor.
        embeddings: for each factor the embeddings of its values, unit vectors, shape (V, E).
        factor: factor of each contrast, shape (M,) int64.
        pairs: the two values of each contrast.
        contrasts: directions from the first to the second value, unit vectors, shape (M, E).
    """

    factors: list[str]
    values: list[list[str]]
    embeddings: list[Tensor]
    factor: Tensor
    pairs: list[tuple[str, str]]
    contrasts: Tensor


def read_prompts(path: str | Path) -> Prompts:
    """Read a prompts file; names and texts are kept as written, not converted as by YAML.

    Raises:
        UserError: the file cannot be read, or does not have the form of `EXAMPLE`.
    """
    try:
        content = yaml.load(find(path).read_bytes(), LiteralLoader)  # noqa: S506, the loader only builds text
    except OSError as error:
        raise UserError(f"cannot read the prompts {path}: {error.strerror}") from error
    except RecursionError as error:
        raise UserError(f"{path} is not valid YAML: it is nested too deeply") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        parts = [getattr(error, name, None) for name in ("context", "problem")]
        what = " ".join(filter(None, parts)) or str(error).splitlines()[0]
        tabs = " (indent with spaces)" if "\\t" in what else ""
        raise UserError(f"{path} is not valid YAML: {line}{what}{tabs}") from error
    return check_prompts(content, path)


def check_prompts(content: Any, path: str | Path) -> Prompts:
    """Convert a file's content to prompts.

    Raises:
        UserError: it does not have the form of `EXAMPLE`, or two names or the texts of two values are the
            same.
    """
    try:
        return Prompts(*_check(content))
    except ValueError as error:
        raise UserError(f"{path}: {error}; write for example {EXAMPLE}") from error


def fold(text: str) -> str:
    """Normalise capitals and white space, which most CLIPs ignore."""
    return " ".join(text.casefold().split())


def _check(content: Any) -> tuple[dict[str, dict[str, list[str]]], list[str], dict[str, str]]:
    """Return factors, templates and labels of a file's content.

    Raises:
        ValueError: the content is invalid; the message gives the reason.
    """
    if not isinstance(content, dict) or not content.get("factors"):
        raise ValueError("there are no factors")
    unknown = [key for key in content if key not in KEYS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is unknown; a file of prompts has {', '.join(KEYS)}")
    factors = content["factors"]
    if not isinstance(factors, dict):
        raise ValueError("factors must be names, each with its values")
    _check_names(list(factors), "factors")
    for name, values in factors.items():
        _check_values(name, values)
    _check_apart({name: _texts_of(values) for name, values in factors.items()}, "factors", "values")
    templates = content.get("templates", ["{}"])
    _check_templates(templates)
    labels = content.get("labels") or {}
    if not isinstance(labels, dict) or content.get("labels") == []:
        raise ValueError("labels must be names of factors, each with its name in the data set")
    for name, label in labels.items():
        if name not in factors:
            raise ValueError(f"labels has {name!r}, which is not a factor; factors are {', '.join(factors)}")
        if not isinstance(label, str) or not label.strip():
            raise ValueError(f"the label of {name!r} must be one text")
    return factors, templates, labels


def _check_templates(templates: Any) -> None:
    if not isinstance(templates, list) or not templates:
        raise ValueError("templates must be a list of texts with {} in them")
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise ValueError(f"the template {template!r} must be a text with {{}} in it")
        rest = template.replace("{}", "", 1)
        if "{" in rest or "}" in rest:
            raise ValueError(f"the template {template!r} must have one {{}} and no other brace")


def _check_names(names: list[Any], what: str) -> None:
    folded: dict[str, str] = {}
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{name!r} is not a name for {what}: names are texts")
        if fold(name) in folded:
            raise ValueError(f"the {what} {folded[fold(name)]!r} and {name!r} have the same name")
        folded[fold(name)] = name


def _check_values(name: str, values: Any) -> None:
    if not isinstance(values, dict) or len(values) < 2:
        raise ValueError(f"the factor {name!r} needs two values or more, each with its texts")
    _check_names(list(values), f"values of {name!r}")
    for value, texts in values.items():
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(text, str) and text.strip() for text in texts)
        ):
            raise ValueError(f"{value!r} of {name!r} needs a list of texts, none of them empty")
    folded = {value: frozenset(map(fold, texts)) for value, texts in values.items()}
    _check_apart(folded, f"values of {name!r}", "texts")


def _texts_of(values: dict[str, list[str]]) -> frozenset[frozenset[str]]:
    return frozenset(frozenset(map(fold, texts)) for texts in values.values())


def _check_apart(texts: dict[str, frozenset], what: str, parts: str) -> None:
    """Raise ValueError if two names have the same texts, as there is no direction between them."""
    seen: dict[frozenset, str] = {}
    for name, own in texts.items():
        if own in seen:
            raise ValueError(f"the {what} {seen[own]!r} and {name!r} have the same {parts}")
        seen[own] = name


def embed_prompts(encode_text: Callable[[list[str]], Tensor], prompts: Prompts) -> TextDirections:
    """Compute the text directions of prompts; `encode_text` maps n texts to unit-length embeddings (n, E).

    Raises:
        UserError: the texts of two values have the same embedding.
    """
    embeddings, factor, pairs, contrasts = [], [], [], []
    for f, (name, values) in enumerate(prompts.factors.items()):
        rows = []
        for texts in values.values():
            filled = [template.replace("{}", text) for text in texts for template in prompts.templates]
            rows.append(F.normalize(encode_text(filled).mean(dim=0), dim=0))
        embeddings.append(torch.stack(rows))
        names = list(values)
        for a, b in combinations(range(len(names)), 2):
            if (rows[b] - rows[a]).norm() < SAME_TEXTS:
                raise UserError(
                    f"the texts of {names[a]!r} and {names[b]!r} of {name!r} have the same CLIP embedding; "
                    "write texts with different words"
                )
            factor.append(f)
            pairs.append((names[a], names[b]))
            contrasts.append(F.normalize(rows[b] - rows[a], dim=0))
    words = [list(values) for values in prompts.factors.values()]
    return TextDirections(
        list(prompts.factors), words, embeddings, torch.tensor(factor), pairs, torch.stack(contrasts)
    )


def principal_text_axes(embeddings: Tensor, count: int) -> Tensor:
    """Orthonormal axes along which the texts of a factor's values (V, E) differ most, shape (count, E).

    There are at most V - 1 axes; the rest are zero. The sign of an axis is arbitrary: its largest entry is
    made positive.
    """
    centred = embeddings - embeddings.mean(dim=0)
    rank = min(count, len(embeddings) - 1, embeddings.shape[1])
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:rank]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return F.pad(axes * largest.sign(), (0, 0, 0, count - rank))


@torch.no_grad()
def anchor_axes(encode_text: Callable[[list[str]], Tensor], path: str | Path, count: int) -> Tensor:
    """Principal text axes of every factor in a prompts file, shape (F, count, E).

    Raises:
        UserError: as `read_prompts` and `embed_prompts`.
    """
    directions = embed_prompts(encode_text, read_prompts(path))
    return torch.stack([principal_text_axes(embeddings, count) for embeddings in directions.embeddings])
