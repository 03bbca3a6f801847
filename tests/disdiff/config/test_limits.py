import numpy as np
import pytest
import torch

from disdiff.config.limits import check_limits
from disdiff.config.schema import CONFIGS, load_config
from ldm.errors import UserError
from ldm.numbers import FINITE, FRACTION, SEED, Range

SHAPES3D = CONFIGS / "disdiff" / "shapes3d.yaml"


@pytest.mark.parametrize(
    ("override", "limit"),
    [
        ("seed=-1", "at least 0"),
        ("stage_seed=-1", "at least 0"),
        ("trainer.threads=-1", "at least 1"),
        ("trainer.accumulate=0", "at least 1"),
        ("data.num_train=0", "at least 1"),
        ("evaluation.num_images=0", "at least 1"),
        ("evaluation.probe_steps=9", "at least 10"),
        ("code.num_units=0", "at least 1"),
        ("code.unit_dim=0", "at least 1"),
        ("code.loss.every=0", "at least 1"),
        ("code.loss.weight_disentangle=-0.1", "at least 0"),
        ("code.loss.weight_kl=.nan", "at least 0"),
        ("code.train.batch_size=0", "at least 1"),
        ("code.train.preview_steps=0", "at least 1"),
        ("code.train.learning_rate=0", "more than 0"),
        ("code.train.ema_decay=1.5", "less than 1"),
        ("autoencoder.noise_share=1.0", "less than 1"),
        ("autoencoder.noise_share=-0.1", "at least 0"),
        ("autoencoder.noise_share=.nan", "at least 0"),
        ("code.train.betas=[0.9,1.0]", "less than 1"),
        ("latent_diffusion.unet.channel_mult=[1,0]", "at least 1"),
    ],
)
def test_a_number_that_cannot_be_is_refused(override, limit):
    with pytest.raises(UserError, match=f"{override.split('=')[0]}=.* is out of range; it must be {limit}"):
        load_config([SHAPES3D], [override])


def test_numbers_that_may_be_zero():
    for override in (
        "seed=0",
        "evaluation.num_pairs=0",
        "code.decoder.num_res_blocks=0",
        "data.num_workers=0",
    ):
        load_config([SHAPES3D], [override])


def test_a_key_is_named_in_full():
    with pytest.raises(UserError, match="a.b.num_units=0"):
        check_limits({"a": {"b": {"num_units": 0, "flag": False, "name": "x", "nothing": None}}})


@pytest.mark.parametrize("key", ["seed", "stage_seed", "evaluation.seed"])
def test_seeds_are_what_numpy_and_torch_take(key):
    for seed in (-1, 2**32, 2**64):
        with pytest.raises(UserError, match=f"^{key}={seed} is out of range; ") as failure:
            load_config([SHAPES3D], [f"{key}={seed}"])
        assert "at least 0" in str(failure.value) and "at most 4294967295" in str(failure.value)
    load_config([SHAPES3D], [f"{key}={SEED.most}"])
    np.random.RandomState(SEED.most)
    torch.manual_seed(SEED.most * 1_000_003)  # as a step of training seeds it


@pytest.mark.parametrize(
    "override",
    [
        *("code.train.learning_rate=.inf", "code.train.learning_rate=.nan", "sampler.guidance=.inf"),
        *(
            "sampler.eta=1.5",
            "sampler.eta=.nan",
            "prior.zeta=-.inf",
            "prior.weight=1e999",
            "trainer.accumulate=-2",
        ),
        *("code.encoder.learning_rate_factor=.inf", "clip.std=[1,0,1]", "latent_diffusion.unet.num_heads=0"),
        "code.encoder.initial_logvar=.nan",
        f"data.num_train={10**13}",
    ],
)
def test_numbers_are_finite_and_in_range(override):
    with pytest.raises(UserError, match=f"^{override.split('=')[0]}=.* is out of range; "):
        load_config([SHAPES3D], [override])


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("code.train.betas=[0.9]", "2 numbers"),
        ("clip.mean=[0.5,0.5]", "3 numbers"),
        ("latent_diffusion.unet.channel_mult=[]", "at least one"),
    ],
)
def test_lists_have_their_length(override, says):
    with pytest.raises(UserError, match=f"{override.split('=')[0]}=.*{says}"):
        load_config([SHAPES3D], [override])


@pytest.mark.parametrize(
    ("limits", "text"),
    [(FINITE, "nan"), (FINITE, "inf"), (SEED, "-1"), (SEED, "4294967296"), (SEED, "1.5"), (FRACTION, "1.01")],
)
def test_options_are_read_within_their_range(limits, text):
    with pytest.raises(UserError, match="out of range|is no"):
        limits.read(text)


def test_values_of_calls_are_checked_by_type_too():
    for value in (1.0, True, "1", None, float("nan")):
        with pytest.raises(UserError, match="^steps=.* is out of range; it must be a whole number"):
            Range(whole=True, least=1).check("steps", value)
    Range(whole=True, least=1).check("steps", np.int64(3))
    assert SEED.read("7") == 7 and FRACTION.read("0.5") == 0.5
