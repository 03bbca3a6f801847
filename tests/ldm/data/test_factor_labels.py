import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.catalog import DataOptions, open_data
from ldm.data.factor_labels import number_values
from ldm.data.source import describe_source
from ldm.errors import UserError

COLOURS, SIZES = ("red", "green", "blue"), (2, 10)
NAMES = [f"{colour}-{size}-{copy}.png" for colour, size, copy in itertools.product(COLOURS, SIZES, "ab")]
ROWS = [f"{name},{name.split('-')[0]},{name.split('-')[1]}" for name in NAMES]


@pytest.fixture
def folder(tmp_path):
    """Two pictures of each colour and size of a square."""
    for name in NAMES:
        colour, size, _ = name.split("-")
        picture = Image.new("RGB", (16, 16), "black")
        picture.paste(colour, (0, 0, int(size), int(size)))
        picture.save(tmp_path / name)
    return tmp_path


def write(folder, *rows, name="factors.csv"):
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder / name


def open_folder(folder, **options):
    return open_data(DataOptions("folder", str(folder), image_size=16, **options))


def test_columns_become_factors(folder):
    write(folder, "file,colour,size", *reversed(ROWS))
    source = open_folder(folder)
    assert source.factor_space.names == ("colour", "size") and source.factor_space.sizes == (3, 2)
    everything = torch.arange(len(source))
    factors, images = source.factors(everything), source.images(everything)
    assert factors.shape == (12, 2)
    for name, row, image in zip(source.store.names, factors.tolist(), images, strict=True):
        colour, size, _ = name.split("-")
        assert row == [("blue", "green", "red").index(colour), SIZES.index(int(size))]
        channel = ("red", "green", "blue").index(colour)
        assert (image[channel] > 100).sum() == int(size) ** 2
    assert torch.equal(source.factors(torch.tensor([3, 3, 0])), factors[[3, 3, 0]])


def test_numbers_keep_their_order_and_names_are_sorted():
    values, numbers = number_values(np.array(["10", "9", "-1", "9"]))
    assert values == ("-1", "9", "10") and numbers.tolist() == [2, 1, 0, 1]
    values, numbers = number_values(np.array(["10.5", "9", "-1.25", "+9", "9.0"]))
    assert values == ("-1.25", "9", "10.5") and numbers.tolist() == [2, 1, 0, 1, 1]
    for text in ("1_2", "nan", "inf", "0x1", "1e", "."):
        assert text in number_values(np.array(["10", "9", text]))[0]
    values, numbers = number_values(np.array(["10", "9", "b"]))
    assert values == ("10", "9", "b") and numbers.tolist() == [0, 1, 2]


def test_a_value_that_is_no_number_among_numbers_is_said(folder, caplog):
    caplog.set_level("INFO", "ldm")
    write(folder, "file,colour,size", *ROWS[:-1], f"{NAMES[-1]},blue,ten")
    assert open_folder(folder).factor_space.values[1] == ("10", "2", "ten")
    assert "values of 'size' are taken for names, because ten is no number" in caplog.text
    assert "'colour'" not in caplog.text


def test_the_results_depend_on_the_labels_and_the_stages_do_not(folder):
    path = write(folder, "file,colour,size", *ROWS, name="elsewhere.csv")
    source = open_folder(folder, factors=str(path))
    assert describe_source(source)["factors_sha256"] == source.factors_sha256
    write(folder, "file,hue,size", *ROWS)
    other = open_folder(folder)
    assert other.factors_sha256 != source.factors_sha256 and other.identity == source.identity
    assert open_folder(folder, factors=str(path)).factors_sha256 == source.factors_sha256


def test_without_labels_there_are_no_factors(folder):
    source = open_folder(folder)
    assert source.factor_space is None and "factors_sha256" not in describe_source(source)
    assert source.factors(torch.arange(3)).shape == (3, 0)


def test_pictures_that_are_left_out(folder):
    """Damaged, or without a row: the labels of the others stay theirs."""
    (folder / NAMES[0]).write_bytes(b"no picture")
    write(folder, "file,colour,size", *(ROWS[:5] + ROWS[6:]), "gone.png,red,2")
    source = open_folder(folder, corrupt="skip")
    assert len(source) == 10 and len(source.skipped) == 3
    images, factors = source.images(torch.arange(10)), source.factors(torch.arange(10))
    sizes = (images.amax(dim=1) > 100).sum(dim=(1, 2))
    assert sizes.tolist() == [SIZES[row] ** 2 for row in factors[:, 1].tolist()]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("file,colour,size", *ROWS[:-1]), "lacks rows for 1 pictures"),
        (("file,colour,size", *ROWS, "gone.png,red,2"), r"1 rows without a picture \(gone.png\)"),
        (("file,colour,size", *ROWS[:-1], f"{NAMES[-1]},blue"), "row of .* needs 2 values; fill it in"),
        (("file,colour,size", *ROWS[:-1], f"{NAMES[-1]},blue, "), "row of .* needs 2 values; fill it in"),
        (("file,colour,colour", *ROWS), "the factor colour more than once"),
        (("file,,size", *ROWS), "a column or row without a name; give every factor one"),
        (("file,colour,size", *ROWS, ROWS[0]), "more than once; keep one of each"),
        (("file,colour,size",), r"needs a header \(file,factor,...\) and a row per picture"),
        (
            ("file,number", *(f"{name},{place}" for place, name in enumerate(NAMES))),
            "number has another value for every picture, so it is no factor; remove the column",
        ),
    ],
)
def test_files_that_do_not_fit(folder, rows, message):
    path = write(folder, *rows)
    with pytest.raises(UserError, match=message) as failure:
        open_folder(folder)
    assert str(path) in str(failure.value)


def test_attributes_and_factors_exclude_each_other(folder):
    factors = write(folder, "file,colour,size", *ROWS)
    attributes = write(folder, "file,dark", *(f"{name},0" for name in NAMES), name="attributes.csv")
    with pytest.raises(UserError, match="either attributes or factors; name one"):
        open_folder(folder)
    assert open_folder(folder, factors=str(factors)).attribute_names == ()
    assert open_folder(folder, attributes=str(attributes)).factor_space is None
    with pytest.raises(UserError, match="leave out one of data.attributes and data.factors"):
        open_folder(folder, attributes=str(attributes), factors=str(factors))


def test_only_for_pictures(tmp_path, folder):
    with pytest.raises(UserError, match="data.factors only applies to picture files, not to dsprites"):
        open_data(DataOptions("dsprites", str(tmp_path), factors="a.csv"))
    with pytest.raises(UserError, match="cannot read the factors .*absent.csv"):
        open_folder(folder, factors=str(folder / "absent.csv"))
