"""The benchmarks of the training step, on tiny networks: what they time, say and write."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

TINY = [
    "latent_diffusion.unet.channels=8",
    "latent_diffusion.unet.num_groups=4",
    "code.decoder.channels=8",
    "code.encoder.channels=16",  # 2 a group: alone in its group, a bias before the norm has no gradient
    "code.num_units=3",
]


@pytest.fixture
def run_script(monkeypatch, load_benchmark, capsys):
    """Return a function that runs a benchmark as the command line does and gives what it said."""

    def run(name, *arguments):
        script = load_benchmark(name)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        script.run_script(script.main, script.make_parser())
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_steps_of_the_small_preset_and_the_data_that_they_read(run_script, load_benchmark, tmp_path):
    load_benchmark("data_rates").BATCHES_PER_ROUND = 2
    out = tmp_path / "steps.json"
    chosen = ("--presets", "small", "--only", "steps", "data", "--batch-size", 2, "--rounds", 2)
    said = run_script("steps", "--quick", *chosen, "--out", out)
    assert "times as fast as the loop" in said and "of a step)" in said
    written = json.loads(out.read_text())
    assert out.with_suffix(".png").stat().st_size > 1000
    assert written["weights"] == "random, tiny networks" and written["machine"]["threads"] >= 1
    result = written["results"]["small"]
    stages = {*load_benchmark("timing").STAGES, "code, loop over units"}
    assert set(result["steps"]["seconds"]) == stages
    ratio = result["steps"]["loop_over_fast"]
    assert ratio["least"] <= ratio["ratio"] <= ratio["most"]
    ways = {"procedural", "h5", "latents", "latents and images"}
    assert set(result["data"]["reading_images_per_second"]) == ways
    assert set(result["data"]["share"]["code"]) == {"latents"}


def test_a_step_beside_busy_processes(run_script, load_benchmark, tmp_path, monkeypatch):
    out, threads, started = tmp_path / "steps.json", torch.get_num_threads(), []
    steps, popen = load_benchmark("steps"), subprocess.Popen
    monkeypatch.setattr(steps, "list_counts", lambda fixed, device: [1, 2])
    monkeypatch.setattr(steps, "ALL_THREADS", 2)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    chosen = ("--presets", "small", "--only", "busy", "--batch-size", 2, "--rounds", 1)
    said = run_script("steps", "--quick", *chosen, "--out", out)
    result = json.loads(out.read_text())["results"]["small"]["busy"]
    rows = result["beside_busy_processes"]
    assert set(rows) == {"0", "1", "2"} and all(f"beside {busy} busy processes" in said for busy in rows)
    for row in rows.values():
        assert row["one"]["threads"] == 1 and row["all"]["threads"] == 2 and "threads: " in row["trial"]
        idle = rows["0"]["chosen"]["steps_per_second"]
        assert row["one"]["share_of_idle"] == pytest.approx(row["one"]["steps_per_second"] / idle)
    idle = {name: rows["0"][name]["steps_per_second"] for name in ("chosen", "all")}
    assert result["idle_chosen_over_all"] == pytest.approx(idle["all"] / idle["chosen"])
    assert torch.get_num_threads() == threads
    assert len(started) == 3 and all(process.returncode is not None for process in started)


@pytest.mark.slow
def test_every_part_of_both_presets(run_script, load_benchmark, tmp_path):
    load_benchmark("steps").UNITS = (1, 2)
    load_benchmark("metrics").NUM_ROWS = 2_000
    measure = load_benchmark("metrics").measure
    load_benchmark("metrics").measure = lambda codes, factors, protocol, options: measure(
        codes, factors, "fast", options
    )
    out = tmp_path / "steps.json"
    sizes = ("--batch-size", 2, "--rounds", 1, "--images", 8, "--ddim-steps", 2)
    said = run_script("steps", "--quick", *sizes, "--out", out)
    for preset in ("paper", "small"):
        assert f"{preset}: ddim takes" in said and f"{preset}: one pass needs" in said
    written = json.loads(out.read_text())
    results = written["results"].values()
    assert {"dci", "mig", "factor_vae"} <= set(written["metrics"]["shapes3d N=10"]["seconds"])
    assert all(
        len(result) == 6 and result["units"]["times_one_unit"]["1"]["ratio"] == 1 for result in results
    )


def test_parts_that_were_measured_before_stay(run_script, load_benchmark, tmp_path):
    steps, out = load_benchmark("steps"), tmp_path / "steps.json"
    steps.measure_metrics = lambda: {"case": {"seconds": {"mig": 1.0}}}
    steps.MEASURES["memory"] = lambda preset, arguments: {"megabytes": {"one pass": 1.0}}
    for only, size in (("memory", 2), ("metrics", 2)):
        run_script("steps", "--presets", "small", "--only", only, "--batch-size", size, "--out", out)
    written = json.loads(out.read_text())
    assert written["results"]["small"]["memory"]["megabytes"] == {"one pass": 1.0}
    assert written["metrics"] == {"case": {"seconds": {"mig": 1.0}}}
    run_script("steps", "--presets", "small", "--only", "metrics", "--batch-size", 3, "--out", out)
    assert json.loads(out.read_text())["results"] == {}  # of another batch size


def test_a_profile_counts_operations_of_every_part(run_script, tmp_path):
    out = tmp_path / "profile.json"
    sizes = ("--preset", "small", "--batch-size", 2, "--rounds", 1, "--out", out)
    said = run_script("profile_step", *sizes, "--overrides", *TINY)
    assert "of a matrix product's" in said and "gradient fields" in said and "aten::" in said
    written = json.loads(out.read_text())
    forward = written["flops"]["parts_forward"]
    assert forward["gradient fields"] > forward["denoiser, down path"] > 0
    assert written["flops"]["all"] > sum(forward.values()) and written["operator_calls"] > 500
    assert written["parts_seconds"]["loss and gradients"] > written["parts_seconds"]["gradient fields"]


@pytest.mark.slow
def test_more_operations_with_more_units_and_as_many_more_in_a_loop(load_benchmark):
    profiling, build = load_benchmark("profile_step"), load_benchmark("timing").build_step
    flops = {
        (units, looped): profiling.count_flops(
            build("small", "code", 2, [*TINY, f"code.num_units={units}"], looped)
        )["all"]
        for units, looped in ((1, False), (6, False), (6, True))
    }
    assert flops[1, False] < flops[6, False] < flops[6, True]


def test_a_profile_leaves_the_model_as_it_was(load_benchmark):
    profiling, build = load_benchmark("profile_step"), load_benchmark("timing").build_step
    step = build("small", "code", 2, TINY)
    profiling.count_flops(step)
    assert not any(method in vars(module) for module, method in profiling.list_parts(step).values())


def test_what_is_compared_is_timed_in_turn_and_in_both_orders(load_benchmark):
    timing, called = load_benchmark("timing"), []
    runs = {name: lambda name=name: called.append(name) for name in "ab"}
    timings = timing.time_in_turn(runs, rounds=3, warm_up=1)
    assert "".join(called) == "baabbaab"
    assert all(len(each.wall) == len(each.processor) == 3 for each in timings.values())
    slow, fast = (timing.Timing(np.array(t), np.array(t)) for t in ([2.0, 6.0, 40.0], [1.0, 2.0, 10.0]))
    assert timing.compare(slow, fast) == {"ratio": 3.0, "least": 2.0, "most": 4.0, "processor_ratio": 3.0}


def test_a_step_moves_all_that_learns_and_nothing_else(load_benchmark):
    step = load_benchmark("timing").build_step("small", "code", 2, TINY)
    before = {name: tensor.clone() for name, tensor in step.task.state_dict().items()}
    step()
    after = step.task.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    learning = {f"trained.{name}" for name, _ in step.task.trained.named_parameters()}
    assert learning - moved == set() and not any(name.startswith("model.denoiser") for name in moved)
