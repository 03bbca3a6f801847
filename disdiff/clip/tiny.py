"""The tiny CLIP: a model of open_clip's, small enough to be trained here, and its tokenizer of whole words.

It is trained on captions, that is on labels in words: whatever it guides is weakly supervised, and its name
says so in every output. Its folder is one of open_clip's `local-dir:` folders (`open_clip_config.json` and
weights as safetensors) with `tiny_clip.json` beside it: the words it knows, what it was trained on, how good
it is.
"""

import math
import re
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from disdiff.clip.captions import list_words
from ldm.data.source import ImageSource
from ldm.errors import UserError
from ldm.files import load_json, save_json
from ldm.training.weight_files import save_weights

ARCHITECTURE = Path(__file__).with_name("tiny_clip.json")
MODEL = "tiny_clip"  # in open_clip's registry
NAME = "tiny CLIP trained on captions"
RECORD, CONFIG, WEIGHTS = "tiny_clip.json", "open_clip_config.json", "open_clip_model.safetensors"
PREPROCESSING: dict[str, Any] = {
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
INITIAL_SCALE = 8.0  # of the logits
START = "<start>"

open_clip.add_model_config(ARCHITECTURE)


class WordTokenizer:
    """One token per word; 0 pads; the last one ends a text, since open_clip looks for the largest.

    Args:
        words: the vocabulary.
        vocab_size: of the text tower.
        context_length: of the text tower.
    """

    def __init__(self, words: list[str], vocab_size: int, context_length: int) -> None:
        if len(words) > vocab_size - 4:
            raise ValueError(f"expected at most {vocab_size - 4} words, got {len(words)}")
        self.words = words
        self.ids = {word: i for i, word in enumerate([START, *words], start=1)}
        self.end, self.context_length = vocab_size - 1, context_length

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Tokens of texts, shape (n, context_length) int64; without `context_length` the text tower's.

        Raises:
            UserError: a text has a word that is not in the vocabulary, or too many words.
        """
        context_length = context_length or self.context_length
        rows = torch.zeros(len(texts), context_length, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            words = re.findall(r"[a-z]+", text.lower())
            strange = sorted(set(words) - set(self.ids))
            if strange:
                raise UserError(
                    f"the {NAME} does not know the words {', '.join(strange)} of {text!r}; it knows these "
                    f"alone: {', '.join(self.words)}"
                )
            tokens = [self.ids[START], *(self.ids[word] for word in words), self.end]
            if len(tokens) > context_length:
                raise UserError(f"{text!r} is too long: the {NAME} reads {context_length - 2} words")
            row[: len(tokens)] = torch.tensor(tokens)
        return rows


def build_tiny_clip() -> tuple[nn.Module, WordTokenizer]:
    """An untrained tiny CLIP, from open_clip's registry, and its tokenizer.

    Three things differ from open_clip's start, which needs long training. Words and places start as large as
    what surrounds them, else which of the colours is the floor's is learnt last of all. The residual branches
    are open: closed, a tower of one block per level sees averages of pixels alone, hence no shapes. And the
    logits' scale is less, as untrained embeddings should not be sure of anything.
    """
    architecture = open_clip.get_model_config(MODEL)
    net = open_clip.CLIP(**architecture)
    nn.init.normal_(net.token_embedding.weight)
    nn.init.normal_(net.positional_embedding, std=0.3)
    nn.init.normal_(net.visual.attnpool.positional_embedding)
    for name, parameter in net.visual.named_parameters():
        if name.startswith("layer") and name.endswith("bn3.weight"):
            nn.init.ones_(parameter)
    nn.init.constant_(net.logit_scale, math.log(INITIAL_SCALE))
    return net, build_tokenizer(architecture)


def build_tokenizer(architecture: dict[str, Any], words: list[str] | None = None) -> WordTokenizer:
    """The tokenizer that fits an architecture; without `words`, of all that captions use."""
    text = architecture["text_cfg"]
    return WordTokenizer(words or list_words(), text["vocab_size"], text["context_length"])


def save_tiny_clip(folder: Path, net: nn.Module, record: dict[str, Any]) -> None:
    """Write a trained tiny CLIP and, last, its record."""
    architecture = open_clip.get_model_config(MODEL)
    save_json(folder / CONFIG, {"model_cfg": architecture, "preprocess_cfg": PREPROCESSING})
    save_weights(folder / WEIGHTS, net)
    save_json(folder / RECORD, {"name": NAME, "words": list_words(), **record})


def load_record(folder: Path) -> dict[str, Any] | None:
    """What is known of a tiny CLIP's training; None for a folder of another CLIP."""
    return load_json(folder / RECORD) if (folder / RECORD).exists() else None


def describe_training(source: ImageSource, num_train: int) -> dict[str, Any]:
    """Which images a tiny CLIP was trained on, as its record keeps it."""
    return {
        "identity": source.identity,
        "data": source.name,
        "procedural": source.procedural,
        "num_train": num_train,
        "which": "the first num_train of ldm.data.source.split_indices",
    }
