"""Which CLIP a run uses, as the configuration has it; imports nothing of open_clip."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

LOCAL = "local-dir:"  # begins a `model` that is a folder
RANDOM = "random"  # as `pretrained`: untrained weights, named as such wherever they appear


@dataclass
class ClipConfig:
    """A CLIP of open_clip.

    Attributes:
        model: an architecture of open_clip, such as `ViT-B-32`, or `local-dir:FOLDER` with
            `open_clip_config.json` and weights.
        pretrained: weights of an architecture: a tag of open_clip, a file, or `random`; null for a folder.
        prompts: file with the factors in words, for `code.encoder.start=text`.
        mean, std: of the normalisation, for weights whose preprocessing open_clip does not know; null for
            the model's own.
    """

    model: str = "ViT-B-32"
    pretrained: str | None = None
    prompts: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None


def rebase_paths(config: ClipConfig, rebase: Callable[[str], str]) -> ClipConfig:
    """The same CLIP with `rebase` applied to everything that may be a path, tags of weights among them."""
    folder = config.model.removeprefix(LOCAL)
    return replace(
        config,
        model=config.model if folder == config.model else LOCAL + rebase(folder),
        pretrained=config.pretrained and rebase(config.pretrained),
        prompts=config.prompts and rebase(config.prompts),
    )


def resolve_inside(config: ClipConfig, folder: Path) -> ClipConfig:
    """The same CLIP with relative paths of what lies in `folder` leading there."""
    return rebase_paths(config, lambda text: str(folder / text) if (folder / text).exists() else text)
