import base64
import io

import numpy as np
import torch
from PIL import Image

from disdiff.report.html import write_report
from disdiff.report.sliders import FRAMES, load_frames, save_frames


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
