"""Build comparison tables of runs: check that runs are comparable, average over seeds, add published values.

All values come from `metrics.json`. All runs of a table have the same data set (procedural or real) and the
same protocol.
"""

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from disdiff.config.schema import merge, read_yaml
from disdiff.editing.unit_names import name_data
from disdiff.report.published import PUBLISHED
from disdiff.report.summary import PSNR_ROWS, list_values
from ldm.errors import UserError
from ldm.files import digest_json, load_json
from ldm.training.optimizer import WITHOUT_EFFECT

SPEED = "Images per second, own stage"
OF_DIFFUSION = (PSNR_ROWS["autoencoder"], PSNR_ROWS["random"])  # rows that only apply to diffusion systems
# configuration sections and keys in which two runs of one method may differ
PLACE = ("run", "trainer", "weights", "stages", "root", "num_workers")
OF_NO_METHOD = {"seed", "latent_dpm", *PLACE, *WITHOUT_EFFECT}


@dataclass(frozen=True)
class RunRecord:
    """The values of one run.

    Attributes:
        path: path as the caller gave it.
        folder: the run folder.
        system: name of the system, such as `disdiff`.
        preset: name of the preset, such as `small`.
        seed: seed of the last stage.
        data: name of the data set.
        procedural: whether the images are procedural.
        variant: name of the run folder without its seed; "" if it does not end with a seed.
        hashes: hashes of the stages; equal for the same run.
        values: values by row name.
        facts: finishing time, device and commit as texts; "" if unknown.
        note: a remark on the values, such as why there are no scores.
        supervision: training signal besides images; "" for an unsupervised run.
        method: hash of the configuration without the seed, which separates ablations of one system.
    """

    path: Path
    folder: Path
    system: str
    preset: str
    seed: int
    data: str
    procedural: bool
    variant: str
    hashes: tuple[str, ...]
    values: dict[str, float]
    facts: dict[str, str]
    note: str
    supervision: str = ""
    method: str = ""


class Value(NamedTuple):
    """One number of a table: the mean over `num_runs` runs and, for several runs, the standard deviation."""

    mean: float
    std: float | None
    num_runs: int


@dataclass(frozen=True)
class Column:
    """One column of a table: a system, its values by row, and its runs (none for published values)."""

    title: str
    preset: str
    runs: tuple[RunRecord, ...]
    values: dict[str, Value]
    note: str = ""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the runs."""
        return tuple(run.seed for run in self.runs)


@dataclass(frozen=True)
class Comparison:
    """A comparison table.

    Attributes:
        data: name of the data set, marked if procedural.
        protocol: protocol of the scores; None without scores.
        rows: names of the values.
        columns: the systems, our runs before published values.
    """

    data: str
    protocol: str | None
    rows: list[str]
    columns: list[Column]


def compare_runs(paths: list[Path], protocol: str | None = None) -> Comparison:
    """Build the comparison table of runs.

    Args:
        paths: run folders or `metrics.json` files.
        protocol: protocol of the scores; None for the one that all runs with scores have.

    Raises:
        UserError: a file is missing or lacks the protocol, a run is given twice, or data or protocols differ.
    """
    metrics = [(path, load_metrics(path)) for path in paths]
    protocol = choose_protocol(metrics, protocol)
    check_same_data(metrics)
    runs = [read_run(path, content, protocol) for path, content in metrics]
    columns = pool_runs(runs)
    if not runs[0].procedural:
        columns += list_published({run.system for run in runs}, runs[0].data, protocol)
    known = {name for column in columns for name in column.values}
    # the run with the most values sets the row order
    fullest = sorted(runs, key=lambda run: -len(run.values))
    order = dict.fromkeys(name for run in fullest for name in run.values)
    rows = [*order, *sorted(known - set(order))]
    return Comparison(name_data(runs[0].data, runs[0].procedural), protocol, rows, columns)


def load_metrics(path: Path) -> dict[str, Any]:
    """Read a `metrics.json`, or the one in a run folder.

    Raises:
        UserError: the file is missing, or is not a metrics.json.
    """
    file = path / "metrics.json" if path.is_dir() else path
    metrics = load_json(file)
    if not isinstance(metrics, dict) or not {"system", "dataset", "scores"} <= set(metrics):
        raise UserError(f"{file} is not a metrics.json of a run; give the folder of a finished run")
    return metrics


def check_same_data(metrics: list[tuple[Path, dict[str, Any]]]) -> None:
    """Raise UserError for runs on different data sets, or on procedural and real data."""
    kinds: dict[str, Path] = {}
    for path, content in metrics:
        data = content["dataset"]
        kinds.setdefault(name_data(data["name"], bool(data.get("procedural"))), path)
    if len(kinds) > 1:
        named = " and ".join(f"{path} on {kind}" for kind, path in list(kinds.items())[:2])
        raise UserError(f"scores on {named} are not comparable; make one table for each data set")


def choose_protocol(metrics: list[tuple[Path, dict[str, Any]]], wanted: str | None) -> str | None:
    """The protocol that all runs with scores have; None if no run has scores.

    Raises:
        UserError: a run lacks the protocol `wanted`, or the runs do not have exactly one common protocol.
    """
    scored = {path: set(content["scores"]) for path, content in metrics if content["scores"]}
    for path, protocols in scored.items():
        if wanted is not None and wanted not in protocols:
            raise UserError(
                f"{path} has no scores of the protocol {wanted}, only {', '.join(sorted(protocols))}; "
                f"leave it out, or run disdiff train on it with evaluation.protocol={wanted}"
            )
    shared = set.intersection(*scored.values()) if scored else set()
    if scored and wanted is None and len(shared) != 1:
        told = "; ".join(f"{path}: {', '.join(sorted(protocols))}" for path, protocols in scored.items())
        remedy = (
            "choose one with --protocol" if shared else "compare runs that were scored with the same protocol"
        )
        raise UserError(f"scores of different protocols are not comparable ({told}); {remedy}")
    return (wanted or shared.pop()) if scored else None


def read_run(path: Path, metrics: dict[str, Any], protocol: str | None) -> RunRecord:
    """Build the record of a run from its `metrics.json`, with the scores of one protocol."""
    folder = path if path.is_dir() else path.parent
    seed, data, stages = metrics.get("seed"), metrics["dataset"], metrics.get("stages") or {}
    name, suffix = folder.resolve().name, f"-s{seed}"
    variant = name.removesuffix(suffix) if name.endswith(suffix) else ""
    values, notes = list_values(metrics, protocol) | list_costs(metrics), [describe_supervision(metrics)]
    if not metrics["scores"]:
        notes.append(f"{path} has no scores: {metrics.get('scores_reason', 'it was not evaluated')}")
    if stages and "autoencoder" not in stages:
        values = {name: value for name, value in values.items() if name not in OF_DIFFUSION}
        notes.append(f"{metrics['system']} decodes codes without noise and has no autoencoder stage")
    return RunRecord(
        path=path,
        folder=folder,
        system=metrics["system"],
        preset=str(metrics.get("preset", "")),
        seed=seed,
        data=data["name"],
        procedural=bool(data.get("procedural")),
        variant=variant,
        hashes=tuple(stage["hash"] for stage in stages.values() if "hash" in stage),
        values=values,
        facts={key: str(metrics.get(key) or "") for key in ("finished", "device", "commit")},
        note="; ".join(filter(None, notes)),
        supervision=metrics.get("supervision") or "",
        method=identify_method(folder) or variant,
    )


def identify_method(folder: Path) -> str:
    """Hash (12 digits) of a run's configuration without seed, paths and machine; "" without one."""
    path = folder / "config.yaml"
    if not path.exists():
        return ""
    try:
        tree = asdict(merge([read_yaml(path)]))
    except UserError:  # a configuration of another version
        return ""

    def keep(node: Any) -> Any:
        """The tree without the keys that do not belong to the method, at any depth."""
        if not isinstance(node, dict):
            return node
        return {key: keep(value) for key, value in node.items() if key not in OF_NO_METHOD}

    return digest_json(keep(tree))


