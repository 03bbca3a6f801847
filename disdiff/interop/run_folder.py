"""Write imported networks as a run folder, and test them on images before and after writing.

Shared stages are written to the folder where `disdiff train` looks for them. Their `stage_seed` is the start
of the weights' fingerprint, so their hash never equals that of a stage trained here. The run's config.yaml
names these stages and can be used to train further stages.
"""

from pathlib import Path

import torch
from torch import Tensor

from disdiff.config.schema import to_yaml
from disdiff.interop.importing import Imported
from disdiff.method.model import DisDiff
from disdiff.runs.stages import copy_stage, list_stages
from ldm.autoencoder.latent_space import fit_standardisation, measure_latents
from ldm.autoencoder.losses import reconstruction_scores
from ldm.data.source import split_indices, to_float
from ldm.diffusion.process import q_sample
from ldm.diffusion.sampler import EpsFunction
from ldm.diffusion.schedule import Schedule
from ldm.errors import UserError
from ldm.files import atomic_path, save_json
from ldm.training.weight_files import fingerprint

CHECK_IMAGES, SCALE_IMAGES, BATCH = 8, 128, 32
CHECK_STEPS = (0.1, 0.4, 0.7)  # as fractions of T
REPORT = "import.json"


@torch.no_grad()
def write_run(imported: Imported, folder: Path) -> dict:
    """Write a run folder, load it back, and test it on images.

    Returns:
        The report, the content of `import.json`.

    Raises:
        UserError: the folder is not empty, or outputs of a network are not finite.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; choose another --out")
    config, source = imported.config, imported.source
    for module in imported.modules.values():
        module.eval()
    if imported.fitted:
        fit_scale(imported)
    shared = [module for name, module in imported.modules.items() if name != "code"]
    config.stage_seed = int(fingerprint(torch.nn.ModuleList(shared)), 16) % 2**31
    config.run.root, config.run.name = str(folder.parent), folder.name
    checks = check(imported)
    before = [fingerprint(module) for module in imported.modules.values()]
    for stage in list_stages(config, source, folder):
        module = imported.modules[stage.name]
        record = {"seconds": 0.0, "steps": 0, "images": 0, "image_size": source.image_size}
        stage.save(module, {**record, "scores": checks[stage.name], "imported": True})
        if not (stage.folder / "log.csv").exists():
            with atomic_path(stage.folder / "log.csv") as temporary:
                temporary.write_text("step\n")
        copy_stage(stage, folder / "stages" / stage.name)
        stage.load(module)
    if [fingerprint(module) for module in imported.modules.values()] != before:
        raise UserError(f"{folder} differs from what was written to it; check the disk")
    with atomic_path(folder / "config.yaml") as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")
    data = {"name": source.name, "procedural": source.procedural}
    report = {**imported.report, "checked_on": data, "checks": checks}
    save_json(folder / REPORT, report)
    return report


def fit_scale(imported: Imported) -> None:
    """Standardise the latents by one standard deviation over training images."""
    latent_space = imported.modules["autoencoder"]
    index = split_indices(imported.source, imported.config.data.num_train, 0)[0][:SCALE_IMAGES]
    images = (to_float(imported.source.images(part)) for part in index.split(BATCH))
    autoencoder = latent_space.autoencoder
    moments = measure_latents(autoencoder, (autoencoder.encode_statistics(image) for image in images))
    latent_space.set_standardisation(*fit_standardisation(moments))


def check(imported: Imported) -> dict[str, dict[str, float]]:
    """Test each stage on evaluation images, to detect wrongly placed weights.

    Returns:
        By stage: PSNR of the autoencoder in dB and standard deviation of the latents; squared error of the
        predicted noise without and with the gradient fields, where 1 is chance level; standard deviation of
        the codes.

    Raises:
        UserError: outputs are not finite.
    """
    config, source = imported.config, imported.source
    latent_space = imported.modules["autoencoder"]
    index = split_indices(source, config.data.num_train, CHECK_IMAGES)[1]
    image = to_float(source.images(index))
    z_0 = latent_space.encode(image)
    psnr = reconstruction_scores(latent_space.decode(z_0).clamp(-1, 1), image)["psnr"]
    checks = {"autoencoder": {"psnr": psnr, "latent_std": float(z_0.std())}}
    if "latent_diffusion" in imported.modules:
        denoiser, schedule = imported.modules["latent_diffusion"], Schedule(config.latent_diffusion.schedule)
        checks["latent_diffusion"] = measure_noise(denoiser, schedule, z_0)
    if isinstance(imported.model, DisDiff):
        code = imported.model.encode(image)
        errors = measure_noise(imported.model.eps_fn(code), imported.model.schedule, z_0)
        checks["code"] = {"code_std": float(code.std(dim=0).mean()), **errors}
    for stage, scores in checks.items():
        if not all(torch.isfinite(torch.tensor(list(scores.values())))):
            raise UserError(
                f"the imported {stage} has outputs that are not finite; check the files (nothing was written)"
            )
    return {
        stage: {name: round(value, 4) for name, value in scores.items()} for stage, scores in checks.items()
    }


def measure_noise(predict: EpsFunction, schedule: Schedule, z_0: Tensor) -> dict[str, float]:
    """Mean squared error of the predicted noise at `CHECK_STEPS`, as `noise_error_<t>`."""
    errors, generator = {}, torch.Generator().manual_seed(0)
    for share in CHECK_STEPS:
        t = torch.full((len(z_0),), int(share * schedule.num_steps))
        eps = torch.randn(z_0.shape, generator=generator)
        z_t = q_sample(schedule, z_0, t, eps)
        errors[f"noise_error_{int(t[0])}"] = float((predict(z_t, t) - eps).square().mean())
    return errors
