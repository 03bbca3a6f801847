import pytest
import torch
from torch import nn

from ldm.nn.layers import freeze
from ldm.training.optimizer import Budget, TrainSettings
from ldm.training.stage_task import StageTask


def test_what_is_frozen_stays_so_through_train(tiny_task):
    task = tiny_task().train()
    assert task.trained.training
    assert not task.frozen.training
    assert not any(parameter.requires_grad for parameter in task.frozen.parameters())


def test_a_module_that_another_task_froze_learns_again(train_config):
    module = freeze(
        nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    )  # as when a later stage's task was built first
    task = StageTask(module, TrainSettings(train_config(), Budget(4, 30, 1e-2), seed=0))
    assert all(parameter.requires_grad for parameter in task.trained.parameters())
    assert all(module.training for module in task.trained.modules())
    assert not any(module.training for module in task.ema.average.modules())


def test_a_step_draws_from_its_own_generator(tiny_task):
    one, two, other = tiny_task(), tiny_task(), tiny_task(seed=1)

    def draw(task, step):
        return torch.rand(3, generator=task.step_generator(step))

    draw(one, 4)
    assert torch.equal(draw(one, 5), draw(two, 5))
    assert not torch.equal(draw(two, 5), draw(two, 6))
    assert not torch.equal(draw(two, 5), draw(other, 5))


@pytest.mark.parametrize("averaged", [True, False])
def test_the_result_is_the_average_where_there_is_one(tiny_task, train_config, averaged):
    task = tiny_task()
    if not averaged:
        task = type(task)(train_config(ema_decay=None))
    assert task.result is (task.ema.average if averaged else task.trained)


def test_a_module_trained_by_one_optimiser_follows_the_schedule(tiny_task):
    task = tiny_task()
    options = task.configure_optimizers()
    schedule, rates = options["lr_scheduler"]["scheduler"], []
    for _ in range(6):
        rates.append(options["optimizer"].param_groups[0]["lr"])
        options["optimizer"].step()
        schedule.step()
    assert options["lr_scheduler"]["interval"] == "step"
    assert rates[0] == pytest.approx(task.budget.learning_rate / 5)  # five steps of warm-up
    assert max(rates) == rates[4] <= task.budget.learning_rate
