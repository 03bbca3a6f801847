"""Two processes on the CPU do what one does with the same whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ldm.data.batches import StepSampler, TensorBatches, build_loader
from ldm.errors import UserError
from ldm.training.log import read_log
from ldm.training.ranks import BatchPart, Ranks, SharedDraws, main_first, read_ranks, share_loader

SCRIPT = Path(__file__).with_name("ddp_stages.py")
EXACT = ("latent_diffusion", "code")  # the discriminator's BatchNorm sees each process's own images


def run_script(folder, *launcher):
    """Run the script in a folder; a process alone has no launcher."""
    folder.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[3])}
    command = [sys.executable, *launcher, str(SCRIPT), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def load(folder, name, rank, size):
    """The weights that one process ended with."""
    return torch.load(folder / name / f"weights-{rank}-of-{size}.pt", weights_only=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of the same stages trained by one process and by two."""
    root = tmp_path_factory.mktemp("ddp")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return run_script(root / "alone", *()), run_script(root / "shared", *launcher)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_two_processes_log_the_losses_of_one(trained, name):
    alone, shared = (read_log(folder / name / "log.csv") for folder in trained)
    assert len(alone) == len(shared) == 8
    terms = {
        "latent_diffusion": {"loss"},
        "code": {"loss", "reconstruction", "kl", "invariant", "variant"},
    }
    for a, b in zip(alone, shared, strict=True):
        assert terms[name] <= a.keys()
        for term in terms[name]:
            assert a[term] == b[term] or float(b[term]) == pytest.approx(float(a[term]), rel=1e-6, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_two_processes_learn_the_weights_of_one(trained, name):
    alone, shared = load(trained[0], name, 0, 1), load(trained[1], name, 0, 2)
    for part in ("trained", "result"):
        for key, tensor in alone[part].items():
            torch.testing.assert_close(shared[part][key], tensor, rtol=1e-6, atol=1e-8, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adversarial", *EXACT])
def test_all_processes_end_with_the_same_weights_and_one_writes(trained, name):
    first, second = (load(trained[1], name, rank, 2)["trained"] for rank in (0, 1))
    running = ("running_mean", "running_var")  # of BatchNorm: process 0's count
    assert all(torch.equal(first[key], second[key]) for key in first if not key.endswith(running))
    files = {path.name for path in (trained[1] / name).iterdir()}
    assert {"log.csv", "resume.ckpt"} <= files and not any(".part" in file for file in files)


@pytest.mark.parametrize("size", [2, 4])
def test_processes_draw_the_rows_of_what_one_draws(size):
    def draw():
        generator = torch.Generator().manual_seed(3)
        count = 8 // sharing
        return [
            torch.randn((count, 2, 3), generator=generator),
            torch.randint(3, 9, (count,), generator=generator),
            torch.rand(count, 2, generator=generator),
            torch.randint(1000, (count,), generator=generator),
        ]

    sharing = 1
    alone = draw()
    sharing, parts = size, []
    for rank in range(size):
        with SharedDraws(BatchPart(rank, size)):
            parts.append(draw())
            assert torch.randn(5).shape == (5,)  # of no generator
    assert all(
        torch.equal(torch.cat(shares), a) for shares, a in zip(zip(*parts, strict=True), alone, strict=True)
    )


def test_processes_read_the_rows_of_what_one_reads():
    batches = TensorBatches({"x": torch.arange(10)})
    loader = build_loader(batches, StepSampler(10, 6, 5, seed=1), num_workers=0, pin_memory=False)
    whole = [batch["x"] for batch in loader]
    shares = [[b["x"] for b in share_loader(loader, Ranks(rank, 3, 3))] for rank in range(3)]
    assert all(len(share) == 5 and len(share[0]) == 2 for share in shares)
    assert all(
        torch.equal(torch.cat(parts), batch)
        for parts, batch in zip(zip(*shares, strict=True), whole, strict=True)
    )
    assert share_loader(loader, Ranks()) is loader


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(UserError, match="16 cannot be split into 3 equal parts"):
        Ranks(0, 3, 3).part.rows(16)


def test_a_process_that_torchrun_did_not_start_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # as schedulers set it
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert read_ranks() == Ranks(0, 1, 1) and read_ranks().is_main
    with main_first() as first:
        assert first
    assert Ranks().trainer_options("cpu") == {"devices": 1}


def test_torchrun_says_which_process_this_is(monkeypatch):
    names = ("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    for name, value in zip(names, ("x", "5", "8", "4"), strict=True):
        monkeypatch.setenv(name, value)
    ranks = read_ranks()
    assert ranks == Ranks(5, 8, 4) and not ranks.is_main and ranks.part.rows(16) == slice(10, 12)
    options = ranks.trainer_options("cpu")
    assert (options["devices"], options["num_nodes"]) == (4, 2)
