import os

import pytest

from ldm.errors import UserError
from ldm.files import atomic_path, digest_file, load_json, remove_partial, save_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    save_json(path, {"kept": 1})
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert load_json(path) == {"kept": 1} and os.listdir(tmp_path) == ["a.json"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    with atomic_path(tmp_path / "b.ckpt") as temporary:
        temporary.write_text("half")
        (tmp_path / temporary.name.replace(str(os.getpid()), "1")).write_text("of a killed process")
    remove_partial(tmp_path)
    assert os.listdir(tmp_path) == ["b.ckpt"]


def test_numbers_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(ValueError):
        save_json(tmp_path / "a.json", {"score": float("nan")})


@pytest.mark.parametrize("content", [None, "{", ""])
def test_a_bad_file_is_named(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="a.json"):
        load_json(path)


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_json(tmp_path / "file" / "a.json", {})


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert digest_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(UserError, match="cannot read .*absent"):
        digest_file(tmp_path / "absent")
