"""The card of an exported model: what it is, on what data, how it was made and scored, what not to believe.

Markdown with the header that hubs read. Procedural data, tiny models, protocols that compare with nothing and
weights made by others are named as such.
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
    "smoke": "**A tiny model, trained for a few steps (preset `smoke`) to see that the machinery works; its "
    "scores mean nothing.**",
    "small": "**A tiny model: preset `small`, sized for two CPU cores; it says little of what the method "
    "does at the published sizes.**",
    "paper": "Networks of the published sizes (preset `paper`).",
}
PROCEDURAL = (
    "The data are procedural: our own rendering with the factors of the published data set. Scores do not "
    "compare with those published on the original images."
)
CARDS = TEMPLATES.overlay(  # without escapes: a card is Markdown
    loader=PackageLoader("disdiff.interop"), autoescape=False, keep_trailing_newline=True
)


@dataclass(frozen=True)
class Facts:
    """What a card says beside what the run itself knows.

    Attributes:
        name: of the folder.
        stages: record of each stage by name.
        metrics: content of `metrics.json`; None for a run that was not evaluated.
        licence: of the weights; None leaves it open.
        hub: name of the model on a hub; None for a folder.
    """

    name: str
    stages: dict[str, dict]
    metrics: dict[str, Any] | None
    licence: str | None = None
    hub: str | None = None


def check_licence(licence: str | None) -> None:
    """Refuse what hubs take for no licence.

    Raises:
        UserError: it is none.
    """
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise UserError(f"{licence!r} is no licence as hubs name them; write for example mit or cc-by-4.0")


def write_card(run: Run, facts: Facts) -> str:
    """The card as Markdown; its header is checked by the library that hubs read it with."""
    config, model, metrics = run.config, run.model, facts.metrics or {}
    data, imported = find_data(run, facts.metrics), read_import(run)
    editing, reconstruction = metrics.get("editing"), metrics.get("reconstruction")
    text = CARDS.get_template("card.md").render(
        header=make_header(config.system, config.data.name, data, facts.licence).to_yaml(),
        name=facts.name,
        hub=facts.hub,
        config=config,
        data_name=name_data(config.data.name, bool(data["procedural"])),
        shape=(
            *[next(iter(facts.stages.values()))["image_size"]] * 2,
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
        stages=list_stages(facts.stages),
        machine=list_machine(metrics),
        caveats=list(list_caveats(run, facts, data, imported)),
    )
    return ModelCard(text).content


def make_header(system: str, data_name: str, data: dict[str, Any], licence: str | None) -> ModelCardData:
    """What hubs index."""
    tag = f"{'procedural-' * bool(data['procedural'])}{data_name}"
    tags = ["disentanglement", "latent-diffusion", system, tag]
    return ModelCardData(library_name="disdiff", license=licence, tags=tags)


def find_data(run: Run, metrics: dict | None) -> dict[str, Any]:
    """What is known of the data: by the scores, by the import, else by what lies here (None if nothing)."""
    if metrics and metrics.get("dataset"):
        return {"procedural": None, **metrics["dataset"]}
    imported = read_import(run)
    if imported:
        return dict(imported["checked_on"])
    with suppress(UserError):
        return {"procedural": run.source.procedural, "num_images": len(run.source)}
    return {"procedural": None}


def read_import(run: Run) -> dict | None:
    """The report of `disdiff import`, where others made the weights."""
    path = run.folder / REPORT
    return load_json(path) if path.exists() else None


def list_card_scores(scores: dict[str, Any]) -> Rows:
    """Scores of one protocol as in the report, and TAD."""
    tad = scores.get("tad", {})
    rows = list_scores(scores)
    if isinstance(tad.get("score"), int | float):
        rows.append(["TAD", tad["score"], f"{tad.get('num_captured')} captured"])
    return rows


def list_units(run: Run) -> list[str]:
    """What each unit carries, where there are scores."""
    names = run.unit_names()
    return [names.sentences[unit] for unit in names.shown] if names.ranked_by == "importance" else []


def list_stages(stages: dict[str, dict]) -> Rows:
    """Per stage its hash, steps, images and time."""
    return [
        [name, *(record.get(key, "") for key in ("hash", "steps", "images")), _duration(record)]
        for name, record in stages.items()
    ]


def list_machine(metrics: dict[str, Any]) -> dict[str, str | None]:
    """Device, versions and commit, as far as they are known."""
    versions = ", ".join(f"{name} {version}" for name, version in (metrics.get("versions") or {}).items())
    return {"device": metrics.get("device"), "versions": versions, "code": metrics.get("commit")}


def list_caveats(run: Run, facts: Facts, data: dict[str, Any], imported: dict | None) -> Iterator[str]:
    """What a reader of the numbers should know."""
    config, metrics = run.config, facts.metrics or {}
    if data["procedural"]:
        yield PROCEDURAL
    if data["procedural"] is None:
        yield "It is not on record whether the images were the published ones or procedural."
    if imported is None and config.preset != "paper":
        yield SIZES[config.preset].strip("*")
    if imported is not None:
        yield "Others trained it; the numbers, where there are any, are of the imported weights in this code."
    if run.model.supervision:
        yield f"Supervision: {run.model.supervision}. It does not compare with unsupervised systems."
    if (metrics.get("scores") or {}).keys() - {"paper"}:
        yield "Scores of protocols other than `paper` compare with none but their own."
    if metrics.get("scores"):
        yield f"Scores are of one run (seed {config.seed}); other seeds give other numbers."
    if metrics.get("editing"):
        kept = metrics["editing"].get("kept_min")
        yield (
            f"Swaps change other factors too; the worst pair keeps {kept:.0%}."
            if kept is not None
            else ("Swaps change other factors too.")
        )
    yield "A picture unlike the training images is encoded all the same; its reconstruction shows how badly."


def _duration(record: dict) -> str:
    return format_duration(record["seconds"]) if record.get("seconds") else ""
