"""How well the MMD of InfoDiffusion holds the scale of a code, for its released kernel and for ours.

Codes of the normal distribution with standard deviation s in d numbers are compared with the prior, s = 1, in
closed form: for two such samples E exp(-||x - y||^2 / w) = (1 + 2 (s^2 + s'^2) / w)^(-d / 2).

python benchmarks/kernels.py [--out docs/kernels.png]
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTHS = {  # w of each exponential, by kernel, as functions of d
    "reference (released)": lambda d: np.array([d**2]),
    "multi_scale (ours)": lambda d: 2 * d * np.array([0.25, 0.5, 1, 2, 4]),
}
NUMBERS = (10, 32, 256)


def mmd_of_scale(kernel: str, std: float, num_numbers: int) -> float:
    """MMD^2 between normal codes of a standard deviation and the standard normal prior."""
    widths = WIDTHS[kernel](num_numbers)

    def mean_kernel(one: float, other: float) -> float:
        """Mean of the kernel over pairs of codes with these standard deviations."""
        return float(((1 + 2 * (one**2 + other**2) / widths) ** (-num_numbers / 2)).mean())

    return mean_kernel(std, std) + mean_kernel(1, 1) - 2 * mean_kernel(std, 1)


def draw() -> Figure:
    """MMD^2 over the standard deviation of the code, one line per kernel and number of numbers."""
    stds = np.linspace(0, 3, 121)
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for kernel, style in zip(WIDTHS, ("--", "-"), strict=True):
        for k, number in enumerate(NUMBERS):
            values = [mmd_of_scale(kernel, std, number) for std in stds]
            axes.plot(stds, values, style, color=f"C{k}", label=f"{kernel}, d = {number}")
    axes.set_yscale("symlog", linthresh=1e-6)
    axes.set(xlabel="standard deviation of the code (the prior has 1)", ylabel="MMD squared", xlim=(0, 3))
    axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Draw the figure, and print what a collapsed code costs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/kernels.png"), help="(docs/kernels.png)")
    out = parser.parse_args().out
    draw().savefig(out)
    for kernel in WIDTHS:
        costs = ", ".join(f"d = {number}: {mmd_of_scale(kernel, 0, number):.2g}" for number in NUMBERS)
        print(f"MMD^2 of a code that is always 0, {kernel}: {costs}")
    print(out)


if __name__ == "__main__":
    main()
