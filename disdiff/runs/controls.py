"""Score controls: codes of the same images that owe nothing to the training of a run.

PCA of the latents                  the first principal components
untrained encoder                   the run's encoder with random weights
start of the encoder, untrained     the coordinates at which the run's encoder started, if it has a start
start on 8x8 pixels                 such coordinates of images averaged to 8x8 pixels; no network

Controls without a network have as many numbers as the run has units, at most `MOST_NUMBERS`.

The scores of a run say something about its training only by their distance to the best of these. Run and
controls are scored on the same images by the same protocol and seed. Runs on the same first stage and data
have the same controls, so their scores are kept in the folder that runs share.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from disdiff.build import build_denoiser, build_model, get_system
from disdiff.config.schema import Config
from disdiff.initialisation.pixels import SIDE, average_pixels
from disdiff.method.factor_encoder import STARTS
from disdiff.method.model import ImageModel
from disdiff.metrics.protocols import compute_scores, get_protocol, name_protocol
from disdiff.runs.stages import shared_folder
from ldm.data.arrays import silent
from ldm.data.source import ImageSource, identify_labelled, split_indices, to_float
from ldm.errors import UserError
from ldm.files import digest_json, load_json, save_json
from ldm.training.weight_files import fingerprint

HEADLINES = {"factor_vae": "eval_accuracy", "dci": "disentanglement"}  # metric: its published number
PROTOCOL = "fast"  # of the controls of a training run; DCI of `paper` takes a minute for each
PIXEL_IMAGES = 8192  # training images to which a start on pixels is fitted
LATENT_IMAGES = 2560  # training images for PCA, and for the running statistics of an untrained encoder
MOST_NUMBERS = 32  # of a control without a network, for systems with hundreds of units
SPECTRAL = ("circular", "bilinear", "eigenmaps")
BATCH = 256


@dataclass
class Material:
    """A run and its images, as controls read them.

    Attributes:
        config: configuration of the run.
        model: the trained model, in eval mode.
        source: the data set.
        protocol: protocol of the scores.
        train: training images, shape (n,).
        index: evaluation images, as many as the protocol needs, shape (m,).
    """

    config: Config
    model: ImageModel
    source: ImageSource
    protocol: str
    train: Tensor = field(init=False)
    index: Tensor = field(init=False)

    def __post_init__(self) -> None:
        sizes = self.config.data.num_train, self.config.evaluation.num_images
        self.train, index = split_indices(self.source, *sizes)
        self.index = index[: get_protocol(self.protocol).num_rows]

    @property
    def num_numbers(self) -> int:
        """Numbers of a control without a network: one per unit of the run."""
        return min(self.model.num_units, MOST_NUMBERS)

    def images(self, index: Tensor) -> Iterator[Tensor]:
        """Batches of the images `index`, shape (B, 3, H, W) in [-1, 1], on the model's device."""
        return (to_float(self.source.images(part).to(self.model.device)) for part in index.split(BATCH))

    @cached_property
    def latents(self) -> tuple[Tensor, Tensor]:
        """Latents of some training images and of the evaluation images, shapes (n, C, h, w)."""
        encode = self.model.latent_space.encode
        groups = self.train[:LATENT_IMAGES], self.index
        train, evaluation = (torch.cat([encode(image) for image in self.images(group)]) for group in groups)
        return train, evaluation

    @cached_property
    def pixels(self) -> tuple[Tensor, Tensor]:
        """Training and evaluation images averaged to 8x8 pixels, shapes (n, 192), on the CPU."""
        groups = self.train[:PIXEL_IMAGES], self.index
        train, evaluation = (
            torch.cat([average_pixels(image).cpu() for image in self.images(group)]) for group in groups
        )
        return train, evaluation

    def encoder_inputs(self, training: bool) -> Iterator[Tensor]:
        """Batches of the encoder's input, for some training images or for the evaluation images."""
        reads = self.model.encoder_input
        if reads.array is None:
            return (reads.from_latent(z) for z in self.latents[0 if training else 1].split(BATCH))
        index = self.train[:LATENT_IMAGES] if training else self.index
        return (reads.from_image(image) for image in self.images(index))


@dataclass(frozen=True)
class Control:
    """A control.

    Attributes:
        name: its name in tables.
        seed: seed of its random weights; None if it draws nothing.
        identity: what its codes depend on besides the data, JSON-ready.
        encode: function that returns its codes of the evaluation images, shape (m, N) or (m, N, D).
    """

    name: str
    seed: int | None
    identity: Any
    encode: Callable[[], np.ndarray]


def list_controls(material: Material) -> list[Control]:
    """The controls of a run, by what its system has."""
    config, model, count = material.config, material.model, material.num_numbers
    start, seed, controls = config.code.encoder.start, config.evaluation.seed, []
    if "autoencoder" in get_system(config).stages:
        identity = ["principal", count, fingerprint(model.latent_space)]
        encode = partial(encode_principal, material)
        controls.append(Control("PCA of the latents", None, identity, encode))
    encoder = identify_encoder(config, model)
    encode = partial(encode_untrained, material, seed)
    controls.append(Control("untrained encoder", seed, ["untrained", seed, encoder], encode))
    if model.networks.encoder.is_fitted and start != "random":
        title = f"start of the encoder ({start}), untrained"
        controls.append(Control(title, None, ["start", encoder], partial(encode_start, material)))
    for name in [start] if start in SPECTRAL else ["eigenmaps", "principal"]:
        title = f"start on {SIDE}x{SIDE} pixels ({name})"
        encode = partial(encode_pixels, material, name)
        controls.append(Control(title, None, ["pixels", name, count], encode))
    return controls


