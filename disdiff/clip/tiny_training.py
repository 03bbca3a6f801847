"""Training of the tiny CLIP: a contrastive loss that knows which captions fit which images.

With s_ij = scale * <u_i, v_j> of image i and caption j, and M_ij = 1 where the caption fits the image,

    L = (CE(softmax_j s_ij, M_ij / sum_j M_ij) + CE(softmax_i s_ij, M_ij / sum_i M_ij)) / 2

in nats, mean over the batch. With M the identity this is CLIP's (Radford et al. 2021, arXiv:2103.00020).
Short captions fit many images of a batch, and to call those wrong would teach that words mean little.

Accuracy is zero-shot: of a factor's values, the one whose prompts lie nearest to the image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from disdiff.clip.captions import (
    GROUP,
    HUES,
    SHAPES,
    SIZES,
    VIEWS,
    find_matches,
    group_values,
    write_captions,
)
from disdiff.clip.tiny import WordTokenizer
from ldm.data.source import ImageSource, to_float

NOISE_STD = 0.03  # pixel noise, image range [-1, 1]
BLURRED = 0.25  # share of the images that are seen at half the resolution, as decoders blur
MAX_SCALE = 100.0  # of the logits, CLIP's own limit
PROMPTS = {  # per factor, what its values are called in a prompt
    "floor hue": ("a photo of a room on a {} floor", HUES),
    "wall hue": ("a photo of a room before a {} wall", HUES),
    "object hue": ("a photo of a {} object", HUES),
    "scale": ("a photo of a {} object", SIZES),
    "shape": ("a photo of a {}", SHAPES),
    "orientation": ("a photo of a room seen from the {}", tuple((view,) for view in VIEWS)),
}


@dataclass
class TinyTraining:
    """How long and how fast.

    Attributes:
        num_steps: training steps.
        batch_size: images, and captions, per step.
        learning_rate: at its highest, after a tenth of the steps; it falls to zero by the end.
        seed: of initial weights, batches, captions and noise.
    """

    num_steps: int = 2600
    batch_size: int = 128
    learning_rate: float = 2.5e-3
    seed: int = 0


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, match: Tensor) -> Tensor:
    """The loss above, shape ().

    Args:
        image: unit embeddings, shape (B, E).
        text: unit embeddings of the captions, shape (B, E).
        scale: of the logits, shape ().
        match: entry (i, j) says whether caption j fits image i, shape (B, B) bool.
    """
    logits, match = scale * image @ text.T, match.float()
    by_image = F.cross_entropy(logits, match / match.sum(dim=1, keepdim=True))
    by_text = F.cross_entropy(logits.T, match.T / match.sum(dim=0)[:, None])
    return (by_image + by_text) / 2


def train_tiny_clip(
    net: nn.Module,
    tokenizer: WordTokenizer,
    preprocess: nn.Module,
    source: ImageSource,
    index: Tensor,
    training: TinyTraining,
    progress: Callable[[int, float], float] | None = None,
) -> int:
    """Train a tiny CLIP on captioned images.

    Args:
        net: of open_clip.
        tokenizer: its own.
        preprocess: from images to its input.
        source: Shapes3D, with factors.
        index: images to train on, shape (n,).
        training: how long and how fast.
        progress: called with the steps done and the loss; gives the share of the time that is used up.
            Training ends, and the learning rate falls, by steps or by time, whichever is further.

    Returns:
        Steps done.
    """
    torch_random = torch.Generator().manual_seed(training.seed)
    random = np.random.default_rng(training.seed)
    rate, num_steps = training.learning_rate, training.num_steps
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    net.train()
    share = 0.0
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 10 * (share + 1 / num_steps)) * (1 + math.cos(math.pi * share)) / 2
        batch = index[torch.randint(len(index), (training.batch_size,), generator=torch_random)]
        factors = source.factors(batch)
        captions = write_captions(factors, random)
        image = degrade(to_float(source.images(batch)), torch_random)
        loss = contrastive_loss(
            net.encode_image(preprocess(image), normalize=True),
            net.encode_text(tokenizer(captions.texts), normalize=True),
            net.logit_scale.exp().clamp(max=MAX_SCALE),
            find_matches(factors, captions.mentioned),
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        used = 0.0 if progress is None else progress(step + 1, loss.item())
        share = max((step + 1) / num_steps, used)
        if share >= 1:
            return step + 1
    return num_steps


def degrade(image: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, 3, H, W) with noise, some of them blurred, as a decoder's are."""
    blurred = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="bilinear", align_corners=False)
    chosen = torch.rand((len(image), 1, 1, 1), generator=generator) < BLURRED
    noise = torch.randn(image.shape, generator=generator)
    return torch.where(chosen, blurred, image) + NOISE_STD * noise


@torch.no_grad()
def zero_shot_accuracy(
    net: nn.Module, tokenizer: WordTokenizer, preprocess: nn.Module, source: ImageSource, index: Tensor
) -> dict[str, float]:
    """Share of the images `index` (n,) whose factors prompts alone find; orientation is one of five views."""
    net.eval()
    parts = [preprocess(to_float(source.images(part))) for part in index.split(256)]
    image = torch.cat([net.encode_image(part, normalize=True) for part in parts])
    wanted, scores = group_values(source.factors(index)), {}
    for f, (name, (prompt, values)) in enumerate(PROMPTS.items()):
        texts = [[prompt.format(word) for word in words] for words in values]
        found = [net.encode_text(tokenizer(group), normalize=True).mean(dim=0) for group in texts]
        nearest = (image @ F.normalize(torch.stack(found), dim=1).T).argmax(dim=1)
        label = f"{name} ({len(values)} words)" if GROUP[f] > 1 else name
        scores[label] = (nearest == wanted[:, f]).double().mean().item()
    return scores
