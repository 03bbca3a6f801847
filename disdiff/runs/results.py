"""Write the results of a run: codes, scores, pictures, report and `metrics.json`."""

import hashlib
import importlib.metadata
import logging
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from shutil import copyfile
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from disdiff.config.places import INSTALLED, ROOT
from disdiff.config.schema import Config, EvaluationConfig
from disdiff.editing.unit_names import name_scored_units
from disdiff.evaluation.codes_file import save_codes
from disdiff.evaluation.edit_success import compute_editing, compute_reconstruction
from disdiff.method.model import ImageModel
from disdiff.metrics.protocols import compute_attribute_scores, compute_scores, name_protocol
from disdiff.report.album import PARTS, make_pictures
from disdiff.report.html import write_report
from disdiff.report.sentences import describe_controls
from disdiff.report.summary import CONTROLLED, list_notes
from disdiff.runs.context import Context
from disdiff.runs.controls import score_controls
from disdiff.runs.stages import Stage, shared_folder
from ldm.data.source import AttributeSource, ImageSource, describe_source, to_float
from ldm.errors import UserError
from ldm.files import load_json, save_json
from ldm.training.loggers import log_results
from ldm.training.threads import set_threads
from ldm.training.weight_files import count_parameters

log = logging.getLogger(__name__)
FILES = ("metrics.json", "codes.npz", "log.csv", "report.html")
SCORES = "scores.json"  # temporary, until the scores are in metrics.json
HEADLINES = (
    ("FactorVAE", "factor_vae", "eval_accuracy"),
    ("DCI", "dci", "disentanglement"),
    ("TAD", "tad", "score"),
)
NO_LABELS = "the data set has no factor labels and no attributes, which scores need"
NO_FACTORS = "the data set has attributes but no factor labels, which FactorVAE, DCI and similar scores need"
PACKAGES = ("torch", "pytorch-lightning", "scikit-learn", "numpy")


