"""Published values, beside which `disdiff compare` sets ours, each with the protocol and data it was
measured on.

Only values that were read at their source stand here. A value is shown where system, data and protocol are
the same, and never beside procedural data.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Values of one system from one source.

    Attributes:
        system: as in `metrics.json`.
        data: as in `metrics.json`.
        protocol: of the disentanglement scores; None when `values` has none and any protocol will do.
        values: by row of the comparison.
        measured: on what and how, in words.
        source: where the values were read.
    """

    system: str
    data: str
    protocol: str | None
    values: dict[str, float]
    measured: str
    source: str


PUBLISHED = (
    Published(
        system="pdae",
        data="celeba_hq",
        protocol=None,
        values={"SSIM, inferred noise": 0.994, "MSE, inferred noise": 3.84e-5},
        measured="trained on FFHQ, 30,000 CelebA-HQ images of 128x128, 1000 encoding and 100 decoding steps",
        source="README of the released code",
    ),
)
