import pytest
import torch

from ldm.data.catalog import DataOptions, open_data
from ldm.data.dsprites import DSPRITES, STEM
from ldm.data.dsprites_variants import VARIANTS, VariedSprites, draw_bytes
from ldm.data.prepare import write_dsprites
from ldm.data.procedural_dsprites import ProceduralDSprites
from ldm.errors import UserError

SPRITES = ProceduralDSprites()
KNOWN = [118, 249, 129, 203, 7, 237, 95, 128, 132]  # bytes of seed 5 and index 7
CHOSEN = torch.randint(len(DSPRITES), (200,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=list(VARIANTS))
def name(request):
    return request.param


def test_a_sprite_has_one_colour_on_black():
    images = VariedSprites("dsprites_color", SPRITES).images(CHOSEN)
    inside = SPRITES.images(CHOSEN)[:, 0] > 0
    colours = []
    for image, covered in zip(images, inside, strict=True):
        assert not image[:, ~covered].any()
        assert (image[:, covered] == image[:, covered][:, :1]).all()
        colours.append(image[:, covered][:, 0])
    colours = torch.stack(colours).double() / 255
    assert colours.min() >= 0.5 and len(colours.unique(dim=0)) == len(CHOSEN)
    torch.testing.assert_close(colours.mean(dim=0), torch.full((3,), 0.75).double(), atol=0.04, rtol=0)


def test_noise_is_uniform_around_a_white_sprite():
    images = VariedSprites("dsprites_noise", SPRITES).images(CHOSEN[:50])
    inside = (SPRITES.images(CHOSEN[:50]) > 0).expand_as(images)
    assert (images[inside] == 255).all()
    noise = images[~inside].double()
    assert noise.mean() == pytest.approx(127.5, abs=0.5)
    assert noise.std() == pytest.approx((256**2 / 12) ** 0.5, abs=0.5)
    assert noise.unique().numel() == 256


def test_edges_of_antialiased_sprites_stay_soft():
    smooth = ProceduralDSprites(antialias=True)
    colour = VariedSprites("dsprites_color", smooth).images(CHOSEN[:5]).double()
    share = smooth.images(CHOSEN[:5]).double() / 255
    full = colour.amax(dim=(2, 3), keepdim=True)
    assert (colour - share * full).abs().max() <= 1


def test_an_image_is_the_same_wherever_it_is_read(name, tmp_path):
    """One by one, in another order, and from a file with some of the images."""
    source = VariedSprites(name, SPRITES, seed=3)
    images = source.images(CHOSEN[:20])
    assert torch.equal(images.flip(0), source.images(CHOSEN[:20].flip(0)))
    assert torch.equal(images[7], VariedSprites(name, SPRITES, seed=3).images(CHOSEN[7:8])[0])
    write_dsprites(tmp_path / f"{STEM}.npz", SPRITES, CHOSEN[:20])
    read = open_data(DataOptions(name, str(tmp_path), nuisance_seed=3))
    assert torch.equal(read.images(torch.arange(20)), images)
    assert torch.equal(read.factors(torch.arange(20)), DSPRITES.factors(CHOSEN[:20]))


def test_the_seed_changes_the_nuisance_alone(name):
    first, second = (VariedSprites(name, SPRITES, seed) for seed in (0, 1))
    assert first.identity != second.identity and first.preparation != second.preparation
    assert torch.equal(first.factors(CHOSEN), second.factors(CHOSEN))
    images = first.images(CHOSEN[:5]), second.images(CHOSEN[:5])
    inside = SPRITES.images(CHOSEN[:5]) > 0
    assert not torch.equal(*images)
    if name == "dsprites_color":
        assert torch.equal(*((each > 0) for each in images)) and torch.equal(images[0] > 0, inside)


def test_bytes_depend_on_seed_and_index_and_never_change():
    assert draw_bytes(9, 5, 7).tolist() == KNOWN
    assert torch.equal(draw_bytes(3, 5, 7), draw_bytes(20, 5, 7)[:3])
    assert draw_bytes(9, 5, 8).tolist() != KNOWN != draw_bytes(9, 6, 7).tolist()


def test_named_as_what_they_are(name, tmp_path):
    source = open_data(DataOptions(name, str(tmp_path)))
    assert source.name == name and source.procedural and source.identity.startswith(f"{name}-0-of-dsprites")
    assert len(source) == len(DSPRITES) and "seed 0" in source.preparation
    with pytest.raises(UserError, match="data.nuisance_seed is only for dsprites_color and dsprites_noise"):
        open_data(DataOptions("dsprites", str(tmp_path), nuisance_seed=1))
