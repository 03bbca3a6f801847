"""Load foreign tensors into our modules, and record for each tensor where it went or why it was left out.

Names are those of latent diffusion (`names`). If several files hold a tensor, the last file is used. A moving
average replaces only the tensor of its own file. A network with different sizes in a later file replaces the
earlier network as a whole.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from disdiff.interop.autoencoders import Layout, detect_layout
from disdiff.interop.files import NamedTensor, WeightsFile
from disdiff.interop.names import FIRST_STAGE, SCHEDULE, settle_names, shadow_of
from ldm.errors import UserError

# reasons for leaving out tensors, by pattern of the whole name; the first match is used
REASONS = {
    rf"({FIRST_STAGE})?loss\..*": "only for training: discriminator and LPIPS",
    rf"({FIRST_STAGE})?(model_ema\.(decay|num_updates)|n_averaged)": (
        "only for training: counters of the moving average"
    ),
    rf"{FIRST_STAGE}model_ema\..*": "moving average of the first stage, which latent diffusion does not use",
    rf"({FIRST_STAGE})?colorize": "only for images of segmentations",
    SCHEDULE: "follows from the noise schedule",
    r"(model\.diffusion_model\.)?scale_factor": "included in the standardisation of the latents",
    r"model_ema\..*": "moving average; raw weights were requested",
}
# stage of all other tensors, by pattern of the beginning of the name
STAGES = {
    rf"{FIRST_STAGE}|model_ema\.first_stage_model": "autoencoder",
    r"cond_stage_model\.|model_ema\.cond_stage_model": "code",
    r"(model\.|model_ema\.)diffusion_model\.?(shift_|part_|repre_embed)": "code",
    r"model\.|model_ema\.": "latent_diffusion",
}
PLACED, REPLACED = "{}: {}", "{}: replaced by {}"


def stage_of(name: str) -> str | None:
    """The stage that a tensor belongs to; None if it belongs to no stage."""
    return next((stage for pattern, stage in STAGES.items() if re.match(pattern, name)), None)


@dataclass
class Pool:
    """Tensors of several files, with a record of which ones were used.

    Attributes:
        labels: name of each file in messages.
        files: tensors of each file, by name.
        averaged: whether moving averages are placed instead of the raw tensors of their file.
        used: destination of each placed or replaced tensor, by (file, name).
        unread: reason for each name that is not a tensor or belongs to no network.
        replaced: number of replaced tensors, by (stage, file, replacing file).
    """

    labels: list[str]
    files: list[dict[str, NamedTensor]]
    averaged: bool = True
    used: dict[tuple[int, str], str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    replaced: Counter[tuple[str, int, int]] = field(default_factory=Counter)

    @classmethod
    def of_files(cls, files: list[WeightsFile], averaged: bool) -> "Pool":
        """Pool several files; later files override earlier ones.

        Raises:
            UserError: a file holds a network twice.
        """
        names = [file.path.name for file in files]
        labels = [name if names.count(name) == 1 else f"{name} (file {i})" for i, name in enumerate(names, 1)]
        pool = cls(labels, [], averaged)
        for label, file in zip(labels, files, strict=True):
            try:
                tensors, others = settle_names(file.tensors)
            except UserError as error:
                raise UserError(f"{label}: {error}") from error
            pool.unread |= dict.fromkeys(file.others, "not a tensor")
            pool.unread |= dict.fromkeys(others, "not part of a network")
            pool.files.append(tensors)
            pool._replace_networks()
        return pool

    def _replace_networks(self) -> None:
        """Drop networks of earlier files that differ from the network of the last file."""
        *before, last = range(len(self.files))
        for i in before:
            for stage in set(STAGES.values()):
                mine = {n: t for n, t in self.files[i].items() if stage_of(n) == stage}
                new = self.files[last]
                other = any(n in new and new[n].shape != t.shape for n, t in mine.items())
                layouts = [self.layout_of(k) for k in (i, last)] if stage == "autoencoder" else [None]
                if other or (None not in layouts and layouts[0] is not layouts[1]):
                    self.replaced[stage, i, last] += len(mine)
                    self.used |= {(i, n): REPLACED.format(stage, self.labels[last]) for n in mine}
                    self.files[i] = {n: t for n, t in self.files[i].items() if n not in mine}

    def layout_of(self, file: int) -> Layout | None:
        """The layout of the autoencoder names in a file; None without an autoencoder."""
        return detect_layout(self._shapes(self.files[file], FIRST_STAGE))

    def find_first_stage(self) -> tuple[int, Layout] | None:
        """The last file with an autoencoder, and the layout of its names."""
        for i in reversed(range(len(self.files))):
            layout = self.layout_of(i)
            if layout is not None:
                return i, layout
        return None

    def shapes(self, prefix: str = "") -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors whose names begin with `prefix`, by name without the prefix."""
        return {name: shape for file in self.files for name, shape in self._shapes(file, prefix).items()}

    @staticmethod
    def _shapes(tensors: Mapping[str, NamedTensor], prefix: str) -> dict[str, tuple[int, ...]]:
        return {n.removeprefix(prefix): t.shape for n, t in tensors.items() if n.startswith(prefix)}

    def find(self, name: str) -> tuple[int, str] | None:
        """File and name of a tensor, or of its moving average in that file if `averaged` and present."""
        for i in reversed(range(len(self.files))):
            for found in (shadow_of(name), name)[not self.averaged :]:
                if found in self.files[i]:
                    return i, found
        return None

    def load(self, *names: str) -> Tensor | None:
        """Load the first existing name from the last file that has one; None if no file has any."""
        for tensors in reversed(self.files):
            for name in names:
                if name in tensors:
                    return tensors[name].load()
        return None

    def scalar(self, *names: str) -> float | None:
        """Load a scalar by the first existing name, as `load` does; None if no file has any."""
        found = self.load(*names)
        return None if found is None or found.numel() != 1 else float(found)

    @contextmanager
    def name_files_in_errors(self, stage: str) -> Iterator[None]:
        """Prefix errors within the block with the names of the files that hold the stage."""
        holders = [
            label
            for label, tensors in zip(self.labels, self.files, strict=True)
            if any(stage_of(name) == stage for name in tensors)
        ]
        try:
            yield
        except UserError as error:
            raise UserError(f"{', '.join(holders or self.labels)}: {error}") from error

    def place(self, module: nn.Module, names: Mapping[str, str], stage: str) -> None:
        """Load tensors of the pool into `module`; `names` maps our names to theirs.

        Raises:
            UserError: a tensor is missing, has the wrong shape, or is not finite.
        """
        state = module.state_dict()
        found = {target: self.find(names[target]) for target in state if target in names}
        missing = [names.get(target, target) for target in state if found.get(target) is None]
        if missing:
            raise UserError(
                f"{stage}: the file lacks {len(missing)} of {len(state)} tensors, such as {missing[0]}; "
                "check --kind and the file"
            )
        for target, (i, name) in found.items():
            state[target] = fit(self.files[i][name].load(), state[target], name, stage)
            self.used[i, name] = PLACED.format(stage, target)
            self._set_aside(names[target], stage, i, name)
        module.load_state_dict(state)

    def _set_aside(self, name: str, stage: str, file: int, placed: str) -> None:
        """Record which tensors a placed one replaces: the raw one of its file, and those of earlier files."""
        for i, tensors in enumerate(self.files[: file + 1]):
            for other in {name, shadow_of(name)} & tensors.keys():
                if i < file:
                    self.used[i, other] = REPLACED.format(stage, self.labels[file])
                elif other == name != placed:
                    self.used[i, other] = REPLACED.format(stage, "its moving average")
            self.replaced[stage, i, file] += i < file and (name in tensors or shadow_of(name) in tensors)

    def explain_replaced(self) -> list[str]:
        """One sentence per stage and file whose tensors were replaced by a later file."""
        fields = {i for (i, _), where in self.used.items() if re.match("code: (?!replaced)", where)}
        lines = []
        for (stage, i, j), count in sorted(self.replaced.items()):
            old, new = self.labels[i], self.labels[j]
            line = f"{stage}: {count} tensors of {old} replaced by those of {new}, a later file"
            if stage == "latent_diffusion" and i in fields:
                line += (
                    f"; the gradient fields of {old} were trained on the replaced ones, so give {old} last "
                    "to keep them"
                )
            lines += [line] if count else []
        return lines

    def explain_placed(self) -> dict[str, str]:
        """Destination of every tensor by name; if several files have a name, the file is named, too."""
        return {self._title(i, name): where for (i, name), where in sorted(self.used.items())}

    def _title(self, file: int, name: str) -> str:
        """The name, followed by its file if a later file has the same name."""
        later = any(name in tensors for tensors in self.files[file + 1 :])
        return f"{self.labels[file]}: {name}" if later or name not in self.files[file] else name

    def explain_rest(self) -> tuple[dict[str, str], list[str]]:
        """Reasons for the tensors that were left out, and the names of unknown tensors."""
        reasons, unknown = {}, []
        imported = {place.split(":")[0] for place in self.used.values()}
        for i, tensors in enumerate(self.files):
            for name in tensors:
                if (i, name) in self.used:
                    continue
                reason = next((why for pattern, why in REASONS.items() if re.fullmatch(pattern, name)), None)
                stage = stage_of(name)
                if stage is not None and stage not in imported:
                    reason = f"belongs to stage {stage}, which --kind does not include"
                if reason is None:
                    unknown.append(self._title(i, name))
                else:
                    reasons[self._title(i, name)] = reason
        return dict(sorted({**reasons, **self.unread}.items())), sorted(unknown)


def fit(tensor: Tensor, expected: Tensor, name: str, stage: str) -> Tensor:
    """Convert `tensor` to the dtype and shape of `expected`; a matrix can become a 1x1 convolution.

    Raises:
        UserError: the shapes differ in another way, or a number is not finite.
    """
    shape = tuple(tensor.shape)
    as_matrix = tuple(expected.shape[:2]) == shape and expected.shape[2:].numel() == 1
    if shape != tuple(expected.shape) and not as_matrix:
        raise UserError(
            f"{stage}: {name} has shape {shape}, expected {tuple(expected.shape)}; this network cannot be "
            "imported"
        )
    if not torch.isfinite(tensor).all():
        raise UserError(f"{stage}: {name} has numbers that are not finite; the file is damaged")
    return tensor.to(expected.dtype).reshape(expected.shape)
