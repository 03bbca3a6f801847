"""Import released checkpoints: identify the networks and load their weights into our modules.

Facts that a file does not contain are recorded as assumptions: the number of attention heads, the groups of
the norms, a missing latent scale. The noise schedule is derived from the stored betas.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from disdiff.build import build_denoiser, build_latent_space, build_model, build_source
from disdiff.config.schema import CONFIGS, Config, load_config
from disdiff.interop.autoencoders import DIFFUSERS, describe_autoencoder, name_autoencoder
from disdiff.interop.denoisers import (
    ENCODER,
    UNET,
    Heads,
    describe_code,
    describe_unet,
    find_head,
    name_code,
    name_unet,
)
from disdiff.interop.files import INDEX, WeightsFile, read_weights_file
from disdiff.interop.names import FIRST_STAGE
from disdiff.interop.placing import Pool
from disdiff.interop.schedules import check_schedule, read_schedule
from disdiff.method.model import ImageModel
from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.source import ImageSource
from ldm.diffusion.schedule import Schedule
from ldm.errors import UserError, look_up
from ldm.nn.unet import UNet

SYSTEMS = {"autoencoder": "autoencoder", "ldm": "latent_diffusion", "disdiff": "disdiff"}  # by --kind
DIFFUSERS_FILES = tuple(
    f"diffusion_pytorch_model.{ending}{index}" for ending in ("safetensors", "bin") for index in ("", INDEX)
)
# settings of the released autoencoders that differ by kind; the KL weight is ours, for means instead of sums
LOSSES: dict[str, dict[str, Any]] = {
    "vq": {"weight_regulariser": 1.0, "weight_gan": 0.75, "gan_start": 0},
    "kl": {"weight_regulariser": 1.0e-5, "weight_gan": 0.5, "gan_start": 50_001},
}
KL_WEIGHT = 5.0e-4  # from the released DisDiff with Gaussian codes


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    Attributes:
        kind: `autoencoder`, `ldm` or `disdiff`.
        data: data set, by the name of its configuration files.
        root: folder of the data set's files; None for the configured one.
        averaged: whether to use moving averages if there are any.
        heads: attention heads of the U-Net, which files do not store.
        num_units: N of a DisDiff; None derives it from the widths.
        allow_extra: whether to ignore unknown tensors.
    """

    kind: str
    data: str
    root: str | None = None
    averaged: bool = True
    heads: Heads = field(default_factory=Heads)
    num_units: int | None = None
    allow_extra: bool = False


@dataclass
class Imported:
    """Modules with imported weights.

    Attributes:
        config: the configuration, complete except for run and seeds.
        source: the data set.
        modules: modules by stage, in order.
        model: the model of a DisDiff; None otherwise.
        fitted: whether the standardisation must be fitted to data because no file stores it.
        report: destination of every tensor, and the assumptions.
    """

    config: Config
    source: ImageSource
    modules: dict[str, nn.Module]
    model: ImageModel | None
    fitted: bool
    report: dict


def import_files(paths: list[Path], options: ImportOptions) -> Imported:
    """Read checkpoints, load them into our modules, and account for every tensor.

    Raises:
        UserError: a file cannot be read, holds another network, lacks tensors, or holds unknown tensors.
    """
    files = [read_weights_file(find_weights(path)) for path in paths]
    importer = Importer(Pool.of_files(files, options.averaged), load_base(options), options)
    source, pool, model = build_source(importer.config.data), importer.pool, None
    with pool.name_files_in_errors("autoencoder"):
        diffusers = read_diffusers_config(pool, paths)
        latent_space = importer.import_first_stage(diffusers)
        fitted = importer.import_standardisation(latent_space, diffusers)
    importer.check_images(source, latent_space)
    modules: dict[str, nn.Module] = {"autoencoder": latent_space}
    if options.kind != "autoencoder":
        with pool.name_files_in_errors("latent_diffusion"):
            denoiser = importer.import_denoiser(latent_space)
        importer.check_levels(latent_space.latent_shape(source.image_size)[1])
        modules["latent_diffusion"] = denoiser
    if options.kind == "disdiff":
        with pool.name_files_in_errors("code"):
            model = importer.import_code(latent_space, denoiser, source.image_size)
        modules["code"] = model.networks
    report = importer.report(files)
    return Imported(importer.config, source, modules, model, fitted, report)


