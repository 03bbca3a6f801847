"""Describe figures in sentences made from their numbers."""

from typing import Any

import numpy as np

from disdiff.report.summary import CONTROLLED, find_best_control, list_reconstructions


def describe_importance(importance: np.ndarray, factors: list[str]) -> str:
    """Describe importance (N, F): the factor most concentrated in one unit and the most spread one."""
    share = importance / np.maximum(importance.sum(axis=0), np.finfo(float).tiny)
    top, unit = share.max(axis=0), share.argmax(axis=0)
    best, worst = top.argmax(), top.argmin()
    return (
        f"Most concentrated: {factors[best]}, with {top[best]:.0%} of its importance in unit "
        f"{unit[best]}. Most spread: {factors[worst]}, with {top[worst]:.0%} in its best unit {unit[worst]}."
    )


def describe_information(information: np.ndarray, factors: list[str]) -> str:
    """Describe information (N, F) in nats: widest and narrowest gap between best and second-best unit."""
    ranked = np.sort(np.vstack([np.zeros(len(factors)), information]), axis=0)
    gap, unit = ranked[-1] - ranked[-2], information.argmax(axis=0)
    wide, narrow = gap.argmax(), gap.argmin()
    return (
        f"Widest gap: {factors[wide]}, {gap[wide]:.2f} nats between unit {unit[wide]} and the next. "
        f"Narrowest: {factors[narrow]}, {gap[narrow]:.2f} nats."
    )


def describe_votes(votes: np.ndarray, factors: list[str]) -> str:
    """Describe votes (N, F): the number of units with votes, and the clearest and least clear factor."""
    share = votes.max(axis=0) / np.maximum(votes.sum(axis=0), 1)
    clear, vague = share.argmax(), share.argmin()
    return (
        f"{int((votes.sum(axis=1) > 0).sum())} of {len(votes)} units got votes. Clearest: {factors[clear]}, "
        f"with {share[clear]:.0%} of its votes for unit {votes[:, clear].argmax()}. Least clear: "
        f"{factors[vague]}, {share[vague]:.0%}."
    )


def describe_training(rows: list[dict[str, str]]) -> str:
    """First and last loss of the rows of a training log."""
    points = [(row["step"], float(row["loss"])) for row in rows if row.get("loss")]
    if not points:
        return ""
    (first, start), (last, end) = points[0], points[-1]
    return f"The loss changed from {start:.3g} at step {first} to {end:.3g} at step {last}."


def describe_reconstruction(metrics: dict[str, Any]) -> str:
    """PSNR by kind of reconstruction, from `metrics.json`."""
    rows = list_reconstructions(metrics.get("reconstruction") or {})
    parts = [f"{str(name).lower()} {value}" for name, value, *_ in rows]
    return f"PSNR over the measured images: {'; '.join(parts)}." if parts else ""


def describe_controls(protocol: str, scored: dict[str, Any]) -> str:
    """One sentence: did training beat the best control (of `metrics.json`) by either score, and by how much.

    Args:
        protocol: protocol of the scores.
        scored: scores of the run and its controls by this protocol.
    """
    parts = []
    for metric, name in CONTROLLED.items():
        best, own = find_best_control(scored, metric), scored["run"].get(metric)
        if best is None or own is None:
            parts.append(f"in {name} they are not comparable, as it is not defined")
            continue
        gap = round(own, 3) - round(best[metric], 3)
        verdict = f"beat it by {gap:.3f}" if gap > 0 else f"fell short of it by {-gap:.3f}"
        verdict = verdict if gap else "equalled it"
        parts.append(f"in {name} training {verdict} ({own:.3f} against {best[metric]:.3f}, {best['name']})")
    images = f"{scored['num_images']:,} images, protocol {protocol}"
    return f"Compared with the best control ({images}), {' and '.join(parts)}."


def describe_codebook(scores: dict[str, float]) -> str:
    """Describe the use of a codebook, from the scores `used` and `perplexity`."""
    return (
        f"{scores['used']:.1%} of the codebook's vectors occur in the evaluation images. The perplexity is "
        f"{scores['perplexity']:.0f}, the number of equally frequent vectors with the same entropy."
    )
