"""Every ablation differs from DisDiff, as `small` has it, in what its row says, and in nothing else."""

from functools import cache

import pytest

from disdiff.config.schema import CONFIGS, load_config, to_container

DISDIFF = CONFIGS / "disdiff" / "shapes3d.yaml"
ABLATIONS = sorted((CONFIGS / "disdiff" / "ablations").glob("*.yaml"))
DIFFERENCES = {
    "attached_condition": {},  # as released, so `small` and `paper` have it anyway
    "attention_condition": {"factors.decoder.modulation": "attention"},
    # found in the denoiser's map
    "bilinear_start": {"factors.encoder.start": "bilinear", "factors.encoder.input": "features"},
    "constant_weighting": {"factors.loss.dis_weighting": "constant"},
    "detached_condition": {"factors.loss.detach_condition": True},
    # pixels are too many to be whitened
    "image_space": {"autoencoder.kind": "identity", "factors.loss.whiten_ridge": None},
    "kl": {},  # `small` has it anyway
    # the cap is of the weight by change, and of another size than noise errors
    "loss_weighting": {"factors.loss.dis_weighting": "loss", "factors.loss.change_cap": None},
    "plain_error": {"factors.loss.whiten_ridge": None},
    "random_start": {
        "factors.encoder.start": "random",
        "factors.encoder.hold_steps": 0,
        "factors.encoder.rate": 1.0,
    },
    "six_units": {"factors.num_units": 6},
    "sixteen_units": {"factors.num_units": 16},
    # the weight is of the codebook loss then, no longer of the KL
    "vq": {"autoencoder.kind": "vq", "autoencoder.loss.weight_regulariser": 1.0},
    "without_detach": {"factors.loss.train_evaluator": True},
    "without_l_dis": {"factors.loss.weight_disentangle": 0.0},
    "without_l_in": {"factors.loss.weight_invariant": 0.0},
    "without_l_va": {"factors.loss.weight_variant": 0.0},
    "without_orthogonality": {"factors.decoder.unit_embedding": "learned"},
    # condition networks of each unit's own would still tell the units apart
    "without_unit_embedding": {
        "factors.decoder.unit_embedding": "none",
        "factors.decoder.condition": "shared",
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
    return flatten(to_container(load_config([path])))


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda path: path.stem)
def test_an_ablation_varies_what_its_row_says(path):
    base, own = settings(DISDIFF), settings(path)
    changed = {key: own[key] for key in own if own[key] != base[key] and key != "run.name"}
    assert changed == DIFFERENCES[path.stem]


def test_every_row_has_a_file():
    assert {path.stem for path in ABLATIONS} == set(DIFFERENCES)
