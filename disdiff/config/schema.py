"""The configuration of a run: one typed tree, merged from files and overrides, strict about every key.

Merge order: the bases a file names (from `configs/_shared`), the preset, what the preset says of the system
(`presets/<system>/<preset>.yaml`), what holds for the system with every preset (`systems/<system>.yaml`),
what the preset leaves no room for in images of a size (`sizes/<data.image_size>/<preset>.yaml`), the `--base`
files from left to right, then dotted `key=value` overrides. What comes out is complete: it is
printed, saved beside the run, and every key in it is read.

Files and values are YAML, but a text is taken as it is written (`disdiff.config.yaml_texts`): `run.name=007`
is the text 007. In a text, `${oc.env:NAME}` stands for a variable of the environment; `~` at the beginning
of a path is the home folder.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from disdiff.baselines.conditional import ConditionalConfig
from disdiff.baselines.encoders import TrunkConfig
from disdiff.baselines.latent_dpm import LatentDPMConfig
from disdiff.baselines.prior import PriorConfig
from disdiff.baselines.vae import VAEConfig
from disdiff.config.clip_options import ClipConfig
from disdiff.config.limits import check_limits
from disdiff.config.places import CONFIGS, find
from disdiff.config.trees import check_keys, escape, find_value, refuse_bad_values
from disdiff.config.yaml_texts import is_text, list_kinds, quote_texts, read_text
from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.method.gradient_decoder import GradientDecoderConfig
from disdiff.method.losses import DisDiffLossConfig
from ldm.autoencoder.losses import AutoencoderLossConfig
from ldm.autoencoder.networks import NetworkConfig
from ldm.data.catalog import DataOptions
from ldm.diffusion.sampler import SamplerConfig
from ldm.diffusion.schedule import ScheduleConfig
from ldm.errors import UserError
from ldm.files import expand_home
from ldm.nn.unet import UNetConfig
from ldm.training.optimizer import TrainConfig

PRESETS = ("small", "smoke", "paper")
PATHS = ("run.root", "data.root", "data.attributes", "clip.prompts", "weights.vgg16", "weights.inception")


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
class DataConfig(DataOptions):
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
    num_train: int | None = None
    num_workers: int = 0


@dataclass
class AutoencoderConfig:
    """Stage 1.

    Attributes:
        kind: bottleneck: `vq`, `kl` or `identity` (pixel space).
        codebook_size: codes of `vq`.
        legacy_codebook: `vq` weighs the codebook term instead of the commitment term, as the released models
            do.
        standardise: latents by one standard deviation over the data set (`scalar`) or by mean and deviation
            of each channel (`channel`).
    """

    kind: str = "kl"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    codebook_size: int = 2048
    legacy_codebook: bool = False
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
class CodeConfig:
    """The last stage: N = `num_units` latent units of D = `unit_dim` numbers.

    `decoder` and `loss` are DisDiff's and PDAE's; other systems read sections of their own instead.
    """

    num_units: int = 10
    unit_dim: int = 32
    encoder: FactorEncoderConfig = field(default_factory=FactorEncoderConfig)
    decoder: GradientDecoderConfig = field(default_factory=GradientDecoderConfig)
    loss: DisDiffLossConfig = field(default_factory=DisDiffLossConfig)
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
        inception: file for FID and KID, which only disdiff fid reads.
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
        threads: of the CPU; null for the number that a trial finds best here (`ldm.training.threads`).
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
    code: CodeConfig = field(default_factory=CodeConfig)
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


@dataclass
class ConfigFile(Config):
    """What a file may hold: parts of a `Config`, and what they are merged over.

    Attributes:
        bases: names of files in `configs/_shared`, without their suffix.
    """

    bases: list[str] = field(default_factory=list)


def load_config(files: list[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Merge files and overrides into a complete configuration.

    Args:
        files: `--base` files, left to right; those that ship are found from any working directory.
        overrides: dotted `key=value` texts.

    Raises:
        UserError: a file cannot be read, a key is unknown (the nearest valid one is named), has the wrong
            type or is out of range.
    """
    paths = [find(file) for file in files]
    own = [read_yaml(path) for path in paths]
    command_line = parse_overrides(overrides)
    with refuse_bad_values():
        bases = [name for tree in own for name in tree.pop("bases", [])]
        shared = [read_shared(name) for name in bases]
        preset, system = (
            find_value(key, [command_line, *reversed(own)], getattr(Config, key))
            for key in ("preset", "system")
        )
        size = find_value("data.image_size", [command_line, *reversed(own), *reversed(shared)], None)
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    optional = [f"presets/{system}/{preset}", f"systems/{system}", f"sizes/{size}/{preset}"]
    optional = [name for name in optional if (CONFIGS / "_shared" / f"{name}.yaml").exists()]
    shared += [read_shared(name) for name in [f"presets/{preset}", *optional]]
    config = merge([*shared, *own, command_line, OmegaConf.create({"preset": preset})])
    if config.run.name is None:
        config.run.name = f"{name_config(paths[-1])}-{config.preset}-s{config.seed}"
    check_limits(to_container(config))
    return config


