"""Imported networks are the original ones: to 1e-4 in float32, largest error over largest value."""

import json
import zipfile
from dataclasses import asdict

import pytest
import torch

from disdiff.config.limits import check_limits
from disdiff.interop.denoisers import UNET, Heads
from disdiff.interop.exporting import export_run
from disdiff.interop.importing import ImportOptions, import_files
from disdiff.interop.run_folder import write_run
from disdiff.runs.run_folder import load_run
from ldm.autoencoder.losses import check_regulariser
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
    from disdiff.interop.denoisers import ENCODER, find_head, name_code
    from disdiff.method.factor_encoder import FactorEncoder, FactorEncoderConfig

    original = released.fill(released.encoder(8, 6, size=256), 0)
    state = {f"cond_stage_model.{name}": tensor for name, tensor in original.state_dict().items()}
    ours = FactorEncoder(FactorEncoderConfig(channels=8), 3, 256, 3, 2).eval()
    head = find_head({name: tuple(tensor.shape) for name, tensor in state.items()})
    names = name_code([f"encoder.{name}" for name in ours.state_dict()], head)
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
        assert "code" in left["model.diffusion_model.shift_out.0.weight"]
        assert "code" in left["model_ema.diffusion_modelpart_embweight"]
        assert ("model.diffusion_model.out.0.weight" in left) == (kind == "autoencoder")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop(f"{UNET}shift_out.2.bias"), "lacks 1 of .*shift_out.2.bias"),
        (lambda s: s.pop("cond_stage_model.encoder.16.weight"), "no factor encoder"),
        (lambda s: s.update({f"{UNET}out.2.weight": torch.zeros(9, 32, 3, 3)}), "out.2.weight has shape"),
        (lambda s: s.update({f"{UNET}out.2.bias": torch.full((3,), torch.nan)}), "not finite"),
        (lambda s: s.update({"betas": torch.linspace(0.01, 0.1, 1000) ** 3}), "betas follow neither"),
        (lambda s: s.update({"ddim_coef": torch.rand(1000)}), "ddim_coef does not follow"),
        (lambda s: s.update({"scale_factor": torch.tensor(0.0)}), "scale_factor is 0"),
        (lambda s: s.update({f"{UNET}label_emb.weight": torch.zeros(3, 128)}), "conditioned on a class"),
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
    assert set(report["checks"]["code"]) == {
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
    assert "imported from dis.ckpt" in card and "assumed: attention of 8 heads" in card
    assert "None: this model was not evaluated." in card and "trained by others" in card
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


def combine(frozen, trained):
    """A released DisDiff whose frozen network is that of `frozen` and whose other parts are `trained`'s."""
    state = trained.state_dict()
    return {**state, **{n: p for n, p in frozen.state_dict().items() if n in state}}


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("last", ["disdiff", "ldm"])
@torch.no_grad()
def test_moving_averages_stand_for_weights_of_their_own_file_alone(
    released, save_checkpoint, noise_images, noisy, averaged, last
):
    model, below = released.model("vq", units=(3, 4)), released.model("vq")
    below.unet, below.averaged = (
        released.fill(net, seed) for net, seed in ((below.unet, 7), (below.averaged, 8))
    )
    paths = {
        "ldm": save_checkpoint("ldm.ckpt", below.state_dict(0.5)),
        "disdiff": save_checkpoint("dis.ckpt", model.state_dict(0.8)),
    }
    got = imported(sorted(paths.values(), key=lambda path: path == paths[last]), averaged=averaged)
    trained, frozen = (model.averaged, below.averaged) if averaged else (model.unet, below.unet)
    expected = released.unet(3, units=(3, 4)).eval()
    expected.load_state_dict(trained.state_dict() if last == "disdiff" else combine(frozen, trained))
    z_t, code = noisy(3), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1))
    eps, fields = expected(z_t, T, code)
    prediction = got.model.eval().predict(z_t, T, code)
    assert error(prediction.eps_base, eps) < 1e-4 and error(prediction.grad, fields) < 1e-4
    assert got.modules["autoencoder"].std.flatten().tolist() == pytest.approx(
        [1.25 if last == "disdiff" else 2.0] * 3
    )
    [line] = [line for line in got.report["replaced"] if line.startswith("latent_diffusion")]
    loser, winner = ("ldm.ckpt", "dis.ckpt") if last == "disdiff" else ("dis.ckpt", "ldm.ckpt")
    count = sum(not name.startswith(("shift", "part", "repre")) for name in expected.state_dict())
    assert f"{count} tensors of {loser} replaced by those of {winner}" in line
    assert ("give dis.ckpt last" in line) == (last == "ldm")
    names = {*got.report["placed"], *got.report["left_out"]}
    assert f"{loser}: model.diffusion_model.out.0.weight" in names


