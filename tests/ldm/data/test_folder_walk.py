"""Folders as people have them: links, loops, names in any form, what cannot be read."""

import os
import unicodedata

import pytest
from PIL import Image

from ldm.data import folder_walk
from ldm.data.catalog import DataOptions, open_data
from ldm.data.folder_walk import list_pictures, printable
from ldm.data.image_folder import FolderStore
from ldm.errors import UserError

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))


def draw(path, colour=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path, "PNG")
    return path


def open_folder(root, **options):
    return open_data(DataOptions("folder", str(root), image_size=8, **options))


class TestLinks:
    def test_links_to_folders_are_followed(self, tmp_path):
        draw(tmp_path / "elsewhere" / "deep" / "a.png"), draw(tmp_path / "root" / "b.png")
        (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root" / "c.png").symlink_to(tmp_path / "root" / "b.png")
        (tmp_path / "root" / "d.png").symlink_to(draw(tmp_path / "one.png"))
        store = FolderStore(tmp_path / "root")
        assert store.names == ["b.png", "d.png", "link/deep/a.png"] and not store.left_out
        assert store.read(2) == (tmp_path / "elsewhere" / "deep" / "a.png").read_bytes()

    def test_the_root_is_a_link(self, tmp_path):
        draw(tmp_path / "a" / "x.png")
        (tmp_path / "b").symlink_to("a")
        assert FolderStore(tmp_path / "b").names == ["x.png"]

    def test_loops_end_and_what_is_reached_twice_counts_once(self, tmp_path):
        draw(tmp_path / "z" / "deep" / "x.png")
        (tmp_path / "a").symlink_to("z")  # sorts before the folder itself
        (tmp_path / "b").symlink_to(".")
        (tmp_path / "z" / "deep" / "up").symlink_to("../..")
        (tmp_path / "inner").symlink_to("z/deep")
        assert FolderStore(tmp_path).names == ["z/deep/x.png"]

    def test_two_links_to_one_place(self, tmp_path):
        draw(tmp_path / "elsewhere" / "x.png"), draw(tmp_path / "root" / "own.png")
        for name in ("b", "a"):
            (tmp_path / "root" / name).symlink_to("../elsewhere")
            (tmp_path / "root" / f"{name}.png").symlink_to("../elsewhere/x.png")
        assert FolderStore(tmp_path / "root").names == ["a/x.png", "own.png"]

    def test_hard_links_are_pictures_of_their_own_as_copies_are(self, tmp_path):
        os.link(draw(tmp_path / "a.png"), tmp_path / "b.png")
        assert FolderStore(tmp_path).names == ["a.png", "b.png"]

    @pytest.mark.parametrize("target", ["nowhere", "link"])  # the second leads to itself
    def test_broken_links_stop_or_are_named(self, tmp_path, target):
        draw(tmp_path / "a.png")
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(
            UserError, match=r"1 folders or links cannot be read: link \(a broken link\); .*skip"
        ):
            open_folder(tmp_path)
        assert open_folder(tmp_path, corrupt="skip").skipped == ("link",)

    def test_a_picture_that_is_a_broken_link(self, tmp_path):
        draw(tmp_path / "a.png")
        (tmp_path / "b.PNG").symlink_to("nowhere.png")
        source = open_folder(tmp_path)
        with pytest.raises(UserError, match="b.PNG cannot be read .it is a broken link or not a file"):
            source._read(1)
        assert open_folder(tmp_path, corrupt="skip").skipped == ("b.PNG",)


class TestWhatIsNoPicture:
    def test_a_folder_that_may_not_be_read(self, tmp_path, monkeypatch):
        draw(tmp_path / "a.png"), draw(tmp_path / "closed" / "b.png")
        real = os.scandir

        def refuse(path):
            if str(path).rstrip("/").endswith("closed"):
                raise PermissionError(13, "Permission denied", path)
            return real(path)

        monkeypatch.setattr(folder_walk.os, "scandir", refuse)
        with pytest.raises(UserError, match=r"closed/ \(Permission denied\)"):
            open_folder(tmp_path)
        assert open_folder(tmp_path, corrupt="skip").skipped == ("closed/",)

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        draw(tmp_path / "a.png")
        os.mkfifo(tmp_path / "b.png")
        assert open_folder(tmp_path, corrupt="skip").skipped == ("b.png",)

    def test_hidden_files_other_files_and_empty_folders(self, tmp_path):
        draw(tmp_path / "A.JPEG"), draw(tmp_path / "folder.png" / "b.Tiff")
        for name in (".DS_Store", "._A.JPEG", "Thumbs.db", "notes.txt", ".hidden.png"):
            (tmp_path / name).write_bytes(b"x")
        (tmp_path / "empty").mkdir()
        assert FolderStore(tmp_path).names == ["A.JPEG", "folder.png/b.Tiff"]

    def test_pictures_of_kinds_that_cannot_be_decoded_are_named(self, tmp_path):
        draw(tmp_path / "a.jfif")
        (tmp_path / "b.HEIC").write_bytes(b"ftypheic")
        assert open_folder(tmp_path, corrupt="skip").skipped == ("b.HEIC",)


class TestNames:
    def test_both_forms_of_a_name_match_in_the_attributes(self, tmp_path):
        for form, other in ((COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)):
            root = tmp_path / str(form == COMPOSED)
            draw(root / form), draw(root / "a.png")
            rows = ["file,hat", "a.png,0", f"{other},1"]
            (root / "attributes.csv").write_text("\n".join(rows), encoding="utf-8")
            source = open_folder(root)
            assert source.store.names == ["a.png", COMPOSED]
            assert source.attributes(source._positions).tolist() == [[0], [1]]
        assert open_folder(tmp_path / "True").identity == source.identity

    def test_in_folders_and_by_bare_name(self, tmp_path):
        draw(tmp_path / f"{DECOMPOSED}" / DECOMPOSED), draw(tmp_path / "ｋ" / "Å.png")
        rows = ["file,hat", f"{COMPOSED},1", "ｋ/Å.png,0"]  # the latter is the sign of Angstrom
        (tmp_path / "attributes.csv").write_text("\n".join(rows), encoding="utf-8")
        assert open_folder(tmp_path).attribute_names == ("hat",)

    def test_two_files_of_one_name_are_refused(self, tmp_path):
        draw(tmp_path / COMPOSED, 1), draw(tmp_path / DECOMPOSED, 2)
        with pytest.raises(UserError, match="names differ only in their Unicode form .é.png"):
            FolderStore(tmp_path)

    def test_two_rows_of_one_name_are_refused(self, tmp_path):
        draw(tmp_path / COMPOSED)
        rows = ["file,hat", f"{COMPOSED},1", f"{DECOMPOSED},0"]
        (tmp_path / "attributes.csv").write_text("\n".join(rows), encoding="utf-8")
        with pytest.raises(UserError, match="the picture é.png more than once"):
            open_folder(tmp_path)

    def test_names_that_are_no_text(self, tmp_path):
        draw(tmp_path / "a\nb.png"), draw(tmp_path / "x.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
        source = open_folder(tmp_path)
        assert source.store.names == [r"a\nb.png", r"caf\xe9.png"] and source._read(1).shape == (8, 8, 3)
        "".join(source.store.names).encode()  # can be printed

    def test_printable(self):
        assert printable("a b/é ü.png") == "a b/é ü.png" and printable("a\tb") == r"a\tb"

    def test_listing_has_the_names_on_the_disk(self, tmp_path):
        draw(tmp_path / DECOMPOSED)
        assert list_pictures(str(tmp_path)) == ([DECOMPOSED], {})