def read_shared(name: str) -> DictConfig:
    """A file of `configs/_shared`; see `read_yaml`."""
    return read_yaml(CONFIGS / "_shared" / f"{name}.yaml")


def merge(trees: list[DictConfig]) -> Config:
    """Merge trees over the defaults.

    Raises:
        UserError: as `load_config`.
    """
    tree = OmegaConf.structured(Config)
    for each in trees:
        check_keys(each, Config)
        with refuse_bad_values():
            tree = OmegaConf.merge(tree, each)
    with refuse_bad_values():
        config: Any = OmegaConf.to_object(tree)
    for section, name in (key.split(".") for key in PATHS):
        path = getattr(getattr(config, section), name)
        if path is not None and path.startswith("~"):
            setattr(getattr(config, section), name, str(expand_home(path)))
    return config


def read_yaml(path: Path) -> DictConfig:
    """Read a YAML mapping whose texts are as written.

    Raises:
        UserError: the file is missing, is no YAML, or is no mapping.
    """
    try:
        tree = OmegaConf.create(quote_texts(path.read_text(encoding="utf-8"), ConfigFile) or {})
    except OSError as error:
        raise UserError(f"cannot read the configuration {path}: {error.strerror}") from error
    except Exception as error:  # PyYAML and OmegaConf raise many kinds
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path} must be a mapping of configuration keys")
    content: Any = OmegaConf.to_container(tree)
    if not isinstance(content.get("bases", []), list):
        raise UserError(f"{path}: bases must be a list of names, such as [shapes3d]")
    return tree


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """Turn `key=value` texts into a tree: texts as written, other values as YAML.

    Raises:
        UserError: one of them is not of that form.
    """
    tree, kinds = OmegaConf.create(), list_kinds(Config)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or text.startswith("-"):
            raise UserError(
                f"{text!r} is no override; write key=value, for example seed=1 or code.num_units=6"
            )
        kind = kinds.get(key)
        try:
            if is_text(kind):
                OmegaConf.update(tree, key, read_text(value, kind), force_add=True)
            else:
                tree.merge_with_dotlist([f"{key}={quote_texts(value, kind)}"])
        except Exception as error:  # PyYAML and OmegaConf raise many kinds
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot read the override {text!r}: {reason}") from error
    return tree


def list_keys(schema: type) -> list[str]:
    """All dotted keys of a dataclass and the dataclasses within it."""
    return list(list_kinds(schema))


def to_yaml(config: Config) -> str:
    """The complete configuration as YAML, from which `merge` and `read_yaml` make it again."""
    return OmegaConf.to_yaml(OmegaConf.create(escape(to_container(config))))


def to_container(config: Any) -> dict:
    """A configuration, or a part of it, as plain dictionaries and lists."""
    return asdict(config)


def select(config: Config, key: str) -> Any:
    """The value of a dotted key, sections as plain dictionaries."""
    node: Any = to_container(config)
    for part in key.split("."):
        node = node[part]
    return node


def name_config(file: Path) -> str:
    """Name of a configuration file in run names: `disdiff-shapes3d` for configs/disdiff/shapes3d.yaml."""
    file = file.resolve().with_suffix("")
    parts = file.relative_to(CONFIGS).parts if file.is_relative_to(CONFIGS) else (file.name,)
    return "-".join(parts)
