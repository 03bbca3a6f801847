"""Options of the machine give the same losses, and parts of a batch the gradients of the whole."""

import joblib
import pytest
import torch
from torch import nn

from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.method.losses import DisDiffLossConfig
from disdiff.method.tasks import DisDiffTask
from ldm.data.batches import StepSampler, TensorBatches, build_loader
from ldm.errors import UserError
from ldm.training import machine as machines
from ldm.training.fit import fit
from ldm.training.machine import Machine, configure_process, make_resident, prepare, resolve_machine
from ldm.training.optimizer import (
    TrainConfig,
    build_optimizer,
    lay_out_state,
    list_parameters,
    resolve_settings,
)
from ldm.training.threads import use_threads


@pytest.fixture
def build_task(build_tiny_disdiff):
    """Return a function that builds a task of a tiny DisDiff, in float64, with clipped gradients."""

    def build(dtype=torch.float64):
        model = build_tiny_disdiff(fields="random", posterior="gaussian").to(dtype)
        config = TrainConfig(
            images=24, batch_size=8, learning_rate=1e-3, grad_clip=0.5, ema_decay=0.9, checkpoint_seconds=1e9
        )
        loss = DisDiffLossConfig(weight_kl=1e-3)
        settings = resolve_settings(config, 0, "cpu")
        return DisDiffTask(model, loss, FactorEncoderConfig(), settings).to(dtype)

    return build


@pytest.fixture
def batches():
    """Latent statistics of 10 images."""
    generator = torch.Generator().manual_seed(1)
    return TensorBatches({"statistics": torch.randn(10, 8, 8, 8, generator=generator, dtype=torch.float64)})


@pytest.fixture
def train(build_task, batches, tmp_path):
    """Return a function that trains the task on a machine and gives it back."""

    def run(machine):
        task = build_task()
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()

        def make_loader(first_step):
            return build_loader(batches, StepSampler(10, 8, 3, 0, first_step), 0, pin_memory=False)

        fit(task, make_loader, folder, "tiny", machine)
        return task

    return run


def test_parts_of_a_batch_give_the_step_of_the_whole(train):
    whole, parts = (train(Machine("cpu", "64-true", accumulate=count)) for count in (1, 4))
    assert parts.num_parts == 4
    for name, value in whole.stats.items():
        if name not in ("weight_max", "of_frozen", "code_std"):  # of parts, these are no means over images
            torch.testing.assert_close(parts.stats[name], value, rtol=1e-8, atol=1e-12, msg=name)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_a_batch_that_has_no_such_parts_is_refused(train):
    with pytest.raises(UserError, match="8 cannot be split into 3"):
        train(Machine("cpu", "64-true", accumulate=3))


def test_channels_last_gives_the_same_step(train):
    plain, laid_out = (train(Machine("cpu", "64-true", channels_last=last)) for last in (False, True))
    weight = laid_out.model.denoiser.decoder.up[0].res.in_conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(laid_out.state_dict()[name], value, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("mode", ["default", "cuda_graphs"])
def test_what_is_compiled_keeps_its_names_and_losses(build_task, batches, monkeypatch, mode):
    compiled, original = [], nn.Module.compile
    monkeypatch.setattr(  # without generating code, which takes minutes
        nn.Module,
        "compile",
        lambda self, mode: compiled.append((self, mode)) or original(self, backend="eager"),
    )
    batch = batches[torch.arange(8)]
    tasks = build_task(), build_task()
    prepare(tasks[1], Machine("cpu", "64-true", compile=mode))
    modules, modes = zip(*compiled, strict=True)
    assert set(modes) == {machines.COMPILATIONS[mode]} and tasks[1].trained.decoder in modules
    assert not {tasks[1], *tasks[1].ema.modules()} & set(modules)
    assert not any(isinstance(module, nn.Conv2d | nn.GroupNorm) for module in modules)
    losses, gradients = [], []
    for task in tasks:
        loss = task.compute_loss(batch, 0, task.step_generator(0))
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, list(task.trained.parameters()), allow_unused=True))
    torch.testing.assert_close(*losses, rtol=1e-9, atol=0)
    assert tasks[0].state_dict().keys() == tasks[1].state_dict().keys()
    for a, b in zip(*gradients, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-10)


