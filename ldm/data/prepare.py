"""Steps of the command `disdiff data`: download, unpack, render, convert and verify a data set."""

import fnmatch
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ldm.data.archives import verify_npz
from ldm.data.arrays import NpyWriter, Progress, npy_header, silent
from ldm.data.catalog import DATA_SETS, DataOptions, open_data
from ldm.data.download import download
from ldm.data.dsprites import STEM
from ldm.data.pictures import Pictures, name_some
from ldm.data.shapes3d import write_shapes3d
from ldm.data.source import ImageSource
from ldm.data.sources import ORIGINS, Remote
from ldm.errors import UserError
from ldm.files import atomic_path, digest_file, load_json, save_json

CHECKSUMS = "checksums.json"
BATCH = 1024


def explain(name: str, root: Path) -> str:
    """Lines that explain what a data set needs and what is found in a folder."""
    origin, data_set = ORIGINS[name], DATA_SETS[name]
    if data_set.open is None:
        return f"{origin.content}.\n  files     {origin.layout}\n  licence   {origin.licence}"
    lines = [
        f"{origin.content}.",
        f"  source    {origin.page} ({'--download fetches it' if origin.remotes else 'by hand'})",
        f"  licence   {origin.licence}",
        f"  files     {origin.layout}",
        f"  put it in {root}, or anywhere with data.root=FOLDER on the command line of `disdiff train`",
        "  checksum  not published; a download's own is stored, and `check` compares it",
        f"  then      disdiff data check {name} --root {root}",
        origin.note,
    ]
    if data_set.draw is not None:
        lines.append(
            "Without the files a procedural stand-in is used, and every result says so (--procedural)."
        )
    found = data_set.find(root) if name != "folder" or root.exists() else None
    return "\n".join([*filter(None, lines), f"found     {found or f'nothing in {root} yet'}"])


def fetch(name: str, root: Path, tell: Callable[[str], Progress]) -> list[Path]:
    """Download the files of a data set that are not there yet; returns the new ones.

    Archives are unpacked and deleted. `tell` gives a file's callback for (bytes done, total bytes).

    Raises:
        UserError: the data set cannot be downloaded by a program, or the download or unpacking fails.
    """
    origin, got = ORIGINS[name], []
    if not origin.remotes:
        raise UserError(f"{name} cannot be downloaded by a program; get it by hand from {origin.page}")
    archives = [remote.file for remote in origin.remotes if remote.unpack]
    pending = any((root / file).exists() for file in archives)  # an archive was not unpacked completely
    if archives and not pending and DATA_SETS[name].find(root) is not None:
        return []
    for remote in origin.remotes:
        target = root / remote.file
        if target.exists() and not remote.unpack:
            continue
        if not target.exists():
            note_checksum(root, remote.file, download(remote.url, target, None, tell(remote.file)))
        got += unpack_archive(target, remote, root) if remote.unpack else [target]
    return got


def unpack_archive(path: Path, remote: Remote, root: Path) -> list[Path]:
    """Extract the files that match `remote.unpack` from an archive, each atomically; then delete the archive.

    Raises:
        UserError: the archive is damaged or has no such files, or the disk is full; then the archive is kept.
    """
    folder, got = root / Path(remote.unpack).parent, []
    try:
        for name, stream in _members(path, f"*{remote.unpack}"):
            target = folder / Path(name).name
            if target in got:
                raise UserError(f"{path} has two files {target.name}; delete it and download it again")
            with atomic_path(target) as temporary, temporary.open("wb") as file:
                shutil.copyfileobj(stream, file, 2**20)
            got.append(target)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, RuntimeError) as error:
        raise UserError(f"{path} is a damaged archive ({error}); delete it and download it again") from error
    if not got:
        raise UserError(f"{path} has no {remote.unpack}; delete it and download it again")
    path.unlink()
    return got


