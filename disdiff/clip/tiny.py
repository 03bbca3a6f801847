"""The tiny CLIP: a small open_clip model with a tokenizer of whole words, which can be trained on a CPU.

It is trained on captions, that is on labels in words, so a system that it guides is weakly supervised; its
name says so in every output. Its folder is a `local-dir:` folder of open_clip (`open_clip_config.json` and
weights as safetensors) with an additional `tiny_clip.json`: its vocabulary, training images and accuracy.
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
MODEL = "tiny_clip"  # name in open_clip's registry
NAME = "tiny CLIP trained on captions"
RECORD, CONFIG, WEIGHTS = "tiny_clip.json", "open_clip_config.json", "open_clip_model.safetensors"
PREPROCESSING: dict[str, Any] = {
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
INITIAL_SCALE = 8.0  # initial scale of the logits
START = "<start>"

open_clip.add_model_config(ARCHITECTURE)


class WordTokenizer:
    """Tokenizer with one token per word; 0 is padding.

    The end token is the largest number, because open_clip finds the end of a text by the maximum.

    Args:
        words: the vocabulary.
        vocab_size: vocabulary size of the text tower.
        context_length: context length of the text tower.
    """

    def __init__(self, words: list[str], vocab_size: int, context_length: int) -> None:
        if len(words) > vocab_size - 4:
            raise ValueError(f"expected at most {vocab_size - 4} words, got {len(words)}")
        self.words = words
        self.ids = {word: i for i, word in enumerate([START, *words], start=1)}
        self.end, self.context_length = vocab_size - 1, context_length

    def __call__(self, texts: list[str], context_length: int | None = None) -> Tensor:
        """Tokens of texts, shape (n, context_length) int64; `context_length` None is that of the text tower.

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
                    f"the {NAME} does not know the words {', '.join(strange)} of {text!r}; it only knows: "
                    f"{', '.join(self.words)}"
                )
            tokens = [self.ids[START], *(self.ids[word] for word in words), self.end]
            if len(tokens) > context_length:
                raise UserError(f"{text!r} is too long: the {NAME} reads {context_length - 2} words")
            row[: len(tokens)] = torch.tensor(tokens)
        return rows


def build_tiny_clip() -> tuple[nn.Module, WordTokenizer]:
    """Build an untrained tiny CLIP with open_clip, and its tokenizer.

    Deviation: three initial values differ from open_clip's, which need long training. Token and positional
    embeddings are larger; otherwise the model learns very late which colour word belongs to the floor. The
    last norm of each residual branch starts at 1, not 0; otherwise a tower with one block per level only sees
    averages of pixels, and no shapes. The scale of the logits is smaller, as untrained embeddings are
    uninformative.
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
    """Build the tokenizer of an architecture; `words` None stands for all words of captions."""
    text = architecture["text_cfg"]
    return WordTokenizer(words or list_words(), text["vocab_size"], text["context_length"])


def save_tiny_clip(folder: Path, net: nn.Module, record: dict[str, Any]) -> None:
    """Save a trained tiny CLIP; its record is written last."""
    architecture = open_clip.get_model_config(MODEL)
    save_json(folder / CONFIG, {"model_cfg": architecture, "preprocess_cfg": PREPROCESSING})
    save_weights(folder / WEIGHTS, net)
    save_json(folder / RECORD, {"name": NAME, "words": list_words(), **record})


def load_record(folder: Path) -> dict[str, Any] | None:
    """Load the training record of a tiny CLIP; None for the folder of another CLIP."""
    return load_json(folder / RECORD) if (folder / RECORD).exists() else None


def describe_training(source: ImageSource, num_train: int) -> dict[str, Any]:
    """Description of a tiny CLIP's training images, for its record."""
    return {
        "identity": source.identity,
        "data": source.name,
        "procedural": source.procedural,
        "num_train": num_train,
        "which": "the first num_train of ldm.data.source.split_indices",
    }