@torch.no_grad()
def test_a_later_network_of_another_size_replaces_the_whole_one(
    released, save_checkpoint, noise_images, image
):
    model = released.model("vq", units=(3, 4))
    kl = released.fill(released.autoencoder("kl", ch=64), 5)
    first, second = (
        save_checkpoint("dis.ckpt", model.state_dict()),
        save_checkpoint("kl.ckpt", kl.state_dict()),
    )
    got = imported([first, second], "autoencoder")
    assert got.config.autoencoder.kind == "kl" and got.config.autoencoder.network.channels == 64
    assert error(got.modules["autoencoder"].eval().encode(image), 0.8 * kl.encode(image)) < 1e-4
    assert "autoencoder: " in got.report["replaced"][0] and "kl.ckpt" in got.report["replaced"][0]
    back = imported([second, first], "autoencoder")
    compare_first_stage(back.modules["autoencoder"].eval(), model.first_stage, image)
    assert back.config.autoencoder.kind == "vq"


def test_files_of_different_schedules_are_refused(released, save_checkpoint, noise_images):
    state = released.model("vq", units=(3, 4)).state_dict()
    other = {"betas": torch.linspace(1e-4, 0.02, 1000)}
    first, second = save_checkpoint("a.ckpt", state), save_checkpoint("b.ckpt", other)
    with pytest.raises(UserError, match="a.ckpt has a different noise schedule"):
        imported([first, second])


WRAPS = {
    "DDP": lambda state: {f"module.{n}": t for n, t in state.items()},
    "compiled": lambda state: {f"_orig_mod.{n}": t for n, t in state.items()},
    "both": lambda state: {f"_orig_mod.module.{n}": t for n, t in state.items()},
    "both, the other way": lambda state: {f"module._orig_mod.{n}": t for n, t in state.items()},
    "in a module": lambda state: {f"model.module.{n}": t for n, t in state.items()},
    "within": lambda state: {n.replace(".", "._orig_mod.", 1): t for n, t in state.items()},
    "in part": lambda state: {("module." if i % 2 else "") + n: t for i, (n, t) in enumerate(state.items())},
    "net.": lambda state: {f"net.{n}": t for n, t in state.items()},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"m": torch.zeros(2)}}}, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.5},
    "state_dict in model": lambda state: {"model": {"state_dict": state}},
    "ema alone": lambda state: {"ema": state},
    "net": lambda state: {"net": {f"module.{n}": t for n, t in state.items()}, "acc": torch.tensor(0.5)},
    "module": lambda state: {"module": state},
    "odd word": lambda state: {"my_best_weights": state, "args": {"lr": 1e-4}},
    "averaged by torch": lambda state: {
        "n_averaged": torch.tensor(3),
        **{f"module.{n}": t for n, t in state.items()},
    },
}


@pytest.mark.parametrize("wrap", WRAPS)
@torch.no_grad()
def test_what_wraps_an_autoencoder_means_nothing(released, noise_images, tmp_path, image, wrap):
    original = released.fill(released.autoencoder("vq"), 3)
    torch.save(WRAPS[wrap](original.state_dict()), tmp_path / "a.pt")
    got = imported(tmp_path / "a.pt", "autoencoder")
    assert error(got.modules["autoencoder"].eval().encode(image), original.encode(image)) < 1e-4


