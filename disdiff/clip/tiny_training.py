"""Training of the tiny CLIP: a contrastive loss that knows which captions fit which images.

With s_ij = scale * <u_i, v_j> of image i and caption j, M_ij = 1 where the caption fits the image, and the
captions in groups g that mention the same factors,

    L = (CE(softmax_{j in g} s_ij, M_ij / sum_{j in g} M_ij) + CE(softmax_i s_ij, M_ij / sum_i M_ij)) / 2

in nats, a mean over images and groups with a fitting caption, and over captions. With one group and M the
identity this is CLIP's (Radford et al. 2021, arXiv:2103.00020). Short captions fit many images of a batch,
and to call those wrong would teach that words mean little. And a caption that says more than another lies
nearer to the images that it almost fits than the other to those that it fits, as embeddings have one length:
compared with each other, such captions teach against their words.

Both towers start with outputs that are white over a first batch: embeddings that are almost the same for all
images, as those of untrained towers are, tell a loss on their angles nothing.

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
WEIGHT_DECAY = 0.05  # of matrices and convolutions alone
FIRST_BATCH = 512  # images to which the outputs' start is fitted
WHITE_FLOOR = 0.02
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
        num_groups: of captions that mention the same factors, in each batch.
        learning_rate: at its highest, after a tenth of the steps; it falls to zero by the end.
        seed: of initial weights, batches, captions and noise.
    """

    num_steps: int = 1600
    batch_size: int = 128
    num_groups: int = 8
    learning_rate: float = 1.5e-3
    seed: int = 0


def contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor, match: Tensor, num_groups: int = 1
) -> Tensor:
    """The loss above, shape ().

    Args:
        image: unit embeddings, shape (B, E).
        text: unit embeddings of the captions, shape (n, E), group after group.
        scale: of the logits, shape ().
        match: entry (i, j) says whether caption j fits image i, shape (B, n) bool; each fits one at least.
        num_groups: of n / num_groups captions each.
    """
    logits, match = scale * image @ text.T, match.float()
    by_text = F.cross_entropy(logits.T, match.T / match.sum(dim=0)[:, None])
    logits, match = (rows.unflatten(1, (num_groups, -1)).flatten(0, 1) for rows in (logits, match))
    fits = match.any(dim=1)  # of each image and group: not every group has a caption for every image
    by_image = F.cross_entropy(logits[fits], match[fits] / match[fits].sum(dim=1, keepdim=True))
    return (by_image + by_text) / 2


@torch.no_grad()
def whiten_towers(net: nn.Module, image: Tensor, tokens: Tensor) -> None:
    """Turn the last layers of both towers so that their outputs are white over a batch, in place.

    Args:
        net: of open_clip, with a `ModifiedResNet` for images.
        image: input of the image tower, shape (n, 3, size, size).
        tokens: of captions, shape (m, context_length).
    """
    net.train()
    last = net.visual.attnpool.c_proj
    center, turn = find_whitening(net.encode_image(image))
    last.bias.copy_((last.bias - center) @ turn)
    last.weight.copy_(turn.T @ last.weight)
    center, turn = find_whitening(net.encode_text(tokens))
    net.ln_final.bias.sub_(center @ torch.linalg.pinv(net.text_projection))
    net.text_projection.copy_(net.text_projection @ turn)


def find_whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (E,) of `x` (n, E), and the symmetric matrix (E, E) that brings what is left to unit variance.

    Directions of less than `WHITE_FLOOR` of the largest deviation stay small: they are mostly noise.
    """
    center = x.mean(dim=0)
    _, singular, basis = torch.linalg.svd(x - center, full_matrices=False)
    deviation = singular / len(x) ** 0.5
    scale = (deviation**2 + (WHITE_FLOOR * deviation[0]) ** 2).rsqrt()
    return center, basis.T @ (scale[:, None] * basis)


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
    group_size = training.batch_size // training.num_groups

    def draw(size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Input of the image tower, tokens, and which fits which."""
        batch = index[torch.randint(len(index), (size,), generator=torch_random)]
        factors = source.factors(batch)
        captions = write_captions(factors, random, group_size)
        image = preprocess(degrade(to_float(source.images(batch)), torch_random))
        match = find_matches(factors, captions.mentioned)
        return image.contiguous(memory_format=torch.channels_last), tokenizer(captions.texts), match

    net.to(memory_format=torch.channels_last).train()  # half as fast again on a CPU
    whiten_towers(net, *draw(max(1, FIRST_BATCH // group_size) * group_size)[:2])
    optimizer = build_optimizer(net, rate)
    share = 0.0
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, 10 * (share + 1 / num_steps)) * (1 + math.cos(math.pi * share)) / 2
        image, tokens, match = draw(group_size * training.num_groups)
        loss = contrastive_loss(
            net.encode_image(image, normalize=True),
            net.encode_text(tokens, normalize=True),
            net.logit_scale.exp().clamp(max=MAX_SCALE),
            match,
            training.num_groups,
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


def build_optimizer(net: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW that lets biases, scales of norms and the logits' scale be."""
    matrices = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)


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
