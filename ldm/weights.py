"""Find or download pretrained weights of other projects, such as the VGG16 of LPIPS.

The search order is: the path in the configuration (`weights.<name>`), the folder $DISDIFF_WEIGHTS, the cache
of torch hub. If none has the file and `weights.allow_download=true`, it is downloaded from its publisher and
the checksum is verified.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import torch
from tqdm import tqdm

from ldm.errors import UserError
from ldm.files import atomic_path, expand_home

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
    download(weight, target, option)
    return target


def weight_folders() -> list[Path]:
    """The folders to search; downloads go to the first."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    return [expand_home(chosen), cache] if chosen else [cache]


def explain_absence(weight: WeightFile, folders: list[Path], option: str = "") -> str:
    """One sentence: what the file is needed for, how to provide it, and which option avoids it."""
    return (
        f"{weight.file_name} is needed for {weight.purpose} and is not in {' or '.join(map(str, folders))}: "
        f"put it there or into ${FOLDER_VARIABLE} ({weight.url}, {weight.megabytes} MB, "
        f"sha256 {weight.sha256}...), or set {option}weights.{weight.name}=PATH, or allow the "
        f"download with {option}weights.allow_download=true, or work without it: {weight.without}"
    )


def download(weight: WeightFile, target: Path, option: str = "") -> None:
    """Download `weight.url` to `target`, which is created only if the checksum is right.

    Raises:
        UserError: the address cannot be read, the checksum differs, or the folder cannot be written.
    """
    digest = hashlib.sha256()
    with atomic_path(target) as temporary:
        with temporary.open("wb") as file:
            for chunk in stream(weight, option):
                digest.update(chunk)
                file.write(chunk)
        if not digest.hexdigest().startswith(weight.sha256.lower()):
            raise UserError(
                f"{weight.url} gave a file with sha256 {digest.hexdigest()}, expected {weight.sha256}...; "
                f"the file was deleted: try again, or set {option}weights.{weight.name}=PATH"
            )


def stream(weight: WeightFile, option: str = "") -> Iterator[bytes]:
    """Yield the bytes at `weight.url` in chunks of 1 MiB and show a progress bar."""
    try:
        with urlopen(weight.url, timeout=60) as response:
            size = int(response.headers.get("Content-Length") or 0) or None
            with tqdm(total=size, unit="B", unit_scale=True, desc=weight.file_name) as bar:
                while chunk := response.read(1 << 20):
                    yield chunk
                    bar.update(len(chunk))
    except (OSError, HTTPException) as error:
        raise UserError(
            f"{weight.url} cannot be downloaded ({error}); get the file another way and set "
            f"{option}weights.{weight.name}=PATH"
        ) from error