@pytest.mark.parametrize("wrap", ["both", "within", "in part", "net.", "model", "net"])
@torch.no_grad()
def test_what_wraps_a_whole_model_means_nothing(released, noise_images, tmp_path, noisy, wrap):
    model = released.model("vq", units=(3, 4))
    torch.save(WRAPS[wrap](model.state_dict()), tmp_path / "a.pt")
    got, code = imported(tmp_path / "a.pt"), torch.ones(2, 3, 4)
    eps, fields = model.averaged(noisy(3), T, code)
    prediction = got.model.eval().predict(noisy(3), T, code)
    assert error(prediction.eps_base, eps) < 1e-4 and error(prediction.grad, fields) < 1e-4
    assert got.report["weights"] == "moving averages where there are any"


@torch.no_grad()
def test_a_compiled_unet_has_compiled_moving_averages(released, save_checkpoint, noise_images, noisy):
    model, state = released.model("vq"), {}
    for name, tensor in model.state_dict().items():
        name = name.replace("model.diffusion_model.", "model.diffusion_model._orig_mod.module.")
        state[name.replace("model_ema.diffusion_model", "model_ema.diffusion_model_orig_modmodule")] = tensor
    got = imported(save_checkpoint("a.ckpt", state), "ldm")
    assert error(got.modules["latent_diffusion"].eval()(noisy(3), T), model.averaged(noisy(3), T)) < 1e-4


@pytest.mark.parametrize(
    "keys", [("model", "ema"), ("online_model", "ema_model"), ("state_dict", "ema_state_dict")]
)
@torch.no_grad()
def test_a_second_copy_is_the_moving_average(released, noise_images, tmp_path, image, keys):
    raw, averaged = (released.fill(released.autoencoder("kl"), seed) for seed in (3, 4))
    nested = dict(zip(keys, (raw.state_dict(), averaged.state_dict()), strict=True))
    flat = {f"{key}.{name}": tensor for key, state in nested.items() for name, tensor in state.items()}
    for content in (nested, flat):
        torch.save(content, tmp_path / "a.pt")
        for wanted, original in ((True, averaged), (False, raw)):
            got = imported(tmp_path / "a.pt", "autoencoder", averaged=wanted)
            assert error(got.modules["autoencoder"].eval().encode(image), original.encode(image)) < 1e-4


def test_two_networks_of_which_none_is_meant(released, noise_images, tmp_path):
    state = released.autoencoder("kl").state_dict()
    torch.save({"student": state, "teacher": dict(state)}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="a.pt: one network occurs 2 times .student., teacher.."):
        imported(tmp_path / "a.pt", "autoencoder")


@torch.no_grad()
def test_parts_in_dictionaries_of_their_own(released, noise_images, tmp_path, image, noisy):
    model = released.model("vq")
    whole, parts = model.first_stage.state_dict(), {}
    for name, tensor in whole.items():
        head, _, rest = name.partition(".")
        parts.setdefault(head, {})[rest] = tensor
    torch.save(
        {"vae": parts, "unet": model.unet.state_dict(), "scale_factor": torch.tensor(0.8)}, tmp_path / "a.pt"
    )
    got = imported(tmp_path / "a.pt", "ldm")
    compare_first_stage(got.modules["autoencoder"].eval(), model.first_stage, image)
    assert error(got.modules["latent_diffusion"].eval()(noisy(3), T), model.unet(noisy(3), T)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_precisions(released, save_checkpoint, noise_images, dtype, noisy):
    model = released.model("vq", units=(3, 4))
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in model.state_dict().items()}
    got = imported(save_checkpoint("half.ckpt", state))
    assert got.config.latent_diffusion.schedule.beta_start == 0.0015
    assert got.config.latent_diffusion.schedule.beta_end == 0.0155
    model.averaged.load_state_dict({n: t.to(dtype).float() for n, t in model.averaged.state_dict().items()})
    code = torch.ones(2, 3, 4)
    assert (
        error(got.model.eval().predict(noisy(3), T, code).grad, model.averaged(noisy(3), T, code)[1]) < 1e-4
    )


