"""Published values for `disdiff compare`, each with its protocol, data and source.

A value is shown only beside runs on the published files of its data and under its protocol, never with
procedural data. Values of a system that this package has stand beside runs of that system, those of others
(VCT, FDAE) beside all runs. Those of PDAE were read in its released code; the rest are the papers' tables as
later papers cite them.
"""

from dataclasses import dataclass

FACTOR_VAE, DCI, TAD, FID = "FactorVAE score", "DCI disentanglement", "TAD", "FID, 10,000 images"


@dataclass(frozen=True)
class Published:
    """Values of one system from one source.

    Attributes:
        title: name of the system in its paper.
        system: the system of this package whose runs it stands beside, by its name in `metrics.json`; None
            for a system that this package does not have.
        data: name as in `metrics.json`.
        protocol: protocol of the disentanglement scores; None if `values` has no such scores, so that any
            protocol fits.
        values: values by row of the comparison.
        measured: data and procedure in words.
        source: source of the values.
    """

    title: str
    system: str | None
    data: str
    protocol: str | None
    values: dict[str, float]
    measured: str
    source: str


def of_paper(
    title: str,
    system: str | None,
    source: str,
    *,
    celeba: tuple[float, float] | None = None,
    **scores: tuple[float, float],
) -> list[Published]:
    """The entries of one system from one paper.

    Args:
        title: as in `Published`.
        system: as in `Published`.
        source: as in `Published`.
        celeba: TAD and FID on CelebA; None if they are not given.
        scores: FactorVAE score and DCI disentanglement by data set.
    """
    measured = "mean over training seeds, at the sizes and budget of the paper"
    rows = [
        ("paper", data, dict(zip((FACTOR_VAE, DCI), pair, strict=True)), measured)
        for data, pair in scores.items()
    ]
    if celeba is not None:
        rows.append((None, "celeba", dict(zip((TAD, FID), celeba, strict=True)), f"{measured}; 64x64 pixels"))
    return [
        Published(title, system, data, protocol, values, words, source)
        for protocol, data, values, words in rows
    ]


DISDIFF = "Yang et al. 2023, arXiv:2301.13721"
ENCDIFF = "Yang et al. 2024, arXiv:2402.09712"
LISTED = f"as listed in {DISDIFF}"
PUBLISHED = (
    Published(
        title="PDAE",
        system="pdae",
        data="celeba_hq",
        protocol=None,
        values={"SSIM, inferred noise": 0.994, "MSE, inferred noise": 3.84e-5},
        measured="trained on FFHQ, 30,000 CelebA-HQ images of 128x128, 1000 encoding and 100 decoding steps",
        source="README of the released code",
    ),
    *of_paper(
        *("DisDiff-VQ", "disdiff", DISDIFF),
        celeba=(0.305, 18.2),
        cars3d=(0.976, 0.232),
        shapes3d=(0.902, 0.723),
        mpi3d_toy=(0.617, 0.337),
    ),
    *of_paper(
        *("EncDiff", "encdiff", ENCDIFF),
        celeba=(0.638, 14.8),
        cars3d=(0.773, 0.279),
        shapes3d=(0.999, 0.969),
        mpi3d_toy=(0.872, 0.685),
    ),
    *of_paper(
        *("DyGA with skip dropout", "dyga", "Jun et al. 2024, arXiv:2410.23820"),
        celeba=(0.954, 13.0),
        cars3d=(0.941, 0.414),
        shapes3d=(1.000, 0.938),
        mpi3d_toy=(0.930, 0.627),
    ),
    *of_paper(
        *("VCT", None, f"as listed in {ENCDIFF}"),
        cars3d=(0.966, 0.382),
        shapes3d=(0.957, 0.884),
        mpi3d_toy=(0.689, 0.475),
    ),
    *of_paper(
        *("FDAE", None, "Wu & Zheng, AAAI 2024"),
        cars3d=(0.918, 0.418),
        shapes3d=(0.987, 0.917),
        mpi3d_real_complex=(0.903, 0.644),
    ),
    *of_paper("beta-VAE", "beta_vae", LISTED, celeba=(0.088, 99.8)),
    *of_paper("Diff-AE, simplified", "diffae", LISTED, celeba=(0.155, 22.7)),
    *of_paper("InfoDiffusion", "infodiffusion", LISTED, celeba=(0.299, 23.6)),
)