class Importer:
    """Builds modules with the weights of a pool, and completes the configuration that they have.

    Attributes:
        pool: the tensors of the files.
        config: the configuration of the data set; each module that is imported sets its own section.
        options: options of the import.
        assumed: facts that no file contains, as sentences.
    """

    def __init__(self, pool: Pool, config: Config, options: ImportOptions) -> None:
        self.pool, self.config, self.options = pool, config, options
        self.assumed: list[str] = []

    def import_first_stage(self, diffusers: dict) -> LatentSpace:
        """Build the autoencoder; `diffusers` is from `read_diffusers_config`.

        Raises:
            UserError: there is no autoencoder, or ours cannot represent it.
        """
        found = self.pool.find_first_stage()
        if found is None:
            raise UserError("the files hold no autoencoder (first_stage_model...); add the file with it")
        layout, own = found[1], found[1] is DIFFUSERS
        if not own:
            self.assumed.append("norms of 32 groups, as in every released model")
        shapes = self.pool.shapes(FIRST_STAGE)
        if own and "quant_conv.weight" not in shapes:
            raise UserError("this autoencoder has no quant_conv; it cannot be imported")
        what = describe_autoencoder(shapes, layout, int(diffusers.get("norm_num_groups", 32)))
        section = self.config.autoencoder
        self.config.autoencoder = replace(
            section,
            kind=what.kind,
            network=what.network,
            codebook_size=what.codebook_size,
            legacy_codebook=what.kind == "vq" and not own,
            standardise="scalar",
            loss=replace(section.loss, **LOSSES[what.kind]),
        )
        latent_space = build_latent_space(self.config)
        autoencoder, old = latent_space.autoencoder, any("proj_attn" in name for name in shapes)
        names = name_autoencoder(autoencoder.state_dict(), layout, len(what.network.channel_mult), old)
        self.pool.place(
            autoencoder, {ours: FIRST_STAGE + name for ours, name in names.items()}, "autoencoder"
        )
        return latent_space

    def import_standardisation(self, latent_space: LatentSpace, diffusers: dict) -> bool:
        """Set mean and standard deviation of the latents; return whether they must still be fitted to data.

        Raises:
            UserError: a stored number cannot be a scale.
        """
        scale = self.pool.scalar("scale_factor", "model.diffusion_model.scale_factor")
        scale = diffusers.get("scaling_factor") if scale is None else scale
        if scale is None and self.options.kind != "autoencoder":
            self.assumed.append("no scale_factor is stored: latents are not rescaled")
            scale = 1.0
        if scale is None:
            self.assumed.append(
                "no scale_factor is stored: the standard deviation is measured on the data set"
            )
            return True
        if not 0 < scale < float("inf"):
            raise UserError(f"the latents' scale_factor is {scale}; the file is damaged")
        mean, std = torch.tensor(diffusers.get("shift_factor") or 0.0), torch.tensor(1.0)
        if diffusers.get("latents_mean") and diffusers.get("latents_std"):
            mean, std = (torch.tensor(diffusers[key]).float() for key in ("latents_mean", "latents_std"))
            if {mean.shape, std.shape} != {(latent_space.latent_channels,)} or not (std > 0).all():
                raise UserError(
                    f"latents_mean and latents_std must be {latent_space.latent_channels} numbers each, the "
                    "second above 0; download config.json again"
                )
            self.config.autoencoder.standardise = "channel"
        latent_space.set_standardisation(mean, std / scale)
        return False

    def import_denoiser(self, latent_space: LatentSpace) -> UNet:
        """Build the U-Net on the latents.

        Raises:
            UserError: it is conditional, or its noise schedule is not one of ours.
        """
        section, given = self.config.latent_diffusion, self.options.heads
        section.unet = describe_unet(self.pool.shapes(UNET), given)
        heads, known = section.unet.num_heads, given != Heads()
        told = "as given" if known else "as in the released models, because files do not store them"
        count = f"attention of {heads} heads" if heads > 0 else f"heads of {-heads} channels"
        self.assumed.append(f"{count}, {told}")
        betas = self.pool.load("betas")
        if betas is None:
            self.assumed.append("no betas are stored: the noise schedule is that of the configuration")
        else:
            section.schedule = read_schedule(betas)
            check_schedule(self.pool, Schedule(section.schedule))
            self.config.sampler.num_steps = min(self.config.sampler.num_steps, len(betas))
        denoiser = build_denoiser(self.config, latent_space)
        names = {ours: UNET + name for ours, name in name_unet(denoiser.state_dict()).items()}
        self.pool.place(denoiser, names, "latent_diffusion")
        return denoiser

    def import_code(self, latent_space: LatentSpace, denoiser: UNet, image_size: int) -> ImageModel:
        """Build a DisDiff with the encoder and the gradient decoder of the pool.

        Raises:
            UserError: the encoder reads images of another size, or tensors are missing.
        """
        shapes, code = self.pool.shapes(), self.config.code
        reads = 4 * 2 ** sum(
            name.startswith(ENCODER) and len(shape) == 4 and shape[-1] == 4 for name, shape in shapes.items()
        )
        if reads != image_size:
            raise UserError(
                f"the encoder reads images of {reads} pixels, but those of the data set have {image_size}; "
                "change --data"
            )
        found = describe_code(shapes, self.options.num_units)
        weight_kl = KL_WEIGHT * (found.encoder.posterior == "gaussian")
        self.config.code = replace(
            code,
            num_units=found.num_units,
            unit_dim=found.unit_dim,
            encoder=found.encoder,
            decoder=found.decoder,
            loss=replace(code.loss, weight_kl=weight_kl),
        )
        model = build_model(self.config, latent_space, denoiser, image_size)
        self.pool.place(model.networks, name_code(model.networks.state_dict(), find_head(shapes)), "code")
        return model

    def check_images(self, source: ImageSource, latent_space: LatentSpace) -> None:
        """Raise UserError unless the images of the data set fit the autoencoder."""
        reads = self.config.autoencoder.network.in_channels
        if source.channels != reads:
            raise UserError(
                f"the autoencoder reads images of {reads} channels, {source.name} has {source.channels}; "
                "choose another --data"
            )
        latent_space.latent_shape(source.image_size)

    def check_levels(self, latent_size: int) -> None:
        """Raise UserError unless the U-Net can halve latents of `latent_size` pixels at every level."""
        halved = 2 ** (len(self.config.latent_diffusion.unet.channel_mult) - 1)
        if latent_size % halved:
            raise UserError(
                f"the U-Net reduces latents {halved}-fold, but those of the data set have {latent_size} "
                "pixels per side; choose --data with larger images"
            )

    def report(self, files: list[WeightsFile]) -> dict:
        """Where every tensor of the files went, and what was assumed; JSON-ready.

        Raises:
            UserError: tensors are unknown, and the options do not allow them.
        """
        reasons, unknown = self.pool.explain_rest()
        if unknown and not self.options.allow_extra:
            raise UserError(
                f"{', '.join(self.pool.labels)}: {len(unknown)} tensors are unknown, such as {unknown[0]}; "
                "check --kind, or leave them out with --allow-extra"
            )
        return {
            "files": [describe_file(file) for file in files],
            "weights": "moving averages where there are any" if self.options.averaged else "raw",
            "assumed": self.assumed,
            "replaced": self.pool.explain_replaced(),
            "placed": self.pool.explain_placed(),
            "left_out": {**reasons, **dict.fromkeys(unknown, "unknown")},
        }


