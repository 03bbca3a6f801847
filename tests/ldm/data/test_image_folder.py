import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.catalog import DataOptions, open_data
from ldm.data.image_folder import FolderStore, match_attributes, read_attributes
from ldm.data.source import describe_source
from ldm.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("b/x.png", "a/x.png", "a/deep/y.JPG", "z.webp", ".hidden/h.png", ".h.png", "__MACOSX/m.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def write(folder, *rows):
    path = folder / "labels.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def match(path, folder, skip=False):
    store = FolderStore(folder)
    return match_attributes(path, store, read_attributes(path)[1], skip), store.names


ROWS = ("a/x.png,1,0", "b/x.png,0,1", "y.JPG,0,0", "z.webp,1,1")


def test_lists_nested_pictures_by_path(folder):
    store = FolderStore(folder)
    assert store.names == ["a/deep/y.JPG", "a/x.png", "b/x.png", "z.webp"]
    assert store.read(3) == (folder / "z.webp").read_bytes()
    assert not store.left_out


def test_folders_without_pictures(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match=r"has no pictures \(.*\.png.*\); set another"):
        FolderStore(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        FolderStore(tmp_path / "absent")
    with pytest.raises(UserError, match="is not a folder"):
        FolderStore(tmp_path / "notes.txt")


class TestAttributes:
    def test_by_path_or_by_bare_name(self, folder):
        path = write(folder, "file,glasses,hat", *ROWS)
        assert read_attributes(path)[0] == ["glasses", "hat"]
        values, _ = match(path, folder)
        assert values.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]

    def test_a_file_in_the_folder_is_found_by_itself(self, folder):
        write(folder, "file,glasses,hat", *ROWS).rename(folder / "attributes.csv")
        source = open_data(DataOptions("folder", str(folder), image_size=8))
        assert source.attribute_names == ("glasses", "hat")

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (("file,glasses,hat", *ROWS, "gone.png,1,1"), r"1 rows without a picture \(gone.png\)"),
            (("file,glasses,hat", *ROWS[:3]), r"lacks rows for 1 pictures \(z.webp\)"),
            (("file,glasses,hat", *ROWS, "a/x.png,1,1"), "the picture a/x.png more than once"),
            (("file,glasses,hat", *ROWS, "a/deep/y.JPG,1,1"), "the picture a/deep/y.JPG more than once"),
            (("file,hat,hat", *ROWS), "the attribute hat more than once"),
            (
                ("file,glasses,hat", "x.png,1,1", *ROWS[2:]),
                r"x.png fits 2 pictures \(a/x.png, b/x.png\)",
            ),
            (("file,glasses,hat", "a/x.png,1,2", *ROWS[1:]), "row of a/x.png needs 2 values, each 0 or 1"),
            (("file,glasses,hat", "a/x.png,1", *ROWS[1:]), "row of a/x.png needs 2 values"),
            (("file,glasses,hat",), "needs a header"),
        ],
    )
    def test_what_does_not_fit_is_named(self, folder, rows, message):
        with pytest.raises(UserError, match=message):
            match(write(folder, *rows), folder)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            (("file,glasses,hat", "a/x.png,yes,no"), "row of a/x.png needs 2 values, each 0 or 1"),
            (("file,glasses,hat", "a/x.png,0.5,1"), "row of a/x.png needs 2 values, each 0 or 1"),
            (("file,glasses,hat", "a/x.png,-1,1", "b/x.png,0,1", "z.webp,1,1"), "glasses has both 0 and -1"),
            (("a/x.png,1,0", "b/x.png,0,1"), "needs a header"),
            (("file,glasses,", "a/x.png,1,0"), "a column or row without a name"),
            (("file,glasses,hat", ",1,0"), "a column or row without a name"),
            (("file;glasses;hat", "a/x.png;1;0"), "needs a header"),
            (("file,glasses,hat", '"a/x.png,1,0'), "cannot read the attributes"),
        ],
    )
    def test_what_could_be_misread_is_refused(self, folder, rows, message):
        with pytest.raises(UserError, match=message):
            match(write(folder, *rows), folder)

    @pytest.mark.parametrize(("no", "yes"), [("0", "1"), ("-1", "1"), ("0.0", "1.0"), (" -1", " 1 ")])
    def test_forms_of_the_values(self, folder, no, yes):
        rows = (f"a/x.png,{yes},{no}", f"b/x.png,{no},{yes}", f"y.JPG,{no},{no}", f"z.webp,{yes},{yes}")
        assert match(write(folder, "file,glasses,hat", *rows), folder)[0].tolist() == [
            [0, 0], [1, 0], [0, 1], [1, 1]
        ]  # fmt: skip

    @pytest.mark.parametrize("ending", ["\n", "\r\n"])
    def test_as_spreadsheets_save_it(self, folder, ending):
        """A byte order mark, commas in quotes, empty lines and cells at the end."""
        Image.new("RGB", (8, 8)).save(folder / "one, two.png")
        rows = ("file,glasses,hat", *ROWS, '"one, two.png",1,1', ",,", "")
        (folder / "labels.csv").write_bytes(ending.join(rows).encode("utf-8-sig"))
        values, names = match(folder / "labels.csv", folder)
        assert names[3] == "one, two.png" and values.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1], [1, 1]]

    def test_skip_counts_and_names_what_is_left_out(self, folder):
        write(folder, "file,glasses,hat", *ROWS[:3], "gone.png,1,1").rename(folder / "attributes.csv")
        (folder / "b" / "x.png").write_bytes(b"no")
        source = open_data(DataOptions("folder", str(folder), image_size=8, corrupt="skip"))
        assert set(source.skipped) == {"z.webp", "gone.png (a row without a picture)", "b/x.png"}
        assert describe_source(source)["skipped"] == list(source.skipped)

    def test_skip_leaves_out_what_has_no_partner(self, folder):
        path = write(folder, "file,glasses,hat", *ROWS[:3], "gone.png,1,1")
        values, names = match(path, folder, skip=True)
        assert names == ["a/deep/y.JPG", "a/x.png", "b/x.png"] and values.tolist() == [[0, 0], [1, 0], [0, 1]]

    def test_skip_with_no_row_that_fits(self, folder):
        with pytest.raises(UserError, match="no row belongs to a picture"):
            match(write(folder, "file,hat", "gone.png,1"), folder, skip=True)

    def test_a_file_that_is_no_text(self, folder):
        path = folder / "labels.csv"
        path.write_bytes(bytes(range(256)) * 4)
        with pytest.raises(UserError, match="cannot read the attributes"):
            read_attributes(path)
        with pytest.raises(UserError, match="cannot read the attributes"):
            read_attributes(folder / "absent.csv")


def test_attributes_stay_with_their_pictures_when_corrupt_ones_are_left_out(folder):
    write(folder, "file,glasses,hat", *ROWS).rename(folder / "attributes.csv")
    (folder / "a" / "x.png").write_bytes(b"no")
    source = open_data(DataOptions("folder", str(folder), image_size=8, corrupt="skip"))
    assert source.skipped == ("a/x.png",)
    assert np.array_equal(source.attributes(torch.arange(3)), [[0, 0], [0, 1], [1, 1]])
