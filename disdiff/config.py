"""The configuration of a run: one typed tree, merged from files and overrides, strict about every key.

Merge order: the bases a file names (from `configs/_shared`), the preset, what the preset says of the system
(`presets/<system>/<preset>.yaml`), what holds for the system with every preset (`systems/<system>.yaml`), the
`--base` files from left to right, then dotted `key=value` overrides. What comes out is complete: it is
printed, saved beside the run, and every key in it is read.
"""

import difflib
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from disdiff.baselines.conditional import ConditionalConfig
from disdiff.baselines.encoders import TrunkConfig
from disdiff.baselines.latent_dpm import LatentDPMConfig
from disdiff.baselines.prior import PriorConfig
from disdiff.baselines.vae import VAEConfig
from disdiff.clip.options import ClipConfig
from disdiff.factor_encoder import FactorEncoderConfig
from disdiff.gradient_decoder import GradientDecoderConfig
from disdiff.limits import check_limits
from disdiff.losses import FactorLossConfig
from ldm.autoencoder.losses import AutoencoderLossConfig
from ldm.autoencoder.networks import NetworkConfig
from ldm.diffusion.sampler import SamplerConfig
from ldm.diffusion.schedule import ScheduleConfig
from ldm.errors import UserError
from ldm.nn.unet import UNetConfig
from ldm.training.optimizer import TrainConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
PRESETS = ("small", "smoke", "paper")


@dataclass
class RunConfig:
    """Where results go.

    Attributes:
        root: folder of all runs and of the shared stages.
        name: of this run's folder; null makes it `<config>-<preset>-s<seed>`.
    """

    root: str = "runs"
    name: str | None = None


@dataclass
class DataConfig:
    """Which images.

    Attributes:
        name: of the data set.
        root: folder that holds its files.
        procedural: `auto` draws the data set when its file is absent, `always` draws it, `never` insists on
            the file.
        num_train: images to train on, a fixed random subset; null for all.
        num_workers: processes that read images.
        image_size: of pictures, in pixels a side; null takes the data set's own.
        crop: how pictures become square: `center`, `squash`, `pad`, and for CelebA `d2c128`, `center148` or
            `center178`; null takes the data set's own.
        corrupt: `stop` at a picture that cannot be read, or `skip` such pictures, and those without
            attributes where there is a file of them.
        attributes: CSV file of binary attributes of a folder's pictures; null takes its `attributes.csv`.
        partition: of CelebA: `all`, `train`, `valid` or `test`.
        antialias: draws the procedural dSprites with smooth edges.
    """

    name: str = "shapes3d"
    root: str = "data/shapes3d"
    procedural: str = "auto"
    num_train: int | None = None
    num_workers: int = 0
    image_size: int | None = None
    crop: str | None = None
    corrupt: str = "stop"
    attributes: str | None = None
    partition: str = "all"
    antialias: bool = False


