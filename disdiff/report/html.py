"""The report of a run: one HTML file that opens offline, on a phone too, in light and in dark.

Everything it shows lies in the run folder: `metrics.json`, `codes.npz`, `config.yaml`, the logs and records
of the stages, the pictures and the frames of the sliders. What is missing there is left out.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from disdiff.editing.unit_names import UnitNames, name_data, name_scored_units
from disdiff.evaluation.codes_file import read_run_codes
from disdiff.report.discovery import FILE, write_discovery
from disdiff.report.elements import embed_figure, embed_png, write_table
from disdiff.report.figures import plot_importance, plot_information, plot_training, plot_votes
from disdiff.report.sentences import (
    describe_codebook,
    describe_importance,
    describe_information,
    describe_reconstruction,
    describe_training,
    describe_votes,
)
from disdiff.report.sliders import SCRIPT, Frames, load_frames, style_frames, write_sliders
from disdiff.report.style import PAGE, STYLE
from disdiff.report.summary import Rows, list_edits, list_notes, list_reconstructions, list_scores, list_tiles
from ldm.errors import UserError
from ldm.files import atomic_path, load_json
from ldm.training.log import format_duration, read_log

PICTURES = {
    "swap": (
        "Swaps",
        "First row: source. Second row: target. Every further row is the source with one unit taken from the "
        "target. A unit that carries one factor changes that factor to the target's value, and nothing else.",
    ),
    "traversal": (
        "Traversals",
        "One image, one unit a row. The unit moves from two standard deviations below its mean over the data "
        "to two above; what changes along a row is what the unit carries.",
    ),
    "fields": (
        "Gradient fields",
        "First row: images. Below, the magnitude of each unit's gradient field over the latent, halfway "
        "through the diffusion: where the unit pulls the frozen model. Every row is as bright as its own "
        "maximum allows; its mean magnitude stands beside it.",
    ),
    "reconstruction": (
        "Reconstructions",
        "What the first stage loses; what code and random noise bring back (where that differs from the "
        "original, the code does not know); and the code with the noise inferred from the image.",
    ),
    "samples": ("Samples", "Codes drawn from the data set, decoded from random noise."),
}
MATRICES = (
    (
        "dci",
        "importance",
        plot_importance,
        describe_importance,
        "Importance (DCI)",
        "How much of what a classifier of the factor reads, it reads from the unit. D: disentanglement of a "
        "unit, 1 when it matters for one factor only. C: completeness of a factor, 1 when one unit has all.",
    ),
    (
        "mig",
        "mutual_information",
        plot_information,
        describe_information,
        "Mutual information (MIG)",
        "What a unit knows of a factor, in nats. MIG is the gap between the framed cells of a column, the "
        "best unit and the second best (dotted), as a share of the factor's entropy.",
    ),
    (
        "factor_vae",
        "votes",
        plot_votes,
        describe_votes,
        "Votes (FactorVAE)",
        "How often the unit moved least while the factor was held fixed. The score is the share of votes "
        "that fall on each unit's most frequent factor.",
    ),
)


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write `report.html` from what lies in a run folder.

    Args:
        folder: of the run.
        out: another place for the file.

    Returns:
        Where the report is.

    Raises:
        UserError: the folder has no `metrics.json`, or the report cannot be written.
    """
    folder, out = Path(folder), Path(out) if out else None
    if not (folder / "metrics.json").exists():
        raise UserError(
            f"{folder} has no metrics.json, so there is nothing to report; run the main job first"
        )
    metrics = load_json(folder / "metrics.json")
    data, frames = metrics.get("dataset") or {}, load_frames(folder)
    data_name = name_data(data.get("name", "unnamed data"), bool(data.get("procedural")))
    sections = [
        *write_summary(metrics, data_name),
        *write_findings(folder, metrics),
        *write_discovery(out.parent if out and (out.parent / FILE).exists() else folder),
        *write_pictures(folder, metrics, frames),
        *write_training(folder),
        *write_environment(folder, metrics),
    ]
    page = PAGE.format(
        title=escape(f"{metrics.get('system', 'run')} on {data_name}"),
        run=escape(folder.resolve().name),
        style=STYLE + (style_frames(frames) if frames else ""),
        script=SCRIPT if frames else "",
        body="\n".join(sections),
    )
    out = out or folder / "report.html"
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def write_summary(metrics: dict[str, Any], data_name: str) -> Iterator[str]:
    """What was run on what, and the numbers with their protocol."""
    facts = [f"preset {metrics.get('preset')}", f"seed {metrics.get('seed')}", f"data {data_name}"]
    if metrics.get("seconds_total"):
        facts.append(
            f"{format_duration(metrics['seconds_total'])} on {metrics.get('device', 'unknown device')}"
        )
    yield f'<p class="faint">{escape(" · ".join(facts))}</p>'
    if metrics.get("supervision"):
        yield (
            f'<p class="notice">Supervision: {escape(metrics["supervision"])}. The numbers do not compare '
            "with those of unsupervised systems.</p>"
        )
    if (metrics.get("dataset") or {}).get("procedural"):
        yield (
            '<p class="notice">The data are procedural: our own rendering with the factors of the published '
            "data set. The numbers do not compare with those published on the original images.</p>"
        )
    tiles = [
        f"<div class=tile><b>{escape(v)}</b><span>{escape(n)}</span></div>" for v, n in list_tiles(metrics)
    ]
    if tiles:
        yield f'<div class="tiles">{"".join(tiles)}</div>'
    yield "<h2>Scores</h2>"
    if not metrics.get("scores"):
        yield f"<p>No scores: {escape(str(metrics.get('scores_reason', 'the run was not evaluated')))}.</p>"
    for protocol, scores in (metrics.get("scores") or {}).items():
        yield "<p>Numbers of different protocols do not compare.</p>" if len(metrics["scores"]) > 1 else ""
        yield write_table(f"Protocol: {protocol}", ["score", "value", "estimated by"], list_scores(scores))
        yield from (f"<p>{escape(note)}.</p>" for note in list_notes(scores))
    if metrics.get("editing"):
        heads = ["factor", "carried by", "swap succeeds", "worst kept", "unedited", "probe accuracy"]
        yield write_table(
            "Edits, judged by a probe trained with labels", heads, list_edits(metrics["editing"])
        )
    if metrics.get("reconstruction"):
        rows = list_reconstructions(metrics["reconstruction"])
        yield write_table("Reconstruction (PSNR)", ["from", "value"], rows)


