"""A world in which embeddings are known: three directions of text, and a look that reads mean colours."""

import pytest
import torch
import torch.nn.functional as F

from disdiff.clip.prompts import Prompts, embed_prompts
from disdiff.clip.tower import load_clip
from disdiff.config.clip_options import ClipConfig

DIM = 12


@pytest.fixture(scope="session")
def random_clip():
    """The tiny CLIP with random weights."""
    return load_clip(ClipConfig(model="tiny_clip", pretrained="random"))


@pytest.fixture
def prompts():
    factors = {
        "wall": {"red": ["wall red"], "green": ["wall green"], "blue": ["wall blue"]},
        "size": {"small": ["size small"], "large": ["size large"]},
        "sky": {"day": ["sky day"], "night": ["sky night"]},
    }
    return Prompts(factors, ["{}", "a {}"], {"size": "scale"})


@pytest.fixture
def axes():
    """What each text says, shape (7, DIM): walls on two axes, size and sky on one each, orthogonal."""
    basis = torch.eye(DIM)
    walls = [basis[0], -0.5 * basis[0] + 0.9 * basis[1], -0.5 * basis[0] - 0.9 * basis[1]]
    return torch.stack([*walls, -basis[2], basis[2], -basis[3], basis[3]])


@pytest.fixture
def directions(prompts, axes):
    """Text directions: every text is its own axis and a part that all share."""
    texts = [text for values in prompts.factors.values() for group in values.values() for text in group]

    def encode_text(filled):
        rows = torch.stack([axes[texts.index(text.removeprefix("a "))] for text in filled])
        return F.normalize(rows + 2 * torch.eye(DIM)[-1], dim=1)

    return embed_prompts(encode_text, prompts)


@pytest.fixture
def embeddings():
    """Of 300 images: they differ along every axis, shape (300, DIM)."""
    noise = torch.randn(300, DIM, generator=torch.Generator().manual_seed(3))
    return F.normalize(0.3 * noise + torch.eye(DIM)[-1], dim=1)
