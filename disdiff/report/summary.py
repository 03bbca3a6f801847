"""Turn `metrics.json` into the rows of the report's tables."""

from typing import Any

from disdiff.editing.unit_names import name_numbers

SCORES = {  # (metric, key): name
    ("factor_vae", "eval_accuracy"): "FactorVAE score",
    ("dci", "disentanglement"): "DCI disentanglement",
    ("dci", "completeness"): "DCI completeness",
    ("dci", "informativeness"): "DCI informativeness",
    ("mig", "score"): "MIG",
    ("infomec", "infom"): "InfoM",
    ("infomec", "infoe"): "InfoE",
    ("infomec", "infoc"): "InfoC",
    ("beta_vae", "eval_accuracy"): "beta-VAE score",
    ("sap", "score"): "SAP",
    ("modularity", "score"): "Modularity",
    ("explicitness", "score"): "Explicitness",
    ("irs", "score"): "IRS",
    ("med", "disentanglement"): "MED disentanglement",
    ("unsupervised", "gaussian_total_correlation"): "Total correlation (Gaussian, nats)",
    ("unsupervised", "mutual_information"): "Mutual information of units (nats)",
}
PSNR = {
    "autoencoder": "Autoencoder alone",
    "inferred": "Code and inferred noise",
    "random": "Code and random noise",
}
PSNR_ROWS = {kind: f"PSNR (dB): {name.lower()}" for kind, name in PSNR.items()}
CONTROLLED = {"factor_vae": "FactorVAE", "dci": "DCI"}  # scores of controls
EDITING = {"success_mean": "Swaps that give the target's value", "kept_mean": "Other factors kept by swaps"}
LENIENT = {key: f"{name}, lenient probe" for key, name in EDITING.items()}
BY_NAME = {
    "success_mean": "Swaps of all units of a factor that give the target's value",
    "kept_mean": "Other factors kept by swaps of all units of a factor",
}
LENIENT_PROBE = "a probe trained on originals and reconstructions, which reads through blur"
NOT_MEASURED = "not measured"
Rows = list[list[str | float]]


def list_scores(scores: dict[str, Any]) -> Rows:
    """Rows for the scores of one protocol: name, value, and estimator."""
    rows: Rows = []
    for (metric, key), name in SCORES.items():
        result = scores.get(metric, {})
        if isinstance(result.get(key), (int, float)):
            sizes = ", ".join(f"{count:,} {what}" for what, count in result.get("sizes", {}).items())
            rows.append([name, result[key], "; ".join(filter(None, [result.get("estimator"), sizes]))])
    return rows


def list_notes(scores: dict[str, Any]) -> list[str]:
    """Notes on the scores of one protocol: which are undefined or always 0, and why."""
    titles = {metric: name.removesuffix(" disentanglement") for (metric, _), name in reversed(SCORES.items())}
    undefined = scores.get("undefined", {}).items()
    notes = [f"{titles.get(name, name)} is not defined: {reason}" for name, reason in undefined]
    rest = [(titles.get(name, name), result.get("note")) for name, result in scores.items()]
    return notes + [f"{name}: {note}" for name, note in rest if isinstance(note, str)]


def list_values(metrics: dict[str, Any], protocol: str | None) -> dict[str, float]:
    """All values of a run that can be compared with other runs, by name."""
    scores = (metrics["scores"] or {}).get(protocol, {})
    values = {str(name): float(value) for name, value, _ in list_scores(scores)}
    (strict, lenient), reconstruction = split_edits(metrics), metrics.get("reconstruction") or {}
    found = {
        **{name: strict.get(key) for key, name in EDITING.items()},
        **{name: strict.get("by_name", {}).get(key) for key, name in BY_NAME.items()},
        **{name: lenient.get(key) for key, name in LENIENT.items()},
        **{name: reconstruction.get(f"{kind}_psnr") for kind, name in PSNR_ROWS.items()},
        "MSE, inferred noise": reconstruction.get("inferred_mse"),
        "SSIM, inferred noise": reconstruction.get("inferred_ssim"),
        "Edge error, inferred noise": reconstruction.get("inferred_edge_error"),
        "Minutes in total": metrics.get("seconds_total") and metrics["seconds_total"] / 60,
    }
    found |= list_control_values(metrics, protocol)
    return values | {name: float(value) for name, value in found.items() if value is not None}


