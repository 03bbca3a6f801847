"""Measure the cost of training steps, of sampling, data and metrics, and compare with the loop over units.

usage:
  python benchmarks/steps.py                                all parts; about 15 minutes on two cores
  python benchmarks/steps.py --presets small --only steps units
  python benchmarks/steps.py --threads 2 --rounds 9 --out here.json

Parts:
  steps      the training step of each stage, the last one compared with the plain loop (`loop_baseline.py`)
  units      cost of the last stage's step as N grows
  memory     peak memory of a step
  sampling   DDIM and a grid of swaps, extrapolated from some timed steps
  data       reading compared with training (`data_rates.py`)
  metrics    every metric (`metrics.py`)
  busy       the last stage's step with zero, one and two busy processes, with the number of threads that a
             trial chooses, with one thread, and with all

Results of other presets and parts in the output file are kept. Weights are random and images procedural,
which does not change the cost. Ratios within one run are meaningful; seconds on a busy machine are not.
Writes a JSON file and a picture with the same name.
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import metrics
import torch
from data_rates import measure_data
from matplotlib.figure import Figure
from timing import (
    STAGES,
    TrainingStep,
    anonymous_megabytes,
    build_step,
    busy_processes,
    compare,
    describe_machine,
    forget_peak,
    matrix_rate,
    time_in_turn,
)

from disdiff.commands.terminal import begin_parser, run_script
from disdiff.editing.units import sample_start
from disdiff.method.model import DisDiff
from disdiff.report.pictures import draw_swap
from disdiff.runs.overview import TRIAL_STEPS
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig, sample_ddim
from ldm.files import atomic_path, load_json, save_json
from ldm.training.threads import (
    ALL_THREADS,
    choose_count,
    describe_choice,
    list_counts,
    screen_counts,
    time_counts,
    use_threads,
)

PARTS = ("steps", "units", "memory", "sampling", "data", "metrics", "busy")
BUSY = (0, 1, 2)
UNITS = (1, 2, 5, 10, 20)
DDIM_STEPS, TIMED_STEPS = 50, 5
SWAP_IMAGES = 8
QUICK = {
    "autoencoder": ["autoencoder.network.channels=8", "autoencoder.network.num_groups=4"],
    "unet": ["channels=8", "num_groups=4", "num_res_blocks=1", "num_heads=2"],
    "encoder": ["code.encoder.channels=8"],
}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__)
    parser.add_argument("--presets", nargs="+", choices=("paper", "small"), default=["paper", "small"])
    parser.add_argument("--only", "--parts", dest="parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--batch-size", type=int, default=16, help="batch size (default: 16)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the median is used (default: 5)")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: PyTorch's)")
    parser.add_argument("--images", type=int, default=64, help="images per sampling batch (default: 64)")
    parser.add_argument(
        "--ddim-steps", type=int, default=TIMED_STEPS, help="timed steps, scaled to 50 (default: 5)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks, to test the script only")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/steps.json"), help="JSON")
    return parser


def shrink(preset: str, quick: bool) -> list[str]:
    """Overrides that make every network tiny, for `--quick`."""
    if not quick:
        return []
    unet = [f"latent_diffusion.unet.{option}" for option in QUICK["unet"][: 4 if preset == "paper" else 2]]
    width = ["code.decoder.channels=8"] if preset == "small" else []
    return [*QUICK["autoencoder"], *unet, *QUICK["encoder"], *width]


def measure_steps(preset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a training step of each stage, and how many times slower the plain loop is."""
    overrides, size = shrink(preset, arguments.quick), arguments.batch_size
    steps: dict[str, TrainingStep] = {name: build_step(preset, name, size, overrides) for name in STAGES}
    steps["code, loop over units"] = build_step(preset, "code", size, overrides, looped=True)
    timings = time_in_turn(steps, arguments.rounds)
    result = {name: timing.summary() for name, timing in timings.items()}
    for summary in result.values():
        summary["images_per_second"] = size / summary["seconds"]
    faster = compare(timings["code, loop over units"], timings["code"])
    say(
        f"{preset}: the step of stage 3 is {faster['ratio']:.2f} times as fast as the loop "
        f"({faster['least']:.2f} to {faster['most']:.2f}; by processor time {faster['processor_ratio']:.2f})"
    )
    num_units = steps["code"].task.model.num_units
    return {"num_units": num_units, "seconds": result, "loop_over_fast": faster}


