"""Write the report of a run: one HTML file that works offline, on phones, and in light and dark mode.

The report is made from the files in the run folder: `metrics.json`, `codes.npz`, `config.yaml`, logs and
records of the stages, pictures and slider frames. Parts whose files are missing are left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from disdiff.editing.unit_names import UnitNames, name_data, name_scored_units
from disdiff.evaluation.codes_file import read_run_codes
from disdiff.report.discovery import FILE, load_discovery
from disdiff.report.elements import Picture, embed_figure, embed_png, render
from disdiff.report.figures import plot_importance, plot_information, plot_training, plot_votes
from disdiff.report.sentences import (
    describe_codebook,
    describe_controls,
    describe_importance,
    describe_information,
    describe_reconstruction,
    describe_training,
    describe_votes,
)
from disdiff.report.sliders import load_frames, place_sliders
from disdiff.report.summary import (
    LENIENT_PROBE,
    Rows,
    list_controls,
    list_edits,
    list_notes,
    list_reconstructions,
    list_scores,
    list_tiles,
    split_edits,
)
from ldm.errors import UserError
from ldm.files import atomic_path, load_json
from ldm.training.log import format_duration, read_log

PICTURES = {
    "swap": (
        "Swaps",
        "First row: source. Second row: target. Every further row shows the source with the units of one "
        "factor taken from the target, or with a single unit if there are no labels. Only that factor should "
        "change, to the target's value.",
    ),
    "traversal": (
        "Traversals",
        "One image, one unit per row. The unit moves from two standard deviations below its mean over the "
        "data to two above. What changes along a row is what the unit encodes.",
    ),
    "fields": (
        "Gradient fields",
        "First row: images. Other rows: magnitude of one unit's gradient field at every position of the "
        "latent, at the middle diffusion step. It shows where the unit changes the prediction of the frozen "
        "model. Each row is scaled to its own maximum and labelled with its mean magnitude.",
    ),
    "reconstruction": (
        "Reconstructions",
        "Original images, and reconstructions by the autoencoder alone, from the code with random noise, and "
        "from the code with the noise inferred from the image. With random noise, everything that differs "
        "from the original is missing in the code.",
    ),
    "samples": ("Samples", "Images sampled from random noise and codes of the data set."),
}
PICTURES_OF_UNITS = ("swap", "traversal", "fields")
MATRICES = (
    (
        "dci",
        "importance",
        plot_importance,
        describe_importance,
        "Importance (DCI)",
        "The share of a factor classifier's feature importance that falls on each unit. D: disentanglement "
        "of a unit, 1 if it is important for one factor only. C: completeness of a factor, 1 if only one "
        "unit is important for it.",
    ),
    (
        "mig",
        "mutual_information",
        plot_information,
        describe_information,
        "Mutual information (MIG)",
        "Mutual information of each unit and factor, in nats. MIG is the gap between the framed cells of a "
        "column, the best unit and the second best (dotted), divided by the factor's entropy.",
    ),
    (
        "factor_vae",
        "votes",
        plot_votes,
        describe_votes,
        "Votes (FactorVAE)",
        "How often each unit varied least while the factor was fixed. The score is the share of votes for "
        "the most frequent factor of each unit.",
    ),
)


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write `report.html` from the files in a run folder.

    Args:
        folder: the run folder.
        out: another output path; None writes into the run folder.

    Returns:
        Path of the report.

    Raises:
        UserError: the folder has no `metrics.json`, or the report cannot be written.
    """
    folder, out = Path(folder), Path(out) if out else None
    if not (folder / "metrics.json").exists():
        raise UserError(
            f"{folder} has no metrics.json, which the report needs; finish the run with disdiff train first"
        )
    metrics = load_json(folder / "metrics.json")
    data, frames = metrics.get("dataset") or {}, load_frames(folder)
    data_name = name_data(data.get("name", "unnamed data"), bool(data.get("procedural")))
    names = name_run(folder, metrics)
    page = render(
        "report.html",
        title=f"{metrics.get('system', 'run')} on {data_name}",
        run=folder.resolve().name,
        facts=list_facts(metrics),
        procedural=data.get("procedural"),
        **summarise(metrics),
        findings=list(list_findings(folder, metrics)),
        discovery=load_discovery(out.parent if out and (out.parent / FILE).exists() else folder),
        pictures=list(list_pictures(folder, metrics, names, frames.says if frames else "")),
        frames=frames,
        sliders=place_sliders(frames, names) if frames else [],
        curves=list(list_curves(folder)),
        codebook=describe_codes_in_use(folder),
        environment=list_environment(metrics),
        config=(folder / "config.yaml").read_text("utf-8") if (folder / "config.yaml").exists() else "",
    )
    out = out or folder / "report.html"
    with atomic_path(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def list_facts(metrics: dict[str, Any]) -> list[str]:
    """Preset, seed, time and device of the run; the title of the page names system and data."""
    facts = [f"preset {metrics.get('preset')}", f"seed {metrics.get('seed')}"]
    if metrics.get("seconds_total"):
        seconds = format_duration(metrics["seconds_total"])
        facts.append(f"{seconds} on {metrics.get('device', 'unknown device')}")
    return facts


def summarise(metrics: dict[str, Any]) -> dict[str, Any]:
    """The values of the tables; None for what was not measured."""
    strict, lenient = split_edits(metrics)
    by_probe = {"a probe trained on original images": strict, LENIENT_PROBE: lenient}
    reconstruction = metrics.get("reconstruction")
    return {
        "supervision": metrics.get("supervision"),
        "tiles": list_tiles(metrics),
        "scores": [
            (protocol, list_scores(scores), list_notes(scores))
            for protocol, scores in (metrics.get("scores") or {}).items()
        ],
        "controls": [
            (describe_controls(protocol, scored), list_controls(scored), protocol)
            for protocol, scored in (metrics.get("controls") or {}).items()
        ],
        "scores_reason": metrics.get("scores_reason", "the run was not evaluated"),
        "edits": {probe: list_edits(editing) for probe, editing in by_probe.items()} if lenient else {},
        "reconstructions": list_reconstructions(reconstruction) if reconstruction else None,
    }


def list_findings(folder: Path, metrics: dict[str, Any]) -> Iterator[tuple]:
    """Per protocol, what each unit encodes: sentences, and matrices with explanations."""
    codes = load_codes_of(folder)
    factors = [str(name) for name in codes.get("factor_names", [])]
    for protocol, scores in (metrics.get("scores") or {}).items():
        if not factors or "dci" not in scores:
            continue
        names = name_scored_units(codes, scores)
        units, matrices = sorted(names.shown), []
        for metric, key, plot, describe, title, says in MATRICES:
            if key in scores.get(metric, {}):
                matrix = np.array(scores[metric][key])
                figure = plot(matrix, units, factors)
                matrices.append((embed_figure(figure, title, describe(matrix, factors)), says))
        yield protocol, names, matrices


def list_pictures(
    folder: Path, metrics: dict[str, Any], names: UnitNames, faint: str
) -> Iterator[tuple[Picture, str]]:
    """The pictures that there are, each with an explanation, in the order of the page.

    `faint` names the units that hardly change the picture.
    """
    shown = f"The picture shows {names.left_out}." if names.left_out else ""
    captions = {**dict.fromkeys(PICTURES_OF_UNITS, shown), "reconstruction": describe_reconstruction(metrics)}
    if faint:
        captions["traversal"] = f"{shown} {faint}.".strip()
    for name, (title, says) in PICTURES.items():
        path = folder / f"{name}.png"
        if path.exists():
            yield embed_png(path.read_bytes(), title, "picture", captions.get(name, "")), says


def name_run(folder: Path, metrics: dict[str, Any]) -> UnitNames:
    """Name a run's units by the scores of protocol `paper`, else of the first protocol, else by number."""
    scores, codes = metrics.get("scores") or {}, load_codes_of(folder)
    best = scores.get("paper") or next(iter(scores.values()), None)
    return name_scored_units(codes, best if "factor_names" in codes else None)


def list_curves(folder: Path) -> Iterator[Picture]:
    """Training curves from the logs of the stages, or else from the run's log."""
    logs = {path.parent.name: path for path in sorted(folder.glob("stages/*/log.csv"))}
    if not logs and (folder / "log.csv").exists():
        logs = {"the last stage": folder / "log.csv"}
    for name, path in logs.items():
        rows = read_log(path)
        if rows:
            title = f"Training of {name.replace('_', ' ')}"
            yield embed_figure(plot_training(rows), title, describe_training(rows))


def describe_codes_in_use(folder: Path) -> dict[str, Any] | None:
    """Use of the autoencoder's codebook; None without a codebook."""
    record = folder / "stages" / "autoencoder" / "stage.json"
    scores = load_json(record).get("scores", {}) if record.exists() else {}
    if "used" not in scores:
        return None
    rows = [["vectors in use", f"{scores['used']:.1%}"], ["perplexity", f"{scores['perplexity']:.0f}"]]
    return {"rows": rows, "says": describe_codebook(scores)}


def list_environment(metrics: dict[str, Any]) -> Rows:
    """Device, versions, commit and times of the run."""
    versions = ", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items())
    return [
        ["device", str(metrics.get("device"))],
        ["versions", versions],
        ["commit", str(metrics.get("commit") or "unknown: not run from a checkout")],
        *(
            [name, f"{stage.get('steps')} steps, {format_duration(stage.get('seconds', 0.0))}"]
            for name, stage in (metrics.get("stages") or {}).items()
        ),
    ]


def load_codes_of(folder: Path) -> dict[str, np.ndarray]:
    """Read `codes` and `factor_names` from a run's `codes.npz`; empty arrays if it is missing.

    Raises:
        UserError: the file is damaged.
    """
    return read_run_codes(folder) or {"codes": np.zeros((1, 0))}
