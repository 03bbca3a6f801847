import base64
import io

import numpy as np
import torch
from PIL import Image

from disdiff.report.html import write_report
from disdiff.report.sliders import FRAMES, load_frames, measure_change, save_frames


def read_sheet(frames):
    return np.array(Image.open(io.BytesIO(base64.b64decode(frames.sheet)))).astype(float)


def test_a_cell_of_the_sheet_is_a_frame(tmp_path):
    values = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1  # unit, amount, image
    save_frames(tmp_path / FRAMES, values[..., None, None, None].expand(2, 3, 2, 3, 8, 8), [4, 0], (-1, 0, 1))
    frames = load_frames(tmp_path)
    assert (frames.units, frames.amounts, frames.num_images) == ([4, 0], [-1, 0, 1], 2)
    sheet = read_sheet(frames)
    assert sheet.shape == (2 * 8, 3 * 2 * 8, 3)
    cells = sheet.reshape(2, 8, 3, 2, 8, 3).mean(axis=(1, 4, 5))
    np.testing.assert_allclose(cells, (values.numpy() + 1) * 127.5, atol=2)


def test_units_that_hardly_change_the_picture_are_folded(run_folder):
    """By the change along the positions, whatever the images are: unit 7 shows noise that stays the same."""
    change = torch.tensor([1.0, 0.0, 0.2, 0.001])[:, None, None, None, None, None]
    along = torch.linspace(-1, 1, 5)[None, :, None, None, None, None]
    still = torch.rand(4, 1, 2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    images = (still * (torch.arange(4) == 1)[:, None, None, None, None, None] + 0.4 * change * along).clone()
    shares = measure_change(images)
    torch.testing.assert_close(shares, change.flatten(), atol=1e-6, rtol=1e-4)
    assert measure_change(torch.zeros(2, 3, 1, 3, 8, 8)).tolist() == [1, 1]
    save_frames(run_folder / FRAMES, images, [4, 7, 0, 2], (-2, -1, 0, 1, 2))
    frames = load_frames(run_folder)
    assert (frames.images - images).abs().mean() < 0.05  # a JPEG
    assert frames.faint == [1, 3] and frames.says == "2 units hardly change the picture: 2, 7"
    page = write_report(run_folder).read_text()
    shown, folded = page.split("<summary>2 units hardly change the picture: 2, 7</summary>")
    assert [f'id="unit{unit}"' in shown for unit in (4, 7, 0, 2)] == [True, False, True, False]
    assert [f'id="unit{unit}"' in folded for unit in (4, 7, 0, 2)] == [False, True, False, True]
    assert "background-position: 50.000% 33.333%" in folded  # still the second row of the sheet


def test_large_images_are_shrunk(tmp_path):
    save_frames(tmp_path / FRAMES, torch.rand(1, 2, 1, 3, 256, 256), [0], (0, 1))
    assert read_sheet(load_frames(tmp_path)).shape == (96, 192, 3)


def test_one_unit_makes_one_row(run_folder):
    save_frames(run_folder / FRAMES, torch.zeros(1, 2, 1, 3, 8, 8), [0], (0, 1))
    page = write_report(run_folder).read_text()
    assert "background-position: 0.000% 0.000%" in page and 'max="1" value="0"' in page
    assert "background-size: 200% 100%" in page


def test_a_run_without_frames_has_none(tmp_path):
    assert load_frames(tmp_path) is None
