"""Load a CLIP of open_clip, frozen: image => u and text => v, unit vectors in a common space.

A single weight file has no information on its preprocessing. If all of open_clip's tags of the architecture
have the same preprocessing, it is used; otherwise the configuration must give it.
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
KEYS = ("mean", "std", "interpolation")  # keys of the preprocessing, besides the size
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pth", "*.pt")


Tokenizer = Callable[..., Tensor]  # (texts, optional context_length), as in open_clip


@dataclass
class ClipDescription:
    """Description of a CLIP, for outputs.

    Attributes:
        name: such as `ViT-B-32 (laion2b_s34b_b79k)` or `tiny CLIP trained on captions`.
        model: architecture, or name of the folder.
        weights: tag, name of the file or folder, or `random`.
        fingerprint: fingerprint of the weights and the normalisation.
        trained_on: training images of a tiny CLIP; None if unknown.
        zero_shot: accuracy of a tiny CLIP on held-out images; None for other CLIPs.
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
        embed_dim: width E of the embeddings.
        description: what the CLIP is and was trained on, for outputs.
    """

    def __init__(
        self,
        net: nn.Module,
        tokenizer: Tokenizer,
        preprocess: Preprocess,
        embed_dim: int,
        description: ClipDescription,
    ) -> None:
        super().__init__()
        self.net, self.preprocess = freeze(net), preprocess
        self.tokenizer, self.embed_dim, self.description = tokenizer, embed_dim, description

    def forward(self, image: Tensor) -> Tensor:  # image => u
        """Unit-length embeddings (B, E) of images (B, 3, H, H) in [-1, 1]; gradients flow to the images."""
        return self.net.encode_image(self.preprocess(image), normalize=True)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Unit-length embeddings of texts, shape (n, E); UserError if a text is too long for the CLIP."""
        tokens = self.tokenize(texts).to(self.preprocess.mean.device)
        return self.net.encode_text(tokens, normalize=True)

    def tokenize(self, texts: list[str]) -> Tensor:
        """Tokens of texts, shape (n, context length) int64; a text that is too long is an error.

        open_clip's tokenizers truncate without a warning. A text was truncated if its tokens, without
        padding, differ from those for a context length that is larger by one.

        Raises:
            UserError: a text is too long for the CLIP.
        """
        tokens = self.tokenizer(texts)
        limit = tokens.shape[1]
        longer = self.tokenizer([*texts, ""], context_length=limit + 1)
        padding = longer[-1].mode().values
        for text, row, more in zip(texts, tokens, longer, strict=False):
            if row[row != padding].tolist() != more[more != padding].tolist():
                raise UserError(
                    f"{text!r} is too long: {self.description.name} reads {limit} tokens, including start "
                    "and end; write a shorter text"
                )
        return tokens


def load_clip(config: ClipConfig, allow_download: bool = False) -> Clip:
    """Load the configured CLIP, frozen, on the CPU.

    Args:
        config: configuration of the CLIP.
        allow_download: `weights.allow_download` of the configuration.

    Raises:
        UserError: the CLIP is unknown, or its weights are missing, damaged or of another architecture.
    """
    if config.model.startswith(LOCAL):
        return load_folder(config, find(config.model.removeprefix(LOCAL)))
    if config.model not in open_clip.list_models():
        raise UserError(
            f"clip.model={config.model} is not an architecture of open_clip; set one, such as ViT-B-32, or "
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
        except Exception as error:  # torch, safetensors and open_clip raise many exception types
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path} has no weights of {config.model} ({reason}); set another clip.pretrained"
            ) from error
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
    weights = str(config.pretrained) if path is None or tag else path.name
    description = ClipDescription(name, config.model, weights, "")
    return assemble(config, net, tokenizer, preprocessing, architecture["embed_dim"], description)