def identify_encoder(config: Config, model: ImageModel) -> list[Any]:
    """What the codes of a run's encoder before training depend on, besides data and seed; JSON-ready."""
    frozen = [model.latent_space, model.encoder_input]
    if config.code.encoder.input == "features":
        frozen.append(model.denoiser)
    sizes = config.code.num_units, config.code.unit_dim
    sections = [asdict(section) for section in (config.code.encoder, config.trunk, config.clip)]
    return [config.system, sizes, sections, [fingerprint(module) for module in frozen]]


def encode_principal(material: Material) -> np.ndarray:
    """Principal components of the latents, fitted to training images, shape (m, N)."""
    train, evaluation = (z.flatten(1).cpu().numpy() for z in material.latents)
    return PCA(min(material.num_numbers, *train.shape), random_state=0).fit(train).transform(evaluation)


def encode_untrained(material: Material, seed: int) -> np.ndarray:
    """Codes of the run's encoder with random weights of a seed and no start, shape (m, N, D)."""
    model, config = material.model, copy.deepcopy(material.config)
    config.code.encoder.start = "random"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = build_denoiser(config, model.latent_space)  # not read; the inputs are the run's
        untrained = build_model(config, model.latent_space, denoiser, material.source.image_size)
    encoder = untrained.networks.encoder.to(model.device)
    if any(True for _ in encoder.buffers()):  # of normalisations, which need statistics of the data
        inputs = list(material.encoder_inputs(training=True))
        if encoder.is_fitted:
            encoder.fit_start(torch.cat(inputs))
        for x in inputs:
            encoder.train()(x)
    encoder.eval()
    return stack(untrained.encode_input(x) for x in material.encoder_inputs(training=False))


def encode_start(material: Material) -> np.ndarray:
    """Codes at which the run's encoder started, shape (m, N, D)."""
    initial = material.model.networks.encoder.initial_code
    codes = stack(initial(x) for x in material.encoder_inputs(training=False))
    return codes.reshape(len(codes), material.model.num_units, -1)


def encode_pixels(material: Material, start: str) -> np.ndarray:
    """Coordinates of averaged pixels by one of `STARTS`, fitted to training images, shape (m, N)."""
    train, evaluation = material.pixels
    coordinates = STARTS[start](train.shape[1], material.num_numbers)
    coordinates.fit(train)
    return stack(coordinates(x) for x in evaluation.split(BATCH))


def stack(batches: Iterator[Tensor]) -> np.ndarray:
    """Codes of all batches as one array."""
    return torch.cat([codes.cpu() for codes in batches]).numpy()


@torch.no_grad()
def score_controls(
    config: Config,
    model: ImageModel,
    source: ImageSource,
    codes: Mapping[str, np.ndarray],
    protocol: str = PROTOCOL,
    progress: Callable[[str, float], None] = silent,
) -> dict[str, Any]:
    """Score a run and its controls by FactorVAE score and DCI disentanglement.

    Args:
        config: configuration of the run.
        model: the trained model, in eval mode.
        source: the data set, with factors.
        codes: content of the run's `codes.npz`.
        protocol: protocol of the scores; as many evaluation images are used as it needs. From fewer, rows are
            drawn with replacement, as for the run's own scores.
        progress: called with the name of a control and the completed fraction.

    Returns:
        JSON-ready, by the protocol's name (`name_protocol`): `run` with the scores of the run (`factor_vae`,
        `dci`; what is not defined is missing, and `reason` says why), `controls` with a list of the same and
        `name` and `seed`, `num_images`, and the metrics' `seed`.
    """
    material, seed = Material(config, model, source, protocol), config.evaluation.seed
    num_images = len(material.index)
    factors, controls, rows = codes["factors"][:num_images], list_controls(material), []
    for number, control in enumerate(controls, 1):
        progress(control.name, number / (len(controls) + 1))
        rows.append({"name": control.name, "seed": control.seed, **score_once(material, control, factors)})
    own = score_headlines(codes["codes"][:num_images], factors, protocol, seed)
    return {
        name_protocol(protocol, num_images): {
            "num_images": num_images,
            "seed": seed,
            "run": own,
            "controls": rows,
        }
    }


def score_once(material: Material, control: Control, factors: np.ndarray) -> dict[str, Any]:
    """`score_headlines` of a control, read from the folder that runs share if it has been scored before."""
    data, evaluation = material.config.data, material.config.evaluation
    images = [identify_labelled(material.source), data.num_train, evaluation.num_images]
    of = [control.name, control.identity, images, material.protocol, evaluation.seed]
    path = shared_folder(material.config) / f"control-{digest_json(of)}.json"
    if not path.exists():
        try:
            scores = score_headlines(control.encode(), factors, material.protocol, evaluation.seed)
        except UserError as error:  # such as too few images for a start
            scores = {"reason": str(error)}
        save_json(path, {"name": control.name, "scores": scores})
    return load_json(path)["scores"]


def score_headlines(codes: np.ndarray, factors: np.ndarray, protocol: str, seed: int) -> dict[str, Any]:
    """FactorVAE score and DCI disentanglement of codes; a collapsed code has a `reason` instead."""
    try:
        scores = compute_scores(codes, factors, protocol, seed, only=HEADLINES, replacement=True)
    except UserError as error:
        return {"reason": str(error)}
    return {metric: scores[metric][key] for metric, key in HEADLINES.items() if metric in scores}
