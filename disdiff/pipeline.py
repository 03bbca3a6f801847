"""The main job: the stages of a system, such as autoencoder, latent diffusion, factors and, where wanted, a
latent DPM; each is loaded when trained, else trained; then results.
"""

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from disdiff.build import (
    build_autoencoder_task,
    build_denoiser,
    build_latent_diffusion_task,
    build_latent_dpm,
    build_latent_dpm_task,
    build_latent_space,
    build_model,
    build_source,
    get_system,
)
from disdiff.config import Config, merge, read_yaml, to_container, to_yaml
from disdiff.metrics.protocols import get_protocol
from disdiff.stages import (
    RECORD,
    Stage,
    copy_stage,
    count_parameters,
    fingerprint,
    first_difference,
    list_stages,
    shared_folder,
)
from ldm.autoencoder.latent_space import fit_standardisation, measure_latents
from ldm.autoencoder.losses import reconstruction_scores
from ldm.data.batches import ImageBatches, StepSampler, TensorBatches, build_loader
from ldm.data.latents import LatentCache, encode_to_cache
from ldm.data.pictures import name_some
from ldm.data.source import describe_source, split_indices, to_float
from ldm.diffusion.sampler import SAMPLERS
from ldm.errors import UserError, choose
from ldm.files import atomic_path, load_json, remove_partial
from ldm.tasks import sample_latents
from ldm.training.fit import fit
from ldm.training.log import format_duration, format_scores
from ldm.training.machine import Machine, configure_process, resolve_machine
from ldm.training.optimizer import resolve_budget
from ldm.training.ranks import Share, main_first, read_ranks
from ldm.training.stage_task import StageTask

ENCODE_BATCH = 256
FIRST_IMAGES = 2048  # to which the first stage's start is fitted
START_IMAGES = 16384  # to which the start of the code is fitted, at most,
START_NUMBERS = 2**26  # of their latents
Say = Callable[[str], None]
Encode = Callable[[Tensor], Tensor]


