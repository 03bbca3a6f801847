"""The claims of the papers that `disdiff claims` tries: what each needs, and how it is judged.

A claim names the runs it needs (`Arm`: a configuration with overrides), further measurements of these runs,
and a function from their values to a verdict. Arms of one name are one run.
"""

from dataclasses import dataclass, replace

from disdiff.report.comparison import SPEED
from disdiff.report.summary import EDITING, PSNR_ROWS
from disdiff.report.verdicts import Arm, Judge, below, every, first_of, higher, lower, not_lower

FACTOR_VAE, DCI = "FactorVAE score", "DCI disentanglement"
INFORMATIVENESS, PARAMETERS = "DCI informativeness", "Parameters, trainable (M)"
SCORES = (FACTOR_VAE, DCI, "DCI completeness", INFORMATIVENESS, "MIG", "InfoM", "InfoE", "InfoC")
RANDOM = PSNR_ROWS["random"]
SWAPS = EDITING["success_mean"]
GAP = "Gap of the posterior mean, corrected / frozen"
TAD, CAPTURED = "TAD, binarised factors", "Captured values of factors"
STAGES = tuple(f"PSNR (dB): code in the {stage} stage only" for stage in ("critical", "early", "late"))
RIGHT = tuple(f"Swaps right: {factor}" for factor in ("scale", "shape"))


@dataclass(frozen=True)
class Claim:
    """A claim of a paper and its trial.

    Attributes:
        number: its number on the page, with the data set if it is tried on several.
        text: the claim.
        made: where it is made.
        reading: what has to be true here for the claim to hold.
        arms: the runs that are compared; all on the same data and protocol.
        rows: values in its table.
        judge: function from the runs' values to a verdict.
        measures: further measurements of each run, keys of `MEASURES` in `disdiff/commands/claims.py`.
        missing: what this package cannot measure yet; such a claim is not judged.
    """

    number: str
    text: str
    made: str
    reading: str = ""
    arms: tuple[Arm, ...] = ()
    rows: tuple[str, ...] = ()
    judge: Judge | None = None
    measures: tuple[str, ...] = ()
    missing: str = ""


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
GAMMAS = tuple(
    Arm(f"PDAE, gamma = {gamma}", PDAE.file, (f"code.loss.snr_gamma={gamma}",))
    for gamma in ("0.0", "0.5", "1.0")
)
HALF_UNET = Arm("PDAE, half U-Net as encoder", PDAE.file, ("trunk.kind=half_unet",))
SAME_ENCODER = Arm(
    "Diff-AE, encoder of PDAE",
    "configs/diffae/shapes3d.yaml",
    ("trunk.kind=pdae", "trunk.channels=16", "code.encoder.input=image"),
)
SIMPLIFIED = Arm("Diff-AE, simplified", "configs/diffae/simplified.yaml")
INFODIFFUSION = Arm("InfoDiffusion", "configs/infodiffusion/shapes3d.yaml")
ENCDIFF = Arm("EncDiff", "configs/encdiff/shapes3d.yaml")
SKIP_DROPOUT = Arm("EncDiff, skip dropout", "configs/encdiff/skip_dropout.yaml")
ANCHORS = Arm("EncDiff, anchors", "configs/encdiff/anchors.yaml")
DYGA = Arm("DyGA", "configs/dyga/shapes3d.yaml")
BETA_VAE = Arm("beta-VAE", "configs/beta_vae/shapes3d.yaml")
INFOVAE = Arm("InfoVAE", "configs/infovae/shapes3d.yaml")
FACTORVAE = Arm("FactorVAE", "configs/factor_vae/shapes3d.yaml")
BETA_TCVAE = Arm("beta-TCVAE", "configs/beta_tcvae/shapes3d.yaml")
CELEBA_RIVALS = (BETA_VAE, INFOVAE, SIMPLIFIED, INFODIFFUSION)
WITHOUT_TOKENS = (SIMPLIFIED, BETA_VAE, FACTORVAE, BETA_TCVAE)
DISDIFF = Arm("DisDiff", "configs/disdiff/shapes3d.yaml", minutes=20.0)
CLIP = Arm("DisDiff, guided by CLIP", "configs/disdiff/shapes3d_clip.yaml", minutes=20.0)

RANDOM_START = (
    "code.encoder.start=random",
    "code.encoder.freeze_steps=0",
    "code.encoder.learning_rate_factor=1.0",
)
DSPRITES = ("data.name=dsprites", "data.root=data/dsprites")


def ablate(name: str, ablation: str, *overrides: str) -> Arm:
    """An ablation of DisDiff from a random start."""
    return Arm(name, f"configs/disdiff/ablations/{ablation}.yaml", (*RANDOM_START, *overrides), 20.0)


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
    replace(arm, name=f"{arm.name}, dSprites", overrides=(*arm.overrides, *DSPRITES)) for arm in ABLATIONS
)
DETACHED = ablate("L_dis for the decoder only", "detached_condition")
FEW_IMAGES = ("latent_diffusion.train.images=32000", "code.train.images=32000")
LATENTS = ablate("latents, few images", "random_start", *FEW_IMAGES)
PIXELS = replace(ablate("pixels, few images", "image_space", *FEW_IMAGES), minutes=300.0)


def judge_ablations(arms: tuple[Arm, ...]) -> Judge:
    """L_dis and each of its parts raise DCI, L_in more than L_va."""
    full, without_in, without_va, *rest = arms
    each = [higher(DCI, full, arm) for arm in (without_in, without_va, *rest)]
    return every(*each, lower(DCI, without_in, without_va))


