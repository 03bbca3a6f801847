"""Imported networks are the original ones: to 1e-4 in float32, largest error over largest value."""

import json

import pytest
import torch

from disdiff.interop.denoisers import UNET, Heads
from disdiff.interop.exporting import export_run
from disdiff.interop.importing import ImportOptions, import_files
from disdiff.interop.run_folder import write_run
from disdiff.runs.run_folder import load_run
from ldm.errors import UserError


def error(ours, theirs):
    assert ours.shape == theirs.shape
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def imported(paths, kind="disdiff", **options):
    paths = paths if isinstance(paths, list) else [paths]
    return import_files(paths, ImportOptions(kind, "shapes3d", **options))


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.fixture
def noisy():
    return lambda c: torch.randn(2, c, 16, 16, generator=torch.Generator().manual_seed(6))


T = torch.tensor([37, 911])


@torch.no_grad()
def compare_first_stage(latent_space, original, image, scale=0.8):
    z = original.encode(image)
    assert error(latent_space.encode(image), scale * z) < 1e-4
    for quantize in (True, False):
        decoded = original.decode(z, quantize)
        assert error(latent_space.autoencoder.decode(z, quantize), decoded) < 1e-4
    assert error(latent_space.decode(scale * z, False), original.decode(z, False)) < 1e-4


@pytest.mark.parametrize("kind", ["vq", "kl"])
@torch.no_grad()
def test_a_disdiff_is_the_original(released, save_checkpoint, noise_images, image, noisy, kind):
    model = released.model(kind, units=(3, 4))
    got = imported(save_checkpoint("dis.ckpt", model.state_dict()), averaged=True)
    latent_space = got.modules["autoencoder"].eval()
    compare_first_stage(latent_space, model.first_stage, image)
    ours, z_t = got.model.eval(), noisy(latent_space.latent_channels)
    flat = model.encoder(image)
    code = ours.encode(image)
    assert error(code, flat.view(2, 3, 4)) < 1e-4
    eps, fields = model.averaged(z_t, T, code)
    prediction = ours.predict(z_t, T, code)
    assert error(prediction.eps_base, eps) < 1e-4
    assert error(prediction.grad, fields) < 1e-4
    raw = imported(save_checkpoint("dis.ckpt", model.state_dict()), averaged=False)
    assert error(raw.model.eval().predict(z_t, T, code).grad, model.unet(z_t, T, code)[1]) < 1e-4
    assert error(raw.model.predict(z_t, T, code).grad, fields) > 0.1
    assert got.config.autoencoder.legacy_codebook == (kind == "vq")


@torch.no_grad()
def test_a_disdiff_of_free_embeddings_and_gaussian_codes(
    released, save_checkpoint, noise_images, image, noisy
):
    model = released.model("vq", units=(3, 32), orthogonal=False, gaussian=True)
    got = imported(save_checkpoint("dis.ckpt", model.state_dict()))
    ours, z_t = got.model.eval(), noisy(3)
    code = ours.encode(image)
    assert error(code, model.encoder(image)[:, :96].view(2, 3, 32)) < 1e-4
    assert error(ours.predict(z_t, T, code).grad, model.averaged(z_t, T, code)[1]) < 1e-4
    orthogonal = released.model("vq", units=(3, 4), gaussian=True)
    path = save_checkpoint("two.ckpt", orthogonal.state_dict())
    assert imported(path).model.num_units == 6  # its widths do not tell variances from units
    assert imported(path, num_units=3).model.num_units == 3


@pytest.mark.parametrize("residual", [True, False])
@torch.no_grad()
def test_an_unconditional_unet_is_the_original(released, save_checkpoint, noise_images, noisy, residual):
    model = released.model("kl", residual=residual)
    path = save_checkpoint("ldm.ckpt", model.state_dict(), legacy=residual)
    for averaged, original in ((True, model.averaged), (False, model.unet)):
        got = imported(path, "ldm", averaged=averaged)
        denoiser = got.modules["latent_diffusion"].eval()
        assert error(denoiser(noisy(4), T), original(noisy(4), T)) < 1e-4
    assert got.config.latent_diffusion.unet.num_heads == (8 if residual else -32)
    other = imported(path, "ldm", heads=Heads(4), averaged=False).modules["latent_diffusion"].eval()
    assert error(other(noisy(4), T), original(noisy(4), T)) > 1e-3


@torch.no_grad()
def test_the_encoder_of_256_pixels(released):
    from disdiff.interop.denoisers import ENCODER, find_head, name_factors
    from disdiff.method.factor_encoder import FactorEncoder, FactorEncoderConfig

    original = released.fill(released.encoder(8, 6, size=256), 0)
    state = {f"cond_stage_model.{name}": tensor for name, tensor in original.state_dict().items()}
    ours = FactorEncoder(FactorEncoderConfig(channels=8), 3, 256, 3, 2).eval()
    head = find_head({name: tuple(tensor.shape) for name, tensor in state.items()})
    names = name_factors([f"encoder.{name}" for name in ours.state_dict()], head)
    ours.load_state_dict({name.removeprefix("encoder."): state[their] for name, their in names.items()})
    assert {f"{ENCODER}{head}.weight", f"{ENCODER}{head}.bias"} <= set(names.values()) == set(state)
    image = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    assert error(ours(image).flatten(1), original(image)) < 1e-4


