"""Factors in words, and the directions of a CLIP's text space between them.

The embedding of a value is the mean over its texts and all templates of the unit text embeddings, normalised
again ("template ensembling", Radford et al. 2021, arXiv:2103.00020). Two values of a factor span a direction,

    e_ab = norm(T_b - T_a),        T_v the embedding of value v,

and all values of a factor a subspace, that of the T_v - mean_v T_v.
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

from ldm.errors import UserError

EXAMPLE = "factors: {wall colour: {red: [a red wall], blue: [a blue wall]}}, templates: ['a photo of {}']"


@dataclass
class Prompts:
    """A prompts file.

    Attributes:
        factors: per factor its values, per value its texts.
        templates: with `{}` where a text goes.
        labels: what a factor is called in the data set, where its name here differs; only to judge names.
    """

    factors: dict[str, dict[str, list[str]]]
    templates: list[str]
    labels: dict[str, str]


@dataclass
class TextDirections:
    """Directions of text space.

    Attributes:
        factors: the factors' names.
        values: per factor the names of its values.
        embeddings: per factor those of its values, unit vectors, shape (V, E).
        factor: factor of each contrast, shape (M,) int64.
        pairs: the two values of each contrast.
        contrasts: from the first to the second, unit vectors, shape (M, E).
    """

    factors: list[str]
    values: list[list[str]]
    embeddings: list[Tensor]
    factor: Tensor
    pairs: list[tuple[str, str]]
    contrasts: Tensor


def read_prompts(path: str | Path) -> Prompts:
    """Read a prompts file.

    Raises:
        UserError: it cannot be read, or has not the form of `EXAMPLE`.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the prompts {path}: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    return check_prompts(content, path)


def check_prompts(content: Any, path: str | Path) -> Prompts:
    """The prompts of a file's content.

    Raises:
        UserError: it has not the form of `EXAMPLE`.
    """

    def refuse(what: str) -> UserError:
        return UserError(f"{path}: {what}; write for example {EXAMPLE}")

    factors = content.get("factors") if isinstance(content, dict) else None
    if not isinstance(factors, dict) or not factors:
        raise refuse("there are no factors")
    for name, values in factors.items():
        if not isinstance(values, dict) or len(values) < 2:
            raise refuse(f"the factor {name!r} needs two values or more, each with its texts")
        for value, texts in values.items():
            if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
                raise refuse(
                    f"{value!r} of {name!r} needs a list of texts (quote words such as 'no' and 'on')"
                )
    templates = content.get("templates", ["{}"])
    if (
        not isinstance(templates, list)
        or not all(isinstance(t, str) and "{}" in t for t in templates)
        or not templates
    ):
        raise refuse("templates must be a list of texts with {} in them")
    named = {str(name): {str(v): texts for v, texts in values.items()} for name, values in factors.items()}
    return Prompts(named, templates, dict(content.get("labels") or {}))


def embed_prompts(encode_text: Callable[[list[str]], Tensor], prompts: Prompts) -> TextDirections:
    """Directions of prompts.

    Args:
        encode_text: texts to unit embeddings (n, E).
        prompts: factors in words.
    """
    embeddings, factor, pairs, contrasts = [], [], [], []
    for f, values in enumerate(prompts.factors.values()):
        rows = []
        for texts in values.values():
            filled = [template.format(text) for text in texts for template in prompts.templates]
            rows.append(F.normalize(encode_text(filled).mean(dim=0), dim=0))
        embeddings.append(torch.stack(rows))
        names = list(values)
        for a, b in combinations(range(len(names)), 2):
            factor.append(f)
            pairs.append((names[a], names[b]))
            contrasts.append(F.normalize(rows[b] - rows[a], dim=0))
    values = [list(values) for values in prompts.factors.values()]
    return TextDirections(
        list(prompts.factors), values, embeddings, torch.tensor(factor), pairs, torch.stack(contrasts)
    )


def principal_text_axes(embeddings: Tensor, count: int) -> Tensor:
    """Orthonormal axes along which the texts of a factor's values (V, E) differ most, shape (count, E).

    There are at most V - 1; the rest are zero. An axis has no sign of its own: its largest entry is made
    positive.
    """
    centred = embeddings - embeddings.mean(dim=0)
    rank = min(count, len(embeddings) - 1, embeddings.shape[1])
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:rank]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    return F.pad(axes * largest.sign(), (0, 0, 0, count - rank))


@torch.no_grad()
def anchor_axes(encode_text: Callable[[list[str]], Tensor], path: str | Path, count: int) -> Tensor:
    """Principal text axes of every factor in a prompts file, shape (F, count, E)."""
    directions = embed_prompts(encode_text, read_prompts(path))
    return torch.stack([principal_text_axes(embeddings, count) for embeddings in directions.embeddings])
