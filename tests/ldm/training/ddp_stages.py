"""What `test_ddp.py` trains, in one process or, started by torchrun, in several."""

import sys
from pathlib import Path

import torch

import ldm.training.fit
from disdiff.method.factor_encoder import FactorEncoder, FactorEncoderConfig
from disdiff.method.gradient_decoder import GradientDecoder, GradientDecoderConfig
from disdiff.method.losses import DisDiffLossConfig
from disdiff.method.model import CodeNetworks, DisDiff
from disdiff.method.tasks import DisDiffTask
from ldm.autoencoder.kl import KLAutoencoder
from ldm.autoencoder.latent_space import LatentSpace
from ldm.autoencoder.losses import AutoencoderLossConfig
from ldm.autoencoder.networks import NetworkConfig
from ldm.data.batches import StepSampler, TensorBatches, build_loader
from ldm.diffusion.schedule import Schedule, ScheduleConfig
from ldm.nn.unet import UNet, UNetConfig
from ldm.tasks import AutoencoderTask, LatentDiffusionTask
from ldm.training.fit import fit
from ldm.training.machine import Machine
from ldm.training.optimizer import TrainConfig, resolve_settings
from ldm.training.ranks import main_first, read_ranks

NUM_STEPS, BATCH = 8, 4


def build_stages():
    """Name, task and arrays of three stages, all of GroupNorm; there are 10 images: batches cross epochs."""
    torch.manual_seed(0)
    network = NetworkConfig(
        channels=4, channel_mult=[1, 2], num_res_blocks=1, z_channels=4, attention=False, num_groups=2
    )
    unet = UNetConfig(
        channels=8, channel_mult=[1, 2], num_res_blocks=1, attention_levels=[1], num_heads=2, num_groups=4
    )
    space, denoiser = LatentSpace(KLAutoencoder(network)), UNet(unet, 4)
    held = 2  # steps with parameters without gradients
    options = FactorEncoderConfig(
        input="z", channels=8, norm="group", posterior="gaussian", freeze_steps=held
    )
    networks = CodeNetworks(
        FactorEncoder(options, 4, 8, 3, 2), GradientDecoder(GradientDecoderConfig(), unet, 3, 2, 4)
    )
    schedule = Schedule(ScheduleConfig())
    torch.nn.init.normal_(networks.decoder.decoder.out_conv.weight, std=0.1)  # else L_dis weighs nothing
    config = TrainConfig(
        images=NUM_STEPS * BATCH, batch_size=BATCH, learning_rate=1e-3, ema_decay=0.9, checkpoint_seconds=0.0
    )
    settings = resolve_settings(config, 0, "cpu")
    gan = AutoencoderLossConfig(
        perceptual="none", weight_gan=0.5, gan_start=2, discriminator_channels=4, discriminator_layers=1
    )
    loss = DisDiffLossConfig(weight_kl=1e-3, every=2)
    model = DisDiff(space, denoiser, schedule, networks, "z")
    image = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8)
    statistics = torch.randn(10, 8, 8, 8)
    latents = {"statistics": statistics}
    autoencoder = KLAutoencoder(network)
    yield "adversarial", AutoencoderTask(autoencoder, gan, None, settings), {"image": image}
    yield "latent_diffusion", LatentDiffusionTask(denoiser, space, schedule, "l1", settings), latents
    yield "code", DisDiffTask(model, loss, options, settings), latents  # freezes the denoiser


def train(folder):
    """Train the stages one after the other, each in a folder of its name; save every process's weights."""
    ldm.training.fit.LOG_EVERY = 1
    ranks = read_ranks()
    for name, task, arrays in build_stages():
        batches = TensorBatches(arrays)

        def make_loader(first_step, batches=batches, task=task):
            sampler = StepSampler(len(batches), BATCH, NUM_STEPS, task.seed, first_step)
            return build_loader(batches, sampler, num_workers=0, pin_memory=False)

        with main_first() as first:
            (folder / name).mkdir(exist_ok=not first)
        precision = "32-true"
        if name != "adversarial":  # Adam makes whole steps of rounding errors
            precision, task.preview = "64-true", lambda batch, generator: None  # images are float32
        fit(task, make_loader, folder / name, name, Machine("cpu", precision))
        weights = {"trained": task.trained.state_dict(), "result": task.result.state_dict()}
        torch.save(weights, folder / name / f"weights-{ranks.rank}-of-{ranks.size}.pt")


if __name__ == "__main__":
    train(Path(sys.argv[1]))
