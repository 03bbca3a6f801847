"""The best of several seeds: chosen by the loss of pre-training, trained as if it were the only one."""

from statistics import mean

import pytest

from disdiff.commands import train
from disdiff.config.schema import CONFIGS
from disdiff.runs import best_seed
from disdiff.runs.training import train_stage
from ldm.errors import UserError
from ldm.training.log import read_log

SHAPES3D = str(CONFIGS / "disdiff" / "shapes3d.yaml")
PRETRAINED = "code.loss.auxiliary={weight: 1.0, hidden: 8, pretrain_steps: 160}"


@pytest.fixture
def open_run(tiny_system, noise_images, tmp_path, said):
    """Return a function that opens a tiny run as `disdiff train` does."""
    short = [
        f"{stage}.train={{images: 128, batch_size: 64}}" for stage in ("autoencoder", "latent_diffusion")
    ]
    few = ["data.num_train=64", "evaluation.num_images=64", "code.train={images: 1312, batch_size: 8}"]
    words = [*tiny_system, *short, *few, PRETRAINED, f"run.root={tmp_path}", "trainer.device=cpu"]

    def call(*more):
        parsed = train.make_parser().parse_args(["--base", SHAPES3D, *words, *more])
        parsed.dry_run = False
        return train.open_run(parsed)

    return call


def finish(context):
    best_seed.train_first_stages(context)
    train_stage(context, "code")
    return (context.stages["code"].folder / "model.safetensors").read_bytes()


def test_the_seed_of_the_lowest_loss_goes_on_as_if_it_were_the_only_one(open_run, said, monkeypatch):
    best = open_run("--best-of", "3,4,5")
    logs = {
        seed: read_log(best.folder.parent / f"disdiff-shapes3d-smoke-s{seed}" / "stages/code/log.csv")
        for seed in (3, 4, 5)
    }
    assert {rows[-1]["step"] for rows in logs.values()} == {"100"}  # a third of pre-training, rounded up
    losses = {seed: mean(float(row["loss"]) for row in rows) for seed, rows in logs.items()}
    assert best.config.seed == min(losses, key=losses.get)
    assert f"seed {best.config.seed} has the lowest loss; not needed any more: " in said()[-1]
    with monkeypatch.context() as patch:
        patch.setattr(best_seed, "train_stage", None)  # nothing is trained again
        assert open_run("--best-of", "3,4,5").config == best.config
    chosen = finish(best)
    assert finish(open_run(f"seed={best.config.seed}", "run.name=alone")) == chosen
    assert open_run("--best-of", "3,4,5").stages["code"].trained


def test_a_given_name_gets_the_seed(open_run):
    assert open_run("--best-of", "3,4", "run.name=mine").folder.name in ("mine-s3", "mine-s4")


def test_what_another_configuration_left_does_not_count(open_run):
    open_run("--best-of", "3,3,4", "run.name=mine")
    with pytest.raises(UserError, match="mine-s3 belongs to another configuration"):
        open_run("--best-of", "3,4", "run.name=mine", "code.loss.weight_kl=0.5")


def test_it_needs_pretraining_and_seeds(open_run):
    with pytest.raises(UserError, match="this run has none"):
        open_run("--best-of", "3,4", "code.loss.auxiliary.weight=0")
    with pytest.raises(UserError, match="--best-of a,b is not a list of seeds"):
        open_run("--best-of", "a,b")
