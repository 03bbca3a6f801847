"""Profile a training step of stage 3: time by part and operator, floating-point operations, achieved rate.

usage:
  python benchmarks/profile_step.py                            preset paper, batch 16
  python benchmarks/profile_step.py --preset small --overrides code.num_units=20
  python benchmarks/profile_step.py --loop                     the plain loop over units instead

`achieved` is the number of floating-point operations of the step divided by its seconds; `of matrix product`
divides this by the rate of a large float32 matrix product, measured in the same run. The time of an operator
excludes the operators that it calls. Weights are random and images procedural, which does not change the
cost. On a GPU, `launches` is the number of kernels per step.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from timing import TrainingStep, build_step, describe_machine, matrix_rate, time_in_turn
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from disdiff.commands.terminal import begin_parser, run_script
from ldm.files import save_json

TOP = 15  # operators printed


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__)
    parser.add_argument("--preset", choices=("paper", "small"), default="paper")
    parser.add_argument("--batch-size", type=int, default=16, help="batch size (default: 16)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median is used (default: 3)")
    parser.add_argument("--threads", type=int, help="number of CPU threads (default: PyTorch's)")
    parser.add_argument("--loop", action="store_true", help="profile the plain loop over units")
    parser.add_argument(
        "--overrides", nargs="*", default=[], metavar="KEY=VALUE", help="configuration overrides"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/profile_step.json"), help="JSON")
    return parser


def list_parts(step: TrainingStep) -> dict[str, tuple[nn.Module, str]]:
    """Parts of the forward pass: name, module and method."""
    model, trained = step.task.model, step.task.trained
    autoencoder = model.latent_space.autoencoder
    return {
        "denoiser, down path": (model.denoiser, "features"),
        "denoiser, up path": (model.denoiser, "decode"),
        "gradient fields": (trained.decoder, "forward"),
        "first-stage decoder": (autoencoder, "decode"),
        "factor encoder": (trained.encoder, "forward"),
        "factor encoder, posterior": (trained.encoder, "posterior"),
    }


class Parts(ExitStack):
    """Context in which calls of the parts are recorded by name and their operations are counted."""

    def __init__(self, step: TrainingStep, counter: FlopCounterMode | None = None) -> None:
        super().__init__()
        self.step, self.counter, self.flops = step, counter, defaultdict(float)

    def __enter__(self) -> "Parts":
        for name, (module, method) in list_parts(self.step).items():
            setattr(module, method, self._recorded(name, getattr(module, method)))
            self.callback(delattr, module, method)  # restores the method of the class
        return super().__enter__()

    def _recorded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def recorded(*args: Any, **kwargs: Any) -> Any:
            before = self._total()
            with record_function(name):
                result = call(*args, **kwargs)
            self.flops[name] += self._total() - before
            return result

        return recorded

    def _total(self) -> float:
        return 0.0 if self.counter is None else self.counter.get_total_flops()


def count_flops(step: TrainingStep) -> dict[str, Any]:
    """Floating-point operations of a step: in total, by operator, and of the forward pass by part."""
    counter = FlopCounterMode(display=False)
    with counter, Parts(step, counter) as parts:
        step()
    kinds = {str(kind): float(count) for kind, count in counter.get_flop_counts()["Global"].items()}
    return {"all": float(counter.get_total_flops()), "kinds": kinds, "parts_forward": dict(parts.flops)}


def profile_operators(step: TrainingStep) -> tuple[dict[str, float], list[dict[str, Any]], int | None]:
    """Seconds of the forward parts, seconds and calls of every operator, and kernels launched on a GPU."""
    cuda = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler, Parts(step) as parts:
        with record_function("loss and gradients"):
            step.compute_gradients()
        with record_function("optimiser and average"):
            step.update()
    averages = profiler.key_averages()
    names = {*list_parts(parts.step), "loss and gradients", "optimiser and average"}
    seconds = {row.key: row.cpu_time_total / 1e6 for row in averages if row.key in names}
    operators = [
        {"operator": row.key, "seconds": row.self_cpu_time_total / 1e6, "calls": row.count}
        for row in averages
        if row.key.startswith("aten::")
    ]
    launches = sum(row.count for row in averages if "LaunchKernel" in row.key) if cuda else None
    return seconds, sorted(operators, key=lambda row: -row["seconds"]), launches


def measure(step: TrainingStep, rounds: int) -> dict[str, Any]:
    """All measurements of one step."""
    timing = time_in_turn(
        {"gradients": step.compute_gradients, "update": step.update, "step": step}, rounds, warm_up=1
    )
    seconds = timing["step"].summary()
    flops, rate = count_flops(step), matrix_rate()
    parts, operators, launches = profile_operators(step)
    busiest = seconds["processor_seconds"] / torch.get_num_threads()
    achieved = flops["all"] / (seconds["seconds"] if torch.cuda.is_available() else busiest)
    return {
        "step": seconds,
        "update": timing["update"].summary(),
        "flops": flops,
        "matrix_gflops": rate / 1e9,
        "achieved_gflops": achieved / 1e9,
        "of_matrix_product": achieved / rate,
        "parts_seconds": parts,
        "operators": operators,
        "operator_calls": sum(row["calls"] for row in operators),
        "launches": launches,
    }


def report(result: dict[str, Any], batch_size: int) -> None:
    """Print the result of `measure`."""
    step, flops = result["step"], result["flops"]
    print(
        f"step {step['seconds']:.3f} s ({step['least']:.3f} to {step['most']:.3f}, processor "
        f"{step['processor_seconds']:.3f} s), {flops['all'] / 1e9:.1f} GFLOP, "
        f"{flops['all'] / 1e9 / batch_size:.2f} a sample, {result['operator_calls']} operator calls"
    )
    print(
        f"achieved {result['achieved_gflops']:.0f} GFLOP/s, {result['of_matrix_product']:.0%} of a matrix "
        f"product's {result['matrix_gflops']:.0f}; optimiser and average {result['update']['seconds']:.3f} s"
    )
    whole = result["parts_seconds"].get("loss and gradients", 0) or 1.0
    print(f"{'part, forward pass':<28}{'share of time':>14}{'GFLOP':>10}")
    for name, seconds in result["parts_seconds"].items():
        flop = flops["parts_forward"].get(name)
        print(f"{name:<28}{seconds / whole:>14.1%}{'' if flop is None else f'{flop / 1e9:.1f}':>10}")
    total = sum(row["seconds"] for row in result["operators"]) or 1.0
    print(f"{'operator':<44}{'share':>8}{'calls':>8}")
    for row in result["operators"][:TOP]:
        print(f"{row['operator']:<44}{row['seconds'] / total:>8.1%}{row['calls']:>8}")


def main(arguments: argparse.Namespace) -> None:
    """Profile a step, print it, and write the JSON."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    machine = describe_machine()
    sizes = arguments.preset, "code", arguments.batch_size, arguments.overrides, arguments.loop
    result = measure(build_step(*sizes), arguments.rounds)
    report(result, arguments.batch_size)
    facts = {"preset": arguments.preset, "batch_size": arguments.batch_size, "looped": arguments.loop}
    save_json(arguments.out, {"machine": machine, **facts, "overrides": arguments.overrides, **result})
    print(arguments.out)


if __name__ == "__main__":
    run_script(main, make_parser())
