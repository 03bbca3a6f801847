"""The claims of the papers that `disdiff claims` tries, as data: what each needs, and how it is judged.

A claim names the runs it needs (`Arm`: a configuration with overrides), further measurements of these runs
(`Measure`: a command), and comparisons of their values (`Check`). Arms of one name are one run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from disdiff.report.comparison import SPEED
from disdiff.report.summary import EDITING, PSNR_ROWS
from disdiff.report.verdicts import Arm, Check

IMAGES = 32_000  # training images of every run, unless its claim says otherwise
SHARED = (
    "trainer.threads=1",
    "latent_dpm.enabled=false",
    f"code.train.images={IMAGES}",
    "evaluation.protocol=fast",
    "evaluation.controls=false",
    "evaluation.num_pairs=0",
)
FACTOR_VAE, DCI = "FactorVAE score", "DCI disentanglement"
INFORMATIVENESS, PARAMETERS = "DCI informativeness", "Parameters, trainable (M)"
SCORES = (FACTOR_VAE, DCI, "DCI completeness", INFORMATIVENESS, "MIG", "InfoM", "InfoE", "InfoC")
RANDOM = PSNR_ROWS["random"]
SWAPS = EDITING["success_mean"]
RIGHT = tuple(f"Swaps right: {factor}" for factor in ("scale", "shape"))


@dataclass(frozen=True)
class Measure:
    """A measurement of a run that training does not make: a command, which writes a JSON file.

    Attributes:
        name: name of the command after `disdiff`.
        options: options of the command.
        rows: name of each value by its place in the JSON file, keys joined by slashes.
        suffix: suffix of the command's `--out`; a picture has its JSON file beside it.
    """

    name: str
    options: tuple[str, ...]
    rows: Mapping[str, str] = field(hash=False)
    suffix: str = ".png"

    @property
    def command(self) -> str:
        """The command, for any run."""
        return " ".join(["disdiff", self.name, "RUN", *self.options])

    def __getitem__(self, place: str) -> str:
        """The row at `place`."""
        return self.rows[place]


MEAN_GAP = Measure(
    "mean-gap",
    ("--num", "256"),
    {
        "mean_ratio": "Gap of the posterior mean, corrected / frozen",
        "lowered_share": "Share of steps t at which the correction lowers the gap",
    },
)
CURVES = Measure(
    "curves",
    (),
    {
        "grad_norm/spike": "Gradient norm, largest / median",
        "of_frozen/last": "Loss / loss of the frozen model",
    },
)
STAGES = Measure(
    "correction-stages",
    ("--num", "128", "--probe"),
    {
        "factors_read/critical/mean": "Factors read, code in the critical stage",
        "factors_read/early/mean": "Factors read, code in the early stage",
        "factors_read/late/mean": "Factors read, code in the late stage",
        "factors_read/always/mean": "Factors read, code always",
        "factors_read/never/mean": "Factors read, code never",
        "factors_read/chance/mean": "Factors read, by chance",
    },
)
COMPOSE = Measure(
    "compose",
    ("--num", "32"),
    {
        "changed/single": "Factors changed, unit alone",
        "changed/pair": "Factors changed, pairs",
        "changed/all": "Factors changed, all units",
        "kept/single": "Other factors kept, unit alone",
        "kept/pair": "Other factors kept, pairs",
        "residual/pair": "Joint change off the sum of single changes, pairs",
        "residual/all": "Joint change off the sum of single changes, all units",
    },
)
NEW_CODES = Measure(
    "new-codes",
    ("--num", "256"),
    {
        "distance/normal": "Distance, normal codes",
        "distance/two_phase": "Distance, normal codes, two-phase",
        "distance/latent_dpm": "Distance, latent DPM",
        "distance/data": "Distance, codes of the data",
        "distance/halves of the data": "Distance, other images of the data",
    },
)
TAD = Measure(
    "tad",
    (),
    {
        "summary/tad_binarised/score": "TAD, binarised factors",
        "summary/tad_binarised/num_captured": "Captured values of factors",
    },
    suffix=".json",
)
GAP, SPIKE, TAD_SCORE = MEAN_GAP["mean_ratio"], CURVES["grad_norm/spike"], TAD["summary/tad_binarised/score"]


@dataclass(frozen=True)
class Claim:
    """A claim of a paper and its trial.

    Attributes:
        number: its number on the page, with the data set if it is tried on several.
        text: the claim.
        made: where it is made.
        reading: what has to be true here for the claim to hold, the checks in words.
        decides: what runs of this size can decide.
        arms: the runs that are compared; all on the same data and protocol.
        rows: values in its table.
        checks: what has to come out; all of them for the claim to hold.
        measures: further measurements of each run.
        unrefuted: why runs of this size can confirm the claim but not refute it; "" if they can.
    """

    number: str
    text: str
    made: str
    reading: str
    decides: str
    arms: tuple[Arm, ...]
    rows: tuple[str, ...]
    checks: tuple[Check, ...]
    measures: tuple[Measure, ...] = ()
    unrefuted: str = ""


PDAE_PAPER = "PDAE, arXiv:2212.12990"
DISDIFF_PAPER = "DisDiff, arXiv:2301.13721"
INFO_PAPER = "InfoDiffusion, arXiv:2306.08757"
ENCDIFF_PAPER = "EncDiff, arXiv:2402.09712"
DYGA_PAPER = "DyGA, arXiv:2410.23820"
ABLATED = (
    "L_in mainly makes the disentangling and L_va adds; the per-image weight, detaching, the unit embedding "
    "and its orthogonality matter."
)

PDAE = Arm("PDAE", "configs/pdae/shapes3d.yaml")
UNWEIGHTED = Arm("PDAE, lambda_t = 1", PDAE.file, ("code.loss.weighting=none",))
HALF_UNET = Arm("PDAE, half U-Net as encoder", PDAE.file, ("trunk.kind=half_unet",))
SAME_ENCODER = Arm(
    "Diff-AE, encoder of PDAE",
    "configs/diffae/shapes3d.yaml",
    ("trunk.kind=pdae", "trunk.channels=16", "code.encoder.input=image"),
)
SIMPLIFIED = Arm("Diff-AE, simplified", "configs/diffae/simplified.yaml")
INFODIFFUSION = Arm(
    "InfoDiffusion", "configs/infodiffusion/shapes3d.yaml", ("latent_dpm.enabled=true",), minutes=6.0
)
ENCDIFF = Arm("EncDiff", "configs/encdiff/shapes3d.yaml")
DYGA = Arm("DyGA", "configs/dyga/shapes3d.yaml")
BETA_VAE = Arm("beta-VAE", "configs/beta_vae/shapes3d.yaml", minutes=2.0)
INFOVAE = Arm("InfoVAE", "configs/infovae/shapes3d.yaml", minutes=2.0)
FACTORVAE = Arm("FactorVAE", "configs/factor_vae/shapes3d.yaml", minutes=2.0)
BETA_TCVAE = Arm("beta-TCVAE", "configs/beta_tcvae/shapes3d.yaml", minutes=2.0)
CELEBA_RIVALS = (BETA_VAE, INFOVAE, SIMPLIFIED, INFODIFFUSION)
WITHOUT_TOKENS = (SIMPLIFIED, BETA_VAE, FACTORVAE, BETA_TCVAE)
SWAPPED = ("evaluation.num_pairs=100",)
SPECTRAL = "configs/disdiff/ablations/eigenmaps_start.yaml"  # needs no pre-training
DISDIFF = Arm("DisDiff, eigenmaps start", SPECTRAL, SWAPPED, minutes=8.0)
CLIP = Arm("DisDiff, guided by CLIP", "configs/disdiff/shapes3d_clip.yaml", SWAPPED, minutes=8.0)
SHIPPED = Arm("DisDiff, the shipped model", "pretrained/shapes3d")

# DisDiff's own losses from the first step, and many small steps; ten units as published. Contradiction is
# that of `small` until 2026-12-01: without it codes of two seeds in three collapsed in so few steps.
RANDOM_START = (
    "code.num_units=10",
    "code.loss.auxiliary.weight=0",
    "code.loss.weight_correlation=0",
    "code.loss.correlation_memory=0",
    "code.encoder.learning_rate_factor=1.0",
    "code.loss.t_min=400",
    "code.loss.clean_cap=400",
    "code.loss.contradiction=0.5",
    "code.loss.contradict_by=latent",
    "code.train.batch_size=16",
)
DSPRITES = ("data.name=dsprites", "data.root=data/dsprites")


def ablate(name: str, ablation: str, *overrides: str) -> Arm:
    """An ablation of DisDiff from a random start."""
    return Arm(name, f"configs/disdiff/ablations/{ablation}.yaml", (*RANDOM_START, *overrides), 5.0)


FROM_RANDOM = ablate("DisDiff, random start", "random_start")
ABLATIONS = (
    FROM_RANDOM,
    ablate("without L_in", "without_l_in"),
    ablate("without L_va", "without_l_va"),
    ablate("without L_dis", "without_l_dis"),
    ablate("constant weighting", "constant_weighting"),
    ablate("without detach", "without_detach"),
    ablate("without unit embedding", "without_unit_embedding"),
    ablate("without orthogonality", "without_orthogonality"),
)
ON_DSPRITES = tuple(
    replace(arm, name=f"{arm.name}, dSprites", overrides=(*arm.overrides, *DSPRITES)) for arm in ABLATIONS[:4]
)
DETACHED = ablate("L_dis for the decoder only", "detached_condition")
FEW = 6_400
MORE = 14 * FEW  # of latents in about the time of FEW of pixels


def at_32_pixels(images: int) -> tuple[str, ...]:
    """Overrides that train stages 2 and 3 with `images` of 32x32 pixels."""
    return (
        "data.image_size=32",
        f"latent_diffusion.train.images={images}",
        f"code.train.images={images}",
        *SWAPPED,
    )


LATENTS = ablate("latents", "random_start", *at_32_pixels(FEW))
LATENTS_LONGER = replace(ablate("latents, as long", "random_start", *at_32_pixels(MORE)), minutes=8.0)
PIXELS = replace(ablate("pixels", "image_space", *at_32_pixels(FEW)), minutes=10.0)
EQUAL = f"differences that show at {IMAGES:,} images; nothing at published budgets"


def check_ablations(arms: tuple[Arm, ...]) -> tuple[Check, ...]:
    """L_dis and each of its parts raise DCI, L_in more than L_va."""
    full, without_in, without_va = arms[:3]
    each = (Check(full, DCI, "above", arm) for arm in arms[1:])
    return (*each, Check(without_in, DCI, "below", without_va))


CLAIMS = (
    Claim(
        number="1",
        text="The frozen model's posterior mean has a gap, and the correction fills a large part of it.",
        made=f"{PDAE_PAPER}, method",
        reading="At least half of it, as the mean ratio of the two gaps over t from 50 on.",
        decides="whether a short training already does; it can confirm the claim, not refute it",
        arms=(PDAE,),
        rows=tuple(MEAN_GAP.rows.values()),
        checks=(Check(PDAE, GAP, "below", 0.5),),
        measures=(MEAN_GAP,),
        unrefuted="the gap that is left still shrinks with longer training",
    ),
    Claim(
        number="2",
        text="With lambda_t = 1 training is unstable or does not converge; the SNR weight with gamma = 0.1 "
        "cures it.",
        made=f"{PDAE_PAPER}, method",
        reading="After the same number of steps the gap that is left is smaller with the weight, and the "
        "largest gradient norm is a smaller multiple of the median.",
        decides="the first thousand steps; not what happens later",
        arms=(PDAE, UNWEIGHTED),
        rows=(*MEAN_GAP.rows.values(), *CURVES.rows.values(), RANDOM),
        checks=(Check(PDAE, GAP, "below", UNWEIGHTED), Check(PDAE, SPIKE, "below", UNWEIGHTED)),
        measures=(MEAN_GAP, CURVES),
    ),
    Claim(
        number="3",
        text="The mean shift of the critical stage carries the class-relevant information.",
        made=f"{PDAE_PAPER}, method",
        reading="From samples with the code in that stage alone, a classifier reads the factors more often "
        "than by chance, and than with the code in the early or in the late stage alone. The stages' bounds "
        "are ours, and the critical stage is the longest, half of the steps.",
        decides="which stage carries what a short training puts into the code, if that shows at all",
        arms=(PDAE,),
        rows=tuple(STAGES.rows.values()),
        checks=tuple(
            Check(PDAE, STAGES["factors_read/critical/mean"], "above", STAGES[f"factors_read/{other}/mean"])
            for other in ("chance", "early", "late")
        ),
        measures=(STAGES,),
    ),
    Claim(
        number="4",
        text="Stacked convolutions and a linear layer do as well as the half U-Net as encoder, or better.",
        made=f"{PDAE_PAPER}, network design",
        reading="Neither PSNR from random noise nor informativeness is lower.",
        decides=EQUAL,
        arms=(PDAE, HALF_UNET),
        rows=(RANDOM, INFORMATIVENESS, SPEED, PARAMETERS),
        checks=tuple(Check(PDAE, row, "not below", HALF_UNET) for row in (RANDOM, INFORMATIVENESS)),
    ),
    Claim(
        number="5",
        text="PDAE trains more efficiently than Diff-AE.",
        made=f"{PDAE_PAPER}, experiments",
        reading="With the same encoder and images: higher PSNR from random noise. The frozen model's own "
        "training is not counted. Speed is shown but not judged, because the core had other jobs.",
        decides=EQUAL,
        arms=(PDAE, SAME_ENCODER),
        rows=(RANDOM, SPEED, PARAMETERS),
        checks=(Check(PDAE, RANDOM, "above", SAME_ENCODER),),
    ),
    Claim(
        number="6, Shapes3D",
        text=ABLATED,
        made=f"{DISDIFF_PAPER}, ablations",
        reading="From a random start, DCI falls without each of them, and most without L_in.",
        decides=EQUAL,
        arms=ABLATIONS,
        rows=SCORES,
        checks=check_ablations(ABLATIONS),
    ),
    Claim(
        number="6, dSprites",
        text="L_in mainly makes the disentangling and L_va adds.",
        made=f"{DISDIFF_PAPER}, ablations",
        reading="As above, on dSprites, for the two losses only.",
        decides=EQUAL,
        arms=ON_DSPRITES,
        rows=SCORES,
        checks=check_ablations(ON_DSPRITES),
    ),
    Claim(
        number="7",
        text="The disentangling loss is optimised with respect to the decoder, not the encoder.",
        made=f"{DISDIFF_PAPER}, method",
        reading="From a random start this route has a higher DCI than that of the released code.",
        decides=EQUAL,
        arms=(DETACHED, FROM_RANDOM),
        rows=SCORES,
        checks=(Check(DETACHED, DCI, "above", FROM_RANDOM),),
    ),
    Claim(
        number="8",
        text="Gradient fields are separable: the codes of a subset of units compose.",
        made=f"{DISDIFF_PAPER}, method",
        reading="Swapped in pairs or all together, units change their factors no more rarely than alone; and "
        "the joint change of a pair differs from the sum of the single changes by less than half of its own "
        "norm. Seeds draw the images.",
        decides="this one model; nothing on other seeds of training",
        arms=(SHIPPED,),
        rows=tuple(COMPOSE.rows.values()),
        checks=(
            Check(SHIPPED, COMPOSE["changed/pair"], "not below", COMPOSE["changed/single"]),
            Check(SHIPPED, COMPOSE["changed/all"], "not below", COMPOSE["changed/single"]),
            Check(SHIPPED, COMPOSE["residual/pair"], "below", 0.5),
        ),
        measures=(COMPOSE,),
    ),
    Claim(
        number="9",
        text="DisDiff in latents beats DisDiff in image space, which fails at shape and scale.",
        made=f"{DISDIFF_PAPER}, ablations",
        reading=f"From a random start, 32x32 pixels: at equal images ({FEW:,}), and in about equal time "
        f"({MORE:,} of latents), DCI is higher in latents, and more swaps of scale and shape are right.",
        decides="the first 400 steps on pixels, in which little is learnt",
        arms=(LATENTS, LATENTS_LONGER, PIXELS),
        rows=(FACTOR_VAE, DCI, *RIGHT, SPEED),
        checks=tuple(
            Check(arm, row, "above", PIXELS) for arm in (LATENTS, LATENTS_LONGER) for row in (DCI, *RIGHT)
        ),
    ),
    Claim(
        number="10",
        text="DisDiff beats beta-VAE, InfoVAE, Diff-AE and InfoDiffusion in TAD and FID.",
        made=f"{DISDIFF_PAPER}, experiments on CelebA",
        reading="TAD alone, of binarised factors, from a random start; FID needs a feature network.",
        decides=EQUAL,
        arms=(FROM_RANDOM, *CELEBA_RIVALS),
        rows=(*TAD.rows.values(), FACTOR_VAE, DCI),
        checks=tuple(Check(FROM_RANDOM, TAD_SCORE, "above", arm) for arm in CELEBA_RIVALS),
        measures=(TAD,),
    ),
    Claim(
        number="11",
        text="Guidance by a CLIP gives meaningful fields.",
        made="aim of this project; no paper",
        reading="At equal budget more swaps are right than without it.",
        decides=EQUAL,
        arms=(CLIP, DISDIFF),
        rows=(SWAPS, FACTOR_VAE, DCI),
        checks=(Check(CLIP, SWAPS, "above", DISDIFF),),
    ),
    Claim(
        number="12",
        text="Maximising mutual information and matching the prior gives codes that can be sampled.",
        made=f"{INFO_PAPER}, experiments",
        reading="Images of normal codes are nearer to the data than those of the same network without the "
        "prior (simplified Diff-AE), and codes of the latent DPM bring them nearer still. The distance is "
        "that of `disdiff new-codes`, not FID.",
        decides=EQUAL,
        arms=(INFODIFFUSION, SIMPLIFIED),
        rows=tuple(NEW_CODES.rows.values()),
        checks=(
            Check(INFODIFFUSION, NEW_CODES["distance/normal"], "below", SIMPLIFIED),
            Check(INFODIFFUSION, NEW_CODES["distance/latent_dpm"], "below", NEW_CODES["distance/normal"]),
        ),
        measures=(NEW_CODES,),
    ),
    Claim(
        number="13",
        text="Cross-attention and scalar units disentangle without a loss for it; anchors and skip dropout "
        "add.",
        made=f"{ENCDIFF_PAPER}, and {DYGA_PAPER}, main tables",
        reading="EncDiff has a higher DCI than the simplified Diff-AE, beta-VAE, FactorVAE and beta-TCVAE, "
        "and DyGA a higher one than EncDiff.",
        decides=EQUAL,
        arms=(ENCDIFF, DYGA, *WITHOUT_TOKENS),
        rows=SCORES,
        checks=(
            *(Check(ENCDIFF, DCI, "above", arm) for arm in WITHOUT_TOKENS),
            Check(DYGA, DCI, "above", ENCDIFF),
        ),
    ),
)
