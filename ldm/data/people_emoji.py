"""People emoji: 378 portraits of the font Noto Color Emoji, each at 81 places.

Unicode joins a person (U+1F9D1 adult, U+1F468 man, U+1F469 woman), one of six skin tones and one of 21 roles
(none, four hairs, 16 professions), so the portraits are an exact product of three factors. The pictures are
the font's own, 136x128 pixels; Pillow draws them with the layout library raqm, which joins the characters.
They are placed on white, moved by up to `REACH` steps along both axes, and resampled to 64x64.

The place is a nuisance: it is no factor, and the images of one portrait have the same factors. Images are
ordered as (person, role, skin tone, place), the last varying fastest.
"""

import hashlib
import subprocess
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from ldm.data.factor_space import FactorSpace
from ldm.data.files import find_first
from ldm.errors import UserError

FONT = "NotoColorEmoji.ttf"
FOLDERS = (  # of the packages of Debian, Fedora, Arch Linux and Alpine, and of Homebrew
    "/usr/share/fonts/truetype/noto",
    "/usr/share/fonts/google-noto-color-emoji-fonts",
    "/usr/share/fonts/noto",
    "/usr/share/fonts/noto-emoji",
    "~/Library/Fonts",
    "~/.local/share/fonts",
)
FONT_SIZE = 109  # the only size of the font's pictures
PICTURE = (136, 128)  # width and height of a picture
PERSONS = {"adult": "\U0001f9d1", "man": "\U0001f468", "woman": "\U0001f469"}
TONES = {
    "yellow": "",
    "light": "\U0001f3fb",
    "medium-light": "\U0001f3fc",
    "medium": "\U0001f3fd",
    "medium-dark": "\U0001f3fe",
    "dark": "\U0001f3ff",
}
ROLES = {
    "none": "",
    "red hair": "\U0001f9b0",
    "curly hair": "\U0001f9b1",
    "bald": "\U0001f9b2",
    "white hair": "\U0001f9b3",
    "health worker": "\u2695\ufe0f",
    "judge": "\u2696\ufe0f",
    "pilot": "\u2708\ufe0f",
    "farmer": "\U0001f33e",
    "cook": "\U0001f373",
    "student": "\U0001f393",
    "singer": "\U0001f3a4",
    "artist": "\U0001f3a8",
    "teacher": "\U0001f3eb",
    "factory worker": "\U0001f3ed",
    "technologist": "\U0001f4bb",
    "office worker": "\U0001f4bc",
    "mechanic": "\U0001f527",
    "scientist": "\U0001f52c",
    "astronaut": "\U0001f680",
    "firefighter": "\U0001f692",
}
JOINER = "\u200d"
PEOPLE = FactorSpace(("person", "role", "skin tone"), (len(PERSONS), len(ROLES), len(TONES)))
REACH, STEP = 4, 3  # steps to each side, and their length in pixels of the canvas
NUM_PLACES = (2 * REACH + 1) ** 2
CANVAS = 160  # side in pixels
IMAGE_SIZE = 64
ROOT = Path("data/people_emoji")
REMEDY = (
    "install it (Debian, Ubuntu: apt install fonts-noto-color-emoji), or name the folder that holds it with "
    "data.root=FOLDER"
)