def find_weights(path: Path) -> Path:
    """Return `path` if it is a file, or the weight file in a folder with the layout of diffusers."""
    if not path.is_dir():
        return path
    found = [path / name for name in DIFFUSERS_FILES if (path / name).exists()]
    if not found:
        raise UserError(f"{path} is a folder without {DIFFUSERS_FILES[0]}; give the path of the weight file")
    return found[0]


def read_diffusers_config(pool: Pool, paths: list[Path]) -> dict:
    """Read the `config.json` beside the autoencoder's file; empty without one or for another layout.

    Raises:
        UserError: the file is not a JSON object.
    """
    found = pool.find_first_stage()
    if found is None or found[1] is not DIFFUSERS:
        return {}
    path = paths[found[0]]
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a model description of diffusers; download it again")
    for key in ("norm_num_groups", "scaling_factor", "shift_factor", "latents_mean", "latents_std"):
        value = content.get(key)
        numbers = value if isinstance(value, list) and key.startswith("latents") else [value]
        if value is not None and not all(type(number) in (int, float) for number in numbers):
            raise UserError(f"{file}: {key} is {value!r}, not a number; download the file again")
    return content


def load_base(options: ImportOptions) -> Config:
    """Configuration of the data set at the published sizes, before it is adapted to the files."""
    system = look_up("--kind", options.kind, SYSTEMS)
    known = {path.stem: path for path in sorted((CONFIGS / system).glob("*.yaml"))}
    root = [] if options.root is None else [f"data.root={options.root}"]
    return load_config([look_up("--data", options.data, known)], ["preset=paper", *root])


def describe_file(file: WeightsFile) -> dict:
    """Summary of a file for the report."""
    known = {name: file.numbers[name] for name in ("epoch", "global_step") if name in file.numbers}
    return {"name": file.path.name, "tensors": len(file.tensors), **known}