def _members(path: Path, pattern: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Names and contents of the files in an archive that match a pattern."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for name in fnmatch.filter(archive.namelist(), pattern):
                with archive.open(name) as stream:
                    yield name, stream
        return
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            if member.isfile() and fnmatch.fnmatch(f"/{member.name}", pattern):
                yield member.name, archive.extractfile(member)


def note_checksum(root: Path, file: str, sha256: str) -> None:
    """Store the checksum of a download, for `verify_checksums`."""
    save_json(root / CHECKSUMS, {**load_checksums(root), file: sha256})


def load_checksums(root: Path) -> dict[str, str]:
    """The sha256 of downloaded files by name."""
    with suppress(UserError):
        return dict(load_json(root / CHECKSUMS))
    return {}


def verify_checksums(root: Path) -> list[str]:
    """Verify the stored checksums of downloaded files, and return the names of these files.

    Raises:
        UserError: a file has changed.
    """
    present = {name: digest for name, digest in load_checksums(root).items() if (root / name).is_file()}
    for name, digest in present.items():
        if digest_file(root / name) != digest:
            raise UserError(f"{root / name} has changed since its download; delete it and download it again")
    return list(present)


def render(name: str, root: Path, num_images: int | None, seed: int, progress: Progress = silent) -> Path:
    """Write procedural images, all or a random subset, in the format of the published file.

    `progress` is called with (images done, total images).

    Raises:
        UserError: there is no procedural stand-in, `num_images` is out of range, the folder has the published
            file, or the disk is full.
    """
    data_set, options = DATA_SETS[name], DataOptions(name, str(root))
    writers = {"shapes3d": ("3dshapes.h5", write_shapes3d), "dsprites": (f"{STEM}.npz", write_dsprites)}
    if name not in writers:
        why = "is drawn when it is read" if data_set.draw else "has no procedural version"
        raise UserError(f"{name} {why}; --procedural works with {' and '.join(writers)}")
    source = data_set.draw(options)
    if num_images is not None and not 1 <= num_images <= len(source):
        raise UserError(f"--num-images must be from 1 to {len(source)}, got {num_images}")
    index = torch.arange(len(source))
    if num_images is not None:
        generator = torch.Generator().manual_seed(seed)
        index = torch.randperm(len(source), generator=generator)[:num_images].sort().values
    found = data_set.find(root)
    if found is not None and not open_data(options).procedural:
        raise UserError(f"{found} exists and is not procedural; move it away or choose another --root")
    file, write = writers[name]
    write(root / file, source, index, progress)
    return root / file


def write_dsprites(path: Path, source: ImageSource, index: Tensor, progress: Progress = silent) -> None:
    """Write binary images of `source` at `index` (n,) as a dSprites `.npz`, uncompressed and atomically.

    Raises:
        UserError: the file cannot be written.
    """
    factors = source.factors(index).numpy()
    classes = np.concatenate([np.zeros((len(index), 1), np.int64), factors], axis=1)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in (("latents_classes", classes), ("procedural", np.array(True))):
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        with archive.open("imgs.npy", "w", force_zip64=True) as file:
            file.write(npy_header((len(index), 64, 64), np.dtype(np.uint8)))
            for first in range(0, len(index), BATCH):
                part = source.images(index[first : first + BATCH])[:, 0] // 255
                file.write(part.numpy().tobytes())
                progress(first + len(part), len(index))


def convert(source: Pictures, progress: Progress = silent) -> Path:
    """Decode all pictures of a source once into an array in their folder, which later runs memory-map.

    Raises:
        UserError: a picture cannot be read, or the disk is full; then no file is created.
    """
    path, done = source.prepared_path(), 0
    shape = (len(source), 3, source.image_size, source.image_size)
    with atomic_path(path) as temporary, NpyWriter(temporary, shape, np.uint8) as writer:
        for part in torch.arange(len(source)).split(BATCH):
            writer.append(source.images(part).numpy())
            done += len(part)
            progress(done, len(source))
    source.note_prepared()
    return path


def check(options: DataOptions, progress: Progress = silent) -> str:
    """Read all images of a data set, and return a line that describes it.

    Raises:
        UserError: a file is missing or damaged, or an image is empty.
    """
    root = Path(options.root)
    verify_checksums(root)
    source = open_data(options, progress)
    found = DATA_SETS[options.name].find(root)
    if found.suffix == ".npz":
        verify_npz(found)
    if isinstance(source, Pictures):
        return check_pictures(source, progress)
    empty = 0
    for index in torch.arange(len(source)).split(BATCH):
        empty += int((source.images(index).flatten(1).amax(dim=1) == 0).sum())
        progress(int(index[-1]) + 1, len(source))
    if empty:
        raise UserError(f"{found} has {empty} empty images; get the file again")
    kind = "procedural" if source.procedural else "the published data"
    total = f" of {len(source.factor_space)}" if len(source) < len(source.factor_space) else ""
    return f"{found}: good; {len(source)}{total} images, {kind}, {source.identity}"


def check_pictures(source: Pictures, progress: Progress = silent) -> str:
    """Read every picture, and return a line that describes the data set.

    Raises:
        UserError: some pictures cannot be read.
    """
    bad = source.find_corrupt(progress)
    if bad:
        some = name_some([f"{name} ({why})" for name, why in bad.items()])
        raise UserError(
            f"{source.store.root}: {len(bad)} of {len(source.store.names)} pictures cannot be read: {some}; "
            "replace them, or leave them out with data.corrupt=skip"
        )
    labels = f", {len(source.attribute_names)} attributes" if source.attribute_names else ""
    return f"{source.store.root}: good; {len(source)} pictures{labels}, {source.identity}"
