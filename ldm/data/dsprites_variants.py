"""Variants of dSprites with a nuisance: `dsprites_color` and `dsprites_noise` (Locatello et al. 2019).

With the sprite s in [0, 1] and, per image, fixed random numbers:

- `dsprites_color`: s times one colour per image, each channel uniform in [0.5, 1];
- `dsprites_noise`: min(s + noise, 1), one value uniform in [0, 1] per pixel and channel.

Colour and noise are no factors. They belong to the combination of factors: a counter-based generator
(Philox) with the passed seed as its key and the combination's index as its counter gives them, so an image
is the same whenever and wherever it is read. Sprites come from the dSprites file or from its procedural
stand-in. Locatello et al., arXiv:1811.12359, section 4.

Deviation: the released code draws colour and noise anew at each access.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.random import Philox
from torch import Tensor

from ldm.data.source import ImageSource

Paint = Callable[[Tensor, int, int], Tensor]


def draw_bytes(count: int, seed: int, index: int) -> Tensor:
    """Uniform random bytes that depend on seed and index only, shape (count,) uint8."""
    words = Philox(key=seed, counter=[0, index, 0, 0]).random_raw(-(-count // 8))
    return torch.from_numpy(words.astype("<u8").view(np.uint8)[:count].copy())


def paint_color(sprite: Tensor, seed: int, index: int) -> Tensor:
    """A sprite (3, H, W) uint8 in its own colour, same shape."""
    colour = 128 + draw_bytes(3, seed, index) // 2
    return (sprite * (colour / 255).to(sprite.device)[:, None, None]).round().to(torch.uint8)


def paint_noise(sprite: Tensor, seed: int, index: int) -> Tensor:
    """A white sprite (3, H, W) uint8 over its own noise, same shape."""
    noise = draw_bytes(sprite.numel(), seed, index).view(sprite.shape).to(sprite.device)
    return (sprite.int() + noise.int()).clamp(max=255).to(torch.uint8)


VARIANTS: dict[str, tuple[Paint, str]] = {
    "dsprites_color": (paint_color, "each sprite in a random colour"),
    "dsprites_noise": (paint_noise, "white sprites over random noise"),
}


class VariedSprites:
    """An `ImageSource`: the images of another one with a colour or noise for each combination of factors."""

    channels = 3

    def __init__(self, name: str, sprites: ImageSource, seed: int = 0) -> None:
        """Vary `sprites`.

        Args:
            name: one of `VARIANTS`.
            sprites: grey images over a factor grid.
            seed: seed of the colours or the noise.
        """
        self._paint, does = VARIANTS[name]
        self._sprites, self._seed = sprites, seed
        self.name, self.procedural, self.image_size = name, sprites.procedural, sprites.image_size
        self.factor_space = sprites.factor_space
        self.identity = f"{name}-{seed}-of-{sprites.identity}"
        self.preparation = f"{does} (seed {seed}), on {getattr(sprites, 'preparation', sprites.name)}"

    def __len__(self) -> int:
        return len(self._sprites)

    def factors(self, index: Tensor) -> Tensor:
        """Factors at `index` (n,) int64, shape (n, F) int64; colour and noise are not among them."""
        return self._sprites.factors(index)

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,) int64, shape (n, 3, H, W) uint8."""
        sprites, combinations = self._sprites.images(index), self.factor_space.index(self.factors(index))
        painted = [
            self._paint(sprite, self._seed, combination)
            for sprite, combination in zip(sprites, combinations.tolist(), strict=True)
        ]
        return torch.stack(painted) if painted else sprites
