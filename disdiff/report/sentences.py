"""What a figure says, in a sentence made from its numbers."""

from typing import Any

import numpy as np

from disdiff.report.summary import list_reconstructions


def describe_importance(importance: np.ndarray, factors: list[str]) -> str:
    """The factor that one unit holds best and the one that is spread most, of importance (N, F)."""
    share = importance / np.maximum(importance.sum(axis=0), np.finfo(float).tiny)
    top, unit = share.max(axis=0), share.argmax(axis=0)
    best, worst = top.argmax(), top.argmin()
    return (
        f"Held best by one unit: {factors[best]}, {top[best]:.0%} of whose importance lies in unit "
        f"{unit[best]}. Spread most: {factors[worst]}, whose best unit, {unit[worst]}, has {top[worst]:.0%}."
    )


def describe_information(information: np.ndarray, factors: list[str]) -> str:
    """The widest and the narrowest gap between best and second best unit, of information (N, F) in nats."""
    ranked = np.sort(np.vstack([np.zeros(len(factors)), information]), axis=0)
    gap, unit = ranked[-1] - ranked[-2], information.argmax(axis=0)
    wide, narrow = gap.argmax(), gap.argmin()
    return (
        f"Widest gap: {factors[wide]}, {gap[wide]:.2f} nats between unit {unit[wide]} and the next. "
        f"Narrowest: {factors[narrow]}, {gap[narrow]:.2f} nats."
    )


def describe_votes(votes: np.ndarray, factors: list[str]) -> str:
    """How many units were voted for, and the factors voted for most and least clearly, of votes (N, F)."""
    share = votes.max(axis=0) / np.maximum(votes.sum(axis=0), 1)
    clear, vague = share.argmax(), share.argmin()
    return (
        f"{int((votes.sum(axis=1) > 0).sum())} of {len(votes)} units got votes. Clearest: {factors[clear]}, "
        f"{share[clear]:.0%} of whose votes went to unit {votes[:, clear].argmax()}. Least clear: "
        f"{factors[vague]}, {share[vague]:.0%}."
    )


def describe_training(rows: list[dict[str, str]]) -> str:
    """From where to where the loss went; rows of a log."""
    points = [(row["step"], float(row["loss"])) for row in rows if row.get("loss")]
    if not points:
        return ""
    (first, start), (last, end) = points[0], points[-1]
    return f"The loss went from {start:.3g} at step {first} to {end:.3g} at step {last}."


def describe_reconstruction(metrics: dict[str, Any]) -> str:
    """PSNR by kind of reconstruction, as `metrics.json` has them."""
    rows = list_reconstructions(metrics.get("reconstruction") or {})
    parts = [f"{str(name).lower()} {value}" for name, value in rows]
    return f"PSNR over the images measured: {'; '.join(parts)}." if parts else ""


def describe_codebook(scores: dict[str, float]) -> str:
    """How much of a codebook is in use, from the scores `used` and `perplexity`."""
    return (
        f"{scores['used']:.1%} of the codebook's vectors occur in the evaluation images. The perplexity is "
        f"{scores['perplexity']:.0f}: so many vectors, used equally often, would say as much."
    )
