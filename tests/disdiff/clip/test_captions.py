import numpy as np
import pytest
import torch

from disdiff.clip.captions import (
    SHAPES,
    SIZES,
    VIEWS,
    find_matches,
    list_words,
    write_caption,
    write_captions,
)
from ldm.data.shapes3d import SHAPES3D


@pytest.fixture
def factors():
    index = torch.randint(len(SHAPES3D), (400,), generator=torch.Generator().manual_seed(0))
    return SHAPES3D.factors(index)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_captions_use_known_words_and_vary(factors, random):
    captions = write_captions(factors, random)
    assert len(captions.texts) == 400 and captions.mentioned.any(dim=1).all()
    assert {word for text in captions.texts for word in text.split()} <= set(list_words())
    texts = {write_captions(factors[:1], random).texts[0] for _ in range(60)}
    assert len(texts) > 40
    assert captions.mentioned.float().mean(dim=0).min() > 0.15


@pytest.mark.parametrize("factor", range(6))
def test_a_caption_names_what_it_mentions_and_nothing_else(random, factor):
    named = [f == factor for f in range(6)]
    values = [3, 3, 3, 7, 2, 4]  # green three times, huge, sphere, far right
    clues = [("green", "floor"), ("green", "wall"), ("green",), SIZES[7], SHAPES[2], (VIEWS[4],)]
    for _ in range(30):
        text = write_caption(values, named, random)
        found = clues[factor] if factor < 3 else [word for word in clues[factor] if word in text]
        assert found and all(word in text for word in (found if factor < 3 else found[:1]))
        strange = {w for f, group in enumerate(clues) if f != factor for w in group if w not in clues[factor]}
        assert not {word for word in strange if f" {word}" in f" {text}" and word not in ("floor", "wall")}


def test_a_caption_fits_the_images_that_agree_in_what_it_mentions(factors):
    factors = factors[:2].clone()
    factors[1] = factors[0]
    mentioned = torch.tensor([[True, False, False, True, False, False], [False] * 5 + [True]])
    assert find_matches(factors, mentioned).all()
    factors[1, 1] = (factors[0, 1] + 1) % 10  # the wall, of which neither speaks
    assert find_matches(factors, mentioned).all()
    factors[1, 0] = (factors[0, 0] + 1) % 10  # the floor, of which the first caption speaks
    assert find_matches(factors, mentioned).tolist() == [[True, True], [False, True]]


def test_neighbouring_views_share_their_word(factors):
    two = factors[:1].repeat(2, 1)
    two[:, 5] = torch.tensor([3, 5])
    mentioned = torch.tensor([[False] * 5 + [True]]).repeat(2, 1)
    assert find_matches(two, mentioned).all()
    two[1, 5] = 6
    assert not find_matches(two, mentioned)[0, 1]


def test_the_same_generator_writes_the_same(factors):
    first, again = (write_captions(factors, np.random.default_rng(5)).texts for _ in range(2))
    assert first == again
