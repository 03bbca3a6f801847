from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image

from disdiff.report.contact_sheet import COLUMNS, save_contact_sheet, vary_factors
from ldm.data.factor_space import FactorSpace
from ldm.errors import UserError


class Squares:
    """Grey images whose level tells the index; the factors are those of `rows`."""

    name, procedural, image_size, channels = "squares", True, 8, 3

    def __init__(self, rows, space):
        self.rows, self.factor_space = torch.tensor(rows), space

    def __len__(self):
        return len(self.rows)

    def factors(self, index):
        return self.rows[index]

    def images(self, index):
        return index.to(torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)


def make(num_a=3, num_b=20, leave_out=()):
    rows = [row for row in product(range(num_a), range(num_b)) if row not in leave_out]
    return Squares(rows, FactorSpace(("a", "b"), (num_a, num_b)))


def test_one_factor_varies_and_the_others_stay():
    source = make()
    rows = vary_factors(source, base=25)  # (1, 5)
    assert source.factors(rows[0]).tolist() == [[0, 5], [1, 5], [2, 5]]
    across = source.factors(rows[1])
    assert (across[:, 0] == 1).all() and len(across) == COLUMNS
    assert across[0, 1] == 0 and across[-1, 1] == 19 and (across[:, 1].diff() > 0).all()


def test_where_images_are_missing_the_nearest_is_shown():
    source = make(num_b=4, leave_out={(2, 1)})
    rows = vary_factors(source, base=1)  # (0, 1)
    found = source.factors(rows[0]).tolist()
    assert found[:2] == [[0, 1], [1, 1]] and found[2][0] == 2 and found[2][1] != 1


def test_the_picture(tmp_path):
    source = make()
    save_contact_sheet(tmp_path / "sheet.png", source, seed=0)
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    assert pixels.shape[0] > 3 * 128 and pixels.shape[1] > COLUMNS * 128
    save_contact_sheet(tmp_path / "again.png", source, seed=0)
    assert (pixels == np.asarray(Image.open(tmp_path / "again.png").convert("L"))).all()
    source.factor_space = None
    save_contact_sheet(tmp_path / "random.png", source, seed=0)
    assert (tmp_path / "random.png").exists()


def test_a_path_that_is_no_picture(tmp_path):
    with pytest.raises(UserError, match="no picture suffix"):
        save_contact_sheet(tmp_path / "sheet.txt", make(), seed=0)
