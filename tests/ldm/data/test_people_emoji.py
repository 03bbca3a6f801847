import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data import people_emoji
from ldm.data.catalog import DataOptions, open_data
from ldm.data.glyphs import font_path
from ldm.data.people_emoji import FONT, NUM_PLACES, PEOPLE, ROOT, PeopleEmoji, draw_portrait, find_font, spell
from ldm.errors import UserError

installed = pytest.mark.skipif(find_font(ROOT) is None, reason=f"{FONT} is not installed")
CENTRE = NUM_PLACES // 2


class FakeFont:
    """A font in which every text is one picture wide."""

    def getlength(self, text):
        return 136.0


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Portraits that are boxes of one colour: what the factors and the places do, without a font."""

    def draw(font, person, role, tone):
        return Image.new("RGB", (136, 128), (200 - 80 * person, 10 * role, 40 * tone))

    (tmp_path / FONT).write_bytes(b"a font")
    monkeypatch.setattr(people_emoji, "open_font", lambda path: FakeFont())
    monkeypatch.setattr(people_emoji, "draw_portrait", draw)
    return PeopleEmoji(tmp_path)


def test_the_portraits_are_a_full_product():
    assert PEOPLE.sizes == (3, 21, 6) and len(PEOPLE) == 378
    texts = {spell(*factors) for factors in np.ndindex(*PEOPLE.sizes)}
    assert len(texts) == 378
    assert spell(0, 0, 0) == "\U0001f9d1" and spell(1, 0, 2) == "\U0001f468\U0001f3fc"
    assert spell(2, 1, 5) == "\U0001f469\U0001f3ff\u200d\U0001f9b0"
    assert spell(0, 5, 0) == "\U0001f9d1\u200d\u2695\ufe0f"


def test_factors_set_the_portrait_and_places_move_it(fake):
    assert len(fake) == 378 * 81
    index = torch.tensor([0, 80, 81, len(fake) - 1])
    assert fake.factors(index).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0, 1], [2, 20, 5]]
    images = fake.images(torch.arange(81) + 81 * int(PEOPLE.index(torch.tensor([[2, 20, 5]]))))
    inside = (images != 255).any(dim=1).double()
    assert images[CENTRE, :, 32, 32].tolist() == [40, 200, 200]
    grid = torch.arange(64).double()
    area = inside.sum(dim=(1, 2))
    down, right = (inside.sum(2) @ grid) / area, (inside.sum(1) @ grid) / area
    place = torch.arange(81).double()
    torch.testing.assert_close(down, 31.5 + 1.2 * ((place / 9).floor() - 4), atol=0.6, rtol=0)
    torch.testing.assert_close(right, 31.5 + 1.2 * (place % 9 - 4), atol=0.6, rtol=0)
    assert len(images.flatten(1).unique(dim=0)) == 81
    assert not (images[:, :, [0, -1]] != 255).any()  # no place cuts a portrait above or below


def test_is_named_as_what_it_is(fake):
    assert fake.name == "people_emoji" and not fake.procedural
    assert FONT in fake.preparation and "81 places (a nuisance)" in fake.preparation


@installed
def test_the_portraits_of_the_installed_font_differ():
    source = open_data(DataOptions("people_emoji", str(ROOT)))
    images = source.images(torch.arange(378) * NUM_PLACES + CENTRE)
    assert len(images.flatten(1).unique(dim=0)) == 378
    assert images.double().std(dim=(0, 2, 3)).min() > 40
    again = source.images(torch.tensor([CENTRE, 377 * NUM_PLACES + CENTRE]))
    assert torch.equal(again, images[[0, 377]])
    assert PeopleEmoji(find_font(ROOT).parent).identity == source.identity


@installed
def test_a_skin_tone_changes_the_skin():
    """From light to dark, and not the coat of a health worker."""
    font = people_emoji.open_font(find_font(ROOT))
    faces = [np.asarray(draw_portrait(font, 1, 5, tone))[60, 68].astype(int).sum() for tone in range(1, 6)]
    assert faces == sorted(faces, reverse=True) and faces[0] - faces[-1] > 200
    coats = [np.asarray(draw_portrait(font, 1, 5, tone))[120, 40].astype(int) for tone in range(6)]
    assert np.ptp(coats, axis=0).max() < 10


class TestErrors:
    def test_a_folder_without_the_font(self, tmp_path):
        with pytest.raises(UserError, match=r"not in .*; install it .*fonts-noto-color-emoji.*data.root"):
            PeopleEmoji(tmp_path)

    def test_nowhere_installed(self, monkeypatch):
        monkeypatch.setattr(people_emoji, "FOLDERS", ())
        monkeypatch.setenv("PATH", "")  # no fc-match
        with pytest.raises(UserError, match="needs the font NotoColorEmoji.ttf"):
            PeopleEmoji(ROOT)

    def test_another_font(self, tmp_path):
        shutil.copy(font_path(0, 0, 0), tmp_path / FONT)
        with pytest.raises(UserError, match="lacks 3.. of the 378 portraits"):
            PeopleEmoji(tmp_path)

    def test_outlines_only(self, fake, tmp_path, monkeypatch):
        grey = Image.new("RGB", (136, 128), "grey")
        monkeypatch.setattr(people_emoji, "draw_portrait", lambda *arguments: grey)
        with pytest.raises(UserError, match="no pictures that Pillow can draw"):
            PeopleEmoji(tmp_path)

    def test_no_font_at_all(self, tmp_path):
        (tmp_path / FONT).write_bytes(b"nothing")
        with pytest.raises(UserError, match="has no pictures of 109 points"):
            PeopleEmoji(tmp_path)

    def test_without_raqm(self, fake, tmp_path, monkeypatch):
        monkeypatch.undo()
        monkeypatch.setattr(people_emoji.features, "check", lambda name: False)
        with pytest.raises(UserError, match="raqm.*pip install --force-reinstall Pillow"):
            PeopleEmoji(tmp_path)
