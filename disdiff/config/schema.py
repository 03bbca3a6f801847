"""The typed configuration of a run, merged from YAML files and overrides; unknown keys are errors.

Merge order, later entries win:

1. the shared files that a configuration names under `bases` (from `configs/_shared`);
2. the preset, `presets/<preset>.yaml`;
3. the preset's values for the system, `presets/<system>/<preset>.yaml`, and for the system on the data set,
   `presets/<system>/<preset>/<base>.yaml`;
4. the system's values under every preset, `systems/<system>.yaml`;
5. the preset's values for an image size, `sizes/<data.image_size>/<preset>.yaml`;
6. the `--base` files, from left to right;
7. the overrides `key=value` of the command line.

The result is complete: it is printed, saved in the run folder, and every key in it is used.

Files and overrides are YAML, but values of text keys are taken literally (`disdiff.config.yaml_texts`):
`run.name=007` is the text 007. In a text, `${oc.env:NAME}` is replaced by the environment variable NAME. A
`~` at the start of a path is the home folder.
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
from disdiff.baselines.total_correlation import BetaTCVAEConfig, FactorVAEConfig
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
PATHS = (
    "run.root",
    "data.root",
    "data.attributes",
    "data.factors",
    "clip.prompts",
    "weights.vgg16",
    "weights.inception",
)


@dataclass
class RunConfig:
    """Where results are written.

    Attributes:
        root: folder of all runs and of the shared stages.
        name: name of this run's folder; null means `<config>-<preset>-s<seed>`.
    """

    root: str = "runs"
    name: str | None = None


@dataclass
class DataConfig(DataOptions):
    """The data set.

    Attributes:
        name: name of the data set.
        root: folder of the data set's files.
        procedural: whether to render the data set instead of reading its file: `auto` renders it if the file
            is missing, `always` renders it, `never` requires the file.
        num_train: number of training images, a fixed random subset; null for all.
        num_workers: number of processes that read images.
        image_size: side of the images in pixels; null for the data set's default. Pictures are resampled to
            it; images of array data sets, such as Shapes3D, are averaged to a whole fraction of their size.
        crop: how pictures are made square: `center`, `squash`, `pad`, and for CelebA `d2c128`, `center148` or
            `center178`; null for the data set's default.
        corrupt: `stop` with an error at an unreadable picture, or `skip` it. With an attributes file, `skip`
            also leaves out pictures without attributes.
        attributes: CSV file with binary attributes of the pictures in a folder; null for the folder's
            `attributes.csv`.
        factors: CSV file with factor labels of the pictures in a folder; null for the folder's `factors.csv`.
        partition: partition of CelebA: `all`, `train`, `valid` or `test`.
        antialias: whether the procedural dSprites are rendered with smooth edges.
        nuisance_seed: seed of the colours of `dsprites_color` and the noise of `dsprites_noise`.
    """

    name: str = "shapes3d"
    root: str = "data/shapes3d"
    num_train: int | None = None
    num_workers: int = 0


@dataclass
class AutoencoderConfig:
    """Stage 1, the autoencoder.

    Attributes:
        kind: bottleneck: `vq`, `kl`, `noise` (noise of a share of each channel's spread) or `identity` (no
            autoencoder, diffusion in pixel space).
        network: layers of encoder and decoder.
        codebook_size: number of codebook vectors of `vq`.
        noise_share: of `noise`: largest standard deviation of the noise, relative to that of the channel.
        start: of `noise`: `random`, or `principal`: linear maps between blocks of pixels and their principal
            components are added to encoder and decoder.
        legacy_codebook: whether `vq` weights the codebook term instead of the commitment term, as the
            released models do.
        standardise: how latents are standardised: by one standard deviation over the data set (`scalar`), or
            by mean and standard deviation per channel (`channel`).
        loss: loss terms and weights.
        train: optimisation.
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
    """Stage 2, the unconditional latent diffusion model.

    Attributes:
        schedule: noise schedule.
        unet: layers of the denoiser.
        loss: norm of the noise prediction error, `l1` or `l2`.
        train: optimisation.
    """

    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    loss: str = "l1"
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class CodeConfig:
    """The stage `code`: the encoder that finds the code, and the networks that decode it.

    Attributes:
        num_units: N, the number of latent units.
        unit_dim: D, the numbers per unit.
        encoder: the encoder from its input to the code.
        decoder: the gradient decoder (DisDiff and PDAE only).
        loss: loss terms and weights of DisDiff and PDAE; EncDiff, DyGA, Diff-AE and InfoDiffusion read
            `auxiliary`, `weight_correlation` and `correlation_memory` of it.
        train: optimisation.
    """

    num_units: int = 10
    unit_dim: int = 32
    encoder: FactorEncoderConfig = field(default_factory=FactorEncoderConfig)
    decoder: GradientDecoderConfig = field(default_factory=GradientDecoderConfig)
    loss: DisDiffLossConfig = field(default_factory=DisDiffLossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class CodeSamplerConfig(SamplerConfig):
    """How images are sampled from codes.

    Attributes:
        guidance: scale of the gradient fields at sampling and inversion; unused in training. 1 keeps the
            trained scale. It corresponds to the gradient scale of classifier guidance (Dhariwal & Nichol
            2021, arXiv:2105.05233). Only for systems with gradient fields (DisDiff, PDAE).
    """

    guidance: float = 1.0


@dataclass
class EvaluationConfig:
    """What `disdiff train` measures after training.

    Attributes:
        protocol: protocol of the disentanglement metrics, `fast` or `paper`.
        num_images: number of evaluation images to encode.
        seed: seed of the metrics.
        num_pairs: number of image pairs per factor for the edit success rate; 0 skips this evaluation.
        num_reconstructions: number of images for the reconstruction errors.
        probe_steps: training steps of each probe (the classifiers that judge edits).
        controls: whether codes without the run's training (`disdiff.runs.controls`) are scored, too.
    """

    protocol: str = "paper"
    num_images: int = 20_000
    seed: int = 0
    num_pairs: int = 100
    num_reconstructions: int = 64
    probe_steps: int = 600
    controls: bool = True


@dataclass
class WeightsConfig:
    """Weight files of pretrained networks; nothing is downloaded unless `allow_download` is set.

    Attributes:
        vgg16: VGG16 weight file for LPIPS.
        inception: Inception weight file for FID and KID; only `disdiff fid` uses it.
        allow_download: whether a missing file may be downloaded from its publisher.
    """

    vgg16: str | None = None
    inception: str | None = None
    allow_download: bool = False


@dataclass
class StagesConfig:
    """Reuse of shipped stages.

    Attributes:
        pretrained: whether a shipped stage under `pretrained/` with the same configuration is used instead
            of training the stage.
    """

    pretrained: bool = True


@dataclass
class TrainerConfig:
    """The machine. These options change results only by rounding, except `accumulate` as described.

    Attributes:
        device: `auto` (CUDA, else the CPU), `cpu`, `cuda` or `mps`.
        precision: `auto` (bf16 on CUDA), `float32`, `tf32` (float32 with TF32 matrix products on CUDA) or
            `bf16`.
        threads: number of CPU threads; null for the number that a short trial finds fastest
            (`ldm.training.threads`).
        channels_last: whether convolutions use the channels-last memory format.
        compile: how networks are compiled for training with `torch.compile`: `none`, `default` or
            `cuda_graphs`.
        resident: whether the cached latents are kept on the device: `auto` (on CUDA, if they fit), `always`
            or `never`.
        accumulate: number of parts into which a batch is split to save memory, in the stages after the
            first; gradients are summed over the parts. BatchNorm, dropout and losses that are not means over
            images then see one part at a time.
        logger: where training is logged beside `log.csv`: `csv` (nowhere else), `tensorboard`, `wandb` or
            `mlflow`.
    """

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    channels_last: bool = False
    compile: str = "none"
    resident: str = "auto"
    accumulate: int = 1
    logger: str = "csv"


@dataclass
class Config:
    """The complete configuration of a run.

    `seed` seeds the last stage, `stage_seed` the shared stages before it. Not every system uses every
    section: `conditional` is for EncDiff, DyGA, Diff-AE and InfoDiffusion, `vae` for the VAEs, `prior` for
    all these, `factor_vae` and `beta_tcvae` for the systems of these names, `clip` for CLIP-guided DisDiff,
    and `trunk` for all but CLIP-guided DisDiff. `latent_dpm` is an optional stage of every system with a
    code.
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
    factor_vae: FactorVAEConfig = field(default_factory=FactorVAEConfig)
    beta_tcvae: BetaTCVAEConfig = field(default_factory=BetaTCVAEConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    latent_dpm: LatentDPMConfig = field(default_factory=LatentDPMConfig)
    sampler: CodeSamplerConfig = field(default_factory=CodeSamplerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    stages: StagesConfig = field(default_factory=StagesConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass
class ConfigFile(Config):
    """The keys of a configuration file: those of `Config`, and `bases`.

    Attributes:
        bases: names of files in `configs/_shared`, without `.yaml`, over which this file is merged.
    """

    bases: list[str] = field(default_factory=list)


def load_config(files: list[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Merge files and overrides into a complete configuration.

    Args:
        files: `--base` files, left to right; shipped files are found from any working directory.
        overrides: dotted `key=value` texts.

    Raises:
        UserError: a file cannot be read, a key is unknown (the message names the nearest valid key), or a
            value has the wrong type or is out of range.
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
    of_preset = f"presets/{system}/{preset}"
    of_data = [f"{of_preset}/{base}" for base in bases]
    optional = [of_preset, *of_data, f"systems/{system}", f"sizes/{size}/{preset}"]
    optional = [name for name in optional if (CONFIGS / "_shared" / f"{name}.yaml").exists()]
    shared += [read_shared(name) for name in [f"presets/{preset}", *optional]]
    config = merge([*shared, *own, command_line, OmegaConf.create({"preset": preset})])
    if config.run.name is None:
        config.run.name = f"{name_config(paths[-1])}-{config.preset}-s{config.seed}"
    check_limits(asdict(config))
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
            tree = OmegaConf.unsafe_merge(tree, each)  # the trees are not used again
    with refuse_bad_values():
        config: Any = OmegaConf.to_object(tree)
    for section, name in (key.split(".") for key in PATHS):
        path = getattr(getattr(config, section), name)
        if path is not None and path.startswith("~"):
            setattr(getattr(config, section), name, str(expand_home(path)))
    return config


def read_yaml(path: Path) -> DictConfig:
    """Read a YAML mapping and take its texts literally.

    Raises:
        UserError: the file is missing, is not valid YAML, or is not a mapping.
    """
    try:
        tree = OmegaConf.create(quote_texts(path.read_text(encoding="utf-8"), ConfigFile) or {})
    except OSError as error:
        remedy = f"; give {path / 'config.yaml'}" if (path / "config.yaml").is_file() else ""
        raise UserError(f"cannot read the configuration {path}: {error.strerror}{remedy}") from error
    except Exception as error:  # PyYAML and OmegaConf raise many kinds
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path} must be a mapping of configuration keys")
    content: Any = OmegaConf.to_container(tree)
    if not isinstance(content.get("bases", []), list):
        raise UserError(f"{path}: bases must be a list of names, such as [shapes3d]")
    return tree


def parse_overrides(overrides: Sequence[str]) -> DictConfig:
    """Parse `key=value` overrides: values of text keys literally, other values as YAML.

    Raises:
        UserError: an override does not have the form `key=value`.
    """
    tree, kinds = OmegaConf.create(), list_kinds(Config)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or text.startswith("-"):
            raise UserError(
                f"{text!r} is not an override; write key=value, for example seed=1 or code.num_units=6"
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


def to_yaml(config: Config) -> str:
    """The complete configuration as YAML; `read_yaml` and `merge` restore it."""
    return OmegaConf.to_yaml(OmegaConf.create(escape(asdict(config))))


def select(config: Config, key: str) -> Any:
    """The value of a dotted key; a section is returned as nested dictionaries."""
    node: Any = asdict(config)
    for part in key.split("."):
        node = node[part]
    return node


def name_config(file: Path) -> str:
    """Name of a configuration file in run names: `disdiff-shapes3d` for .../configs/disdiff/shapes3d.yaml.

    It is the path below the last folder `configs`, that of this package or of any checkout; else the file's.
    """
    *folders, name = file.resolve().with_suffix("").parts
    below = folders[len(folders) - folders[::-1].index("configs") :] if "configs" in folders else []
    return "-".join([*below, name])
