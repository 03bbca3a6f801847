"""Write the model card of an exported run: model, data, training, scores and limitations.

The card is Markdown with the header that model hubs read. It points out procedural data, small models,
protocols without published scores, and weights trained by others.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from jinja2 import PackageLoader

from disdiff.editing.unit_names import name_data
from disdiff.interop.run_folder import REPORT
from disdiff.report.elements import TEMPLATES
from disdiff.report.summary import Rows, list_edits, list_notes, list_reconstructions, list_scores
from disdiff.runs.run_folder import Run
from ldm.data.sources import ORIGINS
from ldm.errors import UserError
from ldm.files import load_json
from ldm.training.log import format_duration
from ldm.training.weight_files import count_parameters

SIZES = {  # by preset
    "smoke": "**A tiny model, trained for a few steps (preset `smoke`) to test the pipeline; its scores are "
    "meaningless.**",
    "small": "**A small model for two CPU cores (preset `small`); its results say little about the method at "
    "the published sizes.**",
    "paper": "Networks of the published sizes (preset `paper`).",
}
PROCEDURAL = (
    "The data are procedural: our own rendering with the factors of the published data set. Scores are not "
    "comparable with those published for the original images."
)
CARDS = TEMPLATES.overlay(  # no HTML escaping, because a card is Markdown
    loader=PackageLoader("disdiff.interop"), autoescape=False, keep_trailing_newline=True
)


@dataclass(frozen=True)
class CardDetails:
    """Facts for the card beyond those of the run.

    Attributes:
        name: name of the folder.
        stages: record of each stage, by name.
        metrics: content of `metrics.json`; None for a run that was not evaluated.
        licence: licence of the weights; None for no statement.
        hub: name of the model on a hub; None for a folder.
    """

    name: str
    stages: dict[str, dict]
    metrics: dict[str, Any] | None
    licence: str | None = None
    hub: str | None = None


def check_licence(licence: str | None) -> None:
    """Raise UserError for a licence name that hubs do not know."""
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise UserError(
            f"{licence!r} is not a licence name of model hubs; write for example mit or cc-by-4.0"
        )


def write_card(run: Run, details: CardDetails) -> str:
    """Render the card as Markdown; the hub library validates the header."""
    config, model, metrics = run.config, run.model, details.metrics or {}
    data, imported = find_data(run, details.metrics), read_import(run)
    editing, reconstruction = metrics.get("editing"), metrics.get("reconstruction")
    text = CARDS.get_template("card.md").render(
        header=make_header(config.system, config.data.name, data, details.licence).to_yaml(),
        name=details.name,
        hub=details.hub,
        config=config,
        data_name=name_data(config.data.name, bool(data["procedural"])),
        shape=(
            *[next(iter(details.stages.values()))["image_size"]] * 2,
            config.autoencoder.network.in_channels,
        ),
        num_units=model.num_units,
        numbers=config.code.num_units * config.code.unit_dim // model.num_units,
        parameters=count_parameters(model),
        size_says=SIZES[config.preset],
        has_traversal=(run.folder / "traversal.png").exists(),
        data={"preparation": None, "attribute_names": None, "skipped": None, "num_images": None} | data,
        procedural_says=PROCEDURAL,
        origin=ORIGINS.get(config.data.name) if config.data.name != "folder" else None,
        scores=[
            (protocol, list_card_scores(scores), list_notes(scores))
            for protocol, scores in (metrics.get("scores") or {}).items()
        ],
        scores_reason=metrics.get("scores_reason") or "this model was not evaluated",
        edits=list_edits(editing) if editing else None,
        reconstructions=list_reconstructions(reconstruction) if reconstruction else None,
        units=list_units(run),
        imported=imported,
        supervision=model.supervision,
        stages=list_stages(details.stages),
        machine=list_machine(metrics),
        caveats=list(list_caveats(run, details, data, imported)),
    )
    return ModelCard(text).content


def make_header(system: str, data_name: str, data: dict[str, Any], licence: str | None) -> ModelCardData:
    """The header of the card, which hubs index."""
    tag = f"{'procedural-' * bool(data['procedural'])}{data_name}"
    tags = ["disentanglement", "latent-diffusion", system, tag]
    return ModelCardData(library_name="disdiff", license=licence, tags=tags)


def find_data(run: Run, metrics: dict | None) -> dict[str, Any]:
    """Facts about the data, from the scores, the import report, or the data found on this machine."""
    if metrics and metrics.get("dataset"):
        return {"procedural": None, **metrics["dataset"]}
    imported = read_import(run)
    if imported:
        return dict(imported["checked_on"])
    with suppress(UserError):
        return {"procedural": run.source.procedural, "num_images": len(run.source)}
    return {"procedural": None}


def read_import(run: Run) -> dict | None:
    """The report of `disdiff import`; None for a run that was not imported."""
    path = run.folder / REPORT
    return load_json(path) if path.exists() else None


def list_card_scores(scores: dict[str, Any]) -> Rows:
    """The scores of one protocol as in the report, and TAD."""
    tad = scores.get("tad", {})
    rows = list_scores(scores)
    if isinstance(tad.get("score"), int | float):
        rows.append(["TAD", tad["score"], f"{tad.get('num_captured')} captured"])
    return rows


def list_units(run: Run) -> list[str]:
    """What each unit encodes, if there are scores."""
    names = run.unit_names()
    return [names.sentences[unit] for unit in names.shown] if names.ranked_by == "importance" else []


def list_stages(stages: dict[str, dict]) -> Rows:
    """Rows with hash, steps, images and time of each stage."""
    return [
        [name, *(record.get(key, "") for key in ("hash", "steps", "images")), _duration(record)]
        for name, record in stages.items()
    ]


def list_machine(metrics: dict[str, Any]) -> dict[str, str | None]:
    """Device, versions and commit, as far as known."""
    versions = ", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items())
    return {"device": metrics.get("device"), "versions": versions, "code": metrics.get("commit")}


def list_caveats(
    run: Run, details: CardDetails, data: dict[str, Any], imported: dict | None
) -> Iterator[str]:
    """Caveats for readers of the scores."""
    config, metrics = run.config, details.metrics or {}
    if data["procedural"]:
        yield PROCEDURAL
    if data["procedural"] is None:
        yield "It is not recorded whether the images were published or procedural."
    if imported is None and config.preset != "paper":
        yield SIZES[config.preset].strip("*")
    if imported is not None:
        yield "The weights were trained by others; scores, if any, were measured with the imported weights."
    if run.model.supervision:
        yield f"Supervision: {run.model.supervision}. It is not comparable with unsupervised systems."
    if (metrics.get("scores") or {}).keys() - {"paper"}:
        yield "Scores of a protocol other than `paper` are only comparable within that protocol."
    if metrics.get("scores"):
        yield f"Scores are from one run (seed {config.seed}); they vary with the seed."
    if metrics.get("editing"):
        kept = metrics["editing"].get("kept_min")
        yield (
            f"Swaps also change other factors; the worst pair of factors keeps {kept:.0%}."
            if kept is not None
            else ("Swaps also change other factors.")
        )
    yield "Pictures unlike the training images are encoded without warning; check their reconstructions."


def _duration(record: dict) -> str:
    return format_duration(record["seconds"]) if record.get("seconds") else ""