def measure_units(preset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the last stage's step as N grows, and as a multiple of N = 1."""
    overrides = shrink(preset, arguments.quick)
    steps = {
        str(count): build_step(preset, "code", arguments.batch_size, [*overrides, f"code.num_units={count}"])
        for count in UNITS
    }
    timings = time_in_turn(steps, arguments.rounds)
    multiples = {count: compare(timing, timings["1"]) for count, timing in timings.items()}
    for count, multiple in multiples.items():
        say(f"{preset}: N = {count} costs {multiple['ratio']:.2f} times N = 1")
    seconds = {count: timing.summary() for count, timing in timings.items()}
    return {"seconds": seconds, "times_one_unit": multiples}


def peak_of(preset: str, batch_size: int, overrides: list[str], looped: bool) -> float | None:
    """Peak memory of two steps in megabytes, above the memory used before."""
    step = build_step(preset, "code", batch_size, overrides, looped)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        forget_peak()  # forget the peak of building, which renders images
        before = anonymous_megabytes(peak=True)
    for _ in range(2):
        step()
    if torch.cuda.is_available():
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    return None if before is None else anonymous_megabytes(peak=True) - before


def measure_memory(preset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of the fast step and of the loop, each in a separate process."""
    peaks = {}
    for name, looped in (("one pass", False), ("loop over units", True)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            overrides = shrink(preset, arguments.quick)
            peaks[name] = pool.apply(peak_of, (preset, arguments.batch_size, overrides, looped))
        if peaks[name] is not None:
            say(f"{preset}: {name} needs {peaks[name]:.0f} MB at its peak")
    return {"megabytes": peaks}


@torch.no_grad()
def measure_sampling(preset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of DDIM with all units for many images, and of a grid of swaps, scaled to 50 steps."""
    step = build_step(preset, "code", 2, shrink(preset, arguments.quick))
    model: DisDiff = step.task.model.eval()
    generator = torch.Generator().manual_seed(0)
    image = to_float(torch.randint(0, 256, (arguments.images, 3, 64, 64), generator=generator))
    image = image.to(step.task.device)
    z_T = sample_start(model, len(image), 64, generator)
    code, sampler = model.encode(image), SamplerConfig("ddim", arguments.ddim_steps)
    few = [part[:SWAP_IMAGES] for part in (image, image.flip(0))]
    swaps = [[unit] for unit in range(model.num_units)]
    runs: dict[str, Callable[[], object]] = {
        "ddim": lambda: sample_ddim(model.eps_fn(code), model.schedule, z_T, sampler.num_steps),
        "swap grid": lambda: draw_swap(model, *few, swaps, sampler, z_T[:SWAP_IMAGES]),
    }
    timings = time_in_turn(runs, max(1, arguments.rounds // 2), warm_up=0)
    scale = DDIM_STEPS / arguments.ddim_steps
    result = {name: timing.summary() | {"steps_timed": sampler.num_steps} for name, timing in timings.items()}
    for name, summary in result.items():
        summary[f"seconds_of_{DDIM_STEPS}_steps"] = scale * summary["seconds"]
        say(f"{preset}: {name} takes {scale * summary['seconds']:.1f} s in {DDIM_STEPS} steps")
    return {"images": len(image), "swaps": len(few[0]) * len(swaps), **result}


def measure_reading(preset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Images per second of every way of reading, compared with training."""
    overrides = shrink(preset, arguments.quick)
    steps = {name: build_step(preset, name, arguments.batch_size, overrides) for name in STAGES}
    return measure_data(steps, arguments.batch_size, arguments.rounds, 512 if arguments.quick else 4096)


def measure_busy(preset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps per second of the last stage next to busy processes, by choice of the number of threads."""
    step = build_step(preset, "code", arguments.batch_size, shrink(preset, arguments.quick))
    counts, rows = list_counts(None, "cpu"), {}
    for busy in BUSY:
        with busy_processes(busy):
            seconds = time_counts(step, screen_counts(counts), TRIAL_STEPS)
            threads = {"chosen": choose_count(seconds), "one": 1, "all": ALL_THREADS}
            runs = {count: partial(run_with_threads, step, count) for count in set(threads.values())}
            timings = time_in_turn(runs, arguments.rounds)
        rows[str(busy)] = {
            "trial": describe_choice(seconds),
            **{
                name: {"threads": count, "steps_per_second": 1 / timings[count].summary()["seconds"]}
                for name, count in threads.items()
            },
        }
        for name in threads:
            row = rows[str(busy)][name]
            row["share_of_idle"] = row["steps_per_second"] / rows["0"]["chosen"]["steps_per_second"]
        told = ", ".join(f"{name} {rows[str(busy)][name]['steps_per_second']:.3g}" for name in threads)
        shares = f"{rows[str(busy)]['chosen']['share_of_idle']:.2f} of the idle rate"
        say(f"{preset}: beside {busy} busy processes {told} steps/s; as chosen {shares}")
        say(f"{preset}: {rows[str(busy)]['trial']}")
    idle = {name: rows["0"][name]["steps_per_second"] for name in ("chosen", "all")}
    ratio = idle["all"] / idle["chosen"]
    say(f"{preset}: idle, the step as chosen takes {ratio:.2f} times as long as with all threads")
    return {"beside_busy_processes": rows, "idle_chosen_over_all": ratio}


def run_with_threads(step: Callable[[], object], count: int) -> None:
    """Run a step with the given number of threads."""
    with use_threads(count):
        step()


def measure_metrics() -> dict[str, Any]:
    """Seconds of every metric of protocol `paper` on 15,000 rows of 10 units."""
    options = metrics.make_parser().parse_args(["--data", "shapes3d", "--units", "10"])
    return {
        name: metrics.measure(*arrays, "paper", options)
        for name, arrays in metrics.list_cases(options).items()
    }


MEASURES = {
    "steps": measure_steps,
    "units": measure_units,
    "memory": measure_memory,
    "sampling": measure_sampling,
    "data": measure_reading,
    "busy": measure_busy,
}


def say(line: str) -> None:
    """Print a line and flush."""
    print(line, flush=True)


def draw(path: Path, content: dict[str, Any]) -> None:
    """Plot the step of the last stage (one pass and loop) and its cost over N."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    bars, line = figure.subplots(1, 2)
    names = [preset for preset, result in content["results"].items() if "steps" in result]
    for offset, key in ((-0.2, "code, loop over units"), (0.2, "code")):
        seconds = [content["results"][name]["steps"]["seconds"][key]["seconds"] for name in names]
        label = "one pass" if key == "code" else "loop over units"
        drawn = bars.bar([i + offset for i in range(len(names))], seconds, 0.4, label=label)
        bars.bar_label(drawn, fmt="%.3g s")
    bars.set_xticks(range(len(names)), names)
    bars.set_yscale("log" if names else "linear")
    bars.margins(y=0.12)  # space for the numbers
    bars.set(ylabel="seconds", title=f"Training step of stage 3, batch {content['batch_size']}")
    for name, result in content["results"].items():
        if "units" in result:
            multiples = result["units"]["times_one_unit"]
            line.plot(list(map(int, multiples)), [m["ratio"] for m in multiples.values()], "o-", label=name)
    line.set(xlabel="units N", ylabel="times N = 1", title="Cost of the step")
    for axes in (bars, line):
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    machine = content["machine"]
    figure.suptitle(f"{machine['processor']}, {machine['threads']} threads, {machine['date']}", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def main(arguments: argparse.Namespace) -> None:
    """Measure the chosen parts, print them, and write JSON and picture."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    earlier = load_json(arguments.out) if arguments.out.exists() else {}
    content = {
        "machine": describe_machine() | {"matrix_gflops": matrix_rate() / 1e9},
        "weights": "random, tiny networks" if arguments.quick else "random",
        "data": "procedural",
        "batch_size": arguments.batch_size,
    }
    same = all(earlier.get(key) == content[key] for key in ("weights", "batch_size"))
    content["results"] = (earlier.get("results") if same else None) or {}
    content["metrics"] = earlier.get("metrics") if same else None
    for preset in arguments.presets:
        for part in (part for part in arguments.parts if part in MEASURES):
            start = time.perf_counter()
            measured = MEASURES[part](preset, arguments)
            content["results"].setdefault(preset, {})[part] = measured | {"machine": describe_machine()}
            say(f"{preset}: {part} measured in {time.perf_counter() - start:.0f} s")
            save_json(arguments.out, content)
    if "metrics" in arguments.parts:
        content["metrics"] = measure_metrics()
        save_json(arguments.out, content)
    draw(arguments.out.with_suffix(".png"), content)
    say(json.dumps({"written": [str(arguments.out), str(arguments.out.with_suffix(".png"))]}))


if __name__ == "__main__":
    run_script(main, make_parser())
