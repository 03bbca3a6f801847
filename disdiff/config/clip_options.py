"""Configuration section `clip`: which CLIP a run uses. This module does not import open_clip."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

LOCAL = "local-dir:"  # prefix of a `model` that is a local folder
RANDOM = "random"  # value of `pretrained` for untrained weights


@dataclass
class ClipConfig:
    """A CLIP model of open_clip.

    Attributes:
        model: an open_clip architecture, such as `ViT-B-32`, or `local-dir:FOLDER`, a folder with
            `open_clip_config.json` and weights.
        pretrained: weights of the architecture: an open_clip tag, a file, or `random`; null for a folder.
        prompts: YAML file that describes the factors in words, for `code.encoder.start=text`.
        mean: channel means for normalising images; null uses the model's own. Set `mean` and `std` for
            weights whose preprocessing open_clip does not know.
        std: channel standard deviations for normalising images; null uses the model's own.
    """

    model: str = "ViT-B-32"
    pretrained: str | None = None
    prompts: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None


def rebase_paths(config: ClipConfig, rebase: Callable[[str], str]) -> ClipConfig:
    """The same CLIP with `rebase` applied to every value that may be a path, weight tags included."""
    folder = config.model.removeprefix(LOCAL)
    return replace(
        config,
        model=config.model if folder == config.model else LOCAL + rebase(folder),
        pretrained=config.pretrained and rebase(config.pretrained),
        prompts=config.prompts and rebase(config.prompts),
    )


def resolve_inside(config: ClipConfig, folder: Path) -> ClipConfig:
    """The same CLIP with relative paths resolved against `folder` where the file exists there."""
    return rebase_paths(config, lambda text: str(folder / text) if (folder / text).exists() else text)