def load_folder(config: ClipConfig, folder: Path) -> Clip:
    """Load a CLIP from a folder in open_clip's format, such as the tiny CLIP.

    Raises:
        UserError: the folder has no CLIP, or is damaged.
    """
    if not (folder / CONFIG).exists():
        raise UserError(
            f"clip.model={config.model}: {folder} has no CLIP (no {CONFIG}); for the tiny CLIP run "
            f"disdiff tiny-clip --out {folder} (ten minutes), or set another CLIP"
        )
    content, record = load_json(folder / CONFIG), load_record(folder)
    if not any(path for pattern in WEIGHT_FILES for path in folder.glob(pattern)):
        raise UserError(f"{folder} has no weights ({', '.join(WEIGHT_FILES)}); get the folder again")
    try:
        architecture = content["model_cfg"]
        net = create(f"{LOCAL}{folder}")
        if record is None:
            tokenizer = open_clip.get_tokenizer(f"{LOCAL}{folder}")
        else:
            tokenizer = build_tokenizer(architecture, record["words"])
    except Exception as error:  # torch, safetensors and open_clip raise many exception types
        raise UserError(f"open_clip cannot read {folder} ({error}); get the folder again") from error
    description = ClipDescription(f"open_clip model {folder.name}", LOCAL + folder.name, folder.name, "")
    if record is not None:
        description.name, description.trained_on, description.zero_shot = (
            record["name"],
            record["trained_on"],
            record["zero_shot"],
        )
    preprocessing = content.get("preprocess_cfg", {})
    return assemble(config, net, tokenizer, preprocessing, architecture["embed_dim"], description)


def assemble(
    config: ClipConfig,
    net: nn.Module,
    tokenizer: Tokenizer,
    preprocessing: dict[str, Any],
    embed_dim: int,
    description: ClipDescription,
) -> Clip:
    """Combine a CLIP with its preprocessing; missing values are open_clip's defaults.

    Raises:
        UserError: the CLIP's input is not square, or the preprocessing is invalid.
    """
    size = net.visual.image_size
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) > 1:
        raise UserError(f"{config.model} reads images that are not square; choose another clip.model")
    own = PreprocessCfg()
    mean, std, interpolation = (preprocessing.get(key) or getattr(own, key) for key in KEYS)
    preprocess = Preprocess(sides.pop(), list(config.mean or mean), list(config.std or std), interpolation)
    clip = Clip(net, tokenizer, preprocess, embed_dim, description)
    description.fingerprint = fingerprint(clip)
    return clip


def create(name: str, **options: bool) -> nn.Module:
    """`open_clip.create_model` without its log messages and without any download."""
    logging.disable(logging.WARNING)  # "initialized randomly" is already in `ClipDescription.name`
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return open_clip.create_model(name, pretrained_text=False, **options)
    finally:
        logging.disable(logging.NOTSET)


def check_text_side(model: str, architecture: dict[str, Any], allow_download: bool) -> None:
    """Raise UserError if an architecture's text tower or tokenizer needs a download that is not allowed."""
    text = architecture["text_cfg"]
    needs = text.get("hf_model_name") or text.get("hf_tokenizer_name") or "siglip" in model.lower()
    if needs and not allow_download:
        raise UserError(
            f"clip.model={model} needs files of the Hugging Face hub for text ({needs}): use a folder with "
            "all of them, clip.model=local-dir:FOLDER, or set weights.allow_download=true"
        )


def shared_preprocessing(config: ClipConfig) -> dict[str, Any]:
    """The preprocessing that all of open_clip's tags of an architecture share.

    Raises:
        UserError: the tags differ and the configuration does not set mean and std.
    """
    tags = open_clip.list_pretrained_tags_by_model(config.model)
    kinds = [{key: open_clip.get_pretrained_cfg(config.model, tag).get(key) for key in KEYS} for tag in tags]
    if config.mean and config.std or not kinds:
        return {}
    if any(kind != kinds[0] for kind in kinds):
        raise UserError(
            f"weights of {config.model} differ in their preprocessing; set clip.mean and clip.std"
        )
    return kinds[0]
