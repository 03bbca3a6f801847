"""The main job's stages, in one process, on tiny images; tests/end_to_end runs the command itself."""

import json

import pytest
import torch
from torch import nn

from disdiff.code_task import CodeTask
from disdiff.config import CONFIGS, load_config
from disdiff.run import load_run
from disdiff.tasks import DisDiffTask
from ldm.errors import UserError
from ldm.training.log import read_log
from ldm.training.machine import Machine

SHAPES3D = CONFIGS / "disdiff" / "shapes3d.yaml"


@pytest.fixture
def build(build_on_noise):
    """Return a function that builds a tiny DisDiff's pipeline, or another one's."""

    def make(*overrides, source=None, file=SHAPES3D):
        encoder = "factors.encoder={channels: 8, hidden: 0}"
        return build_on_noise(file, encoder, *overrides, source=source)

    return make


def weights(pipeline):
    paths = sorted((pipeline.folder / "stages").glob("*/model.safetensors"))
    return {path.parent.name: path.read_bytes() for path in paths}


def test_three_stages_are_trained_once_and_then_loaded(build):
    first = build()
    first.run()
    assert set(weights(first)) == {"autoencoder", "latent_diffusion", "factors"}
    assert sum("trained in" in line for line in first.said) == 3
    again = build()
    again.run()
    assert sum("loaded from" in line for line in again.said) == 3
    for name, part in again.modules.items():
        assert all(map(torch.equal, part.state_dict().values(), first.modules[name].state_dict().values()))


@pytest.mark.parametrize("system", ["disdiff", "infodiffusion", "beta_vae"])
def test_a_latent_dpm_may_be_added_to_a_finished_run(build, system, make_noise):
    """One more stage in the run folder, on the codes of the training images; the others stay."""
    file = CONFIGS / system / "shapes3d.yaml"
    more = "latent_dpm={hidden: 8, num_layers: 2, train: {images: 64, batch_size: 8}}"
    build("latent_dpm.enabled=false", more, file=file).run()
    added = build("latent_dpm.enabled=true", more, file=file)
    added.run()
    assert sum("loaded from" in line for line in added.said) == len(added.stages) - 1
    assert added.stages["latent_dpm"].folder == added.folder / "stages" / "latent_dpm"
    images = make_noise().images(added.train_index).float() / 127.5 - 1
    with torch.no_grad():
        codes = added.model.eval().encode(images)
    torch.testing.assert_close(added.encode_training_codes(), codes, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(added.latent_dpm.mean, codes.mean(dim=0), rtol=1e-3, atol=1e-4)
    again = build("latent_dpm.enabled=true", more, file=file)
    again.run()
    assert sum("loaded from" in line for line in again.said) == len(again.stages)
    with pytest.raises(UserError, match="latent_dpm.hidden differs"):
        build("latent_dpm.enabled=true", more, "latent_dpm.hidden=9", file=file).run()


@pytest.mark.parametrize(("kind", "noisy"), [("kl", True), ("noise", False)])
def test_channels_lost_in_noise_are_said_and_recorded(build, kind, noisy):
    """After a few steps a posterior is still as wide as N(0, 1), and its means hardly differ."""
    pipeline = build(f"autoencoder.kind={kind}")
    pipeline.run()
    channels = pipeline.latent_space.latent_channels
    scores = pipeline.stages["autoencoder"].record["scores"]
    assert scores["noisy_channels"] == (channels if noisy else 0)
    lines = [line for line in pipeline.said if "noise than signal" in line]
    assert len(lines) == noisy and all(f"{channels} of {channels} latent channels" in line for line in lines)
    statistics = torch.tensor(pipeline.latent_batches(with_images=False).arrays["statistics"][:])
    raw = pipeline.latent_space.autoencoder.sample_raw(statistics, torch.Generator().manual_seed(0))
    z = pipeline.latent_space.standardise(raw)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(channels), atol=0.1, rtol=0)


def test_seeds_share_the_first_stages(build):
    build().run()
    other = build("seed=1")
    other.run()
    assert sum("loaded from" in line for line in other.said) == 2
    assert other.folder.name.endswith("-s1")


