"""Captions of Shapes3D images in varied wording, built from the factors, to train the tiny CLIP.

A caption mentions some of the factors. All captions of a group mention the same factors, so they differ in
content and not in detail. A caption fits all images that agree with it in every mentioned factor. Orientation
has five words for its fifteen values; every other factor has one word, or a few synonyms, per value.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

HUES = (
    ("red", "crimson"),
    ("orange", "amber"),
    ("lime", "chartreuse"),
    ("green",),
    ("mint",),
    ("cyan", "turquoise"),
    ("azure", "sky blue"),
    ("blue", "indigo"),
    ("purple", "violet"),
    ("pink", "rose"),
)
SIZES = (
    ("tiny", "minute"),
    ("very small",),
    ("small", "little"),
    ("smallish",),
    ("largish",),
    ("large", "big"),
    ("very large", "very big"),
    ("huge", "giant"),
)
SHAPES = (("cube", "box"), ("cylinder", "drum"), ("sphere", "ball"), ("capsule", "pill"))
VIEWS = ("far left", "left", "front", "right", "far right")
OPENINGS = ("a photo of", "a picture of", "an image of", "a rendering of", "a scene with", "")
ANY_OBJECT = ("object", "thing", "shape")
GROUP = (1, 1, 1, 1, 1, 3)  # number of successive values of each factor that share their words
LEADING = (0.13, 0.13, 0.18, 0.22, 0.19, 0.15)  # probability of each factor to be mentioned first
ALSO = 0.08  # probability of mentioning each of the other factors


@dataclass
class Captions:
    """Captions of a batch.

    Attributes:
        texts: B captions.
        mentioned: whether each caption mentions each factor, shape (B, 6) bool.
    """

    texts: list[str]
    mentioned: Tensor


def write_captions(factors: Tensor, random: np.random.Generator, group_size: int = 1) -> Captions:
    """Write one caption per image that mentions some of its factors.

    Args:
        factors: factors of Shapes3D, shape (B, 6) int64.
        random: draws the mentioned factors and the wording.
        group_size: number of successive captions that mention the same factors; divides B.
    """
    num_groups, num_factors = len(factors) // group_size, factors.shape[1]
    mentioned = random.random((num_groups, num_factors)) < ALSO
    mentioned[np.arange(num_groups), random.choice(num_factors, num_groups, p=LEADING)] = True
    mentioned = mentioned.repeat(group_size, axis=0)
    rows = zip(group_values(factors).tolist(), mentioned.tolist(), strict=True)
    return Captions([write_caption(values, named, random) for values, named in rows], torch.tensor(mentioned))


def write_caption(values: list[int], named: list[bool], random: np.random.Generator) -> str:
    """Write a caption that mentions the factors `named` of an image with the grouped factors `values`."""

    def pick(words: tuple[str, ...]) -> str:
        return words[random.integers(len(words))]

    floor, wall, hue, size, shape, view = named
    phrases: list[tuple[str, ...]] = []
    if floor:
        phrases.append((f"on a {pick(HUES[values[0]])} floor", f"the floor is {pick(HUES[values[0]])}"))
    if wall:
        colour = pick(HUES[values[1]])
        phrases.append((f"before a {colour} wall", f"the wall is {colour}", f"with {colour} walls"))
    if view:
        side = VIEWS[values[5]]
        phrases.append((f"seen from the {side}", f"viewed from the {side}"))
    chosen = [pick(each) for each in phrases]
    random.shuffle(chosen)
    if hue or size or shape or not chosen:
        words = [pick(SIZES[values[3]])] if size else []
        words += [pick(HUES[values[2]])] if hue else []
        words.append(pick(SHAPES[values[4]] if shape else ANY_OBJECT))
        chosen.insert(0, f"a {' '.join(words)}")
    else:
        chosen.insert(0, "a room")
    return " ".join([pick(OPENINGS), *chosen]).strip()


def group_values(factors: Tensor) -> Tensor:
    """Factors (n, 6) with values that share their words merged, same shape."""
    return factors // torch.tensor(GROUP, device=factors.device)


def find_matches(factors: Tensor, mentioned: Tensor) -> Tensor:
    """Whether captions fit images, shape (B, B) bool: entry (i, j) is for image i and the caption of image j.

    `mentioned` (B, 6) bool says which `factors` (B, 6) of its image a caption mentions. The diagonal is true.
    """
    grouped = group_values(factors)
    agree = grouped[:, None] == grouped[None]  # (B, B, 6)
    return (agree | ~mentioned[None]).all(dim=2)


def list_words() -> list[str]:
    """All words of captions and of prompts about the same factors, sorted."""
    phrases = [word for group in (*HUES, *SIZES, *SHAPES) for word in group]
    filling = "floor wall walls room object thing shape is with on before seen viewed from the and of in a an"
    prompts = "this it colour color background ground camera angle side coloured colored standing big"
    return sorted({word for text in [*phrases, *VIEWS, *OPENINGS, filling, prompts] for word in text.split()})
