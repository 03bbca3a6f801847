"""Every ablation differs from DisDiff, as `small` has it, in what its row says, and in nothing else."""

from dataclasses import asdict
from functools import cache

import pytest

from disdiff.config.schema import CONFIGS, load_config

DISDIFF = CONFIGS / "disdiff" / "shapes3d.yaml"
ABLATIONS = sorted((CONFIGS / "disdiff" / "ablations").glob("*.yaml"))
SPECTRAL = {  # the DisDiff of `small` whose start had the scores
    "code.num_units": 10,
    **{"code.encoder.channels": 128, "code.encoder.initial_logvar": -5.0},
    **{"code.encoder.freeze_steps": 400, "code.encoder.learning_rate_factor": 0.005},
    **{"code.loss.weight_kl": 7.0e-4, "code.loss.kl_warmup_steps": 2000},
    **{"code.loss.weight_correlation": 0.0, "code.loss.auxiliary.weight": 0.0},
    **{"code.loss.correlation_memory": 0, "code.loss.contradiction": 0.0, "code.loss.t_max": 800},
    **{"code.loss.contradict_by": "latent", "code.loss.t_min": 400, "code.loss.clean_cap": 400.0},
    **{"code.train.images": 160_000, "code.train.batch_size": 16, "code.train.grad_clip": 1.0},
    **{"code.train.optimizer": "adamw", "sampler.guidance": 1.5},
}
DIFFERENCES = {
    "attached_condition": {},  # as released, so `small` and `paper` have it anyway
    "attention_condition": {"code.decoder.modulation": "attention"},
    # found in the denoiser's map
    "bilinear_start": {
        **SPECTRAL,
        "code.encoder.start": "bilinear",
        "code.encoder.start_reads": "input",
        "code.encoder.input": "features",
    },
    "constant_weighting": {"code.loss.dis_weighting": "constant"},
    "contradiction_by_latents": {"code.loss.contradict_by": "latent"},
    "detached_condition": {"code.loss.detach_condition": True},
    # pixels are too many to be whitened
    "image_space": {
        "autoencoder.kind": "identity",
        "code.loss.whiten_ridge": None,
        "code.loss.contradict_by": "latent",
        "code.loss.auxiliary.weight": 0.0,
    },
    "eigenmaps_start": {**SPECTRAL, "code.encoder.start": "eigenmaps"},
    # a KL has a price in nats
    "kl": {"autoencoder.kind": "kl", "autoencoder.loss.weight_regulariser": 1.0e-5},
    # the cap is of the weight by change, and of another size than noise errors
    "loss_weighting": {"code.loss.dis_weighting": "loss", "code.loss.change_cap": None},
    "plain_error": {"code.loss.whiten_ridge": None},
    "random_start": {
        "code.loss.contradict_by": "latent",
        "code.loss.auxiliary.weight": 0.0,
        "code.loss.weight_correlation": 0.0,
        "code.loss.correlation_memory": 0,
        "code.encoder.learning_rate_factor": 1.0,
    },
    "six_units": {"code.num_units": 6},
    "ten_units": {"code.num_units": 10},
    # the weight is of the codebook loss then, no longer of the KL
    "vq": {"autoencoder.kind": "vq", "autoencoder.loss.weight_regulariser": 1.0},
    "without_contradiction": {"code.loss.contradiction": 0.0, "code.loss.t_max": 800},
    "without_correlation": {"code.loss.weight_correlation": 0.0},
    "without_detach": {"code.loss.train_evaluator": True},
    "without_l_dis": {"code.loss.weight_disentangle": 0.0},
    "without_l_in": {"code.loss.weight_invariant": 0.0},
    "without_l_va": {"code.loss.weight_variant": 0.0},
    "without_memory": {"code.loss.correlation_memory": 0},
    "without_orthogonality": {"code.decoder.unit_embedding": "learned"},
    # condition networks of each unit's own would still tell the units apart
    "without_unit_embedding": {
        "code.decoder.unit_embedding": "none",
        "code.decoder.condition": "shared",
    },
}


def flatten(tree, prefix=""):
    """Values of nested dictionaries by dotted key."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    found = [flatten(value, f"{prefix}.{key}" if prefix else key) for key, value in tree.items()]
    return {key: value for values in found for key, value in values.items()}


@cache
def settings(path):
    return flatten(asdict(load_config([path])))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_varies_what_its_row_says(path):
    base, own = settings(DISDIFF), settings(path)
    changed = {key: own[key] for key in own if own[key] != base[key] and key != "run.name"}
    assert changed == DIFFERENCES[path.stem]


def test_every_row_has_a_file():
    assert {path.stem for path in ABLATIONS} == set(DIFFERENCES)
