import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.catalog import DataOptions, open_data
from ldm.errors import UserError

NAMES = [f"{number:06}.jpg" for number in range(1, 25)]
ATTRIBUTES = [f"Attribute_{number}" for number in range(40)]
VALUES = np.random.default_rng(0).integers(0, 2, (24, 40))


@pytest.fixture
def root(tmp_path):
    """24 images in the published layout: two thirds training, then validation, then test."""
    (tmp_path / "img_align_celeba").mkdir()
    rng = np.random.default_rng(0)
    for name in NAMES:
        pixels = np.repeat(np.repeat(rng.integers(0, 256, (28, 23, 3), dtype=np.uint8), 8, 0), 8, 1)[
            :218, :178
        ]
        Image.fromarray(pixels).save(tmp_path / "img_align_celeba" / name, quality=95)
    rows = [
        f"{name} {' '.join(f'{2 * v - 1:2d}' for v in values)}"
        for name, values in zip(NAMES, VALUES, strict=True)
    ]
    (tmp_path / "list_attr_celeba.txt").write_text("\n".join(["24", " ".join(ATTRIBUTES), *rows]) + "\n")
    parts = [f"{name} {0 if number < 16 else 1 if number < 20 else 2}" for number, name in enumerate(NAMES)]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    return tmp_path


def open_celeba(root, **options):
    return open_data(DataOptions("celeba", str(root), **options))


def test_images_and_attributes(root):
    """First, last and 1,000 random indices, against the files themselves."""
    source = open_celeba(root)
    random = torch.randint(24, (1000,), generator=torch.Generator().manual_seed(0))
    index = torch.cat([torch.tensor([0, 23]), random])
    assert source.image_size == 64 and source.attribute_names == tuple(ATTRIBUTES)
    assert np.array_equal(source.attributes(index), VALUES[index])
    faces = [Image.open(root / "img_align_celeba" / name).crop((25, 57, 153, 185)) for name in NAMES]
    shrunk = [np.asarray(face.resize((64, 64), Image.Resampling.BICUBIC)) for face in faces]
    wanted = np.stack(shrunk).transpose(0, 3, 1, 2)[index].astype(int)
    assert np.abs(source.images(index).numpy() - wanted).max() <= 1
    assert "d2c128" in source.preparation


@pytest.mark.parametrize(
    ("partition", "rows"), [("train", range(16)), ("valid", range(16, 20)), ("test", range(20, 24))]
)
def test_partitions(root, partition, rows):
    source = open_celeba(root, partition=partition)
    assert np.array_equal(source.attributes(torch.arange(len(source))), VALUES[list(rows)])
    assert source.identity != open_celeba(root).identity


def test_another_crop_and_size(root):
    source = open_celeba(root, crop="center178", image_size=32)
    assert source.images(torch.tensor([0])).shape == (1, 3, 32, 32)
    with pytest.raises(UserError, match="celeba has its own attributes"):
        open_celeba(root, attributes="x.csv")


def test_bad_input(root):
    with pytest.raises(UserError, match="has no img_align_celeba; .*disdiff data celeba"):
        open_celeba(root / "img_align_celeba")
    path = root / "list_attr_celeba.txt"
    whole = path.read_text()
    path.write_text("\n".join(whole.splitlines()[:-3]))
    with pytest.raises(UserError, match="says 24 images but has 21 rows"):
        open_celeba(root)
    path.write_text(whole.replace("24\n", "23\n", 1).rsplit("\n", 2)[0])
    with pytest.raises(UserError, match="lacks rows for 1 pictures .000024.jpg"):
        open_celeba(root)
    assert len(open_celeba(root, corrupt="skip")) == 23
    path.write_text(whole)
    (root / "img_align_celeba" / NAMES[4]).unlink()
    with pytest.raises(UserError, match="has 1 rows without a picture .000005.jpg"):
        open_celeba(root)
    assert np.array_equal(
        open_celeba(root, corrupt="skip").attributes(torch.arange(23)), np.delete(VALUES, 4, axis=0)
    )
    path.unlink()
    with pytest.raises(UserError, match="cannot read .*list_attr_celeba.txt"):
        open_celeba(root)


def test_an_image_of_another_size_is_named(root):
    Image.new("RGB", (178, 178)).save(root / "img_align_celeba" / NAMES[2])
    with pytest.raises(
        UserError, match="000003.jpg cannot be read .it has 178x178 pixels, aligned CelebA has 178x218"
    ):
        open_celeba(root).images(torch.tensor([2]))
    assert open_celeba(root, corrupt="skip").skipped == ("000003.jpg",)


def test_an_image_that_the_partition_lacks_is_named(root):
    path = root / "list_eval_partition.txt"
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole[:20] + whole[21:]))
    for partition in ("train", "test"):
        with pytest.raises(UserError, match="lacks rows for 1 images .000021.jpg.; .*data.corrupt=skip"):
            open_celeba(root, partition=partition)
    source = open_celeba(root, partition="test", corrupt="skip")
    assert source.skipped == ("000021.jpg",) and len(source) == 3
    assert np.array_equal(source.attributes(torch.arange(3)), VALUES[21:])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("000021.jpg 3", "the rows of 000021.jpg need one of 0, 1, 2"),
        ("000021.jpg", "the rows of 000021.jpg need one of 0, 1, 2"),
        ("000020.jpg 2", "has the image 000020.jpg more than once"),
    ],
)
def test_a_partition_that_is_wrong(root, row, message):
    path = root / "list_eval_partition.txt"
    path.write_text(path.read_text().replace("000021.jpg 2", row))
    with pytest.raises(UserError, match=message):
        open_celeba(root, partition="train")


def test_values_of_neither_kind(root):
    path = root / "list_attr_celeba.txt"
    path.write_text(path.read_text().replace("-1", " 0", 1))
    with pytest.raises(UserError, match="has both 0 and -1"):
        open_celeba(root)
