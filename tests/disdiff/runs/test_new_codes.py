import pytest
import torch

from disdiff.build import build_denoiser, build_latent_dpm
from disdiff.config.schema import CONFIGS, load_config
from disdiff.editing.unconditional import check_window, draw_windowed, split_stages
from disdiff.editing.units import decode_code, sample_start
from disdiff.runs import new_codes
from disdiff.runs.new_codes import draw_codes, find_unconditional
from disdiff.runs.run_folder import Run
from ldm.diffusion.sampler import SamplerConfig
from ldm.diffusion.schedule import Schedule, ScheduleConfig
from ldm.errors import UserError
from ldm.files import save_json
from ldm.training.weight_files import save_weights

DDIM = SamplerConfig("ddim", 10)


@pytest.fixture
def load(tmp_path, build_tiny_system):
    """Return a function that gives an untrained run of a system, all its weights random."""

    def make(system, *overrides):
        config, _, model = build_tiny_system(system, f"run.root={tmp_path}", *overrides)
        return Run(tmp_path / "run", config, model.eval().requires_grad_(False))

    return make


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_a_code_at_all_steps_or_at_none(load, generator):
    run = load("pdae")
    code, z_T = torch.randn(2, 6, 1), sample_start(run.model, 2, 64, generator)

    def draw(*window):
        return draw_windowed(run.model, find_unconditional(run), code, z_T, window, DDIM, generator)

    always, never, some = draw(0, 1000), draw(0, 0), draw(300, 1000)
    assert torch.equal(always, decode_code(run.model, code, z_T, DDIM))
    run.model.networks.decoder.decoder.out_conv.weight.data.zero_()
    run.model.networks.decoder.decoder.out_conv.bias.data.zero_()
    assert torch.equal(never, decode_code(run.model, code, z_T, DDIM))
    assert not torch.equal(some, always) and not torch.equal(some, never)


def test_two_phases_begin_with_the_shared_stage_and_end_with_the_code(
    load, generator, randomise, tiny_system
):
    run = load("infodiffusion", "prior.kind=mixture")
    code = draw_codes(run, "prior", 2, generator)
    with pytest.raises(UserError, match=r"--base .*config.yaml system=latent_diffusion run.name="):
        find_unconditional(run)
    stages = new_codes.list_stages(
        load_config(
            [CONFIGS / "latent_diffusion" / "shapes3d.yaml"], [*tiny_system, f"run.root={run.folder.parent}"]
        ),
        run.source,
        run.folder,
    )
    denoiser = randomise(build_denoiser(run.config, run.model.latent_space))
    save_weights(stages[-1].folder / "model.safetensors", denoiser)
    save_json(stages[-1].folder / "stage.json", {})
    z_t, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 700])
    elsewhere, seen = find_unconditional(run), {"elsewhere": [], "code": []}
    assert torch.equal(elsewhere(z_t, t), denoiser(z_t, t))
    for name, network in (("elsewhere", elsewhere), ("code", run.model.networks.denoiser)):
        network.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(int(args[1][0])))
    z_T = sample_start(run.model, 2, 64, generator)
    image = draw_windowed(run.model, elsewhere, code, z_T, (0, 500), DDIM, generator)
    assert image.shape == (2, 3, 64, 64)
    assert len(seen["code"]) == len(seen["elsewhere"]) == 5
    assert min(seen["elsewhere"]) >= 500 > max(seen["code"])


@pytest.mark.parametrize("window", [(500, 1001), (-1, 3), (600, 500)])
def test_a_window_beyond_the_steps_is_refused(window):
    schedule = Schedule(ScheduleConfig())
    with pytest.raises(UserError, match="not within 0 to 1000"):
        check_window(window, schedule)
    assert check_window((0, 1000), schedule) == (0, 1000)


def test_codes_of_the_prior(load, generator):
    ring = draw_codes(load("infodiffusion", "prior.kind=mixture"), "prior", 500, generator)
    assert ring.shape == (500, 6, 1)
    radius = ring.view(500, 3, 2).norm(dim=2)
    assert radius.std() < 0.2 and radius.mean().item() == pytest.approx(2**0.5, abs=0.05)
    assert draw_codes(load("beta_vae"), "prior", 4, generator).shape == (4, 6, 1)
    bits = draw_codes(load("infodiffusion", "code.encoder.posterior=bernoulli"), "prior", 9, generator)
    assert set(bits.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("system", ["pdae", "diffae", "encdiff"])
def test_a_code_without_a_prior_has_none_to_sample(load, generator, system):
    with pytest.raises(UserError, match=f"{system} was trained without a prior"):
        draw_codes(load(system), "prior", 2, generator)


def test_codes_of_the_latent_dpm(load, generator):
    run = load("diffae")
    with pytest.raises(UserError, match="no latent DPM.*latent_dpm.enabled=true"):
        draw_codes(run, "latent_dpm", 2, generator)
    torch.manual_seed(1)
    latent_dpm = build_latent_dpm(run.config, run.model)
    latent_dpm.fit_standardisation(5 + torch.randn(1000, 6, 1) / 10)
    save_weights(run.folder / "stages" / "latent_dpm" / "model.safetensors", latent_dpm)
    first, again = (draw_codes(run, "latent_dpm", 3, torch.Generator().manual_seed(2)) for _ in range(2))
    assert first.shape == (3, 6, 1) and torch.equal(first, again)
    expected = latent_dpm.sample(3, new_codes.CODE_STEPS, torch.Generator().manual_seed(2))
    torch.testing.assert_close(first, expected)


def test_the_three_stages_cover_all_steps_and_divide_at_their_ratios():
    schedule = Schedule(ScheduleConfig())
    stages = split_stages(schedule)
    assert list(stages) == ["early", "critical", "late"]
    assert stages["early"][1] == 1000 and stages["late"][0] == 0
    assert stages["early"][0] == stages["critical"][1] and stages["critical"][0] == stages["late"][1]
    late, early = stages["critical"]
    assert schedule.snr[late - 1] >= 1 > schedule.snr[late]
    assert schedule.snr[early - 1] >= 0.01 > schedule.snr[early]