@torch.no_grad()
def test_an_autoencoder_alone_and_files_that_complete_each_other(
    released, save_checkpoint, noise_images, image
):
    model = released.model("vq", units=(3, 4))
    alone = {**model.first_stage.state_dict(), "loss.discriminator.main.0.weight": torch.zeros(3, 3, 4, 4)}
    first = save_checkpoint("autoencoder.ckpt", alone)
    got = imported(first, "autoencoder")
    assert got.fitted and list(got.modules) == ["autoencoder"]
    assert error(got.modules["autoencoder"].eval().encode(image), model.first_stage.encode(image)) < 1e-4
    rest = {n: p for n, p in model.state_dict().items() if not n.startswith("first_stage_model.")}
    second = save_checkpoint("rest.ckpt", rest)
    with pytest.raises(UserError, match="hold no autoencoder"):
        imported(second)
    compare_first_stage(imported([first, second]).modules["autoencoder"].eval(), model.first_stage, image)


def test_every_tensor_is_placed_or_named(released, save_checkpoint, noise_images):
    state = released.model("vq", units=(3, 4)).state_dict()
    got = imported(save_checkpoint("dis.ckpt", state))
    placed, left = set(got.report["placed"]), set(got.report["left_out"])
    assert placed | left == set(state) and not placed & left
    assert left == {name for name in state if "loss" in name or "coef" in name or "alphas" in name} | {
        *("betas", "posterior_variance", "scale_factor", "model_ema.decay", "model_ema.num_updates")
    }
    path = save_checkpoint("more.ckpt", {**state, "adapter.weight": torch.zeros(2)})
    with pytest.raises(UserError, match="adapter.weight"):
        imported(path)
    assert imported(path, allow_extra=True).report["left_out"]["adapter.weight"] == "unknown"


def test_less_can_be_asked_for_than_a_file_holds(released, save_checkpoint, noise_images):
    path = save_checkpoint("dis.ckpt", released.model("vq", units=(3, 4)).state_dict())
    for kind, stages in (("autoencoder", ["autoencoder"]), ("ldm", ["autoencoder", "latent_diffusion"])):
        got = imported(path, kind)
        assert list(got.modules) == stages
        left = got.report["left_out"]
        assert "factors" in left["model.diffusion_model.shift_out.0.weight"]
        assert "factors" in left["model_ema.diffusion_modelpart_embweight"]
        assert ("model.diffusion_model.out.0.weight" in left) == (kind == "autoencoder")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop(f"{UNET}shift_out.2.bias"), "lacks 1 of .*shift_out.2.bias"),
        (lambda s: s.pop("cond_stage_model.encoder.16.weight"), "no factor encoder"),
        (lambda s: s.update({f"{UNET}out.2.weight": torch.zeros(9, 32, 3, 3)}), "out.2.weight has shape"),
        (lambda s: s.update({f"{UNET}out.2.bias": torch.full((3,), torch.nan)}), "not finite"),
        (lambda s: s.update({"betas": torch.linspace(0.01, 0.1, 1000) ** 3}), "betas grow neither"),
        (lambda s: s.update({"ddim_coef": torch.rand(1000)}), "ddim_coef does not follow"),
        (lambda s: s.update({"scale_factor": torch.tensor(0.0)}), "scale_factor is 0"),
        (lambda s: s.update({f"{UNET}label_emb.weight": torch.zeros(3, 128)}), "reads a class"),
    ],
)  # fmt: skip
def test_another_network_is_refused_with_one_sentence(released, save_checkpoint, noise_images, change, says):
    state = released.model("vq", units=(3, 4)).state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.startswith("model_ema")}
    change(state)
    with pytest.raises(UserError, match=says):
        imported(save_checkpoint("dis.ckpt", state))


@torch.no_grad()
def test_the_run_folder_gives_the_same_model_and_says_what_happened(
    released, save_checkpoint, noise_images, image, noisy, tmp_path
):
    model = released.model("vq", units=(3, 4))
    path = save_checkpoint("dis.ckpt", model.state_dict())
    report = write_run(imported(path), tmp_path / "runs" / "released")
    run = load_run(tmp_path / "runs" / "released")
    z_t, code = noisy(3), run.model.encode(image)
    assert error(run.model.predict(z_t, T, code).grad, model.averaged(z_t, T, code)[1]) < 1e-4
    compare_first_stage(run.model.latent_space, model.first_stage, image)
    assert json.loads((run.folder / "import.json").read_text()) == report
    assert report["checked_on"] == {"name": "shapes3d", "procedural": True}
    assert report["files"][0]["global_step"] == 240_000
    assert set(report["checks"]["factors"]) == {
        "code_std",
        "noise_error_100",
        "noise_error_400",
        "noise_error_700",
    }
    with pytest.raises(UserError, match="not empty"):
        write_run(imported(path), tmp_path / "runs" / "released")
    target = export_run(tmp_path / "runs" / "released", tmp_path / "exported")
    assert torch.equal(load_run(target).model.encode(image), code)
    card = (target / "README.md").read_text()
    assert "Made by others: imported from dis.ckpt" in card and "assumed: attention of 8 heads" in card
    assert "None: this model was not evaluated." in card and "Others trained it" in card
    assert str(tmp_path) not in card + (target / "import.json").read_text()


def test_other_weights_of_the_same_sizes_are_other_stages(
    released, save_checkpoint, noise_images, tmp_path, monkeypatch
):
    monkeypatch.setattr("disdiff.interop.run_folder.SCALE_IMAGES", 4)
    model = released.model("kl")
    for seed, name in ((1, "a"), (9, "b")):
        released.fill(model.first_stage, seed)
        path = save_checkpoint(f"{name}.ckpt", model.first_stage.state_dict())
        write_run(imported(path, "autoencoder"), tmp_path / "runs" / name)
    assert len(list((tmp_path / "runs" / "_stages").iterdir())) == 2
