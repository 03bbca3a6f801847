import pytest
import torch

from disdiff.report.fields import compute_fields, draw_fields
from ldm.data.source import to_float


@pytest.fixture
def image(halves):
    return to_float(halves.images(torch.arange(3)))


def test_fields_scale_with_the_gradient_and_vanish_with_it(model, image):
    def compute():
        return compute_fields(model, image, 20, torch.Generator().manual_seed(0))

    fields = compute()
    assert fields.shape == (3, 3, 16, 16) and (fields > 0).all()
    out = model.networks.decoder.decoder.out_conv
    out.weight.data *= 2
    out.bias.data *= 2
    torch.testing.assert_close(compute(), 2 * fields)
    out.weight.data.zero_()
    out.bias.data.zero_()
    assert (compute() == 0).all()


def test_every_row_is_as_bright_as_it_allows(image):
    fields = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    grid, words = draw_fields(image, fields, [1, 0])
    assert grid.shape == (3, 3, 3, 16, 16) and torch.equal(grid[0], image)
    assert words == [f"mean {fields[:, unit].mean():.2g}" for unit in (1, 0)]
    brighter, _ = draw_fields(image, fields * torch.tensor([1.0, 7.0])[:, None, None], [1, 0])
    torch.testing.assert_close(grid, brighter)
    bright = grid[1].mean(dim=1)  # (B, H, W)
    assert torch.equal(
        bright == bright.max(),
        fields[:, 1].eq(fields[:, 1].max()).repeat_interleave(4, 1).repeat_interleave(4, 2),
    )


def test_a_unit_without_a_field_is_dark(image):
    grid, words = draw_fields(image, torch.zeros(3, 1, 4, 4), [0])
    assert torch.isfinite(grid).all() and grid[1].mean() < -0.9 and words == ["mean 0"]
