"""Name units by the factor that they change, with a score and a p-value.

For unit k let delta_ki be the displacement of image i's embedding, d_k = mean_i delta_ki, and e_ab the text
directions of the prompts. Then

    score of factor f = max over its values a, b of |cos(d_k, e_ab)|

and the name is the factor with the highest score. The margin is the difference to the second highest score.
The consistency is the share of images whose displacement points in the named direction. The effect is the
length of d_k in units of the mean distance between two images' embeddings; it is small if the unit moves each
image in another direction. Below `MIN_EFFECT` the verdict is "no effect".

The p-value compares with random directions that are named in the same way. They are normal with the
covariance of image embeddings, so images do vary along them; isotropic directions would be too easy to beat.
If images vary more in one factor than in another, random directions reach its texts more easily. So a score
is replaced by its rank among the random directions' scores for the same factor,

    r = P(a random direction's score of factor f >= score of f),  p = P(r of a random direction's name <= r),

and p is uniform for random directions. p-values are corrected by Holm's method over the units with an effect.

Without prompts, units are grouped whose d_k have the same or opposite direction (average linkage over
1 - |cos|); each group has the images that it moves most.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from disdiff.clip.prompts import TextDirections

MIN_EFFECT = 0.05  # relative to the mean distance between two images
LEVEL = 0.05  # significance level for the corrected p-value
NUM_DRAWS = 20_000
SAME = 0.3  # largest 1 - |cos| within a group of units
NAMED, UNNAMED, NO_EFFECT = "named", "not named", "no effect"
RANDOM_DIRECTIONS = "random directions with the covariance of the image embeddings"


@dataclass
class Finding:
    """Result of discovery for a unit.

    Attributes:
        unit: the unit's number.
        verdict: `named`, `not named` or `no effect`.
        effect: length of the mean displacement over the mean distance between images.
        name: factor with the highest score; None without prompts.
        values: the factor's values at the start and end of the change when the unit grows.
        score: |cos|, in [0, 1].
        second: factor with the second highest score; None if there is only one factor.
        margin: score minus that of `second`.
        consistency: share of images that move in the named direction.
        p: p-value against random directions.
        p_corrected: Holm's correction over units with an effect; 1 for a unit without.
    """

    unit: int
    verdict: str
    effect: float
    name: str | None = None
    values: tuple[str, str] | None = None
    score: float | None = None
    second: str | None = None
    margin: float | None = None
    consistency: float | None = None
    p: float | None = None
    p_corrected: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to a dictionary."""
        return asdict(self)


def typical_distance(embeddings: Tensor) -> float:
    """Mean distance between two different rows of embeddings (m, E)."""
    return F.pdist(embeddings).mean().item()


def measure_effects(moved: Tensor, embeddings: Tensor) -> Tensor:
    """Lengths of mean displacements (K, n, E) over the typical distance of embeddings (m, E), shape (K,)."""
    return moved.mean(dim=1).norm(dim=1) / typical_distance(embeddings)


def name_displacements(
    units: list[int],
    moved: Tensor,
    directions: TextDirections,
    embeddings: Tensor,
    generator: torch.Generator,
) -> list[Finding]:
    """Name units by the displacements of embeddings.

    Args:
        units: numbers of K units.
        moved: displacements, shape (K, n, E).
        directions: text directions of the prompts.
        embeddings: embeddings of images of the data set, shape (m, E), for typical distances and p-values.
        generator: CPU generator of the random directions.

    Returns:
        One finding per unit, in the same order.
    """
    mean, effects = moved.mean(dim=1), measure_effects(moved, embeddings)
    cosines = F.normalize(mean, dim=1) @ directions.contrasts.T  # (K, M)
    scores = score_factors(cosines, directions)
    p = judge_scores(scores, null_scores(directions, embeddings, generator))
    effective = effects >= MIN_EFFECT
    corrected = torch.ones(len(p), dtype=p.dtype)
    corrected[effective] = correct_holm(p[effective])
    findings = []
    for k, unit in enumerate(units):
        verdict = NO_EFFECT if not effective[k] else NAMED if corrected[k] < LEVEL else UNNAMED
        chances = {"p": p[k].item(), "p_corrected": corrected[k].item()}
        names = describe_best(cosines[k], scores[k], moved[k], directions)
        findings.append(Finding(unit, verdict, effects[k].item(), **names, **chances))
    return findings


def score_factors(cosines: Tensor, directions: TextDirections) -> Tensor:
    """Highest |cosine| (K, M) of each factor's contrasts, shape (K, F)."""
    columns = [cosines[:, directions.factor == f].abs().amax(dim=1) for f in range(len(directions.factors))]
    return torch.stack(columns, dim=1)


def describe_best(
    cosines: Tensor, scores: Tensor, moved: Tensor, directions: TextDirections
) -> dict[str, Any]:
    """Name, values, score, margin and consistency of one unit.

    Args:
        cosines: cosines with all contrasts, shape (M,).
        scores: scores of all factors, shape (F,).
        moved: displacements of the images, shape (n, E).
        directions: text directions of the prompts.
    """
    order = scores.argsort(descending=True)
    of_factor = torch.where(directions.factor == order[0], cosines.abs(), -1.0)
    contrast = int(of_factor.argmax())
    sign = 1.0 if cosines[contrast] >= 0 else -1.0
    start, end = directions.pairs[contrast] if sign > 0 else directions.pairs[contrast][::-1]
    along = sign * (moved @ directions.contrasts[contrast])
    several = len(order) > 1
    return {
        "name": directions.factors[int(order[0])],
        "values": (start, end),
        "score": scores[order[0]].item(),
        "second": directions.factors[int(order[1])] if several else None,
        "margin": (scores[order[0]] - scores[order[1]]).item() if several else None,
        "consistency": (along > 0).double().mean().item(),
    }