def write_findings(folder: Path, metrics: dict[str, Any]) -> Iterator[str]:
    """What each unit carries, in words and as matrices."""
    codes = load_codes_of(folder)
    factors = [str(name) for name in codes.get("factor_names", [])]
    for protocol, scores in (metrics.get("scores") or {}).items():
        if not factors or "dci" not in scores:
            continue
        names = name_scored_units(codes, scores)
        yield f"<h2>What the units carry ({escape(protocol)})</h2>"
        if names.left_out:
            yield f"<p>{say_shown(names)}</p>"
        yield f"<ul>{''.join(f'<li>{escape(names.sentences[unit])}</li>' for unit in names.shown)}</ul>"
        units = sorted(names.shown)
        for metric, key, plot, describe, title, says in MATRICES:
            if key in scores.get(metric, {}):
                matrix = np.array(scores[metric][key])
                figure = embed_figure(plot(matrix, units, factors), title, describe(matrix, factors))
                yield f"<h2>{title}</h2><p>{says}</p>{figure}"


def write_pictures(folder: Path, metrics: dict[str, Any], frames: Frames | None) -> Iterator[str]:
    """The PNG files that are there, each with what it shows, and the sliders after the traversals."""
    names = name_run(folder, metrics)
    captions = {name: say_shown(names) for name in ("swap", "traversal", "fields")}
    captions["reconstruction"] = describe_reconstruction(metrics)
    for name, (title, says) in PICTURES.items():
        path = folder / f"{name}.png"
        if path.exists():
            figure = embed_png(path.read_bytes(), title, "picture", captions.get(name, ""))
            yield f"<h2>{title}</h2><p>{says}</p>{figure}"
        if name == "traversal" and frames is not None:
            count = f"{frames.num_images} image{'s' * (frames.num_images > 1)}"
            yield (
                "<h2>Move a unit</h2><p>Drag a slider, or choose it and press the arrow keys: one unit moves "
                f"along its principal direction, in {count} at once; the other units "
                "and the noise stay. Places are in standard deviations of the data from their mean.</p>"
            )
            yield from write_sliders(frames, names)


def name_run(folder: Path, metrics: dict[str, Any]) -> UnitNames:
    """Names of a run's units: by the protocol `paper`, else by the first there is, else numbers."""
    scores, codes = metrics.get("scores") or {}, load_codes_of(folder)
    best = scores.get("paper") or next(iter(scores.values()), None)
    return name_scored_units(codes, best if "factor_names" in codes else None)


def say_shown(names: UnitNames) -> str:
    """Which units are shown, where they are not all."""
    return f"Shown are {names.left_out}." if names.left_out else ""


def write_training(folder: Path) -> Iterator[str]:
    """Curves of every log, those of the stages or the run's own, and the use of a codebook."""
    logs = {path.parent.name: path for path in sorted(folder.glob("stages/*/log.csv"))}
    if not logs and (folder / "log.csv").exists():
        logs = {"the last stage": folder / "log.csv"}
    for name, path in logs.items():
        rows = read_log(path)
        if rows:
            title = f"Training of {name.replace('_', ' ')}"
            figure = embed_figure(plot_training(rows), title, describe_training(rows))
            yield f"<h2>{escape(title)}</h2>{figure}"
    record = folder / "stages" / "autoencoder" / "stage.json"
    scores = load_json(record).get("scores", {}) if record.exists() else {}
    if "used" in scores:
        rows = [["vectors in use", f"{scores['used']:.1%}"], ["perplexity", f"{scores['perplexity']:.0f}"]]
        table = write_table("", ["codebook", "value"], rows)
        yield f"<h2>Codebook use</h2>{table}<p>{describe_codebook(scores)}</p>"


def write_environment(folder: Path, metrics: dict[str, Any]) -> Iterator[str]:
    """Where the run was made, from what, and in how much time."""
    versions = ", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items())
    rows: Rows = [
        ["device", str(metrics.get("device"))],
        ["versions", versions],
        ["commit", str(metrics.get("commit") or "unknown: not run from a checkout")],
    ]
    for name, stage in (metrics.get("stages") or {}).items():
        rows.append([name, f"{stage.get('steps')} steps, {format_duration(stage.get('seconds', 0.0))}"])
    yield "<h2>Environment</h2>" + write_table("", ["what", "which"], rows)
    if (folder / "config.yaml").exists():
        text = escape((folder / "config.yaml").read_text())
        yield f"<details><summary>Configuration</summary><pre>{text}</pre></details>"


def load_codes_of(folder: Path) -> dict[str, np.ndarray]:
    """`codes` and `factor_names` of a run's `codes.npz`; no units and no factors when it is not there.

    Raises:
        UserError: the file is damaged.
    """
    return read_run_codes(folder) or {"codes": np.zeros((1, 0))}
