"""Turn `metrics.json` into the rows of the report's tables."""

from typing import Any

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
EDITING = {"success_mean": "Swaps that give the target's value", "kept_mean": "Other factors kept by swaps"}
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
    editing, reconstruction = metrics.get("editing") or {}, metrics.get("reconstruction") or {}
    found = {
        **{name: editing.get(key) for key, name in EDITING.items()},
        **{name: reconstruction.get(f"{kind}_psnr") for kind, name in PSNR_ROWS.items()},
        "MSE, inferred noise": reconstruction.get("inferred_mse"),
        "Minutes in total": metrics.get("seconds_total") and metrics["seconds_total"] / 60,
    }
    return values | {name: float(value) for name, value in found.items() if value is not None}


def list_edits(editing: dict[str, Any]) -> Rows:
    """Rows per factor: its unit, success rate, the worst-kept factor, and the accuracy of the probe."""
    rows: Rows = []
    for name, success in editing.get("success", {}).items():
        kept = editing.get("kept", {}).get(name, {})
        worst = min(kept, key=kept.get, default=None)
        rows.append(
            [
                name,
                f"unit {editing['assigned_unit'][name]}",
                success,
                "" if worst is None else f"{kept[worst]:.2f} ({worst})",
                editing.get("unedited", {}).get(name, ""),
                editing.get("probe_accuracy", {}).get(name, ""),
            ]
        )
    return rows


def list_reconstructions(reconstruction: dict[str, Any]) -> Rows:
    """Rows with the PSNR in dB of each kind of reconstruction."""
    return [
        [name, f"{reconstruction[f'{kind}_psnr']:.1f} dB"]
        for kind, name in PSNR.items()
        if f"{kind}_psnr" in reconstruction
    ]


def list_tiles(metrics: dict[str, Any]) -> Rows:
    """The headline numbers: value and name."""
    tiles: Rows = []
    for protocol, scores in (metrics.get("scores") or {}).items():
        values = {(metric, key): scores.get(metric, {}).get(key) for metric, key in list(SCORES)[:2]}
        tiles += [[f"{v:.2f}", f"{SCORES[k]} ({protocol})"] for k, v in values.items() if v is not None]
    editing, reconstruction = metrics.get("editing") or {}, metrics.get("reconstruction") or {}
    if editing.get("success_mean") is not None:
        tiles.append([f"{100 * editing['success_mean']:.0f} %", "swaps that give the target's value"])
    if editing.get("kept_mean") is not None:
        tiles.append([f"{100 * editing['kept_mean']:.0f} %", "other factors kept by swaps"])
    if "psnr" in reconstruction:
        tiles.append([f"{reconstruction['psnr']:.1f} dB", "reconstruction, inferred noise"])
    return tiles
