"""Discovered names in words: for the terminal, and as a section of the report.

What there is to show lies in a folder: `discovery.json`, `discovery.png` and a picture per text-guided edit.
"""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from disdiff.report.elements import embed_png, write_table
from ldm.files import load_json

FILE, PICTURE = "discovery.json", "discovery.png"
HEADS = [
    "unit",
    "verdict",
    "name",
    "from, to",
    "score",
    "margin",
    "second",
    "consistency",
    "effect",
    "p (Holm)",
]
WAYS = {
    "traverse": "from {amount:g} standard deviations below its mean to as many above",
    "swap": "to its value in another image",
    "field": "in by adding its gradient field alone to the frozen model",
}


def list_findings(result: dict[str, Any]) -> list[list[str]]:
    """Rows of a table, one per unit: as `HEADS`."""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    rows = []
    for entry in result["units"]:
        named = entry["verdict"] == "named"
        guess = entry["name"] if named else f"({entry['name']})" if entry["name"] else ""
        p = entry["p_corrected"]
        rows.append(
            [
                f"unit {entry['unit']}",
                entry["verdict"],
                guess,
                " to ".join(entry["values"] or []),
                *(number(entry[key]) for key in ("score", "margin")),
                entry["second"] or "",
                *(number(entry[key]) for key in ("consistency", "effect")),
                "" if p is None else f"{p:.1e}" if p < 0.01 else f"{p:.2f}",
            ]
        )
    return rows


def format_findings(result: dict[str, Any]) -> str:
    """The table for the terminal, with what it was made from."""
    rows = [HEADS, *list_findings(result)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([line.rstrip() for line in lines] + ["", *describe_result(result)])


def describe_result(result: dict[str, Any]) -> list[str]:
    """What was looked at, by what, against which chance, and how many names are right."""
    how = WAYS[result["way"]].format(amount=result["amount"])
    lines = [
        f"Seen by: {result['clip']['name']}. {result['num_images']} images that it was not trained on, as "
        f"far as is known; each unit moved {how}."
    ]
    if result.get("control"):
        lines.append(f"Control: {result['control']}. A name here is a false one.")
    if result.get("chance"):
        lines.append(f"Chance: {result['chance']}, {result['num_draws']:,} of them.")
    judged = result.get("judged")
    if judged:
        wrong = [
            f"unit {unit} ({entry['name']}: {entry['peak']})" for unit, entry in judged["units_wrong"].items()
        ]
        lines.append(
            f"Judged by labels: {judged['num_factors_right']} of {judged['num_factors']} factors are named "
            f"right ({', '.join(judged['factors_right']) or 'none'}); wrong names: "
            f"{', '.join(wrong) or 'none'}."
        )
    for group in result.get("groups", []):
        units = ", ".join(f"unit {unit}" for unit in group["units"])
        lines.append(f"One line of change: {units} (effect {group['effect']:.2f}).")
    for name, edit in result.get("edits", {}).items():
        lines.append(describe_edit(name, edit))
    return lines


def describe_edit(name: str, edit: dict[str, Any]) -> str:
    """One sentence on a text-guided edit."""
    start = f"Move the unit named {name} (unit {edit['unit']}): "
    if "changes" not in edit:
        return start + "not measured, as the data have no labels."
    changes = ", ".join(f"{factor} {share:.0%}" for factor, share in edit["changes"].items())
    if "changed" not in edit:
        return f"{start}images in which a probe sees a factor change: {changes}."
    return (
        f"{start}it changes in {edit['changed']:.0%} of {edit['num_images']} images, the others stay in "
        f"{edit['kept_mean']:.0%} (worst {edit['kept_min']:.0%}; {edit['kept_within_one_mean']:.0%} and "
        f"{edit['kept_within_one_min']:.0%} where a neighbouring size or view counts as the same); "
        f"seen to change: {changes}."
    )


def describe_tiny(clip: dict[str, Any]) -> str:
    """What names given by a tiny CLIP are worth: where it learnt them, and how well it knows them."""
    accuracy = (clip.get("zero_shot") or {}).get("accuracy") or {}
    known = ", ".join(f"{factor} {value:.2f}" for factor, value in accuracy.items())
    return (
        f"The names come from the {clip['name']}: a small model that learnt its words from captions of this "
        "very kind of image. They show that discovery works, not what a CLIP of the open world would say."
        + f" Its zero-shot accuracy on images that it was not trained on: {known}."
        * bool(known)
    )


def write_discovery(folder: Path) -> Iterator[str]:
    """The section of the report; nothing where nothing was discovered."""
    if not (folder / FILE).exists():
        return
    result = load_json(folder / FILE)
    yield "<h2>Discovered names</h2>"
    if "tiny CLIP" in result["clip"]["name"]:
        yield f'<p class="notice">{escape(describe_tiny(result["clip"]))}</p>'
    edits, general = result.get("edits", {}), describe_result({**result, "edits": {}})
    yield "".join(f"<p>{escape(line)}</p>" for line in general)
    yield (
        "<p>Score: |cosine| between the mean displacement of the image embedding and the best contrast of "
        "the factor's texts. Consistency: share of images that move the named way. Effect: length of that "
        "mean displacement in units of the mean distance between two images. A name in brackets is a guess "
        "that chance explains.</p>"
    )
    yield write_table("", HEADS, list_findings(result))
    if (folder / PICTURE).exists():
        says = "Per unit, images before and after it moves; the unit's name stands beside."
        yield embed_png((folder / PICTURE).read_bytes(), "Units before and after", "picture", says)
    for name, edit in edits.items():
        yield f"<h2>Edit by name: {escape(name)}</h2><p>{escape(describe_edit(name, edit))}</p>"
        if (folder / edit["picture"]).exists():
            yield embed_png((folder / edit["picture"]).read_bytes(), f"Edit of {name}", "picture")
