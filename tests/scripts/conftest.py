"""What the tests of the scripts share: how a script is loaded and called, and a tiny run to call it on."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from disdiff.build import build_denoiser, build_disdiff, build_latent_space
from disdiff.commands.terminal import run_script
from disdiff.config.schema import CodeSamplerConfig, Config, to_yaml
from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.runs.results import FILES, describe_evaluation
from ldm.autoencoder.networks import NetworkConfig
from ldm.data.procedural import ProceduralShapes3D
from ldm.data.source import describe_source
from ldm.files import save_json
from ldm.training.weight_files import save_weights

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="session")
def load_script():
    """Return a function that gives the module that a script runs: its command's, or its own."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        return sys.modules.get(script.main.__module__, script)

    return load


@pytest.fixture
def call_script(monkeypatch, capsys):
    """Return a function that runs a loaded script: its exit status, what it said, what it complained of."""

    def call(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        capsys.readouterr()
        try:
            run_script(script.main, script.make_parser())
        except SystemExit as error:
            return error.code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return call


@pytest.fixture
def finish():
    """Return a function that writes what the main job leaves, without training: scores depend on the seed."""

    def write(job, protocol="paper"):
        for name in FILES:
            (job.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (job.folder / name).touch()
        (job.folder / "config.yaml").write_text(to_yaml(job.config))
        score = (0.3 if job.config.system == "beta_vae" else 0.6) + job.config.seed / 100
        stages = {
            stage.name: {"hash": stage.hash, "seconds": 100.0, "images": 64_000, "steps": 4_000}
            for stage in job.stages
        }
        metrics = {
            "system": job.config.system,
            "preset": job.config.preset,
            "seed": job.config.seed,
            "dataset": describe_source(job.source),
            "scores": {protocol: {"dci": {"disentanglement": score}, "factor_vae": {"eval_accuracy": score}}},
            "editing": None,
            "reconstruction": {"psnr": 20.0, "inferred_psnr": 20.0},
            "evaluation": describe_evaluation(job.config),
            "stages": stages,
            "seconds_total": 100.0 * len(stages) + 20.0,
            "finished": "2026-11-22T00:00:00+00:00",
        }
        save_json(job.folder / "metrics.json", metrics)

    return write


@pytest.fixture
def write_tiny_run(tiny_unet, randomise):
    """Return a function that writes a run folder of an untrained tiny model on procedural Shapes3D: 3 units
    of 2 numbers, 50 random codes.
    """

    def write(folder):
        config = Config()
        config.data.procedural = "always"
        config.autoencoder.network = NetworkConfig(
            channels=4, channel_mult=[1, 2, 2, 2], num_res_blocks=1, z_channels=4, attention=False,
            num_groups=2,
        )  # fmt: skip
        config.latent_diffusion.unet = tiny_unet
        config.code.num_units, config.code.unit_dim = 3, 2
        config.code.encoder = FactorEncoderConfig(input="z", channels=8, norm="group")
        config.sampler, config.evaluation.num_images = CodeSamplerConfig("ddim", 2, 0.0), 100
        space = build_latent_space(config)
        denoiser = build_denoiser(config, space)
        model = build_disdiff(config, space, denoiser, 64)
        randomise(model.networks.decoder)
        parts = {"autoencoder": space, "latent_diffusion": denoiser, "code": model.networks}
        for name, module in parts.items():
            save_weights(folder / "stages" / name / "model.safetensors", module)
            save_json(folder / "stages" / name / "stage.json", {"image_size": 64})
        (folder / "config.yaml").write_text(to_yaml(config))
        np.savez(folder / "codes.npz", codes=np.random.default_rng(0).normal(size=(50, 3, 2)))
        return folder

    return write


@pytest.fixture
def named_run(tmp_path, write_tiny_run, noise_images, monkeypatch):
    """The tiny run, on images of noise, as runs/tiny of the working directory; units k carry factors k."""
    monkeypatch.chdir(tmp_path)
    folder = write_tiny_run(tmp_path / "runs" / "tiny")
    with np.load(folder / "codes.npz") as file:
        codes = file["codes"]
    np.savez(folder / "codes.npz", codes=codes, factor_names=np.array(ProceduralShapes3D.factor_space.names))
    scores = {"fast": {"dci": {"importance": np.eye(3, 6).tolist()}}}
    save_json(folder / "metrics.json", {"system": "disdiff", "scores": scores})
    return folder
