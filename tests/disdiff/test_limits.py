import pytest

from disdiff.config import CONFIGS, load_config
from disdiff.limits import check_limits
from ldm.errors import UserError

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
        ("factors.num_units=0", "at least 1"),
        ("factors.unit_dim=0", "at least 1"),
        ("factors.loss.every=0", "at least 1"),
        ("factors.loss.weight_disentangle=-0.1", "at least 0"),
        ("factors.loss.weight_kl=.nan", "at least 0"),
        ("factors.train.batch_size=0", "at least 1"),
        ("factors.train.preview_steps=0", "at least 1"),
        ("factors.train.learning_rate=0", "more than 0"),
        ("factors.train.ema_decay=1.5", "less than 1"),
        ("autoencoder.noise_share=1.0", "less than 1"),
        ("autoencoder.noise_share=-0.1", "at least 0"),
        ("autoencoder.noise_share=.nan", "at least 0"),
        ("factors.train.betas=[0.9,1.0]", "less than 1"),
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
        "factors.decoder.num_res_blocks=0",
        "data.num_workers=0",
    ):
        load_config([SHAPES3D], [override])


def test_a_key_is_named_in_full():
    with pytest.raises(UserError, match="a.b.num_units=0"):
        check_limits({"a": {"b": {"num_units": 0, "flag": False, "name": "x", "nothing": None}}})
