from copy import deepcopy
from dataclasses import replace
from functools import reduce
from types import SimpleNamespace

import pytest

from disdiff import build
from disdiff.build import SYSTEMS, build_model
from disdiff.config.schema import CONFIGS, Config, load_config
from disdiff.config.system import OUTSIDE_STAGES, UndeclaredKeyError
from disdiff.config.yaml_texts import list_kinds
from disdiff.runs.stages import list_stages
from disdiff.runs.training import build_task
from ldm.training.optimizer import WITHOUT_EFFECT

OF_STAGES = {"autoencoder", "latent_diffusion", "code", "trunk", "conditional", "prior", "vae", "clip"}


def list_values():
    """Dotted keys of single values in the sections that describe stages."""
    keys = list(list_kinds(Config))
    sections = {key.rpartition(".")[0] for key in keys}
    return [key for key in keys if key.split(".")[0] in OF_STAGES and key not in sections]


def read(config, key):
    return reduce(getattr, key.split("."), config)


def can_read(view, key):
    try:
        read(view, key)
    except UndeclaredKeyError:
        return False
    return True


@pytest.mark.parametrize("system", ["disdiff", "disdiff_clip", "encdiff", "beta_vae"])
def test_builders_can_read_exactly_what_the_hash_covers(system, tmp_path):
    config = Config(system=system)
    view = SYSTEMS[system].show_declared(config, "code")

    def hash_of(changed):
        return list_stages(changed, SimpleNamespace(identity="images"), tmp_path)[-1].hash

    before, hashed = hash_of(config), []
    for key in list_values():
        changed, (parent, _, name) = deepcopy(config), key.rpartition(".")
        setattr(read(changed, parent), name, "another value")
        if hash_of(changed) != before or name in WITHOUT_EFFECT:
            hashed.append(key)
    readable = [key for key in list_values() if can_read(view, key)]
    assert [key for key in readable if key.split(".")[-1] not in WITHOUT_EFFECT] == [
        key for key in hashed if key.split(".")[-1] not in WITHOUT_EFFECT
    ]
    assert 10 < len(readable) < len(list_values())


def test_the_view_shows_the_values_of_the_configuration():
    config = load_config([CONFIGS / "encdiff" / "shapes3d.yaml"])
    view = SYSTEMS["encdiff"].show_declared(config, "code")
    assert view.latent_diffusion.unet is config.latent_diffusion.unet
    assert view.code.encoder is config.code.encoder and view.code.num_units == config.code.num_units
    assert all(getattr(view, name) == getattr(config, name) for name in OUTSIDE_STAGES)
    with pytest.raises(UndeclaredKeyError, match=r"code of encdiff does not declare latent_diffusion\.loss"):
        view.latent_diffusion.loss  # noqa: B018
    with pytest.raises(AttributeError, match="no_such_key"):
        view.no_such_key  # noqa: B018


def test_a_builder_that_reads_an_undeclared_key_fails(monkeypatch):
    careless = replace(
        SYSTEMS["disdiff"],
        build_model=lambda config, *rest: config.vae.likelihood,
        build_task=lambda config, *rest: config.evaluation.seed,
    )
    monkeypatch.setitem(build.SYSTEMS, "disdiff", careless)
    config = Config()
    with pytest.raises(UndeclaredKeyError, match=r"disdiff does not declare vae.* disdiff/build\.py"):
        build_model(config, None, None, 64)
    context = SimpleNamespace(
        config=config, system=careless, machine=SimpleNamespace(device="cpu"), model=None
    )
    with pytest.raises(UndeclaredKeyError, match="does not declare evaluation"):
        build_task(context, "code")