def describe_supervision(metrics: dict[str, Any]) -> str:
    """A note on the supervision of a run; an empty text for an unsupervised run."""
    if not metrics.get("supervision"):
        return ""
    return f"{metrics['system']}: {metrics['supervision']}; not comparable with unsupervised systems"


def list_costs(metrics: dict[str, Any]) -> dict[str, float]:
    """Model size and training cost of a run's last stage, as far as the run has recorded them."""
    sizes, stage = metrics.get("parameters") or {}, (metrics.get("stages") or {}).get("code") or {}
    costs = {f"Parameters, {kind} (M)": sizes[kind] / 1e6 for kind in ("trainable", "total") if kind in sizes}
    if stage.get("seconds"):
        costs[SPEED] = stage.get("images", 0) / stage["seconds"]
        costs["Minutes of training, own stage"] = stage["seconds"] / 60
    return costs


def pool_runs(runs: list[RunRecord]) -> list[Column]:
    """Group runs into one column per system, preset and method, in the given order, supervised ones last.

    Raises:
        UserError: a run is given twice, or two runs of one column have the same seed.
    """
    groups, known = defaultdict(list), {}
    for run in sorted(runs, key=lambda run: bool(run.supervision)):
        column = (run.system, run.preset, run.method)
        for key in {column + (run.seed,), run.hashes + (run.seed,) if run.hashes else run.path}:
            if key in known:
                raise UserError(
                    f"{known[key].path} and {run.path} are the same run, or runs of one method with seed "
                    f"{run.seed}; give only one of them"
                )
            known[key] = run
        groups[column].append(run)
    several = Counter((system, preset) for system, preset, _ in groups)
    return [
        Column(
            title=name_column(group, alone=several[system, preset] == 1),
            preset=preset,
            runs=tuple(group),
            values=pool_values([run.values for run in group]),
            note="; ".join(dict.fromkeys(run.note for run in group if run.note)),
        )
        for (system, preset, _), group in groups.items()
    ]


def name_column(runs: list[RunRecord], alone: bool) -> str:
    """Title of a column: the system, or the run name if several columns have that system and preset."""
    named = next((run.variant for run in runs if run.variant), runs[0].folder.name)
    title = runs[0].system if alone else named.removesuffix(f"-{runs[0].preset}")
    return title + " (weakly supervised)" * bool(runs[0].supervision)


def pool_values(values: list[dict[str, float]]) -> dict[str, Value]:
    """Mean and standard deviation (dividing by n) of each value, over the runs that have it."""
    pooled = {}
    for name in dict.fromkeys(name for run in values for name in run):
        numbers = [run[name] for run in values if name in run]
        std = float(np.std(numbers)) if len(numbers) > 1 else None
        pooled[name] = Value(float(np.mean(numbers)), std, len(numbers))
    return pooled


def list_published(systems: set[str], data: str, protocol: str | None) -> list[Column]:
    """Columns of published values that are comparable with the systems of a table."""
    return [
        Column(
            f"{entry.title}, published",
            "",
            (),
            {name: Value(value, None, 0) for name, value in entry.values.items()},
            f"{entry.title}, published: {entry.source}; {entry.measured}",
        )
        for entry in PUBLISHED
        if entry.system in {None, *systems} and entry.data == data and entry.protocol in (None, protocol)
    ]
