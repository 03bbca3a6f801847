"""Find or download pretrained weights of other projects, such as the VGG16 of LPIPS.

The search order is: the path in the configuration (`weights.<name>`), the folder $DISDIFF_WEIGHTS, the cache
of torch hub. If none has the file and `weights.allow_download=true`, it is downloaded from its publisher and
the checksum is verified.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ldm.data.arrays import show_on
from ldm.data.download import download
from ldm.errors import UserError
from ldm.files import expand_home

FOLDER_VARIABLE = "DISDIFF_WEIGHTS"


@dataclass(frozen=True)
class WeightFile:
    """A weight file that this project uses and does not ship."""

    name: str  # the file's name in the option `weights.<name>`
    file_name: str
    url: str
    sha256: str  # the whole hash, or its first digits if the publisher gives only these
    megabytes: int
    purpose: str  # completes the sentence "... is needed for <purpose>"
    without: str  # the option (key=value) with which the file is not needed


VGG16 = WeightFile(
    name="vgg16",
    file_name="vgg16-397923af.pth",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    sha256="397923af",
    megabytes=528,
    purpose="the LPIPS loss of the autoencoder",
    without="autoencoder.loss.perceptual=none",
)


def resolve_weight(
    weight: WeightFile, path: str | Path | None = None, allow_download: bool = False, option: str = ""
) -> Path:
    """Find a weight file, or download it if that is allowed.

    Args:
        weight: the file to find.
        path: `weights.<name>` of the configuration: the file or its folder; None if not set.
        allow_download: `weights.allow_download` of the configuration.
        option: what the caller's command line needs before KEY=VALUE, such as `--set `; `disdiff train`
            needs nothing. Error messages use it.

    Returns:
        The path of an existing file. Only a downloaded file's checksum is verified.

    Raises:
        UserError: `path` is set and there is no such file; or the file is not found and downloads are not
            allowed; or the download fails or has the wrong checksum.
    """
    if path is not None:
        given = expand_home(path)
        given = given / weight.file_name if given.is_dir() else given
        if not given.is_file():
            raise UserError(
                f"weights.{weight.name}={path} is not a file; correct the path by"
                f" {option}weights.{weight.name}=PATH, or leave it out"
            )
        return given
    folders = weight_folders()
    for folder in folders:
        if (folder / weight.file_name).is_file():
            return folder / weight.file_name
    if not allow_download:
        raise UserError(explain_absence(weight, folders, option))
    target = folders[0] / weight.file_name
    fetch(weight, target, option)
    return target


def weight_folders() -> list[Path]:
    """The folders to search; downloads go to the first."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return [expand_home(chosen), cache] if chosen else [cache]


def explain_absence(weight: WeightFile, folders: list[Path], option: str = "") -> str:
    """One sentence: what the file is needed for, how to provide it, and which option avoids it."""
    return (
        f"{weight.file_name} ({weight.megabytes} MB) is needed for {weight.purpose} and is not in "
        f"{' or '.join(map(str, folders))}: allow the download with {option}weights.allow_download=true, or "
        f"get it from {weight.url} (sha256 {weight.sha256}...) and put it there or into ${FOLDER_VARIABLE}, "
        f"or name it by {option}weights.{weight.name}=PATH, or work without it: {weight.without}"
    )


def fetch(weight: WeightFile, target: Path, option: str = "") -> None:
    """Download a weight file to `target` with a progress bar; `option` as in `resolve_weight`.

    Raises:
        UserError: the address cannot be read, the checksum differs, or the folder cannot be written.
    """
    with tqdm(unit="B", unit_scale=True, desc=weight.file_name) as bar:
        try:
            download(weight.url, target, weight.sha256, show_on(bar))
        except UserError as error:
            message = f"{error}; or get the file another way and set {option}weights.{weight.name}=PATH"
            raise UserError(message) from error
