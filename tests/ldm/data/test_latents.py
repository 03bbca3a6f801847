import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch

from ldm.data.latents import LatentCache, encode_to_cache
from ldm.errors import UserError

INDEX = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:250]


class Encoder:
    """Means over colour, upside down; counts what it encodes and fails after `limit` images."""

    def __init__(self, limit=10**9):
        self.count, self.limit = 0, limit

    def __call__(self, images):
        self.count += len(images)
        if self.count > self.limit:
            raise InterruptedError
        return images.double().mean(dim=1).flip(1)


def expected(source):
    return Encoder()(source.images(INDEX)).float()


def encode(source, path, encoder, key="a", batch_size=4, **options):
    return encode_to_cache(encoder, source, INDEX, path, key, batch_size, **options)


def test_encodes_in_order_and_then_never_again(tmp_path, fake_source):
    told = []
    path = tmp_path / "new" / "cache"
    cache = encode(
        fake_source, path, Encoder(), progress=lambda *progress: told.append(progress), batch_size=100
    )
    assert len(cache) == 250 and cache.images is None and cache.latents.dtype == np.float32
    assert np.array_equal(cache.latents, expected(fake_source))
    assert told == [(100, 250), (200, 250), (250, 250)]
    again = Encoder()
    encode(fake_source, path, again)
    assert again.count == 0
    assert np.array_equal(LatentCache.open(path, "a").latents, cache.latents)


def test_images_are_stored_when_wanted(tmp_path, fake_source):
    encode(fake_source, tmp_path, Encoder())
    cache = encode(fake_source, tmp_path, Encoder(), with_images=True)
    assert np.array_equal(cache.images, fake_source.images(INDEX))
    assert np.array_equal(cache.latents, expected(fake_source))
    again = Encoder()
    assert encode(fake_source, tmp_path, again, with_images=False).images is not None and again.count == 0


@pytest.mark.parametrize("with_images", [False, True])
def test_goes_on_after_a_failure(tmp_path, fake_source, with_images):
    with pytest.raises(InterruptedError):
        encode(fake_source, tmp_path, Encoder(limit=150), with_images=with_images)
    assert LatentCache.open(tmp_path, "a") is None
    rest = Encoder()
    cache = encode(fake_source, tmp_path, rest, with_images=with_images)
    assert rest.count == 250 - 128  # two times 16 batches of 4 were certainly on disk
    assert np.array_equal(cache.latents, expected(fake_source))
    assert not with_images or np.array_equal(cache.images, fake_source.images(INDEX))


class KilledEncoder(Encoder):
    def __call__(self, images):
        if self.count == 200:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(images)


def encode_until_killed(source, path):
    torch.set_num_threads(1)  # a forked process must not use its parent's threads
    encode(source, path, KilledEncoder(), with_images=True)


def test_goes_on_after_kill_9(tmp_path, fake_source):
    process = multiprocessing.get_context("fork").Process(
        target=encode_until_killed, args=(fake_source, tmp_path)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert json.loads((tmp_path / "cache.json").read_text())["done"] == 192
    assert LatentCache.open(tmp_path, "a") is None
    rest = Encoder()
    cache = encode(fake_source, tmp_path, rest, with_images=True)
    assert rest.count == 250 - 192
    assert np.array_equal(cache.latents, expected(fake_source))
    assert np.array_equal(cache.images, fake_source.images(INDEX))


@pytest.mark.parametrize("damage", ["shorter", "another header", "gone", "no json", "other json"])
def test_rows_that_are_not_there_are_encoded_again(tmp_path, fake_source, damage):
    with pytest.raises(InterruptedError):
        encode(fake_source, tmp_path, Encoder(limit=150))
    latents, state = tmp_path / "latents.npy", tmp_path / "cache.json"
    if damage == "shorter":
        latents.write_bytes(latents.read_bytes()[:500])
    elif damage == "another header":
        latents.write_bytes(b"x" + latents.read_bytes()[1:])
    elif damage == "gone":
        latents.unlink()
    else:
        state.write_text("{" if damage == "no json" else '{"done": 250}')
    anew = Encoder()
    cache = encode(fake_source, tmp_path, anew)
    assert anew.count == 250 and np.array_equal(cache.latents, expected(fake_source))


def test_another_key_replaces_the_cache(tmp_path, fake_source):
    encode(fake_source, tmp_path, Encoder(), key="a", with_images=True)
    assert LatentCache.open(tmp_path, "b") is None
    with pytest.raises(InterruptedError):  # interrupted at once: the old cache must not answer to any key
        encode(fake_source, tmp_path, Encoder(limit=20), key="b")
    assert LatentCache.open(tmp_path, "a") is None and LatentCache.open(tmp_path, "b") is None
    assert encode(fake_source, tmp_path, Encoder(), key="b").images is None
    assert not (tmp_path / "images.npy").exists()


def test_full_disk_is_named_and_survived(tmp_path, fake_source, no_file_larger_than):
    with pytest.raises(UserError, match="latents.npy.*free some space"), no_file_larger_than(50_000):
        encode(fake_source, tmp_path, Encoder())
    assert LatentCache.open(tmp_path, "a") is None
    rest = Encoder()
    assert np.array_equal(encode(fake_source, tmp_path, rest).latents, expected(fake_source))
    assert 0 < rest.count < 250


def test_a_folder_that_cannot_be_written(tmp_path, fake_source):
    (tmp_path / "cache.json").mkdir()
    with pytest.raises(UserError, match="cannot write .*cache.json.*choose another folder"):
        encode(fake_source, tmp_path, Encoder())


def test_gradients_are_the_callers_business(tmp_path, fake_source):
    weight = torch.ones((), requires_grad=True)
    cache = encode(fake_source, tmp_path, lambda images: weight * images.float().mean(dim=1))
    assert len(cache) == 250


def test_nothing_to_encode(tmp_path, fake_source):
    with pytest.raises(ValueError, match="got 0"):
        encode_to_cache(Encoder(), fake_source, INDEX[:0], tmp_path, "a", 4)
