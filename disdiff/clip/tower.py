"""A CLIP of open_clip, frozen: image => u and text => v, unit vectors of one space.

A bare weight file says nothing of its preprocessing: the one that all of open_clip's tags of the architecture
share is taken, else it must be given.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.factory import load_checkpoint
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from disdiff.clip.preprocess import Preprocess
from disdiff.clip.tiny import CONFIG, MODEL, NAME, build_tokenizer, load_record
from disdiff.clip.weights import find_weights
from disdiff.config.clip_options import LOCAL, ClipConfig
from disdiff.config.places import find
from ldm.errors import UserError
from ldm.files import load_json
from ldm.nn.layers import freeze
from ldm.training.weight_files import fingerprint

RANDOM_SEED = 0  # random weights are the same in every process, so that heads on them can be loaded again
KEYS = ("mean", "std", "interpolation")  # of the preprocessing, beside the size
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pth", "*.pt")


Tokenizer = Callable[..., Tensor]  # (texts, context_length of choice), as open_clip's


@dataclass
class Facts:
    """What a CLIP is, for outputs.

    Attributes:
        name: such as `ViT-B-32 (laion2b_s34b_b79k)` or `tiny CLIP trained on captions`.
        model: architecture or folder, as configured.
        weights: tag, file or `random`.
        fingerprint: of its weights and its normalisation.
        trained_on: images that a tiny CLIP was trained on; None where that is not known.
        zero_shot: accuracy of a tiny CLIP on held-out images; None elsewhere.
    """

    name: str
    model: str
    weights: str
    fingerprint: str
    trained_on: dict[str, Any] | None = None
    zero_shot: dict[str, Any] | None = None


class Clip(nn.Module):
    """A frozen CLIP.

    Attributes:
        embed_dim: E.
        facts: what it is.
    """

    def __init__(
        self, net: nn.Module, tokenizer: Tokenizer, preprocess: Preprocess, embed_dim: int, facts: Facts
    ) -> None:
        super().__init__()
        self.net, self.preprocess = freeze(net), preprocess
        self.tokenizer, self.embed_dim, self.facts = tokenizer, embed_dim, facts

    def forward(self, image: Tensor) -> Tensor:  # image => u
        """Unit embeddings, shape (B, E), of images (B, 3, H, H) in [-1, 1]; gradients reach the images."""
        return self.net.encode_image(self.preprocess(image), normalize=True)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit embeddings of texts, shape (n, E).

        Raises:
            UserError: a text is longer than what the CLIP reads.
        """
        tokens = self.tokenize(texts).to(self.preprocess.mean.device)
        return self.net.encode_text(tokens, normalize=True)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Tokens of texts, shape (n, context length) int64; no text is cut.

        open_clip's tokenizers cut in silence. A text was cut if with room for one token more it has other
        tokens, padding (what fills an empty text) apart.

        Raises:
            UserError: a text is longer than what the CLIP reads.
        """
        tokens = self.tokenizer(texts)
        limit = tokens.shape[1]
        longer = self.tokenizer([*texts, ""], context_length=limit + 1)
        padding = longer[-1].mode().values
        for text, row, more in zip(texts, tokens, longer, strict=False):
            if row[row != padding].tolist() != more[more != padding].tolist():
                raise UserError(
                    f"{text!r} is too long: {self.facts.name} reads {limit} tokens, beginning and end "
                    "among them; write a shorter text"
                )
        return tokens


def load_clip(config: ClipConfig, allow_download: bool = False) -> Clip:
    """Load the configured CLIP, frozen, on the CPU.

    Args:
        config: which one.
        allow_download: `weights.allow_download` of the configuration.

    Raises:
        UserError: it is unknown, or its weights are absent, damaged or of another architecture.
    """
    if config.model.startswith(LOCAL):
        return load_folder(config, find(config.model.removeprefix(LOCAL)))
    if config.model not in open_clip.list_models():
        raise UserError(
            f"clip.model={config.model} is no architecture of open_clip; name one, such as ViT-B-32, or "
            "local-dir:FOLDER"
        )
    architecture = open_clip.get_model_config(config.model)
    check_text_side(config.model, architecture, allow_download)
    tag = open_clip.get_pretrained_cfg(config.model, config.pretrained or "")
    path = find_weights(config, architecture, tag, allow_download)
    net = create(config.model, force_quick_gelu=bool(tag.get("quick_gelu")))
    if path is not None:
        try:
            load_checkpoint(net, str(path))
        except Exception as error:  # torch, safetensors and open_clip raise many kinds
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} holds no weights of {config.model} ({reason})") from error
    if config.model == MODEL:
        tokenizer = build_tokenizer(architecture)
    else:
        tokenizer = open_clip.get_tokenizer(config.model)
    shown = NAME.split(" trained")[0] if config.model == MODEL else config.model
    name = (
        f"{shown} with random weights (means nothing)"
        if path is None
        else f"{shown} ({config.pretrained if tag else path.name})"
    )
    preprocessing = tag or ({} if path is None else shared_preprocessing(config))
    facts = Facts(name, config.model, str(config.pretrained), "")
    return assemble(config, net, tokenizer, preprocessing, architecture["embed_dim"], facts)


def load_folder(config: ClipConfig, folder: Path) -> Clip:
    """A CLIP from a folder of open_clip's layout, the tiny one among them.

    Raises:
        UserError: the folder is none, or is damaged.
    """
    if not (folder / CONFIG).exists():
        raise UserError(
            f"clip.model={config.model}: {folder} holds no CLIP (there is no {CONFIG}); for the tiny one run "
            f"disdiff tiny-clip --out {folder} (ten minutes), or name another CLIP"
        )
    content, record = load_json(folder / CONFIG), load_record(folder)
    if not any(path for pattern in WEIGHT_FILES for path in folder.glob(pattern)):
        raise UserError(f"{folder} holds no weights ({', '.join(WEIGHT_FILES)}); get the folder again")
    try:
        architecture = content["model_cfg"]
        net = create(f"{LOCAL}{folder}")
        if record is None:
            tokenizer = open_clip.get_tokenizer(f"{LOCAL}{folder}")
        else:
            tokenizer = build_tokenizer(architecture, record["words"])
    except Exception as error:  # as above
        raise UserError(
            f"{folder} holds no CLIP that open_clip reads ({error}); get the folder again"
        ) from error
    facts = Facts(f"open_clip model {folder.name}", config.model, str(folder), "")
    if record is not None:
        facts.name, facts.trained_on, facts.zero_shot = (
            record["name"],
            record["trained_on"],
            record["zero_shot"],
        )
    preprocessing = content.get("preprocess_cfg", {})
    return assemble(config, net, tokenizer, preprocessing, architecture["embed_dim"], facts)


def assemble(
    config: ClipConfig,
    net: nn.Module,
    tokenizer: Tokenizer,
    preprocessing: dict[str, Any],
    embed_dim: int,
    facts: Facts,
) -> Clip:
    """Put a CLIP together with its preprocessing; what that leaves open is open_clip's default.

    Raises:
        UserError: its input is not square, or the preprocessing is none.
    """
    size = net.visual.image_size
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise UserError(f"{config.model} reads images that are not square; choose another clip.model")
    own = PreprocessCfg()
    mean, std, interpolation = (preprocessing.get(key) or getattr(own, key) for key in KEYS)
    preprocess = Preprocess(sides.pop(), list(config.mean or mean), list(config.std or std), interpolation)
    clip = Clip(net, tokenizer, preprocess, embed_dim, facts)
    facts.fingerprint = fingerprint(clip)
    return clip


def create(name: str, **options: bool) -> nn.Module:
    """`open_clip.create_model` without its remarks on the log, and without any download."""
    logging.disable(logging.WARNING)  # "initialized randomly": our names say so
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return open_clip.create_model(name, pretrained_text=False, **options)
    finally:
        logging.disable(logging.NOTSET)


def check_text_side(model: str, architecture: dict[str, Any], allow_download: bool) -> None:
    """Refuse architectures whose text tower or tokenizer would be fetched.

    Raises:
        UserError: this is one, and nothing may be downloaded.
    """
    text = architecture["text_cfg"]
    needs = text.get("hf_model_name") or text.get("hf_tokenizer_name") or "siglip" in model.lower()
    if needs and not allow_download:
        raise UserError(
            f"clip.model={model} reads text with files of the Hugging Face hub ({needs}): use a folder that "
            "holds them all, clip.model=local-dir:FOLDER, or set weights.allow_download=true"
        )


def shared_preprocessing(config: ClipConfig) -> dict[str, Any]:
    """The preprocessing that a file's weights want, going by the tags of its architecture.

    Raises:
        UserError: tags differ and the configuration does not say.
    """
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    kinds = [{key: open_clip.get_pretrained_cfg(config.model, tag).get(key) for key in KEYS} for tag in tags]
    if config.mean and config.std or not kinds:
        return {}
    if any(kind != kinds[0] for kind in kinds):
        raise UserError(
            f"weights of {config.model} differ in their preprocessing; say which with clip.mean and clip.std"
        )
    return kinds[0]
