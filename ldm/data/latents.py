"""Cache of the encoded data set: each image is encoded once, and later stages read its latents.

A cache is a folder with `latents.npy` (n, ...) float32, optionally `images.npy` (n, 3, H, W) uint8, and
`cache.json` with the key for which they were made and the number of rows that are safely on disk. An encoding
that was killed continues from there. `LatentCache.open` returns None until the cache is complete.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ldm.data.arrays import MappedArray, NpyWriter, Progress, holds_rows, open_npy, silent
from ldm.data.source import ImageSource
from ldm.errors import UserError
from ldm.files import load_json, save_json

BATCHES_PER_SAVE = 16  # a killed encoding repeats at most this many
DTYPES = {"latents": np.float32, "images": np.uint8}


@dataclass(frozen=True)
class LatentCache:
    """A complete cache, memory-mapped.

    Attributes:
        latents: shape (n, ...) float32.
        images: shape (n, 3, H, W) uint8, or None if they were not stored.
    """

    latents: MappedArray
    images: MappedArray | None

    @classmethod
    def open(cls, path: Path, key: str) -> "LatentCache | None":
        """Open the cache in the folder `path`; None unless it is complete and was made for `key`."""
        state = _State.load(path)
        if state is None or state.key != key or state.done != state.count:
            return None
        arrays = {name: open_npy(path / f"{name}.npy") for name in state.shapes}
        return cls(arrays["latents"], arrays.get("images"))

    def __len__(self) -> int:
        return len(self.latents)


def encode_to_cache(
    encode: Callable[[Tensor], Tensor],
    source: ImageSource,
    index: Tensor,
    path: Path,
    key: str,
    batch_size: int,
    progress: Progress = silent,
    with_images: bool = False,
) -> LatentCache:
    """Encode images in order into the folder `path`, continuing an earlier call for the same key.

    Args:
        encode: uint8 images (B, 3, H, W) => latents (B, ...); the caller decides on gradients.
        source: the image source.
        index: the images to encode, shape (n,) int64; row i of the cache is image index[i].
        path: folder of this cache only.
        key: identifies everything that the latents depend on; a cache for another key is replaced.
        batch_size: images per call of `encode`.
        progress: called with (images done, total images) after each batch.
        with_images: also store the uint8 images.

    Raises:
        UserError: the folder cannot be written or the disk is full; rows encoded so far are kept.
    """
    if not len(index) or batch_size < 1:
        raise ValueError(f"expected images and a batch size of 1 or more, got {len(index)} and {batch_size}")
    state = _State.load(path)
    if state is None or not state.serves(key, len(index), with_images):
        state = _State(key, len(index), {}, 0)
    with ExitStack() as files:
        writers: dict[str, NpyWriter] = {}
        batches = _encoded(encode, source, index[state.done :], batch_size)
        for number, rows in enumerate(batches, start=1):
            if not state.shapes:
                wanted = DTYPES if with_images else ["latents"]
                state.begin(path, {name: list(rows[name].shape[1:]) for name in wanted})
            if not writers:
                writers = {name: files.enter_context(state.writer(path, name)) for name in state.shapes}
            for name, writer in writers.items():
                writer.append(rows[name])
            state.done += len(rows["latents"])
            if number % BATCHES_PER_SAVE == 0 or state.done == state.count:
                state.save(path, writers)
            progress(state.done, state.count)
    cache = LatentCache.open(path, key)
    if cache is None:
        raise UserError(f"another process changed {path} during encoding; run one process at a time")
    return cache


def _encoded(
    encode: Callable[[Tensor], Tensor], source: ImageSource, index: Tensor, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    for positions in index.split(batch_size):
        images = source.images(positions)
        yield {"latents": encode(images).detach().float().cpu().numpy(), "images": images.cpu().numpy()}


@dataclass
class _State:
    """The content of `cache.json`: `done` of `count` rows of each array in `shapes` are on disk."""

    key: str
    count: int
    shapes: dict[str, list[int]]
    done: int

    @classmethod
    def load(cls, path: Path) -> "_State | None":
        """Read `cache.json`; None if it is missing or unreadable, or an array has fewer than `done` rows."""
        try:
            state = cls(**load_json(path / "cache.json"))
            held = [
                holds_rows(path / f"{name}.npy", (state.count, *shape), DTYPES[name], state.done)
                for name, shape in state.shapes.items()
            ]
        except (UserError, OSError, TypeError, KeyError, AttributeError):
            return None
        return state if held and all(held) else None

    def serves(self, key: str, count: int, with_images: bool) -> bool:
        """Whether an encoding with these arguments can continue from this state."""
        return (self.key, self.count) == (key, count) and (not with_images or "images" in self.shapes)

    def begin(self, path: Path, shapes: dict[str, list[int]]) -> None:
        """Start a new cache; arrays of an earlier cache in the folder are deleted."""
        self.shapes = shapes
        save_json(path / "cache.json", asdict(self))
        for name in DTYPES:
            (path / f"{name}.npy").unlink(missing_ok=True)

    def writer(self, path: Path, name: str) -> NpyWriter:
        """Open one of the arrays to append rows."""
        return NpyWriter(path / f"{name}.npy", (self.count, *self.shapes[name]), DTYPES[name], self.done)

    def save(self, path: Path, writers: dict[str, NpyWriter]) -> None:
        """Flush the rows to disk, then store their number."""
        for writer in writers.values():
            writer.sync()
        save_json(path / "cache.json", asdict(self))
