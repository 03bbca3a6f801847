"""Train the code of a run to given numbers of images, and score it there.

Shared by `gpu.py` and `scaling.py`. Training is that of `disdiff train`: it stops after the last step of a
point, with a checkpoint, and goes on from it with the same schedule, so the points are those of one
uninterrupted run. The run folder holds `curve.json`,

    [{"steps": 3125, "images": 100000, "seconds": 431.0,
      "scores": {"paper": {"factor_vae": 0.61, "dci": 0.32, "completeness": 0.4, "informativeness": 0.9,
                           "mig": 0.2}}}, ...]

and for every point the weights `code-<steps>.safetensors`, so that a point can be scored again. `seconds` is
time of training alone, since the first step. A code without scores has `{"reason": "..."}` instead.
"""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from disdiff.metrics.protocols import compute_scores
from disdiff.runs.context import Context
from disdiff.runs.results import encode_codes, progress_bar
from disdiff.runs.training import train_stage
from ldm.errors import UserError
from ldm.files import load_json, save_json
from ldm.training.checkpoint import Pause, Paused, count_steps, load_result, read_checkpoint
from ldm.training.optimizer import resolve_budget
from ldm.training.weight_files import load_weights, save_weights

SCORES = {  # name in the file: metric and key
    "factor_vae": ("factor_vae", "eval_accuracy"),
    "dci": ("dci", "disentanglement"),
    "completeness": ("dci", "completeness"),
    "informativeness": ("dci", "informativeness"),
    "mig": ("mig", "score"),
}
CURVE = "curve.json"
Point = dict[str, Any]


def load_points(folder: Path) -> list[Point]:
    """The points of the run in `folder`, in order of their images; empty before the first."""
    path = folder / CURVE
    return load_json(path) if path.exists() else []


def add_point(context: Context, images: int, protocol: str, pause: Pause) -> Point:
    """Train the code to `images` images, keep its weights, and score it; nothing is done twice.

    Earlier points without scores of this protocol are scored, too.

    Args:
        context: a run whose stages before `code` are loaded.
        images: number of training images, repeats included, rounded down to whole batches. If the run is past
            it, the point is made where the run is.
        protocol: protocol of the scores.
        pause: called after every step; if it returns true, the point is made there.

    Returns:
        The point, as in `curve.json`.

    Raises:
        UserError: the run's budget is smaller, or training diverged.
    """
    budget = resolve_budget(context.config.code.train, context.machine.device)
    steps, points = max(1, images // budget.batch_size), load_points(context.folder)
    if steps >= budget.num_steps:
        raise UserError(f"{images} images end the budget code.train.images; choose fewer")
    if not has_point(points, steps):
        steps, seconds = train_code(context, steps, pause)
    if not has_point(points, steps):
        save_weights(place_weights(context.folder, steps), context.modules["code"])
        images = steps * budget.batch_size
        points.append({"steps": steps, "images": images, "seconds": round(seconds, 1), "scores": {}})
        points.sort(key=lambda point: point["steps"])
        save_json(context.folder / CURVE, points)
    for point in points:
        if protocol not in point["scores"]:
            load_weights(place_weights(context.folder, point["steps"]), context.modules["code"])
            point["scores"][protocol] = score_code(context, protocol)
            save_json(context.folder / CURVE, points)
    return next(point for point in points if point["steps"] == steps)


def has_point(points: list[Point], steps: int) -> bool:
    """Whether there is a point after so many steps."""
    return any(point["steps"] == steps for point in points)


def place_weights(folder: Path, steps: int) -> Path:
    """Where the weights of a point are kept."""
    return folder / f"code-{steps}.safetensors"


def train_code(context: Context, steps: int, pause: Pause) -> tuple[int, float]:
    """Train the code to `steps` steps or to where `pause` holds, unless it is past them; load its result.

    Returns:
        The number of steps and the seconds of training.

    Raises:
        UserError: training diverged.
    """
    checkpoint = context.stages["code"].folder / "resume.ckpt"
    done = count_steps(read_checkpoint(checkpoint)) if checkpoint.exists() else 0
    if done < steps:
        with suppress(Paused):
            train_stage(replace(context, pause=lambda step: pause(step) or step >= steps), "code")
    return load_result(checkpoint, context.modules["code"])


def score_code(context: Context, protocol: str) -> dict[str, Any]:
    """The headline scores of the code on the evaluation images, or why there are none."""
    model = context.model.eval().to(context.machine.device)
    arrays = encode_codes(model, context.source, context.eval_index)
    model.to("cpu")
    metrics = {metric for metric, _ in SCORES.values()}
    seed = context.config.evaluation.seed
    try:
        with progress_bar(f"scores ({protocol})") as progress:
            scores = compute_scores(
                arrays["codes"], arrays["factors"], protocol, seed, only=metrics, progress=progress
            )
    except UserError as error:  # a collapsed code
        return {"reason": str(error)}
    return {name: scores[metric][key] for name, (metric, key) in SCORES.items() if metric in scores}


def tell_point(point: Point, protocol: str) -> str:
    """A point in words."""
    scores = point["scores"][protocol]
    told = ", ".join(f"{name} {value:.3f}" for name, value in scores.items() if name != "reason")
    return f"{point['images']} images: {told or scores['reason']} ({protocol})"


def draw_curve(axes: Axes, points: list[Point], key: str, protocol: str, label: str) -> None:
    """Plot a score over the images of training, on a logarithmic scale."""
    known = [point for point in points if key in point["scores"].get(protocol, {})]
    if known:
        scores = [point["scores"][protocol][key] for point in known]
        axes.plot([point["images"] for point in known], scores, "o-", label=label)
        axes.set_xscale("log")
        axes.legend(fontsize=7)
