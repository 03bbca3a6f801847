"""Name the units of a run with a CLIP model and write the results; used by `disdiff discover`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from disdiff.clip.control import randomise_fields
from disdiff.clip.discovery import (
    NUM_DRAWS,
    RANDOM_DIRECTIONS,
    Finding,
    group_units,
    judge_names,
    name_displacements,
)
from disdiff.clip.displacement import Displacements, UnitEditor, measure_displacements
from disdiff.clip.held_out import keep_held_out
from disdiff.clip.prompts import Prompts, embed_prompts, read_prompts
from disdiff.clip.text_edit import find_unit, judge_edit, move_unit
from disdiff.clip.tower import Clip
from disdiff.editing.unit_names import name_data
from disdiff.editing.units import in_batches, principal_directions
from disdiff.evaluation.codes_file import stack_codes
from disdiff.evaluation.probe import Probe
from disdiff.report.discovery import FILE, PICTURE
from disdiff.report.grids import save_grid
from disdiff.runs.run_folder import Run
from ldm.data.arrays import silent
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError
from ldm.files import save_json

NUM_REFERENCE = 2000  # images whose embeddings give the distance scale and the chance level
NUM_SHOWN = 4  # images per unit in the picture


@dataclass
class Options:
    """Options of a discovery.

    Attributes:
        way: how a unit is moved, `traverse`, `swap` or `field`.
        amount: distance of `traverse`, in standard deviations.
        num_images: number of images to edit.
        seed: seed of the choice of images and of the random directions.
        control: part of the gradient decoder that is randomised first; None for no control.
    """

    way: str = "traverse"
    amount: float = 2.0
    num_images: int = 128
    seed: int = 0
    control: str | None = None


class Discovery:
    """Moves the units of a run and names the changes with a CLIP model.

    Args:
        run: the run, with its model in eval mode; a control modifies the model.
        clip: the CLIP model, on the model's device.
        codes: content of the run's `codes.npz`.
        sampler: gives the number of steps of deterministic DDIM.
        options: options of the discovery.
    """

    def __init__(
        self, run: Run, clip: Clip, codes: Mapping[str, np.ndarray], sampler: SamplerConfig, options: Options
    ) -> None:
        self.run, self.clip, self.codes, self.options = run, clip, codes, options
        self.control = None
        if options.control:
            self.control = randomise_fields(run.model, options.control, options.seed)
        self.generator = torch.Generator().manual_seed(options.seed)
        free = keep_held_out(run.eval_index, run.source, clip.description)
        order = free[torch.randperm(len(free), generator=self.generator)]
        self.index, reference = order[: options.num_images], order[:NUM_REFERENCE]
        self.reference = in_batches(lambda part: clip(self.load(part)).cpu(), reference)
        directions = principal_directions(stack_codes(codes))
        self.editor = UnitEditor(run.model, self.load(self.index), directions, sampler, options.amount)
        self.findings: list[Finding] = []
        self.displacements: Displacements | None = None
        self.prompts: Prompts | None = None
        self.probe: Probe | None = None

    def load(self, index: torch.Tensor) -> torch.Tensor:
        """Load the images `index` (n,), shape (n, 3, H, W), on the model's device."""
        return to_float(self.run.source.images(index)).to(self.run.model.device)

    def find(
        self,
        prompts: Path | None,
        scores: Mapping[str, Any] | None,
        progress: Callable[[float], None] = silent,
    ) -> dict[str, Any]:
        """Move every unit and name it; without prompts, group units with the same effect.

        Args:
            prompts: prompts file; None for no names.
            scores: scores of one protocol, which tell whether a name is right; None without labels.
            progress: called with the completed fraction, from 0 to 1.

        Returns:
            The JSON-ready result, the content of `discovery.json`.
        """
        options, units = self.options, list(range(self.run.model.num_units))
        self.prompts = None if prompts is None else read_prompts(prompts)
        directions = None if self.prompts is None else embed_prompts(self.encode_text, self.prompts)
        found = measure_displacements(self.editor, self.clip, units, options.way, progress)
        self.displacements = found
        result = {
            "run": self.run.folder.resolve().name,
            "system": self.run.config.system,
            "clip": asdict(self.clip.description),
            "way": options.way,
            "amount": options.amount,
            "num_images": len(self.index),
            "index": self.index.tolist(),
            "seed": options.seed,
            "sampler": asdict(self.editor.sampler),
            "control": self.control,
        }
        if directions is None:
            self.findings, groups = group_units(units, found.moved, self.reference, NUM_SHOWN)
            return {**result, "units": [each.to_json() for each in self.findings], "groups": groups}
        self.findings = name_displacements(units, found.moved, directions, self.reference, self.generator)
        result |= {
            "prompts": Path(prompts).name,
            "chance": RANDOM_DIRECTIONS,
            "num_draws": NUM_DRAWS,
            "units": [each.to_json() for each in self.findings],
        }
        names = [str(name) for name in self.codes.get("factor_names", [])]
        if names and scores and "dci" in scores:
            importance = np.array(scores["dci"]["importance"])
            result["judged"] = judge_names(self.findings, importance, names, self.prompts.labels)
        return result

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Embeddings of texts, normalised to length 1, on the CPU."""
        return self.clip.encode_text(texts).cpu()

    def edit(self, name: str, folder: Path, progress: Callable[[float], None] = silent) -> dict[str, Any]:
        """Move the unit with a name, write a picture to `folder`, and measure the edit if there are labels.

        `progress` is called with the completed fraction of the probe's training.

        Raises:
            UserError: no unit has the name.
        """
        finding, source = find_unit(self.findings, name), self.run.source
        before, after = move_unit(self.editor, finding.unit)
        picture = f"edit-{slug(name)}.png"
        shown = torch.stack([before, after])[:, : 2 * NUM_SHOWN].cpu()
        title = f"Move the unit named {name}"
        save_grid(folder / picture, shown, title, self.subtitle, ["before", "after"])
        result = {"unit": finding.unit, "picture": picture}
        if source.factor_space is None:
            return result
        if self.probe is None:
            self.probe = self.run.find_probe(progress)
        label = self.prompts.labels.get(name, name)
        return result | judge_edit(self.probe, before, after, list(source.factor_space.names), label)

    @property
    def subtitle(self) -> str:
        """Subtitle of pictures: data set, run and CLIP model."""
        source = self.run.source
        data = name_data(source.name, source.procedural)
        return f"{data} · {self.run.folder.resolve().name} · named by {self.clip.description.name}"

    def save(self, result: dict[str, Any], folder: Path) -> list[Path]:
        """Write the result and its picture; the files of a control have their own names.

        Raises:
            UserError: `find` was not called, or the folder cannot be written.
        """
        if self.displacements is None:
            raise UserError("there is no result to save; call find first")
        ending = f"-control-{self.options.control}" if self.options.control else ""
        paths = [(folder / name).with_stem(f"discovery{ending}") for name in (FILE, PICTURE)]
        save_json(paths[0], result)
        found = self.displacements
        pairs = torch.stack([found.before, found.after], dim=2)  # (K, n, 2, ...)
        pairs = pairs[:, :NUM_SHOWN].flatten(1, 2)
        columns = ["before", "after"] * (pairs.shape[1] // 2)
        labels = [label_finding(finding) for finding in self.findings]
        save_grid(paths[1], pairs, f"Units, {self.options.way}", self.subtitle, labels, columns)
        return paths


def slug(name: str) -> str:
    """Turn a name into part of a file name: letters, digits, `_`, `+`, `-` and dots."""
    return re.sub(r"[^\w.+-]+", "-", name)[:80]


def label_finding(finding: Finding) -> str:
    """Row label of a unit."""
    said = finding.name if finding.verdict == "named" else finding.verdict
    score = f" {finding.score:.2f}" if finding.verdict == "named" and finding.score is not None else ""
    return f"unit {finding.unit} · {said}{score}"