def test_resident_latents_are_the_same_batches(batches):
    loader = build_loader(batches, StepSampler(10, 8, 3, 0), 0, pin_memory=False)
    assert make_resident(loader, Machine("cpu", "32-true")) is loader  # of no use on a CPU
    resident = make_resident(loader, Machine("cpu", "32-true", resident="always"))
    assert resident is not loader
    for a, b in zip(loader, resident, strict=True):
        assert torch.equal(a["statistics"], b["statistics"])


def test_latents_that_do_not_fit_stay_where_they_are(batches, monkeypatch):
    free = len(batches) * 8 * 8 * 8 * 8 / machines.RESIDENT_SHARE
    for room, expected in ((free, True), (free - 8, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda room=room: (room, 2 * room))
        assert machines.fits(batches) is expected
    loader = build_loader(batches, StepSampler(10, 8, 3, 0), 0, pin_memory=False)
    assert make_resident(loader, Machine("cuda", "32-true")) is loader


def test_moments_follow_the_layout_of_their_parameters():
    start = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    learned = []
    for saved_layout in (torch.contiguous_format, torch.channels_last):
        first = nn.Parameter(start.clone(memory_format=saved_layout))
        optimizer = build_optimizer(TrainConfig(), [first], 0.1)
        first.grad = first.detach().clone()
        optimizer.step()
        second = nn.Parameter(first.detach().clone(memory_format=torch.channels_last))
        resumed = build_optimizer(TrainConfig(), [second], 0.1)
        resumed.load_state_dict(optimizer.state_dict())
        lay_out_state(resumed)
        assert list_parameters(resumed) == [second]
        second.grad = (start.abs() + 0.1).clone(memory_format=torch.channels_last)
        resumed.step()
        learned.append(second.detach().contiguous())
    torch.testing.assert_close(*learned, rtol=1e-6, atol=1e-7)


def test_tf32_is_a_precision_of_its_own(monkeypatch):
    assert resolve_machine("cpu", "tf32").tf32 and resolve_machine("cpu", "tf32").precision == "32-true"
    assert not resolve_machine("cpu", "float32").tf32
    before = torch.backends.cudnn.allow_tf32
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    try:
        for chosen in (True, False):
            prepare(nn.Identity(), Machine("cuda", "32-true", tf32=chosen))
            assert all(flag.allow_tf32 is chosen for flag in flags)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before, False


@pytest.mark.parametrize("option", [{"compile": "fast"}, {"resident": "gpu"}])
def test_unknown_options_are_refused(option):
    with pytest.raises(UserError, match=f"trainer.{next(iter(option))}"):
        resolve_machine("cpu", "auto", **option)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compilation", ["none", "default", "cuda_graphs"])
def test_on_cuda_every_option_gives_the_losses_of_the_cpu(build_task, batches, compilation):
    batch = batches[torch.arange(8)]
    expected, task = build_task(), build_task()
    expected.compute_loss(batch, 0, expected.step_generator(0))
    prepare(task, Machine("cuda", "32-true", compile=compilation, channels_last=True))
    task.cuda()
    moved = {name: tensor.cuda() for name, tensor in batch.items()}
    for _ in range(4):  # recording of a graph follows warm-up
        torch.compiler.cudagraph_mark_step_begin()
        task.compute_loss(moved, 0, torch.Generator().manual_seed(0)).backward()
    torch.testing.assert_close(task.stats["loss"].cpu(), expected.stats["loss"], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("device", "kept"), [("cpu", ["kept"]), ("cuda", [])])
def test_a_process_on_a_cpu_keeps_its_memory(device, kept, monkeypatch):
    told, threads = [], torch.get_num_threads()
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.setattr("ldm.training.machine.keep_freed_memory", lambda: told.append("kept"))
    configure_process(Machine(device, "32-true"), threads)
    assert told == kept and torch.get_num_threads() == threads


def test_a_fixed_number_of_threads_holds_for_joblib_too(monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # so that it is put back afterwards
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
    cores, machine = joblib.cpu_count(), Machine("cpu", "32-true")
    monkeypatch.setattr("ldm.training.machine.keep_freed_memory", lambda: None)
    configure_process(machine, None)
    assert joblib.cpu_count() == cores
    with use_threads(torch.get_num_threads()):
        configure_process(machine, 1)
    assert joblib.cpu_count() == 1
