"""The card of an exported model: what it is, on what data, how it was made and scored, what not to believe.

Markdown with the header that hubs read. Procedural data, tiny models, protocols that compare with nothing and
weights made by others are named as such.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from disdiff.commands.common import name_units_of
from disdiff.editing.unit_names import name_data
from disdiff.interop.run_folder import REPORT
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
TRAVERSAL = "![Traversals: one image, one unit a row](traversal.png)"


@dataclass(frozen=True)
class Facts:
    """What a card says beside what the run itself knows.

    Attributes:
        name: of the folder.
        stages: record of each stage by name.
        metrics: content of `metrics.json`; None for a run that was not evaluated.
        licence: of the weights; None leaves it open.
    """

    name: str
    stages: dict[str, dict]
    metrics: dict[str, Any] | None
    licence: str | None = None


def check_licence(licence: str | None) -> None:
    """Refuse what hubs take for no licence.

    Raises:
        UserError: it is none.
    """
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise UserError(f"{licence!r} is no licence as hubs name them; write for example mit or cc-by-4.0")


def write_card(run: Run, facts: Facts) -> str:
    """The card as Markdown."""
    config, data, imported = run.config, find_data(run, facts.metrics), read_import(run)
    data_name = name_data(config.data.name, bool(data["procedural"]))
    tag = f"{'procedural-' * bool(data['procedural'])}{config.data.name}"
    licence = [f"license: {facts.licence}"] if facts.licence else []
    blocks = [
        "\n".join(
            ["---", "library_name: disdiff", *licence, "tags:", "- disentanglement", "- latent-diffusion"]
            + [f"- {config.system}", f"- {tag}", "---"]
        ),
        f"# {config.system} on {data_name}",
        *describe_model(run, facts, imported),
        *([TRAVERSAL] if (run.folder / "traversal.png").exists() else []),
        "## Use",
        describe_use(facts.name),
        "## Data",
        *describe_data(config.data.name, config.data.num_train, data),
        "## Scores",
        *describe_scores(facts.metrics),
        *describe_units(run),
        "## How it was made",
        *describe_making(run, facts, imported),
        "## Caveats",
        "\n".join(f"- {caveat}" for caveat in list_caveats(run, facts, data, imported)),
    ]
    return "\n\n".join(blocks) + "\n"


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


def describe_model(run: Run, facts: Facts, imported: dict | None) -> Iterator[str]:
    """What it is and how large."""
    model, stage = run.model, next(iter(facts.stages.values()))
    numbers = run.config.factors.num_units * run.config.factors.unit_dim // model.num_units
    size, channels = stage["image_size"], run.config.autoencoder.network.in_channels
    yield (
        f"An encoder gives each image of {size}x{size}x{channels} a code of {model.num_units} units of "
        f"{numbers} {'number' if numbers == 1 else 'numbers'}; images are made of codes. "
        f"{count_parameters(model) / 1e6:.2f} M parameters in all, as safetensors."
    )
    if imported is None:
        yield SIZES[run.config.preset]


def describe_use(name: str) -> str:
    """How to load it."""
    return "\n".join(
        [
            "```python",
            "import disdiff",
            "",
            f'model = disdiff.load("{name}")          # this folder',
            'codes = model.encode("photo.png")',
            'images = model.decode(codes, model.infer_noise("photo.png", codes))',
            "```",
            "",
            "Every script takes the folder as a run: "
            f"`disdiff edit {name} photo.png --unit 0 --by 2`.",
        ]
    )


def describe_data(name: str, num_train: int | None, data: dict[str, Any]) -> Iterator[str]:
    """Which images, how prepared, whose."""
    known = {True: "**procedural** ", False: "", None: ""}[data["procedural"]]
    count = f", {data['num_images']:,} images" if data.get("num_images") else ""
    yield f"{known}{name}{count}; {f'{num_train:,} of them' if num_train else 'all of them'} to train on."
    if data["procedural"]:
        yield PROCEDURAL
    elif name in ORIGINS and name != "folder":
        yield f"Source: {ORIGINS[name].page}; licence: {ORIGINS[name].licence}."
    for key, text in (
        ("preparation", "Preparation"),
        ("attribute_names", "Attributes"),
        ("skipped", "Left out"),
    ):
        if data.get(key):
            value = data[key]
            yield f"{text}: {value if isinstance(value, str) else ', '.join(value)}."


def describe_scores(metrics: dict[str, Any] | None) -> Iterator[str]:
    """Tables of scores with their protocol, of edits and of reconstructions."""
    if not (metrics or {}).get("scores"):
        yield f"None: {(metrics or {}).get('scores_reason') or 'this model was not evaluated'}."
    for protocol, scores in ((metrics or {}).get("scores") or {}).items():
        rows = list_scores(scores)
        if isinstance(scores.get("tad", {}).get("score"), int | float):
            rows.append(["TAD", scores["tad"]["score"], f"{scores['tad'].get('num_captured')} captured"])
        yield f"Protocol `{protocol}`:"
        yield write_table(["score", "value", "estimated by"], rows)
        yield from (f"{note}." for note in list_notes(scores))
    if (metrics or {}).get("editing"):
        yield "Edits: the factor of one unit taken from another image, judged by a probe trained with labels."
        heads = ["factor", "carried by", "swap succeeds", "worst kept", "unedited", "probe accuracy"]
        yield write_table(heads, list_edits(metrics["editing"]))
    if (metrics or {}).get("reconstruction"):
        yield write_table(["reconstruction from", "PSNR"], list_reconstructions(metrics["reconstruction"]))


def describe_units(run: Run) -> Iterator[str]:
    """What each unit carries, where there are scores."""
    names = name_units_of(run)
    if names.ranked_by == "importance":
        yield "## Units"
        yield "\n".join(f"- {names.sentences[unit]}" for unit in names.shown)


def describe_making(run: Run, facts: Facts, imported: dict | None) -> Iterator[str]:
    """Stages, seeds, time, machine and versions; where the weights come from when others made them."""
    config, metrics = run.config, facts.metrics or {}
    if imported is not None:
        files = ", ".join(file["name"] for file in imported["files"])
        yield f"Made by others: imported from {files} ({imported['weights']})."
        yield "\n".join(f"- assumed: {line}" for line in imported["assumed"]) or "Nothing was assumed."
    else:
        yield (
            f"By `disdiff train` with `config.yaml`: system `{config.system}`, preset `{config.preset}`, "
            f"seed {config.seed}, stage_seed {config.stage_seed}. Without labels"
            f"{f', but with {run.model.supervision}' if run.model.supervision else ''}."
        )
    rows = [
        [name, record.get("hash", ""), record.get("steps", ""), record.get("images", ""), _duration(record)]
        for name, record in facts.stages.items()
    ]
    yield write_table(["stage", "hash", "steps", "images", "time"], rows)
    versions = [f"{name} {version}" for name, version in (metrics.get("versions") or {}).items()]
    known = {"device": metrics.get("device"), "versions": ", ".join(versions), "code": metrics.get("commit")}
    lines = [f"- {key}: {value}" for key, value in known.items() if value]
    if lines:
        yield "\n".join(lines)


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


def write_table(heads: list[str], rows: Rows) -> str:
    """A Markdown table; numbers with three decimals."""
    shown = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    lines = [heads, ["---"] * len(heads), *shown]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _duration(record: dict) -> str:
    return format_duration(record["seconds"]) if record.get("seconds") else ""