def list_control_values(metrics: dict[str, Any], protocol: str | None) -> dict[str, float | None]:
    """Scores of the run and of its controls, by one protocol that is named: `protocol` if they have it."""
    controls = metrics.get("controls") or {}
    chosen = protocol if protocol in controls else next(iter(controls), None)
    if chosen is None:
        return {}
    scored, values = controls[chosen], {}
    for metric, name in CONTROLLED.items():
        own, best = scored["run"].get(metric), find_best_control(scored, metric)
        values[f"{name} ({chosen}), beside its controls"] = own
        for control in scored["controls"]:
            values[f"{name} ({chosen}), control: {control['name']}"] = control.get(metric)
        if own is not None and best is not None:
            values[f"{name} ({chosen}), above its best control"] = own - best[metric]
    return values


def find_best_control(scored: dict[str, Any], metric: str) -> dict[str, Any] | None:
    """The control with the highest score of a metric; None if it is defined for none."""
    defined = [control for control in scored["controls"] if control.get(metric) is not None]
    return max(defined, key=lambda control: control[metric], default=None)


def list_controls(scored: dict[str, Any]) -> Rows:
    """Rows of the run and of its controls: name, seed of random weights, and the scores."""
    named = [{"name": "this run, trained", "seed": None, **scored["run"]}, *scored["controls"]]
    return [
        [
            each["name"],
            "" if each["seed"] is None else str(each["seed"]),
            *(each.get(metric, each.get("reason", "not defined")) for metric in CONTROLLED),
        ]
        for each in named
    ]


def split_edits(metrics: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rates of edits by the probe of original images, and by the lenient one; empty if not measured.

    Runs of earlier versions have the lenient probe only.
    """
    editing = metrics.get("editing") or {}
    if "probe" not in editing:
        return {}, editing
    units = editing.get("assigned_unit", {})
    return editing, {"assigned_unit": units, **editing["with_reconstructions"]}


def list_edits(editing: dict[str, Any]) -> Rows:
    """Rows per factor: its unit, success rates of it and of all units of the factor, the worst-kept factor,
    and the accuracies of the probe.
    """
    rows: Rows = []
    for name, success in editing.get("success", {}).items():
        kept = editing.get("kept", {}).get(name, {})
        worst = min(kept, key=kept.get, default=None)
        rows.append(
            [
                name,
                f"unit {editing['assigned_unit'][name]}",
                success,
                describe_together(editing.get("by_name"), name),
                "" if worst is None else f"{kept[worst]:.2f} ({worst})",
                editing.get("unedited", {}).get(name, ""),
                editing.get("probe_accuracy_originals", {}).get(name, NOT_MEASURED),
                editing.get("probe_accuracy", {}).get(name, ""),
            ]
        )
    return rows


def describe_together(by_name: dict[str, Any] | None, factor: str) -> str:
    """The success rate of swaps of all units of a factor, with their numbers; empty for a single unit."""
    if by_name is None:
        return NOT_MEASURED
    units = by_name["units"][factor]
    return f"{by_name['success'][factor]:.2f} ({name_numbers(units)})" if units[1:] else ""


def list_reconstructions(reconstruction: dict[str, Any]) -> Rows:
    """Rows with PSNR in dB, SSIM and edge error of each kind of reconstruction."""
    return [
        [
            name,
            f"{reconstruction[f'{kind}_psnr']:.1f} dB",
            *(reconstruction.get(f"{kind}_{score}", NOT_MEASURED) for score in ("ssim", "edge_error")),
        ]
        for kind, name in PSNR.items()
        if f"{kind}_psnr" in reconstruction
    ]


def list_tiles(metrics: dict[str, Any]) -> Rows:
    """The headline numbers: value and name."""
    tiles: Rows = []
    for protocol, scores in (metrics.get("scores") or {}).items():
        values = {(metric, key): scores.get(metric, {}).get(key) for metric, key in list(SCORES)[:2]}
        tiles += [[f"{v:.2f}", f"{SCORES[k]} ({protocol})"] for k, v in values.items() if v is not None]
    (strict, lenient), reconstruction = split_edits(metrics), metrics.get("reconstruction") or {}
    editing, names = (strict, EDITING) if strict else (lenient, LENIENT)
    for key, name in names.items():
        if editing.get(key) is not None:
            tiles.append([f"{100 * editing[key]:.0f} %", f"{name[0].lower()}{name[1:]}"])
    if "psnr" in reconstruction:
        tiles.append([f"{reconstruction['psnr']:.1f} dB", "reconstruction, inferred noise"])
    return tiles
