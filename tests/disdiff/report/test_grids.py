import numpy as np
import pytest
import torch
from PIL import Image

from disdiff.report.grids import CELL, GAP, as_grid, resize, save_grid, tile
from ldm.errors import UserError


def test_every_pixel_of_every_image_is_in_the_file(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 3, 16, 16, generator=generator) * 2 - 1
    save_grid(tmp_path / "grid.png", images, "Title", "data · run", ["one", "two"], ["a", "b", "c"])
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB"))
    expected = tile(resize(images.flatten(0, 1)).unflatten(0, (2, 3)))
    height, width = expected.shape[:2]
    corners = np.argwhere((picture == expected[0, 0]).all(axis=-1))
    matches = [
        picture[y : y + height, x : x + width].shape == expected.shape
        and (picture[y : y + height, x : x + width] == expected).all()
        for y, x in corners[:5]
    ]
    assert any(matches)
    assert list(tmp_path.iterdir()) == [tmp_path / "grid.png"]


def test_labels_make_room_for_themselves(tmp_path):
    images = torch.zeros(1, 1, 3, 8, 8)
    save_grid(tmp_path / "short.png", images, "T", rows=["a"])
    save_grid(tmp_path / "long.png", images, "T", rows=["a much longer label than that"])
    short, long = (Image.open(tmp_path / f"{name}.png").width for name in ("short", "long"))
    assert long > short + 100


def test_images_come_to_a_readable_size():
    assert resize(torch.zeros(1, 3, 64, 64)).shape[-1] == CELL
    assert resize(torch.zeros(1, 3, 96, 96)).shape[-1] == 96
    assert resize(torch.zeros(1, 3, 256, 256)).shape[-1] == CELL
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(resize(image)[..., ::16, ::16], image)


def test_tiles_stand_in_rows_with_white_between():
    images = torch.full((2, 3, 3, 8, 8), -1.0)
    images[1, 2] = 0.0
    canvas = tile(images)
    assert canvas.shape == (2 * 8 + GAP, 3 * 8 + 2 * GAP, 3)
    assert (canvas[:8, :8] == 0).all() and (canvas[8 : 8 + GAP] == 255).all()
    assert (canvas[-8:, -8:] == 128).all()


@pytest.mark.parametrize("count", [1, 2, 5, 32])
def test_grid_of_samples_is_filled_with_white(count):
    grid = as_grid(torch.zeros(count, 3, 4, 4))
    rows, columns = grid.shape[:2]
    assert rows * columns >= count and rows <= columns and (rows - 1) * columns < count
    assert (grid.flatten(0, 1)[count:] == 1).all()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_grid(tmp_path / "file" / "grid.png", torch.zeros(1, 1, 3, 8, 8), "T")


@pytest.mark.parametrize("name", ["folder", "grid.docx"])
def test_a_name_that_is_of_no_picture_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=f"{name} has no picture suffix.*png"):
        save_grid(tmp_path / name, torch.zeros(1, 1, 3, 8, 8), "T")
    assert not list(tmp_path.iterdir())
