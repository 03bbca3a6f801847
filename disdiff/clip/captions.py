"""Captions of Shapes3D in varied wording, built from the factors; what the tiny CLIP learns its words from.

A caption mentions some of the factors, and its group mentions the same ones, so that captions differ by what
they say and not by how much. Which images it fits is known: those that agree with it in every factor that it
mentions. Orientation has five words for its fifteen values, every other factor a word, or a
few that mean the same, per value.
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
GROUP = (1, 1, 1, 1, 1, 3)  # values of a factor that share their words
LEADING = (0.13, 0.13, 0.18, 0.22, 0.19, 0.15)  # probability of each factor to be what a caption is about
ALSO = 0.08  # probability with which it mentions each other one


@dataclass
class Captions:
    """Captions of a batch.

    Attributes:
        texts: B of them.
        mentioned: which factors each names, shape (B, 6) bool.
    """

    texts: list[str]
    mentioned: Tensor


def write_captions(factors: Tensor, random: np.random.Generator, group_size: int = 1) -> Captions:
    """One caption per image, naming some of its factors.

    Args:
        factors: of Shapes3D, shape (B, 6) int64.
        random: draws what is named, and the wording.
        group_size: so many captions in succession name the same factors; divides B.
    """
    num_groups, num_factors = len(factors) // group_size, factors.shape[1]
    mentioned = random.random((num_groups, num_factors)) < ALSO
    mentioned[np.arange(num_groups), random.choice(num_factors, num_groups, p=LEADING)] = True
    mentioned = mentioned.repeat(group_size, axis=0)
    rows = zip(group_values(factors).tolist(), mentioned.tolist(), strict=True)
    return Captions([write_caption(values, named, random) for values, named in rows], torch.tensor(mentioned))


def write_caption(values: list[int], named: list[bool], random: np.random.Generator) -> str:
    """A caption that names the factors `named` of an image whose grouped factors are `values`."""

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
    """Factors (n, 6) with the values that share their words made one, same shape."""
    return factors // torch.tensor(GROUP, device=factors.device)


def find_matches(factors: Tensor, mentioned: Tensor) -> Tensor:
    """Which images fit which captions: entry (i, j) for image i and the caption of image j.

    Args:
        factors: of the images, shape (B, 6).
        mentioned: factors named by each image's caption, shape (B, 6) bool.

    Returns:
        Shape (B, B) bool; the diagonal is true.
    """
    grouped = group_values(factors)
    agree = grouped[:, None] == grouped[None]  # (B, B, 6)
    return (agree | ~mentioned[None]).all(dim=2)


def list_words() -> list[str]:
    """Every word that a caption, or a prompt about the same things, may hold, sorted."""
    phrases = [word for group in (*HUES, *SIZES, *SHAPES) for word in group]
    filling = "floor wall walls room object thing shape is with on before seen viewed from the and of in a an"
    prompts = "this it colour color background ground camera angle side coloured colored standing big"
    return sorted({word for text in [*phrases, *VIEWS, *OPENINGS, filling, prompts] for word in text.split()})