@dataclass
class AutoencoderConfig:
    """Stage 1.

    Attributes:
        kind: bottleneck: `vq`, `kl`, `noise` (of a share of each channel's spread) or `identity` (pixel
            space).
        codebook_size: codes of `vq`.
        noise_share: of `noise`: largest deviation of the noise that the decoder learns to read through, over
            that of the channel.
        start: of `noise`: `random`, or `principal`: linear maps between blocks of pixels and their principal
            components, beside which encoder and decoder learn.
        legacy_codebook: `vq` weighs the codebook term instead of the commitment term, as the released models
            do.
        standardise: latents by one standard deviation over the data set (`scalar`) or by mean and deviation
            of each channel (`channel`).
    """

    kind: str = "kl"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    codebook_size: int = 2048
    noise_share: float = 0.1
    legacy_codebook: bool = False
    start: str = "random"
    standardise: str = "scalar"
    loss: AutoencoderLossConfig = field(default_factory=AutoencoderLossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class LatentDiffusionConfig:
    """Stage 2; `loss` is the norm of the noise error, `l1` or `l2`."""

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    loss: str = "l1"
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class FactorsConfig:
    """The last stage: N = `num_units` latent units of D = `unit_dim` numbers.

    `decoder` and `loss` are DisDiff's and PDAE's; other systems read sections of their own instead.
    """

    num_units: int = 10
    unit_dim: int = 32
    encoder: FactorEncoderConfig = field(default_factory=FactorEncoderConfig)
    decoder: GradientDecoderConfig = field(default_factory=GradientDecoderConfig)
    loss: FactorLossConfig = field(default_factory=FactorLossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class CodeSamplerConfig(SamplerConfig):
    """How images are made of codes.

    Attributes:
        guidance: by what gradient fields are multiplied wherever noise is predicted to sample or to invert
            (the gradient scale of classifier guidance, Dhariwal & Nichol 2021, arXiv:2105.05233); 1 leaves
            them as trained. Of systems that have gradient fields.
    """

    guidance: float = 1.0


@dataclass
class EvaluationConfig:
    """What the main job measures at its end.

    Attributes:
        protocol: of the disentanglement metrics, `fast` or `paper`.
        num_images: evaluation images to encode.
        seed: of the metrics.
        num_pairs: pairs of images per factor for the editing success; 0 skips it.
        num_reconstructions: images for the reconstruction errors.
        probe_steps: training steps of the probe that judges edits.
    """

    protocol: str = "paper"
    num_images: int = 20_000
    seed: int = 0
    num_pairs: int = 100
    num_reconstructions: int = 64
    probe_steps: int = 600


@dataclass
class WeightsConfig:
    """Pretrained weights of others; nothing is downloaded unless allowed.

    Attributes:
        vgg16: file for LPIPS.
        inception: file for FID and KID, which only scripts/eval_fid.py reads.
        allow_download: whether a file that is nowhere may be fetched from its publisher.
    """

    vgg16: str | None = None
    inception: str | None = None
    allow_download: bool = False


@dataclass
class StagesConfig:
    """Whether stages of the same configuration that ship under `pretrained/` are used instead of training
    them.
    """

    pretrained: bool = True


@dataclass
class TrainerConfig:
    """The machine: nothing here changes what is computed beyond rounding, but for `accumulate` where it says.

    Attributes:
        device: `auto`, `cpu` or `cuda`.
        precision: `auto` (bf16 on CUDA), `float32`, `tf32` (float32 whose products are rounded on CUDA) or
            `bf16`.
        threads: of the CPU; null for PyTorch's choice.
        channels_last: whether convolutions keep their channels last in memory.
        compile: of networks in training, by `torch.compile`: `none`, `default` or `cuda_graphs`.
        resident: whether latents lie on the device: `auto` (on CUDA, where they fit), `always` or `never`.
        accumulate: parts in which stages after the first take a batch, for less memory; their gradients are
            added. BatchNorm, dropout and losses that are no means over images see a part.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    channels_last: bool = False
    compile: str = "none"
    resident: str = "auto"
    accumulate: int = 1


@dataclass
class Config:
    """Everything about a run; `seed` drives the last stage, `stage_seed` the shared ones before it.

    Systems other than DisDiff also read `trunk` (all), `conditional` (EncDiff, Diff-AE, InfoDiffusion), `vae`
    (beta-VAE, InfoVAE) and `prior` (all with a code of their own). `latent_dpm` is an optional stage of any.
    """

    system: str = "disdiff"
    preset: str = "small"
    seed: int = 0
    stage_seed: int = 0
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    latent_diffusion: LatentDiffusionConfig = field(default_factory=LatentDiffusionConfig)
    factors: FactorsConfig = field(default_factory=FactorsConfig)
    trunk: TrunkConfig = field(default_factory=TrunkConfig)
    conditional: ConditionalConfig = field(default_factory=ConditionalConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    latent_dpm: LatentDPMConfig = field(default_factory=LatentDPMConfig)
    sampler: CodeSamplerConfig = field(default_factory=CodeSamplerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def load_config(files: list[str | Path], overrides: list[str] = ()) -> Config:
    """Merge files and overrides into a complete configuration.

    Args:
        files: `--base` files, left to right.
        overrides: dotted `key=value` texts.

    Raises:
        UserError: a file cannot be read, a key is unknown (the nearest valid one is named), has the wrong
            type or is out of range.
    """
    own = [read_yaml(Path(file)) for file in files]
    bases = [name for tree in own for name in tree.pop("bases", [])]
    command_line = parse_overrides(overrides)
    preset, system = (
        next((tree[key] for tree in [command_line, *reversed(own)] if key in tree), getattr(Config, key))
        for key in ("preset", "system")
    )
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    of_system = [f"presets/{system}/{preset}", f"systems/{system}"]
    of_system = [name for name in of_system if (CONFIGS / "_shared" / f"{name}.yaml").exists()]
    names = [*bases, f"presets/{preset}", *of_system]
    shared = [read_yaml(CONFIGS / "_shared" / f"{name}.yaml") for name in names]
    config = merge([*shared, *own, command_line, OmegaConf.create({"preset": preset})])
    if config.run.name is None:
        config.run.name = f"{name_config(Path(files[-1]))}-{config.preset}-s{config.seed}"
    check_limits(to_container(config))
    return config


def merge(trees: list[DictConfig]) -> Config:
    """Merge trees over the defaults.

    Raises:
        UserError: as `load_config`.
    """
    config = OmegaConf.structured(Config)
    for tree in trees:
        check_keys(tree)
        try:
            config = OmegaConf.merge(config, tree)
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None) or "a key"
            raise UserError(f"{key} has a value of the wrong type: {str(error).splitlines()[0]}") from error
    return OmegaConf.to_object(config)


def read_yaml(path: Path) -> DictConfig:
    """Read a YAML mapping.

    Raises:
        UserError: the file is missing, is no YAML, or is no mapping.
    """
    try:
        tree = OmegaConf.load(path)
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except Exception as error:  # PyYAML and OmegaConf raise many kinds
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path} must be a mapping of configuration keys")
    if not isinstance(tree.get("bases", []), list | ListConfig):
        raise UserError(f"{path}: bases must be a list of names, such as [shapes3d]")
    return tree


def parse_overrides(overrides: list[str]) -> DictConfig:
    """Turn `key=value` texts into a tree.

    Raises:
        UserError: one of them is not of that form.
    """
    for text in overrides:
        if "=" not in text or text.startswith("-"):
            raise UserError(
                f"{text!r} is no override; write key=value, for example seed=1 or factors.num_units=6"
            )
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:  # the values are YAML
        raise UserError(f"cannot read the overrides {overrides}: {str(error).splitlines()[0]}") from error


def check_keys(tree: DictConfig) -> None:
    """Refuse keys that no part of the configuration has, and values where a section belongs.

    Raises:
        UserError: naming the key and the nearest valid one.
    """
    valid = set(list_keys(Config))
    sections = {key.rsplit(".", 1)[0] for key in valid if "." in key}
    for key in _paths(OmegaConf.to_container(tree)):
        if key in sections and not isinstance(OmegaConf.select(tree, key), DictConfig):
            raise UserError(
                f"{key} has a value of the wrong type: it is a section, its keys are {key}.<name>"
            )
        if key not in valid:
            last = key.rsplit(".", 1)[-1]
            same_name = [other for other in valid if other.rsplit(".", 1)[-1] == last]
            nearest = difflib.get_close_matches(key, sorted(valid), n=1, cutoff=0.5) or same_name
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise UserError(f"unknown configuration key {key!r}{hint}")


def list_keys(schema: type, prefix: str = "") -> list[str]:
    """All dotted keys of a dataclass and the dataclasses within it."""
    keys = []
    for item in fields(schema):
        keys.append(prefix + item.name)
        if is_dataclass(item.type):
            keys += list_keys(item.type, f"{prefix}{item.name}.")
    return keys


def to_yaml(config: Config) -> str:
    """The complete configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def to_container(config: Any) -> dict:
    """A configuration, or a part of it, as plain dictionaries and lists."""
    return OmegaConf.to_container(OmegaConf.structured(config))


def select(config: Config, key: str) -> Any:
    """The value of a dotted key, sections as plain dictionaries."""
    node: Any = to_container(config)
    for part in key.split("."):
        node = node[part]
    return node


def name_config(file: Path) -> str:
    """What a configuration file is called in run names: `disdiff-shapes3d` for configs/disdiff/shapes3d.yaml.
    """
    file = file.resolve().with_suffix("")
    parts = file.relative_to(CONFIGS).parts if file.is_relative_to(CONFIGS) else (file.name,)
    return "-".join(parts)


def _paths(tree: Any, prefix: str = "") -> list[str]:
    if not isinstance(tree, dict):
        return []
    nested = [[f"{prefix}{key}", *_paths(value, f"{prefix}{key}.")] for key, value in tree.items()]
    return [path for paths in nested for path in paths]
