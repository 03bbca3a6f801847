"""The probe: a small image classifier, trained with labels, that reads factors to evaluate edits.

It is trained on original images. What the autoencoder blurs then counts against an edit, as it does for a
person who looks at the picture. A second kind is trained on originals and autoencoder reconstructions, half
each; it has learnt to read through the blur, so it says whether the information is there. The loss is the
cross-entropy in nats, summed over factors.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.arrays import silent
from ldm.data.factor_space import FactorSpace
from ldm.data.source import ImageSource, to_float
from ldm.errors import UserError

WIDTHS = (16, 32, 64, 64)
HIDDEN = 128
BATCH_SIZE = 64
LEARNING_RATE = 5e-3  # peak, reached after a fifth of the steps
MIN_STEPS = 10
NOISE_STD = 0.02  # standard deviation of the pixel noise in training, for images in [-1, 1]


class Probe(nn.Module):
    """Strided convolutions down to 4x4, one hidden layer, and one classifier per factor."""

    def __init__(self, factor_space: FactorSpace, image_size: int) -> None:
        super().__init__()
        self.sizes = list(factor_space.sizes)
        depth = max(1, round(np.log2(image_size / 4)))
        widths = [3, *(WIDTHS[min(i, len(WIDTHS) - 1)] for i in range(depth))]
        self.trunk = nn.Sequential()
        for i in range(depth):
            convolution = nn.Conv2d(widths[i], widths[i + 1], 4, stride=2, padding=1, bias=False)
            self.trunk.extend([convolution, nn.BatchNorm2d(widths[i + 1]), nn.ReLU()])
        hidden = nn.Linear(widths[-1] * 16, HIDDEN, bias=False)
        self.trunk.extend([nn.AdaptiveAvgPool2d(4), nn.Flatten(), hidden, nn.BatchNorm1d(HIDDEN), nn.ReLU()])
        self.heads = nn.Linear(HIDDEN, sum(self.sizes))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits of each factor's values, shapes (B, factor size), for images (B, 3, H, W) in [-1, 1]."""
        return self.heads(self.trunk(image)).split(self.sizes, dim=1)

    def predict(self, image: Tensor) -> Tensor:
        """Most likely factors, shape (B, F) int64."""
        return torch.stack([logits.argmax(dim=1) for logits in self(image)], dim=1)


@torch.inference_mode(False)
@torch.enable_grad()
def train_probe(
    latent_space: LatentSpace,
    source: ImageSource,
    index: Tensor,
    num_steps: int,
    seed: int,
    progress: Callable[[float], None] = silent,
    with_reconstructions: bool = False,
) -> Probe:
    """Train a probe; gradients are enabled even if the caller has disabled them.

    Args:
        latent_space: the autoencoder; the probe is on its device.
        source: the data set, with factors.
        index: training images, shape (n,).
        num_steps: number of training steps of `BATCH_SIZE` images.
        seed: seed of initialisation, batches and noise.
        progress: called with the completed fraction, from 0 to 1.
        with_reconstructions: whether the first half of each batch is passed through the autoencoder.

    Returns:
        The probe, frozen, in eval mode, on the device of `latent_space`.

    Raises:
        UserError: `num_steps` is too small.
    """
    if num_steps < MIN_STEPS:
        raise UserError(
            f"a probe needs at least {MIN_STEPS} training steps, got {num_steps}; raise probe_steps"
        )
    device = latent_space.mean.device
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = Probe(source.factor_space, source.image_size)
    probe = probe.to(device, memory_format=torch.channels_last)  # twice as fast on a CPU
    optimizer = torch.optim.AdamW(probe.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, num_steps, pct_start=0.2)
    for step in range(num_steps):
        batch = index[torch.randint(len(index), (BATCH_SIZE,), generator=generator)]
        image, factors = to_float(source.images(batch)), source.factors(batch).to(device)
        noise = NOISE_STD * torch.randn(image.shape, generator=generator)
        image = image.to(device)
        if with_reconstructions:
            blurred, plain = image.chunk(2)
            with torch.no_grad():
                blurred = latent_space.decode(latent_space.encode(blurred)).clamp(-1, 1)
            image = torch.cat([blurred, plain])
        logits = probe(image + noise.to(device))
        loss = sum(F.cross_entropy(logits[f], factors[:, f]) for f in range(len(logits)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress((step + 1) / num_steps)
    return probe.eval().requires_grad_(False)