def test_a_trial_run_before_training_leaves_no_trace(build, tmp_path, capsys):
    from disdiff.overview import print_overview

    plain = build("run.root=" + str(tmp_path / "plain"))
    plain.run()
    shown = build("run.root=" + str(tmp_path / "shown"))
    print_overview(shown, full=True)
    assert not (tmp_path / "shown").exists()
    text = capsys.readouterr().out
    assert (
        "PROCEDURAL" in text and "preset smoke" in text and "4 steps of 8" in text and "num_units: 6" in text
    )
    shown.run()
    assert weights(shown) == weights(plain)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["autoencoder.kind=identity", "factors.encoder.input=image"], id="pixel-space"),
        pytest.param(["autoencoder={kind: noise, noise_share: 0.2}"], id="noise"),
        pytest.param(
            [
                "autoencoder={kind: noise, start: principal}",
                "autoencoder.train={optimizer: muon, ema_decay: 0.9}",
            ],
            id="principal-muon",
        ),
        pytest.param(
            [
                "autoencoder={kind: vq, codebook_size: 16}",
                "autoencoder.loss.weight_regulariser=1.0",
            ],
            id="vq",
        ),
        pytest.param(
            [
                "autoencoder.loss={weight_gan: 0.5, gan_start: 2}",
                "autoencoder.loss={discriminator_channels: 4, discriminator_layers: 1}",
                "factors.encoder={input: image, norm: batch}",
                "factors.loss={every: 2, change_cap: null, detach_condition: true, change_space: image}",
                "latent_diffusion.train.ema_decay=null",
                "factors.train.grad_clip=1.0",
            ],
            id="adversarial-image-batchnorm",
        ),
    ],
)
def test_variants_run_and_come_back(build, overrides):
    from disdiff.overview import print_overview

    pipeline = build(*overrides)
    print_overview(pipeline, full=False)
    pipeline.run()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = pipeline.model.eval().encode(image)
    assert torch.equal(load_run(pipeline.folder).model.encode(image), expected)
    assert build(*overrides).stages["factors"].trained


@pytest.mark.parametrize("system", ["disdiff", "encdiff"])
def test_start_and_metric_are_fitted_to_training_latents_before_the_first_step(build, system, monkeypatch):
    seen = []
    monkeypatch.setattr(CodeTask, "see_data", lambda task, z_0: seen.append(z_0))
    monkeypatch.setattr(DisDiffTask, "see_data", CodeTask.see_data)
    start = "factors.encoder={start: principal, input: z, rate: 0.0}"  # a rate of 0 keeps what is fitted
    pipeline = build(start, file=CONFIGS / system / "shapes3d.yaml")
    pipeline.run()
    (z_0,) = seen
    pipeline.model.eval()
    with torch.no_grad():
        code = pipeline.model.encode_seen(pipeline.model.observe(z_0)).flatten(1)
    assert code.std(dim=0).tolist() == pytest.approx([1.0] * code.shape[1], rel=0.05)
    assert torch.corrcoef(code.T).fill_diagonal_(0).abs().max() < 0.05


def test_the_paper_losses_run(build):
    """Its 200 million parameters aside: options of the preset that no other preset sets."""
    paper = load_config([SHAPES3D], ["preset=paper"])
    loss = [
        f"factors.loss.{key}={value}" for key, value in vars(paper.factors.loss).items() if value is not None
    ]
    build(
        *loss,
        *(f"factors.loss.{key}=null" for key in ("change_cap", "t_max", "whiten_ridge")),
        "factors.encoder.norm=batch",
    ).run()


def test_a_run_folder_of_another_configuration_is_refused(build):
    build("run.name=mine").run()
    with pytest.raises(UserError, match="mine belongs to another configuration .factors.num_units differs"):
        build("run.name=mine", "factors.num_units=3").run()
    with pytest.raises(UserError, match="another configuration .seed differs"):
        build("run.name=mine", "seed=3").run()
    build("run.name=mine", "evaluation.seed=3").run()


def test_a_run_folder_of_other_data_is_refused(build, make_noise):
    """The file of a data set appears or vanishes: same configuration, other images."""
    build("run.name=mine").run()
    with pytest.raises(UserError, match="mine belongs to another configuration .*data"):
        build("run.name=mine", source=make_noise(identity="noise-2")).run()


def test_damaged_weights_are_named_with_their_remedy(build):
    pipeline = build()
    pipeline.run()
    path = pipeline.stages["latent_diffusion"].folder / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-10])
    with pytest.raises(UserError, match="latent_diffusion-.*delete"):
        build().run()


