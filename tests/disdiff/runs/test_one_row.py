"""Steps that see one image at a time: a batch of one, or `trainer.accumulate` equal to the batch."""

import pytest
import torch

from disdiff.config.schema import CONFIGS
from disdiff.runs.encoding import example_batch
from disdiff.runs.pipeline import check_batches, run_pipeline
from disdiff.runs.training import build_task
from ldm.errors import UserError
from ldm.training.log import read_log
from ldm.training.stage_task import spread

SYSTEMS = ("disdiff", "pdae", "encdiff", "diffae", "infodiffusion", "beta_vae", "infovae")
SHAPES3D = CONFIGS / "disdiff" / "shapes3d.yaml"
STAGES = ("autoencoder", "latent_diffusion", "code")
ONE_BY_ONE = [
    pytest.param([f"{stage}.train.batch_size=1" for stage in STAGES], id="batch"),
    pytest.param(["trainer.accumulate=8"], id="accumulate"),
]


def test_the_spread_of_rows_is_unbiased_and_that_of_one_row_is_zero():
    rows = torch.tensor([[1.0, 5.0], [4.0, 5.0], [7.0, 8.0]], requires_grad=True)
    assert spread(rows).tolist() == pytest.approx([3.0, 3**0.5])
    assert torch.equal(spread(rows), rows.detach().std(dim=0)) and not spread(rows).requires_grad
    assert spread(rows[:1]).tolist() == [0.0, 0.0]
    assert spread(rows[:1].flatten()[:1]).item() == 0


@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize("system", SYSTEMS)
def test_all_that_a_step_reports_of_one_image_is_finite(build_on_noise, system, parts):
    context = build_on_noise(CONFIGS / system / "shapes3d.yaml", "latent_dpm.enabled=true")
    for name in context.stages:
        if not context.has_parameters(name):
            continue
        task = build_task(context, name).train()
        batch = example_batch(context, name, parts)
        if name == "autoencoder":
            loss = task.compute_loss(batch, 0, task.step_generator(0))
        else:
            task.num_parts = parts
            loss = task.training_step(batch, 0)
        assert loss.isfinite() and task.stats
        assert all(value.isfinite().all() for value in task.stats.values()), (name, task.stats)
        assert name != "code" or task.stats["code_std"] == 0


@pytest.mark.parametrize("options", ONE_BY_ONE)
def test_a_run_of_one_image_at_a_time_comes_to_its_end(build_on_noise, options):
    context = build_on_noise(SHAPES3D, *options, images=8)
    run_pipeline(context)
    rows = read_log(context.stages["code"].folder / "log.csv")
    assert [float(row["code_std"]) for row in rows] == [0.0] * len(rows)
    assert all(float(row["loss"]) > 0 for row in rows)


@pytest.mark.parametrize("rows", ["trainer.accumulate=8", "code.train.batch_size=1"])
def test_a_code_that_is_normalised_over_one_image_is_refused(build_on_noise, rows, tmp_path):
    with pytest.raises(UserError, match="code.encoder.code_norm=batch needs at least two images at a time"):
        run_pipeline(build_on_noise(SHAPES3D, rows, "code.encoder.code_norm=batch"))
    assert not list(tmp_path.iterdir())
    two = "code.train.batch_size=2"
    check_batches(build_on_noise(SHAPES3D, two, "code.encoder.code_norm=batch"))
