"""Tiny stages that train in a fraction of a second."""

import pytest
import torch
from torch import nn

from ldm.autoencoder.kl import KLAutoencoder
from ldm.autoencoder.losses import AutoencoderLossConfig
from ldm.autoencoder.networks import NetworkConfig
from ldm.data.batches import StepSampler, TensorBatches, build_loader
from ldm.tasks import AutoencoderTask
from ldm.training.fit import fit
from ldm.training.machine import Machine
from ldm.training.optimizer import TrainConfig, resolve_settings
from ldm.training.stage_task import StageTask

NUM_STEPS, BATCH = 30, 4


class TinyTask(StageTask):
    """A regression with all that a resumed run could get wrong: dropout, running statistics, noise."""

    def __init__(self, config, seed=0, **faults):
        torch.manual_seed(3)
        layers = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 5))
        super().__init__(layers, resolve_settings(config, seed, "cpu"))
        self.frozen = self.keep_frozen(nn.Linear(5, 5))
        self.faults = faults

    def compute_loss(self, batch, step, generator):
        x = batch["x"] + 0.1 * torch.randn(batch["x"].shape, generator=generator)
        loss = (self.trained(x) - self.frozen(x)).square().mean()
        self.stats = {"loss": loss.detach(), "noise": x.std()}
        if step % 3 == 0:
            self.stats["sometimes"] = loss.detach()
        if step == self.faults.get("nan_at"):
            self.stats["noise"] = self.stats["noise"] * torch.nan
        if step == self.faults.get("bad_gradient_at"):
            loss = loss + 0 * (self.trained[0].weight * 0).sum().sqrt()
        if step == self.faults.get("kill_at"):
            raise SystemExit("killed")
        return loss


@pytest.fixture
def train_config():
    """Return a function that gives the training configuration of 30 steps, with a checkpoint after each."""

    def build(**options):
        fast = {"images": NUM_STEPS * BATCH, "batch_size": BATCH, "learning_rate": 1e-2, "warmup_steps": 5}
        return TrainConfig(
            **{**fast, "decay": "cosine", "ema_decay": 0.9, "checkpoint_seconds": 0.0, **options}
        )

    return build


@pytest.fixture
def run():
    """Return a function that fits a task in a folder, on 10 samples, and gives the seconds it took."""

    def fit_task(task, folder, images=False, watches=(), logger="csv"):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(10, 5, generator=generator)
        image = torch.randint(0, 256, (10, 3, 16, 16), dtype=torch.uint8, generator=generator)
        batches = TensorBatches({"image": image} if images else {"x": x})

        def make_loader(first_step):
            sampler = StepSampler(10, task.budget.batch_size, task.budget.num_steps, task.seed, first_step)
            return build_loader(batches, sampler, num_workers=0, pin_memory=False)

        folder.mkdir(parents=True, exist_ok=True)
        return fit(task, make_loader, folder, "tiny", Machine("cpu", "32-true", logger=logger), watches)

    return fit_task


@pytest.fixture
def tiny_task(train_config):
    """Return a function that builds a `TinyTask`."""
    return lambda seed=0, optimizer="adamw", **faults: TinyTask(
        train_config(optimizer=optimizer), seed, **faults
    )


class KilledAutoencoderTask(AutoencoderTask):
    """Stage 1 with a discriminator that joins at step 5."""

    kill_at = None

    def training_step(self, batch, step):
        if step == self.kill_at:
            raise SystemExit("killed")
        super().training_step(batch, step)


@pytest.fixture
def adversarial_task(train_config):
    """Return a function that builds stage 1 with two optimisers, to be killed at a step."""

    def build(kill_at=None):
        torch.manual_seed(0)
        network = NetworkConfig(
            channels=4, channel_mult=[1, 2], num_res_blocks=1, z_channels=4, attention=False, num_groups=2
        )
        loss = AutoencoderLossConfig(
            perceptual="none", weight_gan=0.5, gan_start=5, discriminator_channels=4, discriminator_layers=1
        )
        config = train_config(ema_decay=None)
        task = KilledAutoencoderTask(KLAutoencoder(network), loss, None, resolve_settings(config, 0, "cpu"))
        task.kill_at = kill_at
        return task

    return build
