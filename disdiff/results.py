"""What a finished run leaves behind: codes, scores, pictures, the report and `metrics.json`."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from disdiff.metrics.protocols import compute_scores
from disdiff.model import DisDiff
from ldm.data.source import ImageSource, to_float
from ldm.errors import UserError
from ldm.files import atomic_path, save_json

if TYPE_CHECKING:
    from disdiff.pipeline import Pipeline

PACKAGES = ("torch", "pytorch-lightning", "scikit-learn", "numpy")


def write_results(pipeline: "Pipeline", seconds: float) -> None:
    """Evaluate the finished model and write everything that a run folder holds.

    Args:
        pipeline: whose stages are all loaded.
        seconds: that this call of the main job has taken so far.
    """
    config, source, folder = pipeline.config, pipeline.source, pipeline.folder
    model = pipeline.model.eval().to(pipeline.machine.device)
    codes = encode_codes(model, source, pipeline.eval_index)
    factors = None if source.factor_space is None else source.factors(pipeline.eval_index).numpy()
    save_codes(folder / "codes.npz", codes, factors, source)
    metrics: dict[str, Any] = {
        "system": config.system,
        "preset": config.preset,
        "seed": config.seed,
        "dataset": {"name": source.name, "procedural": source.procedural, "num_images": len(source)},
        "scores": None,
        "stages": {name: stage.record for name, stage in pipeline.stages.items()},
        "device": describe_device(pipeline.machine.device),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": find_commit(),
    }
    if factors is None:
        metrics["scores_reason"] = f"{source.name} has no factor labels"
    else:
        protocol = config.evaluation.protocol
        try:
            metrics["scores"] = {protocol: score_codes(codes, factors, protocol, config.evaluation.seed)}
        except UserError as error:  # a collapsed code has no scores, but its pictures are worth a look
            metrics["scores_reason"] = str(error)
    metrics["seconds_total"] = round(seconds + sum(s["seconds"] for s in metrics["stages"].values()), 1)
    save_json(folder / "metrics.json", metrics)


@torch.no_grad()
def encode_codes(model: DisDiff, source: ImageSource, index: torch.Tensor, batch_size: int = 256) -> np.ndarray:
    """Codes of the images `index` (n,), shape (n, N, D) float32."""
    device = next(model.parameters()).device
    batches = tqdm(index.split(batch_size), desc="encode codes", unit="batch", dynamic_ncols=True)
    return torch.cat([model.encode(to_float(source.images(part).to(device))).cpu() for part in batches]).numpy()


def save_codes(path: Path, codes: np.ndarray, factors: np.ndarray | None, source: ImageSource) -> None:
    """Write `codes.npz`: codes, and factors with their names where the data set has them."""
    arrays = {"codes": codes}
    if factors is not None:
        arrays |= {"factors": factors, "factor_names": np.array(source.factor_space.names)}
    with atomic_path(path) as temporary:
        np.savez(temporary, **arrays)


def score_codes(codes: np.ndarray, factors: np.ndarray, protocol: str, seed: int) -> dict[str, Any]:
    """Scores of a protocol, with a progress bar."""
    with tqdm(total=100, desc=f"scores ({protocol})", mininterval=1.0, dynamic_ncols=True) as bar:

        def progress(name: str, share: float) -> None:
            bar.set_description(f"scores ({protocol}): {name}", refresh=False)
            bar.n = round(100 * share)
            bar.update(0)

        return compute_scores(codes, factors, protocol, seed, progress=progress)


def describe_device(device: str) -> str:
    """The processor that computed, by name."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def find_commit() -> str | None:
    """Commit of the checkout the code lies in, with `+` when it has changes; None outside a checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        run = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
