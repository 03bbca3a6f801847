import numpy as np
import pytest

from disdiff.evaluation.codes_file import (
    list_arrays,
    read_codes,
    read_labelled_codes,
    read_run_codes,
    save_codes,
)
from ldm.errors import UserError

CODES, FACTORS = np.arange(12.0).reshape(6, 2), np.arange(12).reshape(6, 2) % 3
OBJECTS = np.array([{"a": 1}, None], dtype=object)


@pytest.fixture
def save(tmp_path):
    """Return a function that writes a codes.npz."""

    def write(**arrays):
        save_codes(tmp_path / "codes.npz", {"codes": CODES, **arrays})
        return tmp_path / "codes.npz"

    return write


@pytest.mark.parametrize("name", ["meta", "attributes", "factor_names", "attribute_names"])
def test_objects_that_nobody_needs_do_no_harm(save, name):
    path = save(factors=FACTORS, **{name: OBJECTS})
    arrays = read_labelled_codes(path, ["factors"])
    assert set(arrays) == {"codes", "factors"}
    assert (arrays["codes"] == CODES).all() and (arrays["factors"] == FACTORS).all()
    assert set(read_run_codes(path.parent)) == {"codes"}
    assert set(read_run_codes(path.parent, "factors")) == {"codes", "factors"}
    assert name in list_arrays(path)


def test_a_damaged_array_that_nobody_needs_does_no_harm(save):
    path = save(factors=FACTORS, images=np.full(4_000, 7, np.uint8))
    content = bytearray(path.read_bytes())
    content[content.index(b"\x07" * 100) + 50] = 8
    path.write_bytes(content)
    assert set(read_labelled_codes(path, ["factors"])) == {"codes", "factors"}
    with pytest.raises(UserError, match="codes.npz is damaged"):
        read_codes(path, ["images"])


@pytest.mark.parametrize("name", ["codes", "factors"])
def test_objects_that_are_needed_are_named_and_not_unpickled(save, name):
    path = save(**{"factors": FACTORS, name: OBJECTS})
    with pytest.raises(UserError, match=f"codes.npz is damaged: '{name}' holds Python objects"):
        read_labelled_codes(path, ["factors"])


def test_the_first_labels_of_the_file_are_read_with_their_names(save):
    path = save(factors=FACTORS, factor_names=np.array(["a", "b"]), attributes=FACTORS > 0)
    assert set(read_labelled_codes(path, ["attributes", "factors"])) == {"codes", "attributes"}
    assert set(read_labelled_codes(path, ["factors", "attributes"])) == {"codes", "factors", "factor_names"}
    with pytest.raises(UserError, match="must hold the array 'codes' and an array 'colours', but holds"):
        read_labelled_codes(path, ["colours"])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"no zip at all"])
def test_what_is_no_file_of_codes_is_named(tmp_path, content):
    path = tmp_path / "codes.npz"
    path.write_bytes(content)
    for read in (lambda: read_labelled_codes(path, ["factors"]), lambda: read_run_codes(tmp_path)):
        with pytest.raises(UserError, match="codes.npz is damaged"):
            read()


def test_a_missing_file_a_folder_and_a_run_without_codes(tmp_path):
    for path in (tmp_path / "absent.npz", tmp_path):
        with pytest.raises(UserError, match="cannot read codes from .*there is no such file"):
            read_codes(path, ["codes"])
    assert read_run_codes(tmp_path) is None
    np.savez(tmp_path / "codes.npz", factors=FACTORS)
    with pytest.raises(UserError, match="holds no 'codes'"):
        read_run_codes(tmp_path)