def test_latents_of_another_autoencoder_of_the_same_configuration_are_not_taken(
    build, make_noise, tmp_path, monkeypatch
):
    """A shipped autoencoder and one trained here have the same hash, but not the same weights."""
    shipped = tmp_path / "pretrained" / "noise" / "stages" / "autoencoder"
    monkeypatch.setattr("disdiff.stages.PRETRAINED", tmp_path / "pretrained")
    other = build("stage_seed=1", file=CONFIGS / "autoencoder" / "shapes3d.yaml")
    other.run()
    shipped.mkdir(parents=True)
    for name in ("model.safetensors", "stage.json"):
        (shipped / name).write_bytes((other.folder / "stages" / "autoencoder" / name).read_bytes())
    record = json.loads((shipped / "stage.json").read_text())
    record["hash"] = build().stages["autoencoder"].hash
    (shipped / "stage.json").write_text(json.dumps(record))

    build("stages.pretrained=true").run()
    own = build("stages.pretrained=false", "run.name=own")
    own.run()
    statistics = own.latent_batches(with_images=False).arrays["statistics"]
    image = make_noise().images(own.train_index).float() / 127.5 - 1
    with torch.no_grad():
        expected = own.latent_space.autoencoder.encode_statistics(image)
    torch.testing.assert_close(torch.tensor(statistics[:]), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "override",
    [
        "system=disdif",
        "autoencoder.kind=vqq",
        "autoencoder.standardise=channels",
        "autoencoder.start=principal",  # which is of another kind
        "autoencoder={kind: noise, start: linear}",
        "autoencoder={kind: noise, start: principal, network: {z_channels: 193}}",
        "autoencoder.network.num_res_blocks=0",
        "latent_diffusion.unet.num_res_blocks=0",
        "latent_diffusion.loss=l3",
        "latent_diffusion.unet.resample=convolution",
        "latent_diffusion.unet.num_heads=3",
        "latent_diffusion.schedule.kind=cosine",
        "factors.encoder.input=images",
        "factors.encoder.norm=layer",
        "factors.decoder.unit_embedding=learnt",
        "factors.decoder.num_res_blocks=2",
        "factors.num_units=17",
        "evaluation.protocol=papers",
        "sampler.name=ddimm",
        "trainer.device=tpu",
        "trainer.precision=fp8",
        "trainer.compile=fast",
        "trainer.resident=gpu",
    ],
)
def test_values_that_cannot_be_are_refused_before_anything_is_trained(build, override, tmp_path):
    from disdiff.overview import print_overview

    with pytest.raises(UserError):
        print_overview(build(override), full=False)  # as main.py does first
    assert not list(tmp_path.iterdir())


def test_a_batch_that_has_no_such_parts_is_refused_before_anything_is_trained(build, tmp_path):
    with pytest.raises(UserError, match="a batch of 8 cannot be split into 3 equal parts"):
        build("trainer.accumulate=3").run()
    assert not list(tmp_path.iterdir())


def test_the_options_of_the_machine_arrive(build):
    options = {"channels_last": True, "compile": "cuda_graphs", "resident": "always", "accumulate": 2}
    chosen = build("trainer.precision=tf32", *(f"trainer.{name}={value}" for name, value in options.items()))
    assert chosen.machine == Machine("cpu", "32-true", tf32=True, **options)
    assert build().machine == Machine("cpu", "32-true")


def test_the_options_of_the_machine_leave_hashes_and_losses_as_they_are(build, tmp_path, monkeypatch):
    plain, compiled = build(), []

    def pretend(self, mode):  # tests/ldm/training/test_machine.py compiles
        self._compiled_call_impl = self._call_impl
        compiled.append(self)

    plain.run()
    monkeypatch.setattr(nn.Module, "compile", pretend)
    options = ("channels_last=true", "compile=default", "resident=always", "accumulate=2")
    chosen = build(f"run.root={tmp_path / 'chosen'}", *(f"trainer.{option}" for option in options))
    chosen.run()
    for (name, stage), other in zip(plain.stages.items(), chosen.stages.values(), strict=True):
        assert stage.hash == other.hash and stage.folder != other.folder
        expected, found = (float(read_log(of.folder / "log.csv")[-1]["loss"]) for of in (stage, other))
        assert found == pytest.approx(expected, rel=1e-3), name
    assert compiled and all(part._compiled_call_impl is None for part in compiled)  # for training only
