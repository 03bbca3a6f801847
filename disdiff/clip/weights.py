"""Find the weights of an open_clip tag: in $DISDIFF_WEIGHTS, then in the caches of open_clip.

Nothing is downloaded unless `weights.allow_download=true`; then open_clip downloads the file and verifies it
if it knows a checksum.
"""

import os
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.pretrained import download_pretrained

from disdiff.config.clip_options import RANDOM, ClipConfig
from disdiff.config.places import find
from ldm.errors import UserError
from ldm.files import expand_home
from ldm.training.weight_files import count_parameters
from ldm.weights import FOLDER_VARIABLE

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # in a repository, safer first
CACHE = Path("~/.cache/clip")  # open_clip's folder for downloads by URL
WITHOUT = (
    "the tiny CLIP (clip.model=local-dir:pretrained/tiny_clip, made by disdiff tiny-clip) and all systems "
    "without CLIP work without this file"
)


def find_weights(
    config: ClipConfig, architecture: dict[str, Any], tag: dict[str, Any], allow_download: bool
) -> Path | None:
    """Find the weight file of an architecture; None for random weights.

    Args:
        config: configuration of the CLIP; `pretrained` is a tag, a file or `random`.
        architecture: open_clip's configuration of the architecture.
        tag: open_clip's data on the tag; empty if `pretrained` is not a tag.
        allow_download: whether a missing file may be downloaded.

    Raises:
        UserError: `pretrained` is not set, or is neither a tag nor a file, or the file is missing and cannot
            be downloaded.
    """
    if config.pretrained == RANDOM:
        return None
    if not config.pretrained:
        raise UserError(
            f"clip.model={config.model} needs clip.pretrained: a tag ({list_tags(config.model)}), a file, "
            "or random"
        )
    given = find(config.pretrained)
    if given.is_file():
        return given
    if not tag:
        raise UserError(
            f"clip.pretrained={config.pretrained} is neither a file nor a tag of {config.model}; its tags: "
            f"{list_tags(config.model)}"
        )
    found = next((path for path in list_places(config, tag) if path.is_file()), None)
    if found is not None:
        return found
    if not allow_download:
        raise UserError(explain_absence(config, architecture, tag))
    try:
        return Path(download_pretrained(tag))
    except Exception as error:  # urllib and the hub raise many exception types
        raise UserError(
            f"the weights {config.pretrained} of {config.model} cannot be downloaded ({error}); get the file "
            "another way and set clip.pretrained=FILE"
        ) from error


def list_places(config: ClipConfig, tag: dict[str, Any]) -> list[Path]:
    """Possible paths of the weights of a tag, in order of search."""
    repository, file = os.path.split(tag.get("hf_hub", ""))
    address = Path(tag.get("url", "")).name
    names = [f"{config.model}-{config.pretrained}{end}" for end in (".safetensors", ".bin", ".pt")]
    chosen = os.environ.get(FOLDER_VARIABLE)
    places = [expand_home(chosen) / name for name in [*names, address] if name] if chosen else []
    for name in [file] if file else HUB_FILES:
        cached = try_to_load_from_cache(repository, name) if repository else None
        places += [Path(cached)] if isinstance(cached, str) else []
    return [*places, expand_home(CACHE) / address] if address else places


def explain_absence(config: ClipConfig, architecture: dict[str, Any], tag: dict[str, Any]) -> str:
    """One sentence: which file is missing, its size, how to provide it, and what works without it."""
    with torch.device("meta"):
        kind = open_clip.CustomTextCLIP if architecture.get("custom_text") else open_clip.CLIP
        net = kind(**{key: value for key, value in architecture.items() if key != "custom_text"})
    megabytes = 4 * count_parameters(net) / 1e6
    repository, file = os.path.split(tag.get("hf_hub", ""))
    wanted = (
        f"https://huggingface.co/{repository} ({file or HUB_FILES[0]})" if repository else tag.get("url", "")
    )
    return (
        f"the weights {config.pretrained} of {config.model} are missing, and downloads are not allowed: "
        f"get {wanted}, about {megabytes:.0f} MB as float32, and set clip.pretrained=FILE, or name it "
        f"{config.model}-{config.pretrained}.safetensors and put it into ${FOLDER_VARIABLE}, or allow the "
        f"download with weights.allow_download=true; {WITHOUT}"
    )


def list_tags(model: str) -> str:
    """The tags of an architecture, as text."""
    return ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
