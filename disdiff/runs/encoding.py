"""Encode the training images once and cache the result: latents, CLIP embeddings, codes.

The stages after the first are trained on these.
"""

import hashlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from disdiff.runs.context import Context
from disdiff.runs.stages import shared_folder
from ldm.data.arrays import show_on
from ldm.data.batches import ImageBatches, TensorBatches
from ldm.data.latents import LatentCache, encode_to_cache
from ldm.data.source import to_float
from ldm.tasks import sample_latents
from ldm.training.machine import on_device
from ldm.training.ranks import main_first
from ldm.training.weight_files import fingerprint

BATCH = 256  # images of 64x64 pixels to encode at once
INITIAL_IMAGES = 16384  # largest number of images to which the initial code is fitted
INITIAL_NUMBERS = 2**26  # largest number of values in their latents


def latent_batches(context: Context, with_images: bool = False) -> TensorBatches:
    """Cached latents as training batches, with the images if the encoder reads images."""
    cache = encode_latents(context, with_images)
    images = {"image": cache.images} if with_images else {}
    return TensorBatches({"statistics": cache.latents, **images})


def code_batches(context: Context) -> ImageBatches | TensorBatches:
    """Training batches of the stage `code`.

    They hold latents and the further inputs of the encoder, or images if the system has no autoencoder.
    """
    if "autoencoder" not in context.stages:
        return ImageBatches(context.source, context.train_index)
    array = context.model.encoder_input.array
    batches = latent_batches(context, with_images=array == "image")
    if array in (None, "image"):
        return batches
    return TensorBatches({**batches.arrays, array: encode_embeddings(context).latents})


def example_batch(context: Context, name: str, size: int) -> dict[str, Tensor]:
    """An example batch of a stage with at most `size` images, encoded by the autoencoder as it is now."""
    if name == "latent_dpm":
        return {"code": context.latent_dpm.mean.expand(size, -1, -1)}
    image = context.source.images(context.train_index[:size])
    if name == "autoencoder" or "autoencoder" not in context.stages:
        return {"image": image}
    with torch.no_grad():
        batch = {"statistics": context.latent_space.autoencoder.encode_statistics(to_float(image))}
        if name == "code" and (array := context.model.encoder_input.array) is not None:
            batch[array] = context.model.encoder_input.to_array(image)
    return batch


@torch.no_grad()
def initial_latents(context: Context, batches: TensorBatches) -> Tensor:
    """Training latents (n, C, h, w) to which the initial code is fitted."""
    largest = INITIAL_NUMBERS // math.prod(batches.arrays["statistics"].shape[1:])
    statistics = batches[torch.arange(min(INITIAL_IMAGES, largest, len(batches)))]["statistics"]
    return sample_latents(context.latent_space, statistics, None)


@torch.no_grad()
def encode_training_codes(context: Context) -> Tensor:
    """Codes of the training images, shape (n, N, D); the means if the encoder is Gaussian."""
    batches, model, device, codes = code_batches(context), context.model, context.machine.device, []
    positions = torch.arange(len(batches)).split(batch_size(context.source.image_size))
    with on_device(device, model.eval()):
        for part in tqdm(positions, desc="codes", unit="batch", dynamic_ncols=True):
            batch = {name: tensor.to(device) for name, tensor in batches[part].items()}
            latents = "statistics" in batch
            z_0 = sample_latents(model.latent_space, batch["statistics"], None) if latents else None
            codes.append(model.encode_input(model.encoder_input.from_batch(batch, z_0)).cpu())
    return torch.cat(codes)


def encode_latents(context: Context, with_images: bool = False) -> LatentCache:
    """Latents of the training images, encoded once per autoencoder.

    The cache is identified by a fingerprint of the weights, because a shipped autoencoder and one trained
    here can have the same hash but different weights.
    """
    autoencoder = context.latent_space.autoencoder
    key = f"{context.stages['autoencoder'].hash}-{fingerprint(autoencoder)}"
    name = f"latents-{key}{'-images' * with_images}"
    return encode_images(context, name, key, autoencoder, autoencoder.encode_statistics, with_images)


def encode_embeddings(context: Context) -> LatentCache:
    """CLIP embeddings of the training images, computed once per CLIP and set of images."""
    images = f"{context.source.identity} {len(context.train_index)}"
    clip = context.model.encoder_input.clip
    key = f"{clip.description.fingerprint}-{hashlib.sha256(images.encode()).hexdigest()[:12]}"
    return encode_images(context, f"clip-{key}", key, clip, clip)


@main_first()
def encode_images(
    context: Context,
    name: str,
    key: str,
    module: nn.Module,
    view: Callable[[Tensor], Tensor],
    with_images: bool = False,
) -> LatentCache:
    """Apply `view`, a method of `module`, to the training images, or load the result from the cache.

    With several processes, the first one computes and writes the cache.
    """
    path = shared_folder(context.config) / name
    cache = LatentCache.open(path, key)
    if cache is not None:
        return cache
    bar = tqdm(total=len(context.train_index), desc="encode", unit="image", dynamic_ncols=True)

    def encode(images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) uint8 on the run's device."""
        return view(to_float(images.to(context.machine.device))).float().cpu()

    size, index = batch_size(context.source.image_size), context.train_index
    with torch.no_grad(), bar, on_device(context.machine.device, module.eval()):
        return encode_to_cache(encode, context.source, index, path, key, size, show_on(bar), with_images)


def batch_size(image_size: int) -> int:
    """Number of images to encode at once: `BATCH`, of larger images as many pixels, 8 at least."""
    return max(8, min(BATCH, BATCH * 64**2 // image_size**2))