def null_scores(
    directions: TextDirections, embeddings: Tensor, generator: torch.Generator, num_draws: int = NUM_DRAWS
) -> Tensor:
    """Scores of all factors for random directions, shape (num_draws, F).

    The directions are random combinations of centred embeddings (m, E), so they have the same covariance.
    """
    centred = embeddings - embeddings.mean(dim=0)
    weights = torch.randn((num_draws, len(centred)), generator=generator)
    drawn = F.normalize(weights @ centred, dim=1)
    return score_factors(drawn @ directions.contrasts.T, directions)


def judge_scores(scores: Tensor, null: Tensor) -> Tensor:
    """p-values of names, shape (K,).

    Args:
        scores: scores of units for factors, shape (K, F).
        null: scores of random directions, shape (n, F).
    """
    ordered = null.sort(dim=0).values.T.contiguous()  # (F, n)

    def rank(rows: Tensor) -> Tensor:
        """Number of random directions with at least this score for the best factor, shape (rows,)."""
        factor = rows.argmax(dim=1)
        below = torch.searchsorted(ordered, rows.T.contiguous()).T  # (rows, F)
        return len(null) - below.gather(1, factor[:, None]).squeeze(1)

    as_rare = rank(null).sort().values
    return (1 + torch.searchsorted(as_rare, rank(scores), right=True)) / (1 + len(null))


def correct_holm(p: Tensor) -> Tensor:
    """Holm's step-down correction of p-values (K,), which controls the family-wise error, shape (K,)."""
    order = p.argsort()
    factors = torch.arange(len(p), 0, -1, dtype=p.dtype)
    stepped = (p[order] * factors).cummax(dim=0).values.clamp(max=1.0) if len(p) else p
    corrected = torch.empty_like(p)
    corrected[order] = stepped
    return corrected


def group_units(
    units: list[int], moved: Tensor, embeddings: Tensor, num_exemplars: int
) -> tuple[list[Finding], list[dict[str, Any]]]:
    """Group units that move embeddings along the same line, for use without prompts.

    Args:
        units: numbers of K units.
        moved: displacements, shape (K, n, E).
        embeddings: embeddings of images of the data set, shape (m, E).
        num_exemplars: number of example images per group.

    Returns:
        One finding per unit, without names, and the groups, largest effect first: `units`, `exemplars`
        (positions among the n images of those moved most along the group's line), `effect`.
    """
    effects = measure_effects(moved, embeddings)
    findings = [
        Finding(unit, UNNAMED if effects[k] >= MIN_EFFECT else NO_EFFECT, effects[k].item())
        for k, unit in enumerate(units)
    ]
    active = [k for k in range(len(units)) if effects[k] >= MIN_EFFECT]
    if not active:
        return findings, []
    lines = F.normalize(moved.mean(dim=1), dim=1)[active]
    labels = np.ones(len(active), dtype=int)
    if len(active) > 1:
        apart = (1 - (lines @ lines.T).abs()).clamp(min=0).double().numpy()
        np.fill_diagonal(apart, 0.0)
        labels = fcluster(linkage(squareform(apart, checks=False), "average"), SAME, "distance")
    groups = []
    for label in np.unique(labels):
        members = [k for k, found in zip(active, labels, strict=True) if found == label]
        strongest = max(members, key=lambda k: effects[k].item())
        along = (moved[strongest] @ F.normalize(moved[strongest].mean(dim=0), dim=0)).abs()
        groups.append(
            {
                "units": [units[k] for k in sorted(members, key=lambda k: -effects[k].item())],
                "effect": effects[strongest].item(),
                "exemplars": along.argsort(descending=True)[:num_exemplars].tolist(),
            }
        )
    return findings, sorted(groups, key=lambda group: -group["effect"])


def judge_names(
    findings: list[Finding], importance: np.ndarray, factor_names: list[str], labels: dict[str, str]
) -> dict[str, Any]:
    """Count the right names: a name is right if the unit's DCI importance is largest for this factor.

    Args:
        findings: findings of units.
        importance: DCI importance of units for factors, shape (N, F).
        factor_names: factor names of the data set.
        labels: names of the prompts' factors in the data set, if they differ.
    """
    right, wrong = {}, {}
    for finding in findings:
        if finding.verdict == NAMED:
            peak = factor_names[int(np.argmax(importance[finding.unit]))]
            named = labels.get(finding.name, finding.name)
            (right if named == peak else wrong)[finding.unit] = {"name": finding.name, "peak": peak}
    factors = sorted({entry["peak"] for entry in right.values()}, key=factor_names.index)
    return {
        "factors_right": factors,
        "num_factors_right": len(factors),
        "num_factors": len(factor_names),
        "units_right": right,
        "units_wrong": wrong,
        "by": "DCI importance of the unit peaks at the factor",
    }