class PeopleEmoji:
    """30,618 images of the 378 portraits, addressed by index (an `ImageSource`)."""

    name = "people_emoji"
    procedural = False
    image_size = IMAGE_SIZE
    channels = 3
    factor_space = PEOPLE

    def __init__(self, root: str | Path) -> None:
        """Open the font in the folder `root`, or, for the default folder, an installed one.

        Raises:
            UserError: there is no such font, it lacks a portrait or has no pictures, or Pillow has no raqm.
        """
        path = find_font(Path(root))
        if path is None:
            raise UserError(f"people_emoji needs the font {FONT}, which is not in {root}; {REMEDY}")
        self._font = open_font(path)
        check_portraits(path, self._font)
        self.identity = f"people_emoji-1-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
        self.preparation = f"from {FONT}, on white, at {NUM_PLACES} places (a nuisance), resampled to 64x64"

    def __len__(self) -> int:
        return len(PEOPLE) * NUM_PLACES

    def factors(self, index: Tensor) -> Tensor:
        """Factors at `index` (n,) int64, shape (n, 3) int64."""
        return PEOPLE.factors(index // NUM_PLACES)

    def images(self, index: Tensor) -> Tensor:
        """Images at `index` (n,) int64, shape (n, 3, 64, 64) uint8."""
        factors, places = self.factors(index).tolist(), (index % NUM_PLACES).tolist()
        pictures = [self._place(tuple(row), place) for row, place in zip(factors, places, strict=True)]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    def _place(self, factors: tuple[int, int, int], place: int) -> np.ndarray:
        """A portrait at one place, shape (64, 64, 3) uint8."""
        down, right = divmod(place, 2 * REACH + 1)
        canvas = Image.new("RGB", (CANVAS, CANVAS), "white")
        left, top = ((CANVAS - side) // 2 for side in PICTURE)
        canvas.paste(self._portraits[factors], (left + STEP * (right - REACH), top + STEP * (down - REACH)))
        return np.asarray(canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))

    @cached_property
    def _portraits(self) -> dict[tuple[int, int, int], Image.Image]:
        """All portraits by their factors."""
        return {factors: draw_portrait(self._font, *factors) for factors in np.ndindex(*PEOPLE.sizes)}


def spell(person: int, role: int, tone: int) -> str:
    """The characters of a portrait."""
    parts = list(PERSONS.values())[person] + list(TONES.values())[tone], list(ROLES.values())[role]
    return JOINER.join(filter(None, parts))


def draw_portrait(font: ImageFont.FreeTypeFont, person: int, role: int, tone: int) -> Image.Image:
    """A portrait on white, 136x128 pixels."""
    picture = Image.new("RGB", PICTURE, "white")
    ImageDraw.Draw(picture).text((0, 0), spell(person, role, tone), font=font, embedded_color=True)
    return picture


def find_font(root: Path) -> Path | None:
    """The font in the folder `root`; if that is the default and has none, an installed one; else None."""
    if root != ROOT:
        return find_first(root, [FONT])
    found = (find_first(Path(folder).expanduser(), [FONT]) for folder in (root, *FOLDERS))
    return next(filter(None, found), None) or ask_fontconfig()


def ask_fontconfig() -> Path | None:
    """The font as the program fc-match finds it, or None."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["fc-match", "-f", "%{file}", "Noto Color Emoji"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        return Path(said) if Path(said).name == FONT else None  # it names another font where this is missing
    return None


def open_font(path: Path) -> ImageFont.FreeTypeFont:
    """Open the font for joined characters.

    Raises:
        UserError: Pillow has no raqm, or the file is not a font with pictures of this size.
    """
    if not features.check("raqm"):
        raise UserError(
            "people_emoji needs a Pillow with the layout library raqm, which joins the characters of an "
            "emoji; its wheels have it: pip install --force-reinstall Pillow"
        )
    try:
        return ImageFont.FreeTypeFont(path, FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as error:
        raise UserError(f"{path} has no pictures of {FONT_SIZE} points: {error}; {REMEDY}") from error


def check_portraits(path: Path, font: ImageFont.FreeTypeFont) -> None:
    """Raise UserError unless the font joins the characters of every portrait to one picture in colour."""
    lengths = [font.getlength(spell(*factors)) for factors in np.ndindex(*PEOPLE.sizes)]
    missing = sum(length != lengths[0] for length in lengths)
    if missing:
        raise UserError(f"{path} lacks {missing} of the {len(PEOPLE)} portraits, it is too old; {REMEDY}")
    if not np.ptp(np.asarray(draw_portrait(font, 0, 0, 0)), axis=2).any():
        raise UserError(f"{path} has no pictures that Pillow can draw (CBDT), only outlines; {REMEDY}")
