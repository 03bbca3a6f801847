"""Putting the tensors of others into our modules, every one accounted for: placed, or named with a reason.

Names are those of latent diffusion (`names`). Of a tensor that several files hold, the last file's counts. A
moving average belongs to its own file: it stands for that file's tensor, never for another file's. A network
of other sizes in a later file replaces the whole one before.
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

# what no stage of ours holds, by pattern of the whole name; the first that fits decides
REASONS = {
    rf"({FIRST_STAGE})?loss\..*": "of training only: discriminator and LPIPS",
    rf"({FIRST_STAGE})?(model_ema\.(decay|num_updates)|n_averaged)": (
        "of training only: counters of the moving average"
    ),
    rf"{FIRST_STAGE}model_ema\..*": "moving average of the first stage, which latent diffusion does not use",
    rf"({FIRST_STAGE})?colorize": "for pictures of segmentations only",
    SCHEDULE: "follows from the noise schedule",
    r"(model\.diffusion_model\.)?scale_factor": "is in the standardisation of the latents",
    r"model_ema\..*": "moving average; another choice of weights was asked for",
}
# to which stage of ours the rest belongs, by pattern of how the name begins
STAGES = {
    rf"{FIRST_STAGE}|model_ema\.first_stage_model": "autoencoder",
    r"cond_stage_model\.|model_ema\.cond_stage_model": "code",
    r"(model\.|model_ema\.)diffusion_model\.?(shift_|part_|repre_embed)": "code",
    r"model\.|model_ema\.": "latent_diffusion",
}
PLACED, REPLACED = "{}: {}", "{}: replaced by {}"


def stage_of(name: str) -> str | None:
    """The stage of ours that a tensor belongs to; None for what belongs to none."""
    return next((stage for pattern, stage in STAGES.items() if re.match(pattern, name)), None)


@dataclass
class Pool:
    """Tensors of several files, and which of them were placed or read.

    Attributes:
        labels: what each file is called in messages.
        files: per file its tensors by name.
        used: (file, name) that were placed or replaced, with where.
        unread: names that are no tensors, or of no network.
        replaced: (stage, file, file that replaced it) to the number of tensors.
    """

    labels: list[str]
    files: list[dict[str, NamedTensor]]
    used: dict[tuple[int, str], str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    replaced: Counter[tuple[str, int, int]] = field(default_factory=Counter)

    @classmethod
    def of_files(cls, files: list[WeightsFile]) -> "Pool":
        """All files in one, later ones over earlier ones.

        Raises:
            UserError: a file holds a network twice.
        """
        names = [file.path.name for file in files]
        labels = [name if names.count(name) == 1 else f"{name} (file {i})" for i, name in enumerate(names, 1)]
        pool = cls(labels, [])
        for label, file in zip(labels, files, strict=True):
            try:
                tensors, others = settle_names(file.tensors)
            except UserError as error:
                raise UserError(f"{label}: {error}") from error
            pool.unread |= dict.fromkeys(file.others, "no tensor")
            pool.unread |= dict.fromkeys(others, "beside the networks")
            pool.files.append(tensors)
            pool._replace_networks()
        return pool

    def _replace_networks(self) -> None:
        """Set aside networks of earlier files that cannot be the last file's."""
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
        """The layout of the names of a file's first stage; None without one."""
        return detect_layout(self._shapes(self.files[file], FIRST_STAGE))

    def find_first_stage(self) -> tuple[int, Layout] | None:
        """The last file with a first stage, and the layout of its names."""
        for i in reversed(range(len(self.files))):
            layout = self.layout_of(i)
            if layout is not None:
                return i, layout
        return None

    def shapes(self, prefix: str = "") -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors whose names begin with `prefix`, without it."""
        return {name: shape for file in self.files for name, shape in self._shapes(file, prefix).items()}

    @staticmethod
    def _shapes(tensors: Mapping[str, NamedTensor], prefix: str) -> dict[str, tuple[int, ...]]:
        return {n.removeprefix(prefix): t.shape for n, t in tensors.items() if n.startswith(prefix)}

    def find(self, name: str, averaged: bool = False) -> tuple[int, str] | None:
        """File and name of a tensor or, if it is wanted and there, of its moving average in that file."""
        for i in reversed(range(len(self.files))):
            for found in (shadow_of(name), name)[not averaged :]:
                if found in self.files[i]:
                    return i, found
        return None

    def load(self, *names: str) -> Tensor | None:
        """The tensor of the first of some names, in the last file that has one; None if none has."""
        for tensors in reversed(self.files):
            for name in names:
                if name in tensors:
                    return tensors[name].load()
        return None

    def scalar(self, *names: str) -> float | None:
        """The number under the first of some names, of the last file that has one; None if none has."""
        found = self.load(*names)
        return None if found is None or found.numel() != 1 else float(found)

    @contextmanager
    def blame(self, stage: str) -> Iterator[None]:
        """Begin what is wrong within with the names of the files that hold the stage."""
        holders = [
            label
            for label, tensors in zip(self.labels, self.files, strict=True)
            if any(stage_of(name) == stage for name in tensors)
        ]
        try:
            yield
        except UserError as error:
            raise UserError(f"{', '.join(holders or self.labels)}: {error}") from error

    def place(self, module: nn.Module, names: Mapping[str, str], stage: str, averaged: bool) -> None:
        """Fill `module` with the tensors that `names` (our name to theirs) finds in the pool.

        Raises:
            UserError: a tensor is missing, has another shape, or is not finite.
        """
        state = module.state_dict()
        found = {target: self.find(names[target], averaged) for target in state if target in names}
        missing = [names.get(target, target) for target in state if found.get(target) is None]
        if missing:
            raise UserError(
                f"{stage}: the file lacks {len(missing)} of {len(state)} tensors, such as {missing[0]}; "
                "it is another network, or --kind is wrong"
            )
        for target, (i, name) in found.items():
            state[target] = fit(self.files[i][name].load(), state[target], name, stage)
            self.used[i, name] = PLACED.format(stage, target)
            self._set_aside(names[target], stage, i, name)
        module.load_state_dict(state)

    def _set_aside(self, name: str, stage: str, file: int, placed: str) -> None:
        """Note what a placed tensor stands for: its own file's raw one, and those of earlier files."""
        for i, tensors in enumerate(self.files[: file + 1]):
            for other in {name, shadow_of(name)} & tensors.keys():
                if i < file:
                    self.used[i, other] = REPLACED.format(stage, self.labels[file])
                elif other == name != placed:
                    self.used[i, other] = REPLACED.format(stage, "its moving average")
            self.replaced[stage, i, file] += i < file and (name in tensors or shadow_of(name) in tensors)

    def explain_replaced(self) -> list[str]:
        """A sentence for every stage of a file of which a later file replaced tensors."""
        fields = {i for (i, _), where in self.used.items() if re.match("code: (?!replaced)", where)}
        lines = []
        for (stage, i, j), count in sorted(self.replaced.items()):
            old, new = self.labels[i], self.labels[j]
            line = f"{stage}: {count} tensors of {old} replaced by those of {new}, a later file"
            if stage == "latent_diffusion" and i in fields:
                line += (
                    f"; the gradient fields of {old} were trained on its own: give {old} last to keep those"
                )
            lines += [line] if count else []
        return lines

    def explain_placed(self) -> dict[str, str]:
        """Where every tensor went, by name; that of another file of the same name by both."""
        return {self._title(i, name): where for (i, name), where in sorted(self.used.items())}

    def _title(self, file: int, name: str) -> str:
        """The name, with its file's where a later file has the name too."""
        later = any(name in tensors for tensors in self.files[file + 1 :])
        return f"{self.labels[file]}: {name}" if later or name not in self.files[file] else name

    def explain_rest(self) -> tuple[dict[str, str], list[str]]:
        """Reasons for the tensors that were not placed, and the names for which there is no reason."""
        reasons, unknown = {}, []
        imported = {place.split(":")[0] for place in self.used.values()}
        for i, tensors in enumerate(self.files):
            for name in tensors:
                if (i, name) in self.used:
                    continue
                reason = next((why for pattern, why in REASONS.items() if re.fullmatch(pattern, name)), None)
                stage = stage_of(name)
                if stage is not None and stage not in imported:
                    reason = f"of the stage {stage}, which --kind does not ask for"
                if reason is None:
                    unknown.append(self._title(i, name))
                else:
                    reasons[self._title(i, name)] = reason
        return dict(sorted({**reasons, **self.unread}.items())), sorted(unknown)


def fit(tensor: Tensor, expected: Tensor, name: str, stage: str) -> Tensor:
    """`tensor` with the type of `expected` and its shape; a matrix serves as a convolution of one pixel.

    Raises:
        UserError: the shapes differ otherwise, or a number is not finite.
    """
    shape = tuple(tensor.shape)
    as_matrix = tuple(expected.shape[:2]) == shape and expected.shape[2:].numel() == 1
    if shape != tuple(expected.shape) and not as_matrix:
        raise UserError(
            f"{stage}: {name} has shape {shape} where {tuple(expected.shape)} is wanted; this network cannot "
            "be imported"
        )
    if not torch.isfinite(tensor).all():
        raise UserError(f"{stage}: {name} has numbers that are not finite; the file is damaged")
    return tensor.to(expected.dtype).reshape(expected.shape)
