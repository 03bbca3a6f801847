"""Import released checkpoints: identify the networks and load their weights into our modules.

Facts that a file does not contain are recorded as assumptions: the number of attention heads, the groups of
the norms, a missing latent scale. The noise schedule is derived from the stored betas.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from disdiff.method.model import ImageModel, sampling_coefficient, training_coefficient
from ldm.autoencoder.latent_space import LatentSpace
from ldm.data.source import ImageSource
from ldm.diffusion.schedule import Schedule, ScheduleConfig, compute_beta
from ldm.errors import UserError, look_up
from ldm.nn.unet import UNet, UNetConfig

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
TOLERANCE = 1e-4  # largest difference between stored and recomputed schedule values, over the largest value


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
    pool, config = Pool.of_files(files), load_base(options)
    assumed: list[str] = []
    source = build_source(config.data)
    with pool.name_files_in_errors("autoencoder"):
        diffusers = read_diffusers_config(pool, paths)
        latent_space = import_first_stage(pool, config, diffusers, options, assumed)
        fitted = import_standardisation(pool, config, latent_space, options.kind, diffusers, assumed)
    check_images(source, config, latent_space)
    modules: dict[str, nn.Module] = {"autoencoder": latent_space}
    model = None
    if options.kind != "autoencoder":
        with pool.name_files_in_errors("latent_diffusion"):
            denoiser = import_denoiser(pool, config, latent_space, options, assumed)
        check_levels(latent_space.latent_shape(source.image_size), config.latent_diffusion.unet)
        modules["latent_diffusion"] = denoiser
    if options.kind == "disdiff":
        with pool.name_files_in_errors("code"):
            model = import_code(pool, config, latent_space, denoiser, source.image_size, options)
        modules["code"] = model.networks
    reasons, unknown = pool.explain_rest()
    if unknown and not options.allow_extra:
        raise UserError(
            f"{', '.join(pool.labels)}: {len(unknown)} tensors are unknown, such as {unknown[0]}; check "
            "--kind, or leave them out with --allow-extra"
        )
    report = {
        "files": [describe_file(file) for file in files],
        "weights": "moving averages where there are any" if options.averaged else "raw",
        "assumed": assumed,
        "replaced": pool.explain_replaced(),
        "placed": pool.explain_placed(),
        "left_out": {**reasons, **dict.fromkeys(unknown, "unknown")},
    }
    return Imported(config, source, modules, model, fitted, report)


def check_images(source: ImageSource, config: Config, latent_space: LatentSpace) -> None:
    """Refuse images that do not fit the autoencoder.

    Raises:
        UserError: channels or size do not fit.
    """
    reads = config.autoencoder.network.in_channels
    if source.channels != reads:
        raise UserError(
            f"the autoencoder reads images of {reads} channels, {source.name} has {source.channels}; choose "
            "another --data"
        )
    latent_space.latent_shape(source.image_size)


def check_levels(latent_shape: tuple[int, int, int], unet: UNetConfig) -> None:
    """Refuse latents that the U-Net cannot halve at every level.

    Raises:
        UserError: the size is not divisible.
    """
    halved = 2 ** (len(unet.channel_mult) - 1)
    if latent_shape[1] % halved:
        raise UserError(
            f"the U-Net reduces latents {halved}-fold, but those of the data set have {latent_shape[1]} "
            "pixels per side; choose --data with larger images"
        )


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


def import_first_stage(
    pool: Pool, config: Config, diffusers: dict, options: ImportOptions, assumed: list[str]
) -> LatentSpace:
    """Build the autoencoder with the weights of the pool, and set its configuration in `config`."""
    found = pool.find_first_stage()
    if found is None:
        raise UserError("the files hold no autoencoder (first_stage_model...); add the file that holds it")
    layout, own = found[1], found[1] is DIFFUSERS
    groups = diffusers.get("norm_num_groups", 32)
    if not own:
        assumed.append("norms of 32 groups, as in every released model")
    shapes = pool.shapes(FIRST_STAGE)
    if own and "quant_conv.weight" not in shapes:
        raise UserError("this autoencoder has no quant_conv; it cannot be imported")
    what = describe_autoencoder(shapes, layout, int(groups))
    config.autoencoder = replace(
        config.autoencoder,
        kind=what.kind,
        network=what.network,
        codebook_size=what.codebook_size,
        legacy_codebook=what.kind == "vq" and not own,
        standardise="scalar",
        loss=replace(config.autoencoder.loss, **LOSSES[what.kind]),
    )
    latent_space = build_latent_space(config)
    autoencoder, old = latent_space.autoencoder, any("proj_attn" in name for name in shapes)
    names = name_autoencoder(autoencoder.state_dict(), layout, len(what.network.channel_mult), old)
    names = {ours: FIRST_STAGE + name for ours, name in names.items()}
    pool.place(autoencoder, names, "autoencoder", options.averaged)
    return latent_space


def import_standardisation(
    pool: Pool, config: Config, latent_space: LatentSpace, kind: str, diffusers: dict, assumed: list[str]
) -> bool:
    """Set mean and standard deviation of the latents; return whether they must still be fitted to data."""
    scale = pool.scalar("scale_factor", "model.diffusion_model.scale_factor")
    scale = diffusers.get("scaling_factor") if scale is None else scale
    if scale is None and kind != "autoencoder":
        assumed.append("no scale_factor is stored: latents are not rescaled")
        scale = 1.0
    if scale is None:
        assumed.append("no scale_factor is stored: the standard deviation is measured on the data set")
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
        config.autoencoder.standardise = "channel"
    latent_space.set_standardisation(mean, std / scale)
    return False


def import_denoiser(
    pool: Pool, config: Config, latent_space: LatentSpace, options: ImportOptions, assumed: list[str]
) -> UNet:
    """Build the U-Net with the weights of the pool, and set its configuration in `config`."""
    shapes = pool.shapes(UNET)
    section = config.latent_diffusion
    section.unet = describe_unet(shapes, options.heads)
    heads = section.unet.num_heads
    told = (
        "as given"
        if options.heads != Heads()
        else "as in the released models, because files do not store them"
    )
    assumed.append(
        f"attention of {heads} heads, {told}" if heads > 0 else f"heads of {-heads} channels, {told}"
    )
    betas = pool.load("betas")
    if betas is None:
        assumed.append("no betas are stored: the noise schedule is that of the configuration")
    else:
        section.schedule = read_schedule(betas)
        check_schedule(pool, Schedule(section.schedule))
        config.sampler.num_steps = min(config.sampler.num_steps, len(betas))
    denoiser = build_denoiser(config, latent_space)
    names = {ours: UNET + name for ours, name in name_unet(denoiser.state_dict()).items()}
    pool.place(denoiser, names, "latent_diffusion", options.averaged)
    return denoiser


def import_code(
    pool: Pool,
    config: Config,
    latent_space: LatentSpace,
    denoiser: UNet,
    image_size: int,
    options: ImportOptions,
) -> ImageModel:
    """Build a DisDiff with the encoder and gradient decoder of the pool, configured by `config`."""
    shapes = pool.shapes()
    reads = 4 * 2 ** sum(
        name.startswith(ENCODER) and len(shape) == 4 and shape[-1] == 4 for name, shape in shapes.items()
    )
    if reads != image_size:
        raise UserError(
            f"the encoder reads images of {reads} pixels, but the data set has {image_size}; change --data"
        )
    found = describe_code(shapes, options.num_units)
    config.code = replace(
        config.code,
        num_units=found.num_units,
        unit_dim=found.unit_dim,
        encoder=found.encoder,
        decoder=found.decoder,
        loss=replace(config.code.loss, weight_kl=KL_WEIGHT * (found.encoder.posterior == "gaussian")),
    )
    model = build_model(config, latent_space, denoiser, image_size)
    names = name_code(model.networks.state_dict(), find_head(shapes))
    pool.place(model.networks, names, "code", options.averaged)
    return model


def read_schedule(betas: Tensor) -> ScheduleConfig:
    """The noise schedule with the given betas, shape (T,).

    Raises:
        UserError: none of our schedules has these betas.
    """
    if betas.ndim != 1 or not len(betas) or not 0 < betas[0] <= betas[-1] < 1:
        raise UserError(
            "the stored betas are not a noise schedule; the file is damaged, so download it again"
        )
    whole = 6 if rounding(betas) < TOLERANCE else 2  # half precision: the fewest digits that agree
    for digits in range(whole, 7):
        ends = [float(f"{float(value):.{digits}g}") for value in (betas[0], betas[-1])]
        for kind in ("scaled_linear", "linear"):
            config = ScheduleConfig(kind, len(betas), *ends)
            if agrees(compute_beta(config).float(), betas):
                return config
    raise UserError(
        "the stored betas follow neither the linear nor the scaled linear schedule; give a checkpoint with "
        "one of these"
    )


def check_schedule(pool: Pool, schedule: Schedule) -> None:
    """Compare the stored schedule values of every file with our schedule.

    Raises:
        UserError: the values differ.
    """
    stored = {
        "alphas_cumprod": schedule.alpha_bar,
        "posterior_variance": schedule.posterior_variance,
        "shift_coef": training_coefficient(schedule),
        "ddim_coef": sampling_coefficient(schedule),
    }
    for label, tensors in zip(pool.labels, pool.files, strict=True):
        if "betas" in tensors and not agrees(schedule.beta, tensors["betas"].load()):
            raise UserError(
                f"{label} has a different noise schedule (betas) than a later file; give files of one model"
            )
        for name, ours in stored.items():
            if name in tensors and not agrees(ours, tensors[name].load()):
                raise UserError(
                    f"the stored {name} does not follow from the stored betas; {label} is damaged"
                )


def agrees(ours: Tensor, theirs: Tensor) -> bool:
    """Whether stored values equal ours up to the rounding of their type; files may use half precision."""
    return deviation(ours, theirs) < max(TOLERANCE, rounding(theirs))


def rounding(tensor: Tensor) -> float:
    """Rounding error of a tensor's type, relative to the largest value."""
    return 2 * torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0


def deviation(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest value; infinite for different shapes."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float((ours - theirs.float()).abs().max() / theirs.abs().max())


def describe_file(file: WeightsFile) -> dict:
    """Summary of a file for the report."""
    known = {name: file.numbers[name] for name in ("epoch", "global_step") if name in file.numbers}
    return {"name": file.path.name, "tensors": len(file.tensors), **known}