@torch.no_grad()
def test_tensors_saved_on_a_gpu_and_not_contiguous(released, save_checkpoint, noise_images, image):
    original = released.fill(released.autoencoder("kl"), 3)
    state = {n: t.transpose(0, 1).contiguous().transpose(0, 1) if t.ndim > 1 else t
             for n, t in original.state_dict().items()}  # fmt: skip
    assert not all(tensor.is_contiguous() for tensor in state.values())
    path = save_checkpoint("a.ckpt", state)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    place = b"X\x03\x00\x00\x00cpu"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            assert not name.endswith("data.pkl") or place in content
            archive.writestr(name, content.replace(place, b"X\x06\x00\x00\x00cuda:7"))
    got = imported(path, "autoencoder")
    assert error(got.modules["autoencoder"].eval().encode(image), original.encode(image)) < 1e-4


@pytest.mark.parametrize(
    ("drop", "says"),
    [
        ("first_stage_model.decoder.conv_in.weight", "dis.ckpt: .*no tensor decoder.conv_in.weight"),
        ("first_stage_model.quant_conv.bias", "^dis.ckpt: autoencoder: .*lacks 1 of .*quant_conv.bias"),
        ("model.diffusion_model.middle_block.0.emb_layers.1.weight", "^dis.ckpt: .*no tensor middle_block.0"),
        ("model.diffusion_model.repre_embed.weight", "^dis.ckpt: .*no tensor .*repre_embed.weight"),
        (
            "cond_stage_model.encoder.1.running_var",
            "^dis.ckpt: code: .*lacks 1 of .*encoder.1.running_var",
        ),
    ],
)
def test_a_missing_tensor_is_named_with_its_file(released, save_checkpoint, noise_images, drop, says):
    state = released.model("vq", units=(3, 4)).state_dict()
    del state[drop]
    other = save_checkpoint("other.ckpt", {"betas": state["betas"]})
    with pytest.raises(UserError, match=says):
        imported([save_checkpoint("dis.ckpt", state), other])


@pytest.mark.parametrize(("kind", "weight", "gan"), [("kl", 1e-5, (0.5, 50_001)), ("vq", 1.0, (0.75, 0))])
def test_the_configuration_suits_what_was_imported(
    released, save_checkpoint, noise_images, kind, weight, gan
):
    model = released.model(kind, units=(3, 32), orthogonal=False, gaussian=kind == "kl")
    config = imported(save_checkpoint("a.ckpt", model.state_dict())).config
    loss = config.autoencoder.loss
    assert (loss.weight_regulariser, loss.weight_gan, loss.gan_start) == (weight, *gan)
    check_regulariser(config.autoencoder.kind, loss.weight_regulariser)
    assert config.code.loss.weight_kl == (5e-4 if kind == "kl" else 0.0)
    check_limits(asdict(config))


def test_a_short_schedule_has_a_sampler_that_fits(released, save_checkpoint, noise_images):
    state = released.model("vq").state_dict()
    state = {n: t for n, t in state.items() if t.shape != (1000,)}
    state["betas"] = torch.linspace(0.0015**0.5, 0.0155**0.5, 120) ** 2
    config = imported(save_checkpoint("a.ckpt", state), "ldm").config
    assert (config.latent_diffusion.schedule.num_steps, config.sampler.num_steps) == (120, 120)


def test_images_that_the_networks_cannot_read(released, save_checkpoint, noise_images):
    state = released.autoencoder("vq").state_dict()
    state["encoder.conv_in.weight"] = state["encoder.conv_in.weight"][:, :1].clone()
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        state[name] = state[name][:1].clone()
    with pytest.raises(UserError, match="reads images of 1 channels, shapes3d has 3"):
        imported(save_checkpoint("grey.ckpt", state), "autoencoder")
    deep = released.model("vq")
    deep.unet = deep.averaged = released.fill(released.unet(3, mult=(1, 1, 1, 1, 1, 1), attends=()), 2)
    with pytest.raises(UserError, match="reduces latents 32-fold, but those of the data set have 16 pixels"):
        imported(save_checkpoint("deep.ckpt", deep.state_dict()), "ldm")