def write_results(context: Context, seconds: float) -> None:
    """Evaluate the finished model and write everything that a run folder holds.

    Args:
        context: context of a run whose stages are all loaded.
        seconds: time that loading and training took in this call.
    """
    if results_are_complete(context):
        log.info("results: complete, nothing to do")
        log.info(summarise(load_json(context.folder / "metrics.json")))
        return
    start = time.monotonic()
    if not context.step_seconds:  # nothing was trained, so the number of threads is not chosen yet
        set_threads(context.thread_counts)
    config, source, folder = context.config, context.source, context.folder
    model = context.model.eval().to(context.machine.device)
    codes = encode_codes(model, source, context.eval_index)
    save_codes(folder / "codes.npz", codes)
    copyfile(context.stages["code"].folder / "log.csv", folder / "log.csv")
    scores, reason = score_once(folder, codes, config.evaluation)
    controls = measure_controls(context, model, codes, scores)
    with torch.inference_mode():
        editing, reconstruction = measure_edits(context, model, scores)
        with progress_bar("pictures") as progress:
            make_pictures(
                model,
                source,
                context.eval_index,
                codes,
                scores,
                folder,
                config.sampler,
                config.seed,
                progress,
                parts=list_pictures(model),
            )
    records = {name: stage.record for name, stage in context.stages.items()}
    trained = sum(record["seconds"] for record in records.values())
    metrics = {
        "system": config.system,
        "preset": config.preset,
        "seed": config.seed,
        **({} if model.supervision is None else {"supervision": model.supervision}),
        "dataset": describe_source(source),
        "scores": None if scores is None else {name_scores(config.evaluation.protocol, codes): scores},
        **({} if reason is None else {"scores_reason": reason}),
        **({} if controls is None else {"controls": controls}),
        "editing": editing,
        "reconstruction": reconstruction,
        "evaluation": describe_evaluation(config),
        "stages": records,
        "parameters": count_sizes(context),
        # training time of all stages (trained now or loaded) plus the time of the results
        "seconds_total": round(trained + time.monotonic() - start, 1),
        "seconds_this_call": round(seconds + time.monotonic() - start, 1),
        "device": describe_device(context.machine.device),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": find_commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    save_json(folder / "metrics.json", metrics)
    (folder / SCORES).unlink(missing_ok=True)
    write_report(folder)
    told = {key: metrics[key] for key in ("scores", "editing", "reconstruction")}
    pictures = [folder / PARTS[part][0] for part in list_pictures(model)]
    log_results(context.machine.logger, folder, told, pictures, records["code"]["steps"])
    log.info(summarise(metrics))
    for protocol, scored in (controls or {}).items():
        log.info(describe_controls(protocol, scored))
    if note := advise_units(config, name_scored_units(codes, scores).idle):
        log.info(note)


def advise_units(config: Config, idle: list[int]) -> str:
    """A note if unneeded units would be empty, and none is among the `idle` ones; else an empty text."""
    number = config.code.num_units
    if idle or not config.code.loss.weight_correlation or config.preset == "smoke":
        return ""
    return (
        f"note: all {number} units are in use, so factors may share some; with more of them, such as "
        f"code.num_units={number * 3 // 2}, factors may part"
    )


def results_are_complete(context: Context) -> bool:
    """Whether the run folder holds all results for the current stages, evaluation settings and labels."""
    pictures = [name for part in list_pictures(context.model) for name in PARTS[part]]
    if not all((context.folder / name).exists() for name in pictures):
        return False
    stages = list(context.stages.values())
    return results_are_current(context.folder, context.config, stages, context.source)


def results_are_current(folder: Path, config: Config, stages: list[Stage], source: ImageSource) -> bool:
    """Whether a run folder's files, except pictures, match the given stages, evaluation and labels."""
    if not all((folder / name).exists() for name in FILES):
        return False
    metrics = load_json(folder / "metrics.json")
    hashes = {name: record["hash"] for name, record in metrics.get("stages", {}).items()}
    same_stages = hashes == {stage.name: stage.hash for stage in stages}
    same_evaluation = metrics.get("evaluation") == describe_evaluation(config)
    # the stages' hashes do not cover attributes
    return same_stages and same_evaluation and metrics.get("dataset") == describe_source(source)


def count_sizes(context: Context) -> dict[str, int]:
    """Number of parameters of the model (`total`), and of the part that stage `code` trains (`trainable`).

    A latent DPM is not counted, because only sampling uses it.
    """
    model = [name for name in context.stages if name != "latent_dpm"]
    sizes = {name: count_parameters(context.modules[name]) for name in model}
    return {"total": sum(sizes.values()), "trainable": sizes["code"]}


def list_pictures(model: ImageModel) -> list[str]:
    """The parts that `make_pictures` can draw for a model; gradient fields only if the units have them."""
    return [part for part in PARTS if part != "fields" or model.has_unit_fields]


def describe_evaluation(config: Config) -> dict[str, Any]:
    """The settings that the results depend on."""
    return {**asdict(config.evaluation), "sampler": asdict(config.sampler)}


def summarise(metrics: dict[str, Any]) -> str:
    """The headline scores on one line."""
    parts = [f"reconstruction {metrics['reconstruction']['psnr']:.1f} dB"]
    if metrics["editing"] is not None:
        editing = metrics["editing"]
        kept = "" if editing["kept_mean"] is None else f", {editing['kept_mean']:.0%} of the rest kept"
        together = editing.get("by_name")  # runs of earlier versions lack it
        named = f" ({together['success_mean']:.0%} with all units of a factor)" if together else ""
        parts.append(f"swaps {editing['success_mean']:.0%} right{named}{kept}")
    for protocol, scores in (metrics["scores"] or {}).items():
        parts.insert(0, f"{describe_headlines(scores)} ({protocol})")
        parts += list_notes(scores)
    if metrics.get("scores_reason"):
        parts.append(metrics["scores_reason"])
    minutes = metrics["seconds_total"] / 60
    data = "procedural " * metrics["dataset"]["procedural"] + metrics["dataset"]["name"]
    return f"{data}: {'; '.join(parts)}; {minutes:.1f} min in total"


def describe_headlines(scores: dict[str, Any]) -> str:
    """The headline scores of a protocol, as far as they are defined."""
    values = [f"{name} {scores[metric][key]:.3f}" for name, metric, key in HEADLINES if metric in scores]
    if "tad" in scores:
        values.append(f"{scores['tad']['num_captured']:g} attributes captured")
    return ", ".join(values) or "no FactorVAE, DCI or TAD score"


def measure_controls(
    context: Context, model: ImageModel, codes: dict[str, np.ndarray], scores: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Scores of the controls (`disdiff.runs.controls`); None if they are off or the run has no scores."""
    if not context.config.evaluation.controls or not set(CONTROLLED) & set(scores or {}):
        return None
    with progress_bar("controls") as progress:
        return score_controls(context.config, model, context.source, codes, progress=progress)


def measure_edits(
    context: Context, model: ImageModel, scores: dict[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Edit success (if there are labels, and scores to assign units by) and reconstruction errors."""
    config, editing = context.config, None
    shared = (model, context.source, context.eval_index)
    with progress_bar("editing") as progress:
        if scores is not None and "dci" in scores and config.evaluation.num_pairs:
            importance = np.array(scores["dci"]["importance"])
            editing = compute_editing(
                *shared,
                importance,
                config.sampler,
                config.evaluation.num_pairs,
                config.evaluation.seed,
                config.evaluation.probe_steps,
                progress,
                shared_folder(config),
            )
        reconstruction = compute_reconstruction(
            *shared, config.sampler, config.evaluation.num_reconstructions, config.evaluation.seed, progress
        )
    return editing, reconstruction


@torch.no_grad()
def encode_codes(
    model: ImageModel, source: ImageSource, index: torch.Tensor, batch_size: int = 256
) -> dict[str, np.ndarray]:
    """Codes of the images `index` (n,) with their labels, the content of `codes.npz`."""
    device = model.device
    batches = tqdm(index.split(batch_size), desc="codes", unit="batch", dynamic_ncols=True, mininterval=1.0)
    codes = torch.cat([model.encode(to_float(source.images(part).to(device))).cpu() for part in batches])
    arrays = {"codes": codes.numpy()}
    if source.factor_space is not None:
        names = np.array(source.factor_space.names)
        arrays |= {"factors": source.factors(index).numpy(), "factor_names": names}
    if isinstance(source, AttributeSource) and source.attribute_names:
        names = np.array(source.attribute_names)
        arrays |= {"attributes": source.attributes(index).numpy(), "attribute_names": names}
    return arrays


def score_codes(
    arrays: dict[str, np.ndarray], protocol: str, seed: int, units: str = "pca1"
) -> tuple[dict[str, Any] | None, str | None]:
    """Scores of a protocol, with replacement from few images, or None with the reason.

    `units` is as in `compute_scores`.
    """
    if "factors" not in arrays and "attributes" not in arrays:
        return None, NO_LABELS
    try:
        if "factors" not in arrays:
            scores = compute_attribute_scores(arrays["codes"], arrays["attributes"], protocol, seed)
            return scores, NO_FACTORS
        with progress_bar(f"scores ({protocol})") as progress:
            labels = arrays["factors"]
            return compute_scores(
                arrays["codes"], labels, protocol, seed, units=units, replacement=True, progress=progress
            ), None
    except UserError as error:  # a collapsed code has no scores, but pictures are still useful
        return None, str(error)


def name_scores(protocol: str, arrays: dict[str, np.ndarray]) -> str:
    """Name of the scores of `arrays`: the protocol, and whether it draws with replacement."""
    return name_protocol(protocol, len(arrays["codes"])) if "factors" in arrays else protocol


def score_once(
    folder: Path, arrays: dict[str, np.ndarray], evaluation: EvaluationConfig
) -> tuple[dict[str, Any] | None, str | None]:
    """`score_codes` with the result saved in the run folder, so that a resumed run need not repeat it."""
    digest = hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()
    of = {"codes_sha256": digest, "protocol": evaluation.protocol, "seed": evaluation.seed}
    path = folder / SCORES
    if path.exists() and (kept := load_json(path))["of"] == of:
        return kept["scores"], kept["reason"]
    scores, reason = score_codes(arrays, evaluation.protocol, evaluation.seed)
    save_json(path, {"of": of, "scores": scores, "reason": reason})
    return scores, reason


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[str, float], None]]:
    """Show a progress bar for named parts; yields a function of (part name, completed fraction)."""
    with tqdm(total=100, desc=title, unit="%", mininterval=1.0, dynamic_ncols=True) as bar:

        def report(name: str, share: float) -> None:
            bar.set_description(f"{title}: {name}", refresh=False)
            bar.n = round(100 * share)
            bar.update(0)

        yield report


def describe_device(device: str) -> str:
    """Name of the processor or GPU."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    processor = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    count = f"{threads} thread{'s' * (threads > 1)}"
    return f"{processor}, {count if device == 'cpu' else device}"


def find_commit() -> str | None:
    """Commit of the checkout that contains the code, with `+` if there are changes; None outside one."""
    if INSTALLED:
        return None
    try:
        run = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(run, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
