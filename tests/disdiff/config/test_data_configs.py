"""The configurations of the data sets beside Shapes3D: they fit together, load and build, without memory.

Files of one system and image size differ only in their data, so each such pair is built once.
"""

from pathlib import Path

import pytest
import torch

from disdiff.build import build_denoiser, build_latent_space, build_model, get_system
from disdiff.config.schema import CONFIGS, load_config, read_yaml
from ldm.data.catalog import DATA_SETS, DataOptions, check_options

SHARED = ("autoencoder", "latent_diffusion")
OF_CODES = (
    *("disdiff", "pdae", "encdiff", "dyga", "diffae", "infodiffusion"),
    *("beta_vae", "infovae", "factor_vae", "beta_tcvae"),
)
SYSTEMS = (*SHARED, *OF_CODES)
DATA = sorted(
    path.stem
    for path in (CONFIGS / "_shared").glob("*.yaml")
    if path.stem != "shapes3d" and "data" in read_yaml(path)
)


def size_of(stem):
    data = read_yaml(CONFIGS / "_shared" / f"{stem}.yaml").data
    return data.get("image_size") or 64


def path_of(system, stem):
    return CONFIGS / system / f"{stem}.yaml"


def test_there_is_a_file_per_system_and_data_set():
    assert len(DATA) == 20
    assert all(path_of(system, stem).exists() for system in SYSTEMS for stem in DATA)


def test_every_data_set_is_known_and_its_options_fit():
    for stem in DATA:
        options = DataOptions(**read_yaml(CONFIGS / "_shared" / f"{stem}.yaml").data)
        check_options(options, DATA_SETS[options.name])
        assert Path(options.root).parts[0] == "data", stem


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_file_says_what_its_place_says(system):
    for stem in DATA:
        tree, text = read_yaml(path_of(system, stem)), path_of(system, stem).read_text()
        assert tree.bases == [stem] and tree.system == system
        assert f"--base configs/{system}/{stem}.yaml -t" in text and len(text.splitlines()) <= 20


@pytest.mark.parametrize("system", SYSTEMS)
def test_files_of_a_system_differ_only_in_their_data(system):
    """So that what holds for one of an image size holds for all."""
    rest = ("bases", "evaluation")
    trees = {
        str({key: value for key, value in read_yaml(path_of(system, stem)).items() if key not in rest})
        for stem in DATA
    }
    assert len(trees) == 1
    shapes3d = {
        key: value for key, value in read_yaml(path_of(system, "shapes3d")).items() if key not in rest
    }
    assert trees == {str(shapes3d)}


@pytest.mark.parametrize("stem", ["cars3d", "folder_128", "folder_256"])  # 64, 128 and 256 pixels
@pytest.mark.parametrize("system", OF_CODES)
@pytest.mark.parametrize("preset", ["small", "smoke", "paper"])
def test_builds(system, stem, preset, monkeypatch):
    monkeypatch.setattr("disdiff.build.Schedule", lambda config: torch.nn.Module())  # it computes
    config = load_config([path_of(system, stem)], [f"preset={preset}"])
    with torch.device("meta"):  # nothing is computed: sizes fit, or a module refuses
        latent_space = build_latent_space(config)
        model = build_model(config, latent_space, build_denoiser(config, latent_space), size_of(stem))
    assert get_system(config).stages[-1] == "code"
    assert model.networks.encoder.num_units == config.code.num_units
    assert stem in (config.data.name, f"{config.data.name}_{size_of(stem)}")


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_file_loads(system):
    for stem in DATA:
        assert load_config([path_of(system, stem)]).system == system


@pytest.mark.parametrize("stem", ["mpi3d_toy", "mpi3d_real", "mpi3d_realistic", "mpi3d_real_complex"])
def test_the_published_weight_of_mpi3d_is_set(stem):
    """Released: 0.01 for MPI3D-toy where the other data sets have 0.05."""
    weights = [
        load_config([path_of("disdiff", name)], ["preset=paper"]).code.loss.weight_disentangle
        for name in (stem, "shapes3d")
    ]
    assert weights == [0.01, 0.05]
    assert (
        load_config([path_of("disdiff", stem)]).code.loss
        == load_config([path_of("disdiff", "shapes3d")]).code.loss
    )