CLAIMS = (
    Claim(
        number="1",
        text="The frozen model's posterior mean has a gap, and the correction fills a large part of it.",
        reading="At least half of it, as the mean ratio of the two gaps over t from 50 on.",
        made=f"{PDAE_PAPER}, method",
        arms=(PDAE,),
        rows=(GAP,),
        judge=below(GAP, PDAE, 0.5),
        measures=("mean_gap",),
    ),
    Claim(
        number="2",
        text="With lambda_t = 1 training is unstable or does not converge; the SNR weight with gamma = 0.1 "
        "cures it.",
        reading="After the same number of steps the gap that is left is smaller with the weight.",
        made=f"{PDAE_PAPER}, method",
        arms=(PDAE, UNWEIGHTED, *GAMMAS),
        rows=(GAP, RANDOM),
        judge=lower(GAP, PDAE, UNWEIGHTED),
        measures=("mean_gap",),
    ),
    Claim(
        number="3",
        text="The mean shift of the critical stage carries the class-relevant information.",
        reading="The code in that stage alone reconstructs better than in any other; no probe yet.",
        made=f"{PDAE_PAPER}, method",
        arms=(PDAE,),
        rows=STAGES,
        judge=first_of(STAGES, PDAE),
        measures=("correction_stages",),
    ),
    Claim(
        number="4",
        text="Stacked convolutions and a linear layer do as well as the half U-Net as encoder, or better.",
        reading="Neither PSNR from random noise nor informativeness is lower.",
        made=f"{PDAE_PAPER}, network design",
        arms=(PDAE, HALF_UNET),
        rows=(RANDOM, INFORMATIVENESS),
        judge=every(not_lower(RANDOM, PDAE, HALF_UNET), not_lower(INFORMATIVENESS, PDAE, HALF_UNET)),
    ),
    Claim(
        number="5",
        text="PDAE trains more efficiently than Diff-AE.",
        reading="With the same encoder and images: higher PSNR from random noise, more images per second.",
        made=f"{PDAE_PAPER}, experiments",
        arms=(PDAE, SAME_ENCODER),
        rows=(RANDOM, SPEED, PARAMETERS),
        judge=every(higher(RANDOM, PDAE, SAME_ENCODER), higher(SPEED, PDAE, SAME_ENCODER)),
    ),
    Claim(
        number="6, Shapes3D",
        text=ABLATED,
        reading="From a random start, DCI falls without each of them, and most without L_in.",
        made=f"{DISDIFF_PAPER}, ablations",
        arms=ABLATIONS,
        rows=SCORES,
        judge=judge_ablations(ABLATIONS),
    ),
    Claim(
        number="6, dSprites",
        text=ABLATED,
        reading="As above, on dSprites.",
        made=f"{DISDIFF_PAPER}, ablations",
        arms=ON_DSPRITES,
        rows=SCORES,
        judge=judge_ablations(ON_DSPRITES),
    ),
    Claim(
        number="7",
        text="The disentangling loss is optimised with respect to the decoder, not the encoder.",
        reading="From a random start this route has a higher DCI than that of the released code.",
        made=f"{DISDIFF_PAPER}, method",
        arms=(DETACHED, FROM_RANDOM),
        rows=SCORES,
        judge=higher(DCI, DETACHED, FROM_RANDOM),
    ),
    Claim(
        number="8",
        text="Gradient fields are separable: the codes of a subset of units compose.",
        made=f"{DISDIFF_PAPER}, method",
        missing="the accuracy of the probe for pairs and larger subsets of units",
    ),
    Claim(
        number="9",
        text="DisDiff in latents beats DisDiff in image space, which fails at shape and scale.",
        reading="At equal images, few of them, from a random start; a step on pixels is 64 times the work.",
        made=f"{DISDIFF_PAPER}, ablations",
        arms=(LATENTS, PIXELS),
        rows=(FACTOR_VAE, DCI, *RIGHT),
        judge=every(*(higher(row, LATENTS, PIXELS) for row in (DCI, *RIGHT))),
    ),
    Claim(
        number="10",
        text="DisDiff beats beta-VAE, InfoVAE, Diff-AE and InfoDiffusion in TAD and FID.",
        reading="TAD alone, of binarised factors, from a random start; FID needs a feature network.",
        made=f"{DISDIFF_PAPER}, experiments on CelebA",
        arms=(FROM_RANDOM, *CELEBA_RIVALS),
        rows=(TAD, CAPTURED, FACTOR_VAE, DCI),
        judge=every(*(higher(TAD, FROM_RANDOM, arm) for arm in CELEBA_RIVALS)),
        measures=("tad",),
    ),
    Claim(
        number="11",
        text="Guidance by a CLIP gives meaningful fields.",
        reading="At equal budget more swaps are right than without it.",
        made="aim of this project; no paper",
        arms=(CLIP, DISDIFF),
        rows=(SWAPS, FACTOR_VAE, DCI),
        judge=higher(SWAPS, CLIP, DISDIFF),
    ),
    Claim(
        number="12",
        text="Maximising mutual information and matching the prior gives codes that can be sampled.",
        made=f"{INFO_PAPER}, experiments",
        missing="a distance between images of sampled codes and the data, as in 10",
    ),
    Claim(
        number="13",
        text="Cross-attention and scalar units disentangle without a loss for it; anchors and skip dropout "
        "add.",
        reading="EncDiff has a higher DCI than the simplified Diff-AE, beta-VAE, FactorVAE and beta-TCVAE, "
        "and DyGA a higher one than EncDiff.",
        made=f"{ENCDIFF_PAPER}, and {DYGA_PAPER}, main tables",
        arms=(ENCDIFF, SKIP_DROPOUT, ANCHORS, DYGA, *WITHOUT_TOKENS),
        rows=SCORES,
        judge=every(*(higher(DCI, ENCDIFF, arm) for arm in WITHOUT_TOKENS), higher(DCI, DYGA, ENCDIFF)),
    ),
)