class Pipeline:
    """The stages of one configuration: what is trained, what they are made of, and how to run them."""

    def __init__(self, config: Config, say: Say) -> None:
        self.system = get_system(config)
        self.protocol = get_protocol(config.evaluation.protocol)
        choose("sampler.name", config.sampler.name, dict.fromkeys(SAMPLERS))
        self.per_channel = choose(
            "autoencoder.standardise", config.autoencoder.standardise, {"scalar": False, "channel": True}
        )
        self.config = config
        self.say = say if read_ranks().is_main else lambda line: None
        options = {key: value for key, value in to_container(config.trainer).items() if key != "threads"}
        self.machine: Machine = resolve_machine(**options)
        configure_process(self.machine, config.trainer.threads)
        self.source = build_source(config.data)
        skipped = describe_source(self.source).get("skipped", [])
        if skipped:
            self.say(f"note: {len(skipped)} pictures cannot be used and are left out: {name_some(skipped)}")
        self.folder = Path(config.run.root) / config.run.name
        self.stages = {stage.name: stage for stage in list_stages(config, self.source, self.folder)}
        self.train_index, self.eval_index = split_indices(
            self.source, config.data.num_train, config.evaluation.num_images
        )
        torch.manual_seed(config.stage_seed)
        self.latent_space = build_latent_space(config)
        self.denoiser = build_denoiser(config, self.latent_space)
        torch.manual_seed(config.seed)
        self.model = build_model(config, self.latent_space, self.denoiser, self.source.image_size)
        self.modules = {"autoencoder": self.latent_space, "latent_diffusion": self.denoiser}
        if self.model is not None:
            self.modules["factors"] = self.model.factors
            self.modules["latent_dpm"] = self.latent_dpm = build_latent_dpm(config, self.model)

    def run(self) -> None:
        """Train what is not trained, then evaluate and draw.

        Raises:
            UserError: bad data, a diverging loss, an unwritable folder, a run folder of another
                configuration, a batch that cannot be shared.
        """
        self.check_batches()
        with main_first() as first:
            if first:
                self.claim_folder()
        if len(self.eval_index) < self.protocol.num_rows:
            self.say(
                f"note: no scores, since protocol {self.protocol.name} needs {self.protocol.num_rows} "
                f"evaluation images and here are {len(self.eval_index)} (evaluation.num_images)"
            )
        start = time.monotonic()
        runners = {
            "autoencoder": self.train_autoencoder,
            "latent_diffusion": self.train_latent_diffusion,
            "factors": self.train_factors,
            "latent_dpm": self.train_latent_dpm,
        }
        todo = {name for name, stage in self.stages.items() if not stage.trained}  # for all processes
        for name, stage in self.stages.items():
            if name in todo:
                runners[name](stage)
            else:
                self.say(f"{name}: loaded from {stage.folder}")
            with main_first() as first:  # which has saved it; the others load it
                stage.load(self.modules[name])
                if first:
                    copy_stage(stage, self.folder / "stages" / name)
        if "factors" in self.stages:
            with main_first() as first:
                if first:
                    from disdiff.results import write_results  # only the last stage needs figures and metrics

                    write_results(self, time.monotonic() - start)
        self.say(f"results in {self.folder}")

    def check_batches(self) -> None:
        """Refuse batches that cannot be shared, before any stage is trained.

        Raises:
            UserError: the processes, and the parts of `trainer.accumulate`, do not divide a batch.
        """
        for name, stage in self.stages.items():
            if not stage.trained and self.learns(name):
                budget = resolve_budget(getattr(self.config, name).train, self.machine.device)
                parts = 1 if name == "autoencoder" else self.machine.accumulate
                Share(0, read_ranks().size * parts).rows(budget.batch_size)

    def claim_folder(self) -> None:
        """Write `config.yaml` into the run folder, or check that the one there asks for the same weights.

        Raises:
            UserError: the folder belongs to another configuration.
        """
        path = self.folder / "config.yaml"
        if path.exists():
            other = merge([read_yaml(path)])
            hashes = {stage.name: stage.hash for stage in list_stages(other, self.source, self.folder)}
            records = [self.folder / "stages" / name / RECORD for name in hashes]
            hashes |= {path.parent.name: load_json(path)["hash"] for path in records if path.exists()}
            own = {name: stage.hash for name, stage in self.stages.items()}
            if "latent_dpm" not in hashes:  # it may be added to a finished run
                own.pop("latent_dpm", None)
            if hashes != own:
                key = first_difference(to_container(other), to_container(self.config)) or "the data set"
                raise UserError(
                    f"{self.folder} belongs to another configuration ({key} differs); "
                    "choose another run.name, or delete that folder"
                )
        with atomic_path(path) as temporary:
            temporary.write_text(to_yaml(self.config))

    def build_task(self, name: str) -> StageTask:
        """The training task of a stage, on this pipeline's modules."""
        config, device = self.config, self.machine.device
        builders = {
            "autoencoder": lambda: build_autoencoder_task(config, self.latent_space, device),
            "latent_diffusion": lambda: build_latent_diffusion_task(
                config, self.latent_space, self.denoiser, device
            ),
            "factors": lambda: self.system.build_task(config, self.model, device),
            "latent_dpm": lambda: build_latent_dpm_task(config, self.latent_dpm, device),
        }
        return builders[name]()

    def learns(self, name: str) -> bool:
        """Whether a stage has anything to train; pixel space has no autoencoder."""
        return any(True for _ in self.modules[name].parameters())

    def example_batch(self, name: str, size: int) -> dict[str, Tensor]:
        """A batch such as a stage trains on, of at most `size` images, by the autoencoder as it is now."""
        if name == "latent_dpm":
            return {"code": self.latent_dpm.mean.expand(size, -1, -1)}
        image = self.source.images(self.train_index[:size])
        if name == "autoencoder" or "autoencoder" not in self.stages:
            return {"image": image}
        with torch.no_grad():
            statistics = self.latent_space.autoencoder.encode_statistics(to_float(image))
        reads_images = name == "factors" and self.model.reads == "image"
        seen = {"image": image} if reads_images else {}
        if name == "factors" and self.model.reads == "clip":
            with torch.no_grad():
                seen["clip"] = self.model.clip(to_float(image))
        return {"statistics": statistics, **seen}

    def train_autoencoder(self, stage: Stage) -> None:
        """Stage 1, then the standardisation of its latents over the training images."""
        if self.latent_space.autoencoder.starts_at_data:
            first = self.source.images(self.train_index[:FIRST_IMAGES])
            self.latent_space.autoencoder.fit_start(to_float(first))
        task = self.build_task(stage.name)
        batches = ImageBatches(self.source, self.train_index)
        seconds = self.fit(stage, task, batches) if self.learns(stage.name) else 0.0
        self.latent_space.autoencoder.load_state_dict(task.result.state_dict())
        cache = self.encode_latents(stage)
        chunks = (torch.tensor(cache.latents[i : i + 4096]) for i in range(0, len(cache), 4096))
        moments = measure_latents(self.latent_space.autoencoder, chunks)
        self.latent_space.set_standardisation(*fit_standardisation(moments, per_channel=self.per_channel))
        scores = {**self.measure_reconstruction(), "noisy_channels": len(moments.noisy_channels)}
        self.save_stage(stage, self.latent_space, task, seconds, scores)
        if moments.noisy_channels:
            self.say(moments.describe_noise())

    def train_latent_diffusion(self, stage: Stage) -> None:
        """Stage 2."""
        task = self.build_task(stage.name)
        seconds = self.fit(stage, task, self.latent_batches(with_images=False))
        self.save_stage(stage, task.result, task, seconds, {})

    def train_factors(self, stage: Stage) -> None:
        """The stage that finds the code."""
        batches = self.factor_batches()
        latents = self.first_latents(batches) if "autoencoder" in self.stages else None
        if latents is not None:
            with torch.no_grad():
                self.model.eval().fit_start(latents)
        task = self.build_task(stage.name)
        if latents is not None:
            task.see_data(latents)
        seconds = self.fit(stage, task, batches)
        self.save_stage(stage, task.result, task, seconds, {})

    def train_latent_dpm(self, stage: Stage) -> None:
        """A diffusion model of the training images' codes."""
        codes = self.encode_training_codes()
        self.latent_dpm.fit_standardisation(codes)
        task = self.build_task(stage.name)
        seconds = self.fit(stage, task, TensorBatches({"code": codes}))
        self.save_stage(stage, task.result, task, seconds, {})

    def factor_batches(self) -> ImageBatches | TensorBatches:
        """What the stage `factors` is trained on: latents where there is a first stage, else images."""
        if "autoencoder" not in self.stages:
            return ImageBatches(self.source, self.train_index)
        batches = self.latent_batches(with_images=self.model.reads == "image")
        if self.model.reads == "clip":
            batches = TensorBatches({**batches.arrays, "clip": self.encode_clip().latents})
        return batches

    @torch.no_grad()
    def encode_training_codes(self) -> Tensor:
        """Codes of the training images, the means where the encoder gives Gaussians, shape (n, N, D)."""
        batches, model, codes = self.factor_batches(), self.model, []
        model.to(self.machine.device).eval()
        positions = torch.arange(len(batches)).split(ENCODE_BATCH)
        for part in tqdm(positions, desc="codes", unit="batch", dynamic_ncols=True):
            batch = {name: tensor.to(self.machine.device) for name, tensor in batches[part].items()}
            if "image" in batch:
                seen = to_float(batch["image"])
            elif "clip" in batch:
                seen = batch["clip"]
            else:
                seen = model.observe(sample_latents(model.latent_space, batch["statistics"], None))
            codes.append(model.encode_seen(seen).cpu())
        model.to("cpu")
        return torch.cat(codes)

    @torch.no_grad()
    def first_latents(self, batches: TensorBatches) -> Tensor:
        """Training latents (n, C, h, w) to which what the last stage starts with is fitted."""
        fitting = START_NUMBERS // math.prod(batches.arrays["statistics"].shape[1:])
        statistics = batches[torch.arange(min(START_IMAGES, fitting, len(batches)))]["statistics"]
        return sample_latents(self.latent_space, statistics, None)

    def fit(self, stage: Stage, task: StageTask, batches: ImageBatches | TensorBatches) -> float:
        """Train a task on batches; returns the seconds it took."""

        def make_loader(first_step: int) -> DataLoader:
            sampler = StepSampler(
                len(batches), task.budget.batch_size, task.budget.num_steps, task.seed, first_step
            )
            workers = self.config.data.num_workers if isinstance(batches, ImageBatches) else 0
            return build_loader(batches, sampler, workers, pin_memory=self.machine.device == "cuda")

        self.say(
            f"{stage.name}: {task.budget.num_steps} steps of {task.budget.batch_size} images, "
            f"in {stage.folder}"
        )
        with main_first() as first:
            if first:
                stage.folder.mkdir(parents=True, exist_ok=True)
                remove_partial(stage.folder)
        return fit(task, make_loader, stage.folder, stage.name, self.machine)

    def save_stage(
        self, stage: Stage, module: torch.nn.Module, task: StageTask, seconds: float, scores: dict[str, float]
    ) -> None:
        """Keep a trained stage with what is to be known of its training."""
        steps = task.budget.num_steps if self.learns(stage.name) else 0
        record = {
            "seconds": round(seconds, 1),
            "steps": steps,
            "images": steps * task.budget.batch_size,
            "image_size": self.source.image_size,
            "scores": scores,
        }
        if read_ranks().is_main:
            stage.save(module, record)
        speed = f", {record['images'] / seconds:.0f} images/s" if seconds and steps else ""
        size = f"{count_parameters(module) / 1e6:.2f} M trainable parameters"
        duration = format_duration(seconds)
        self.say(f"{stage.name}: trained in {duration}{speed}, {size} {format_scores(scores)}")

    def latent_batches(self, with_images: bool) -> TensorBatches:
        """Batches of cached latents, with their images where the encoder reads images."""
        cache = self.encode_latents(self.stages["autoencoder"], with_images)
        arrays = {"statistics": cache.latents}
        if with_images:
            arrays["image"] = cache.images
        return TensorBatches(arrays)

    def encode_latents(self, stage: Stage, with_images: bool = False) -> LatentCache:
        """The training images' latents, encoded once per autoencoder.

        A shipped autoencoder and one trained here may share their hash, yet not their weights: hence the
        fingerprint.
        """
        key = f"{stage.hash}-{fingerprint(self.latent_space.autoencoder)}"
        name = f"latents-{key}{'-images' * with_images}"
        autoencoder = self.latent_space.autoencoder
        return self.encode_images(name, key, autoencoder, autoencoder.encode_statistics, with_images)

    def encode_clip(self) -> LatentCache:
        """The training images' embeddings by the guiding CLIP, made once per CLIP and set of images."""
        data = hashlib.sha256(f"{self.source.identity} {len(self.train_index)}".encode()).hexdigest()[:12]
        key, clip = f"{self.model.clip.facts.fingerprint}-{data}", self.model.clip
        return self.encode_images(f"clip-{key}", key, clip, clip)

    @main_first()
    def encode_images(
        self, name: str, key: str, module: torch.nn.Module, view: Encode, with_images: bool = False
    ) -> LatentCache:
        """What `view`, a method of `module`, makes of the training images, from the cache or for it; of
        several processes, the first makes it.
        """
        path = shared_folder(self.config) / name
        cache = LatentCache.open(path, key)
        if cache is not None:
            return cache
        bar = tqdm(total=len(self.train_index), desc="encode", unit="image", dynamic_ncols=True)

        def encode(images: Tensor) -> Tensor:
            return view(to_float(images.to(self.machine.device))).float().cpu()

        def progress(done: int, total: int) -> None:
            bar.update(done - bar.n)

        module.to(self.machine.device).eval()
        with torch.no_grad(), bar:
            cache = encode_to_cache(
                encode, self.source, self.train_index, path, key, ENCODE_BATCH, progress, with_images
            )
        module.to("cpu")
        return cache

    @torch.no_grad()
    def measure_reconstruction(self) -> dict[str, float]:
        """Reconstruction MSE and PSNR of the first stage on evaluation images, and what its bottleneck
        reports.
        """
        autoencoder = self.latent_space.autoencoder.eval()
        image = to_float(self.source.images(self.eval_index[:ENCODE_BATCH]))
        reconstruction = autoencoder.reconstruct(image)
        scores = reconstruction_scores(autoencoder.decode(autoencoder.encode(image)), image)
        return {**scores, **{name: float(value) for name, value in reconstruction.stats.items()}}
