"""Training of the tiny CLIP with a contrastive loss that accounts for all captions that fit an image.

With s_ij = scale * <u_i, v_j> for image i and caption j, M_ij = 1 if the caption fits the image, and captions
in groups g that mention the same factors,

    L = (CE(softmax_{j in g} s_ij, M_ij / sum_{j in g} M_ij) + CE(softmax_i s_ij, M_ij / sum_i M_ij)) / 2

in nats; the first term is a mean over images and groups with a fitting caption, the second over captions.
With one group and M the identity this is CLIP's loss (Radford et al. 2021, arXiv:2103.00020). Short captions
fit many images of a batch; treating these as wrong would teach that words mean little. Captions are compared
within groups only: as all embeddings have length 1, a detailed caption that almost fits an image can be
closer to it than a short caption that fits, and such comparisons would teach wrong meanings.

Both towers start with outputs that are white over a first batch: the embeddings of untrained towers are
almost the same for all images, and a loss on angles learns nothing from them.

Accuracy is zero-shot: the predicted value of a factor is that whose prompts are nearest to the image.
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
BLURRED = 0.25  # share of images at half the resolution, as decoders blur
WEIGHT_DECAY = 0.05  # for matrices and convolutions only
FIRST_BATCH = 512  # number of images for `whiten_towers`
WHITE_FLOOR = 0.02
MAX_SCALE = 100.0  # largest scale of the logits, as in CLIP
PROMPTS = {  # template and words of the values for each factor
    "floor hue": ("a photo of a room on a {} floor", HUES),
    "wall hue": ("a photo of a room before a {} wall", HUES),
    "object hue": ("a photo of a {} object", HUES),
    "scale": ("a photo of a {} object", SIZES),
    "shape": ("a photo of a {}", SHAPES),
    "orientation": ("a photo of a room seen from the {}", tuple((view,) for view in VIEWS)),
}


@dataclass
class TinyTraining:
    """Training options of the tiny CLIP.

    Attributes:
        num_steps: training steps.
        batch_size: images, and captions, per step.
        num_groups: groups of captions that mention the same factors, per batch.
        learning_rate: highest learning rate, reached after a tenth of the steps; it falls to zero at the end.
        seed: seed of initial weights, batches, captions and noise.
    """

    num_steps: int = 1600
    batch_size: int = 128
    num_groups: int = 8
    learning_rate: float = 1.5e-3
    seed: int = 0


def contrastive_loss(
    image: Tensor, text: Tensor, scale: Tensor, match: Tensor, num_groups: int = 1
) -> Tensor:
    """The loss in the module's docstring, shape ().

    Args:
        image: unit-length embeddings of images, shape (B, E).
        text: unit-length embeddings of captions, shape (n, E), group after group.
        scale: scale of the logits, shape ().
        match: whether caption j fits image i, shape (B, n) bool; each caption fits at least one image.
        num_groups: number of groups of n / num_groups captions each.
    """
    logits, match = scale * image @ text.T, match.float()
    by_text = F.cross_entropy(logits.T, match.T / match.sum(dim=0)[:, None])
    logits, match = (rows.unflatten(1, (num_groups, -1)).flatten(0, 1) for rows in (logits, match))
    fits = match.any(dim=1)  # per image and group: a group may have no caption for an image
    by_image = F.cross_entropy(logits[fits], match[fits] / match[fits].sum(dim=1, keepdim=True))
    return (by_image + by_text) / 2


@torch.no_grad()
def whiten_towers(net: nn.Module, image: Tensor, tokens: Tensor) -> None:
    """Change the last layers of both towers, in place, so that their outputs are white over a batch.

    Args:
        net: open_clip model with a `ModifiedResNet` for images.
        image: input of the image tower, shape (n, 3, size, size).
        tokens: tokens of captions, shape (m, context_length).
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
    """Mean (E,) of `x` (n, E), and the symmetric matrix (E, E) that whitens the centred `x`.

    Directions with less than `WHITE_FLOOR` of the largest standard deviation stay small; they are mostly
    noise.
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
        net: open_clip model.
        tokenizer: its tokenizer.
        preprocess: images => input of the image tower.
        source: Shapes3D, with factors.
        index: images to train on, shape (n,).
        training: training options.
        progress: called with the number of steps done and the loss; returns the share of the time budget
            used. The larger share, of steps or of time, sets the learning rate and the end of training.

    Returns:
        Number of steps done.
    """
    torch_random = torch.Generator().manual_seed(training.seed)
    random = np.random.default_rng(training.seed)
    rate, num_steps = training.learning_rate, training.num_steps
    group_size = training.batch_size // training.num_groups

    def draw(size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch: input of the image tower, tokens, and `match`."""
        batch = index[torch.randint(len(index), (size,), generator=torch_random)]
        factors = source.factors(batch)
        captions = write_captions(factors, random, group_size)
        image = preprocess(degrade(to_float(source.images(batch)), torch_random))
        match = find_matches(factors, captions.mentioned)
        return image.contiguous(memory_format=torch.channels_last), tokenizer(captions.texts), match

    net.to(memory_format=torch.channels_last).train()  # 1.5 times as fast on a CPU
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
    """AdamW without weight decay for biases, norms and the scale of the logits."""
    matrices = [parameter for parameter in net.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in net.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY)


def degrade(image: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise to images (B, 3, H, W), and blur some of them, to resemble decoded images."""
    blurred = F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="bilinear", align_corners=False)
    chosen = torch.rand((len(image), 1, 1, 1), generator=generator) < BLURRED
    noise = torch.randn(image.shape, generator=generator)
    return torch.where(chosen, blurred, image) + NOISE_STD * noise


@torch.no_grad()
def zero_shot_accuracy(
    net: nn.Module, tokenizer: WordTokenizer, preprocess: nn.Module, source: ImageSource, index: Tensor
) -> dict[str, float]:
    """Zero-shot accuracy of each factor on the images `index` (n,); orientation is one of five views."""
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
