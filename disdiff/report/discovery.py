"""Present the results of a discovery: as text for the terminal, and as a section of the report.

The results are files of a folder: `discovery.json`, `discovery.png` and one picture per text-guided edit.
"""

from pathlib import Path
from typing import Any

from disdiff.report.elements import Picture, embed_png
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
    "traverse": "is moved from {amount:g} standard deviations below its mean to {amount:g} above",
    "swap": "is set to its value in another image",
    "field": "is added to the frozen model through its gradient field alone",
}


def list_findings(result: dict[str, Any]) -> list[list[str]]:
    """Table rows with the columns `HEADS`, one per unit."""

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
    """The table for the terminal, with a description of the discovery."""
    rows = [HEADS, *list_findings(result)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([line.rstrip() for line in lines] + ["", *describe_result(result)])


def describe_result(result: dict[str, Any]) -> list[str]:
    """Sentences on the CLIP model, the images, the chance level, and the number of right names."""
    how = WAYS[result["way"]].format(amount=result["amount"])
    lines = [
        f"CLIP model: {result['clip']['name']}. {result['num_images']} images, which as far as we know it "
        f"was not trained on. Each unit {how}."
    ]
    if result.get("control"):
        lines.append(f"Control: {result['control']}. Every name found here is false.")
    if result.get("chance"):
        lines.append(f"Chance level: {result['chance']}, {result['num_draws']:,} draws.")
    judged = result.get("judged")
    if judged:
        wrong = [
            f"unit {unit} ({entry['name']}: {entry['peak']})" for unit, entry in judged["units_wrong"].items()
        ]
        lines.append(
            f"According to the labels, {judged['num_factors_right']} of {judged['num_factors']} factors are "
            f"named correctly ({', '.join(judged['factors_right']) or 'none'}); wrong names: "
            f"{', '.join(wrong) or 'none'}."
        )
    for group in result.get("groups", []):
        units = ", ".join(f"unit {unit}" for unit in group["units"])
        lines.append(f"Same direction of change: {units} (effect {group['effect']:.2f}).")
    for name, edit in result.get("edits", {}).items():
        lines.append(describe_edit(name, edit))
    return lines


def describe_edit(name: str, edit: dict[str, Any]) -> str:
    """A sentence on a text-guided edit."""
    start = f"Move the unit named {name} (unit {edit['unit']}): "
    if "changes" not in edit:
        return start + "not measured, because the data have no labels."
    changes = ", ".join(f"{factor} {share:.0%}" for factor, share in edit["changes"].items())
    if "changed" not in edit:
        return f"{start}factors that change according to the probe, with the fraction of images: {changes}."
    return (
        f"{start}it changes in {edit['changed']:.0%} of {edit['num_images']} images, the others stay in "
        f"{edit['kept_mean']:.0%} (worst {edit['kept_min']:.0%}; {edit['kept_within_one_mean']:.0%} and "
        f"{edit['kept_within_one_min']:.0%} if a neighbouring size or view counts as equal); "
        f"changed factors: {changes}."
    )


def describe_tiny(clip: dict[str, Any]) -> str:
    """A caveat on names from the tiny CLIP: its training data and its zero-shot accuracy."""
    accuracy = (clip.get("zero_shot") or {}).get("accuracy") or {}
    known = ", ".join(f"{factor} {value:.2f}" for factor, value in accuracy.items())
    return (
        f"The names come from the {clip['name']}, a small model that was trained on captions of the same "
        "kind of images. They show that discovery works, not which names a CLIP trained on web images gives."
        + f" Its zero-shot accuracy on images that it was not trained on: {known}."
        * bool(known)
    )


def load_discovery(folder: Path) -> dict[str, Any] | None:
    """The values for `discovery.html` from a folder; None without a discovery."""
    if not (folder / FILE).exists():
        return None
    result = load_json(folder / FILE)

    def embed(name: str, title: str, caption: str = "") -> Picture | None:
        path = folder / name
        return embed_png(path.read_bytes(), title, "picture", caption) if path.exists() else None

    says = "Images before and after a unit moves, one row pair per unit, labelled with its name."
    return {
        "notice": describe_tiny(result["clip"]) if "tiny CLIP" in result["clip"]["name"] else "",
        "lines": describe_result({**result, "edits": {}}),
        "heads": HEADS,
        "rows": list_findings(result),
        "picture": embed(PICTURE, "Units before and after", says),
        "edits": [
            (name, describe_edit(name, edit), embed(edit["picture"], f"Edit of {name}"))
            for name, edit in result.get("edits", {}).items()
        ],
    }
