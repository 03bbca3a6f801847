"""Published values for `disdiff compare`, each with its protocol and data.

Every value was checked at its source. A value is shown only for the same system, data and protocol, and never
with procedural data.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Values of one system from one source.

    Attributes:
        system: name as in `metrics.json`.
        data: name as in `metrics.json`.
        protocol: protocol of the disentanglement scores; None if `values` has no such scores, so that any
            protocol fits.
        values: values by row of the comparison.
        measured: data and procedure in words.
        source: source of the values.
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
