"""The main job's stages, in one process, on tiny images; tests/end_to_end runs the command itself."""

import json

import pytest
import torch
from torch import nn

from disdiff.config.schema import CONFIGS, load_config, select
from disdiff.method.code_task import CodeTask
from disdiff.method.tasks import DisDiffTask
from disdiff.runs.encoding import encode_training_codes, latent_batches
from disdiff.runs.pipeline import first_difference, run_pipeline
from disdiff.runs.results import write_results
from disdiff.runs.run_folder import load_run
from ldm.errors import UserError
from ldm.files import load_json
from ldm.training import loggers
from ldm.training.log import read_log
from ldm.training.machine import Machine
from ldm.training.threads import use_threads

SHAPES3D = CONFIGS / "disdiff" / "shapes3d.yaml"


@pytest.fixture
def build(build_on_noise):
    """Return a function that builds a tiny DisDiff's context, or another one's."""

    def make(*overrides, source=None, file=SHAPES3D):
        encoder = "code.encoder={channels: 8, hidden: 0}"
        return build_on_noise(file, encoder, *overrides, source=source)

    return make


def weights(context):
    paths = sorted((context.folder / "stages").glob("*/model.safetensors"))
    return {path.parent.name: path.read_bytes() for path in paths}


def test_three_stages_are_trained_once_and_then_loaded(build, said):
    first = build()
    run_pipeline(first)
    assert set(weights(first)) == {"autoencoder", "latent_diffusion", "code"}
    assert sum("trained in" in line for line in said()) == 3
    again = build()
    run_pipeline(again)
    assert sum("loaded from" in line for line in said()) == 3
    for name, part in again.modules.items():
        assert all(map(torch.equal, part.state_dict().values(), first.modules[name].state_dict().values()))


@pytest.mark.parametrize("system", ["disdiff", "infodiffusion", "beta_vae"])
def test_a_latent_dpm_may_be_added_to_a_finished_run(build, said, system, make_noise):
    """One more stage in the run folder, on the codes of the training images; the others stay."""
    file = CONFIGS / system / "shapes3d.yaml"
    more = "latent_dpm={hidden: 8, num_layers: 2, train: {images: 64, batch_size: 8}}"
    run_pipeline(build("latent_dpm.enabled=false", more, file=file))
    added = build("latent_dpm.enabled=true", more, file=file)
    run_pipeline(added)
    assert sum("loaded from" in line for line in said()) == len(added.stages) - 1
    assert added.stages["latent_dpm"].folder == added.folder / "stages" / "latent_dpm"
    images = make_noise().images(added.train_index).float() / 127.5 - 1
    with torch.no_grad():
        codes = added.model.eval().encode(images)
    torch.testing.assert_close(encode_training_codes(added), codes, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(added.latent_dpm.mean, codes.mean(dim=0), rtol=1e-3, atol=1e-4)
    again = build("latent_dpm.enabled=true", more, file=file)
    run_pipeline(again)
    assert sum("loaded from" in line for line in said()) == len(again.stages)
    with pytest.raises(UserError, match="latent_dpm.hidden differs"):
        run_pipeline(build("latent_dpm.enabled=true", more, "latent_dpm.hidden=9", file=file))


@pytest.mark.parametrize(("kind", "noisy"), [("kl", True), ("noise", False)])
def test_channels_lost_in_noise_are_said_and_recorded(build, said, kind, noisy):
    """After a few steps a posterior is still as wide as N(0, 1), and its means hardly differ."""
    context = build(f"autoencoder.kind={kind}")
    context.config.preset = "small"  # the smoke preset says nothing of it
    run_pipeline(context)
    channels = context.latent_space.latent_channels
    scores = context.stages["autoencoder"].record["scores"]
    assert scores["noisy_channels"] == (channels if noisy else 0)
    lines = [line for line in said() if "noise than signal" in line]
    assert len(lines) == noisy and all(f"{channels} of {channels} latent channels" in line for line in lines)
    statistics = torch.tensor(latent_batches(context).arrays["statistics"][:])
    raw = context.latent_space.autoencoder.sample_raw(statistics, torch.Generator().manual_seed(0))
    z = context.latent_space.standardise(raw)
    torch.testing.assert_close(z.std(dim=(0, 2, 3)), torch.ones(channels), atol=0.1, rtol=0)


def test_seeds_share_the_first_stages(build, said):
    run_pipeline(build())
    other = build("seed=1")
    run_pipeline(other)
    assert sum("loaded from" in line for line in said()) == 2
    assert other.folder.name.endswith("-s1")


def test_a_trial_run_before_training_leaves_no_trace(build, tmp_path, said):
    from disdiff.runs.overview import log_overview

    plain = build("run.root=" + str(tmp_path / "plain"))
    run_pipeline(plain)
    shown = build("run.root=" + str(tmp_path / "shown"))
    log_overview(shown, full=True)
    assert not (tmp_path / "shown").exists()
    text = "\n".join(said())
    assert (
        "PROCEDURAL" in text and "preset smoke" in text and "4 steps of 8" in text and "num_units: 6" in text
    )
    run_pipeline(shown)
    assert weights(shown) == weights(plain)


@pytest.fixture
def two_threads_are(monkeypatch):
    """Return a function that lets trial steps with two threads be so many times as fast as with one."""
    from disdiff.runs import overview

    def pretend(ratio):
        measure, tried = overview.time_counts, []

        def time_counts(step, screen, calls):
            tried.append(list(measure(step, screen, calls)))
            return {1: 0.1, 2: 0.1 / ratio}

        monkeypatch.setattr("ldm.training.threads.ALL_THREADS", 2)
        monkeypatch.setattr(overview, "screen_counts", lambda counts: dict.fromkeys(counts, 1.0))
        monkeypatch.setattr(overview, "time_counts", time_counts)
        return tried

    with use_threads(1):
        yield pretend


@pytest.mark.parametrize(("ratio", "threads"), [(1.25, 1), (0.07, 1), (1.5, 2)])
def test_trial_steps_choose_the_threads_of_the_process(build, two_threads_are, said, ratio, threads):
    from disdiff.runs.overview import log_overview

    tried, context = two_threads_are(ratio), build()
    log_overview(context, full=False)
    assert tried == [[1, 2]] * 3 and torch.get_num_threads() == threads  # each stage, one choice
    text = "\n".join(said())
    assert text.count("threads: ") == 1 and f"threads: {threads} of 2 (" in text
    assert f"{threads} CPU thread" in text
    assert context.step_seconds == dict.fromkeys(
        context.stages, pytest.approx(0.1 if threads == 1 else 0.1 / ratio)
    )


def test_steps_of_pretraining_are_timed_apart(build, monkeypatch):
    from disdiff.runs import overview

    def take(context, name, task, screen, number):
        return dict.fromkeys(screen, 0.01 if number == 0 and name == "code" else 1.0)

    monkeypatch.setattr(overview, "try_steps", take)
    context = build("code.loss.auxiliary={weight: 1.0, hidden: 8, pretrain_steps: 3}", "trainer.threads=1")
    found = overview.try_stages(context)
    for name, (budget, seconds) in found.items():
        slow = budget.num_steps - 3 * (name == "code")
        assert seconds == pytest.approx(slow + 0.01 * (budget.num_steps - slow)) and slow > 0
    assert context.step_seconds == dict.fromkeys(context.stages, 1.0)


def test_trial_steps_do_all_of_the_work(build, monkeypatch):
    from disdiff.runs import overview

    tried = {}

    def take(context, name, task, screen, number):
        tried[name] = task
        return dict.fromkeys(screen, 1.0)

    monkeypatch.setattr(overview, "try_steps", take)
    loss = "code.loss={whiten_ridge: 1.0, auxiliary: {weight: 1.0, pretrain_steps: 3}}"
    overview.try_stages(build(loss, "trainer.threads=1"))
    assert tried["code"].auxiliary is not None and tried["code"].whitener is not None


@pytest.mark.parametrize("threads", [1, 2])
def test_a_fixed_number_of_threads_is_not_tried(build, two_threads_are, said, threads):
    from disdiff.runs.overview import log_overview

    tried, context = two_threads_are(1.5), build(f"trainer.threads={threads}")
    log_overview(context, full=False)
    assert tried == [[threads]] * 3 and torch.get_num_threads() == threads  # for the time that it will take
    assert "threads: " not in "\n".join(said())


def test_where_nothing_is_to_be_trained_no_threads_are_tried(build, two_threads_are, said):
    from disdiff.runs.overview import log_overview

    run_pipeline(build("trainer.threads=1"))
    tried = two_threads_are(1.5)
    log_overview(build(), full=False)
    assert not tried and torch.get_num_threads() == 1 and "threads: " not in "\n".join(said())


def test_a_choice_of_threads_leaves_no_trace_in_weights(build, two_threads_are, tmp_path):
    from disdiff.runs.overview import log_overview

    plain = build("trainer.threads=1", "run.root=" + str(tmp_path / "plain"))
    run_pipeline(plain)
    two_threads_are(1.0)
    chosen = build("run.root=" + str(tmp_path / "chosen"))
    log_overview(chosen, full=False)
    run_pipeline(chosen)
    assert weights(chosen) == weights(plain)


def test_training_is_watched_where_there_is_a_choice(build, two_threads_are, monkeypatch):
    given = {}

    def fit(task, make_loader, folder, name, machine, watches, pause):
        given.setdefault(name, []).extend(watches)
        return 1.0

    monkeypatch.setattr("disdiff.runs.training.fit", fit)
    two_threads_are(1.0)
    context = build()
    context.step_seconds["code"] = 0.25
    run_pipeline(context)
    assert [(watch.counts, watch.usual) for (watch,) in given.values()] == [
        ([1, 2], None), ([1, 2], None), ([1, 2], 0.25)
    ]  # fmt: skip
    for number, alone in enumerate(("trainer.threads=1", "trainer.compile=default")):
        given.clear()
        monkeypatch.setattr(nn.Module, "compile", lambda self, mode: None)
        run_pipeline(build(alone, f"run.name=alone-{number}", f"stage_seed={1 + number}"))
        assert given == {"autoencoder": [], "latent_diffusion": [], "code": []}


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["autoencoder.kind=identity", "code.encoder.input=image"], id="pixel-space"),
        pytest.param(["autoencoder={kind: noise, noise_share: 0.2}"], id="noise"),
        pytest.param(["code.loss.auxiliary={weight: 1.0, hidden: 8}"], id="auxiliary"),
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
                "code.encoder={input: image, norm: batch}",
                "code.loss={every: 2, change_cap: null, detach_condition: true, change_space: image}",
                "latent_diffusion.train.ema_decay=null",
                "code.train.grad_clip=1.0",
            ],
            id="adversarial-image-batchnorm",
        ),
    ],
)
def test_variants_run_and_come_back(build, overrides):
    from disdiff.runs.overview import log_overview

    context = build(*overrides)
    log_overview(context, full=False)
    run_pipeline(context)
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    expected = context.model.eval().encode(image)
    assert torch.equal(load_run(context.folder).model.encode(image), expected)
    assert build(*overrides).stages["code"].trained


def test_the_losses_of_small_pretrain_a_code_and_go_on_with_the_decoder(build):
    small = load_config([SHAPES3D])
    assert small.code.loss.auxiliary.weight and small.code.encoder.start == "random"
    auxiliary = [f"loss.auxiliary.{key}" for key in ("weight", "network", "first_price", "anneal_steps")]
    keys = ("unit_dim", "encoder.posterior", "loss.weight_correlation", "train.optimizer", *auxiliary)
    values = [f"code.{key}={select(small, f'code.{key}')}" for key in keys]
    context = build(*values, "code.loss.auxiliary.pretrain_steps=2")
    run_pipeline(context)
    rows = read_log(context.stages["code"].folder / "log.csv")
    assert all(float(rows[-1][name]) > 0 for name in ("correlation", "decoded", "reconstruction"))


@pytest.mark.parametrize("system", ["disdiff", "encdiff"])
def test_start_and_metric_are_fitted_to_training_latents_before_the_first_step(build, system, monkeypatch):
    seen = []
    monkeypatch.setattr(CodeTask, "fit_data", lambda task, z_0: seen.append(z_0))
    monkeypatch.setattr(DisDiffTask, "fit_data", CodeTask.fit_data)
    # a learning rate of 0 keeps what is fitted
    start = "code.encoder={start: principal, input: z, learning_rate_factor: 0.0}"
    context = build(start, file=CONFIGS / system / "shapes3d.yaml")
    run_pipeline(context)
    (z_0,) = seen
    context.model.eval()
    with torch.no_grad():
        code = context.model.encode_input(context.model.encoder_input.from_latent(z_0)).flatten(1)
    assert code.std(dim=0).tolist() == pytest.approx([1.0] * code.shape[1], rel=0.05)
    assert torch.corrcoef(code.T).fill_diagonal_(0).abs().max() < 0.05


def test_the_paper_losses_run(build):
    """Its 200 million parameters aside: options of the preset that no other preset sets."""
    paper = load_config([SHAPES3D], ["preset=paper"])
    values = {key: value for key, value in vars(paper.code.loss).items() if key != "auxiliary"}
    loss = [f"code.loss.{key}={value}" for key, value in values.items() if value is not None]
    run_pipeline(
        build(
            *loss,
            *(f"code.loss.{key}=null" for key in ("change_cap", "t_max", "whiten_ridge")),
            "code.encoder.norm=batch",
        )
    )


def test_a_run_folder_of_another_configuration_is_refused(build):
    run_pipeline(build("run.name=mine"))
    with pytest.raises(UserError, match="mine belongs to another configuration .code.num_units differs"):
        run_pipeline(build("run.name=mine", "code.num_units=3"))
    with pytest.raises(UserError, match="another configuration .seed differs"):
        run_pipeline(build("run.name=mine", "seed=3"))
    run_pipeline(build("run.name=mine", "evaluation.seed=3"))


def test_a_run_folder_of_other_data_is_refused(build, make_noise):
    """The file of a data set appears or vanishes: same configuration, other images."""
    run_pipeline(build("run.name=mine"))
    with pytest.raises(UserError, match="mine belongs to another configuration .*data"):
        run_pipeline(build("run.name=mine", source=make_noise(identity="noise-2")))


def test_damaged_weights_are_named_with_their_remedy(build):
    context = build()
    run_pipeline(context)
    path = context.stages["latent_diffusion"].folder / "model.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-10])
    with pytest.raises(UserError, match="latent_diffusion-.*delete"):
        run_pipeline(build())


def test_latents_of_another_autoencoder_of_the_same_configuration_are_not_taken(
    build, make_noise, tmp_path, monkeypatch
):
    """A shipped autoencoder and one trained here have the same hash, but not the same weights."""
    shipped = tmp_path / "pretrained" / "noise" / "stages" / "autoencoder"
    monkeypatch.setattr("disdiff.runs.stages.PRETRAINED", tmp_path / "pretrained")
    other = build("stage_seed=1", file=CONFIGS / "autoencoder" / "shapes3d.yaml")
    run_pipeline(other)
    shipped.mkdir(parents=True)
    for name in ("model.safetensors", "stage.json"):
        (shipped / name).write_bytes((other.folder / "stages" / "autoencoder" / name).read_bytes())
    record = json.loads((shipped / "stage.json").read_text())
    record["hash"] = build().stages["autoencoder"].hash
    (shipped / "stage.json").write_text(json.dumps(record))

    run_pipeline(build("stages.pretrained=true"))
    own = build("stages.pretrained=false", "run.name=own")
    run_pipeline(own)
    statistics = latent_batches(own).arrays["statistics"]
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
        "autoencoder={kind: noise, start: linear}",
        "autoencoder={kind: noise, start: principal, network: {z_channels: 193}}",
        "autoencoder.network.num_res_blocks=0",
        "latent_diffusion.unet.num_res_blocks=0",
        "latent_diffusion.loss=l3",
        "latent_diffusion.unet.resample=convolution",
        "latent_diffusion.unet.num_heads=3",
        "latent_diffusion.schedule.kind=cosine",
        "code.encoder.input=images",
        "code.encoder.norm=layer",
        "code.decoder.unit_embedding=learnt",
        "code.decoder.num_res_blocks=2",
        "code.num_units=17",
        "evaluation.protocol=papers",
        "sampler.name=ddimm",
        "sampler.num_steps=2000",
        "trainer.device=tpu",
        "trainer.precision=fp8",
        "trainer.compile=fast",
        "trainer.resident=gpu",
        "trainer.logger=tb",
    ],
)
def test_values_that_cannot_be_are_refused_before_anything_is_trained(build, override, tmp_path):
    from disdiff.runs.overview import log_overview

    with pytest.raises(UserError):
        log_overview(build(override), full=False)  # as main.py does first
    assert not list(tmp_path.iterdir())


def test_a_batch_that_has_no_such_parts_is_refused_before_anything_is_trained(build, tmp_path):
    with pytest.raises(UserError, match="a batch of 8 cannot be split into 3 equal parts"):
        run_pipeline(build("trainer.accumulate=3"))
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

    run_pipeline(plain)
    monkeypatch.setattr(nn.Module, "compile", pretend)
    options = ("channels_last=true", "compile=default", "resident=always", "accumulate=2")
    chosen = build(f"run.root={tmp_path / 'chosen'}", *(f"trainer.{option}" for option in options))
    run_pipeline(chosen)
    for (name, stage), other in zip(plain.stages.items(), chosen.stages.values(), strict=True):
        assert stage.hash == other.hash and stage.folder != other.folder
        expected, found = (float(read_log(of.folder / "log.csv")[-1]["loss"]) for of in (stage, other))
        assert found == pytest.approx(expected, rel=1e-3), name
    assert compiled and all(part._compiled_call_impl is None for part in compiled)  # for training only


@pytest.mark.parametrize("name", ["mlflow", "csv"])
def test_the_logger_changes_no_hash_and_gets_the_results(build, monkeypatch, name):
    told, numbers = [], (None, {"psnr": 20.0})
    monkeypatch.setattr(loggers, "find_spec", lambda package: object())
    monkeypatch.setitem(loggers.BUILDERS, "mlflow", None)
    results = "disdiff.runs.results"
    monkeypatch.setattr(f"{results}.log_results", lambda *arguments: told.append(arguments))
    monkeypatch.setattr(f"{results}.measure_edits", lambda *_: numbers)
    monkeypatch.setattr(f"{results}.make_pictures", lambda *_, **options: None)
    monkeypatch.setattr(f"{results}.write_report", lambda folder: None)
    plain, context = build(), build(f"trainer.logger={name}")
    assert context.machine == Machine("cpu", "32-true", logger=name)
    assert [stage.hash for stage in context.stages.values()] == [part.hash for part in plain.stages.values()]
    run_pipeline(context)
    write_results(context, 0.0)
    ((kind, folder, tree, pictures, step),) = told
    assert (kind, folder, step) == (name, context.folder, context.stages["code"].record["steps"])
    assert tree == {"scores": load_json(folder / "metrics.json")["scores"], **tree} and step == 4
    assert (tree["editing"], tree["reconstruction"]) == numbers
    assert [path.name for path in pictures] == [
        f"{part}.png" for part in ("swap", "traversal", "fields", "reconstruction", "samples")
    ]


def test_the_first_difference_is_named_by_its_key():
    a = {"run": {"name": "x"}, "code": {"loss": {"norm": "l1", "every": 1}}, "seed": 0}
    b = {"run": {"name": "y"}, "code": {"loss": {"norm": "l1", "every": 2}}, "seed": 1}
    assert first_difference(a, b) == "code.loss.every"
    assert first_difference(a, {**a, "run": {"name": "y"}}) is None


@pytest.mark.parametrize(
    ("system", "count", "overrides", "says"),
    [
        ("disdiff", 1, [], "disdiff needs at least 2 training images, but there are 1; .*system=autoencoder"),
        ("beta_vae", 1, [], "beta_vae needs at least 2 training images, but there are 1"),
        ("pdae", 48, ["data.num_train=1"], "pdae needs at least 2 training images, but there are 1"),
        (
            "disdiff",
            17,
            ["code.encoder.start=eigenmaps"],
            "at least 18 training images for code.encoder.start=eigenmaps, but there are 17; .*start=random",
        ),
        (
            "disdiff",
            5,
            ["code.encoder.start=principal"],
            "at least 6 training images .*start=principal, but there are 5",
        ),
        ("disdiff", 48, ["evaluation.num_images=1"], "at least 2 evaluation images, but there are 1"),
    ],
)
def test_too_few_images_are_told_before_training(
    build, make_noise, system, count, overrides, says, monkeypatch
):
    monkeypatch.setattr(make_noise, "__len__", lambda self: count)
    file = CONFIGS / system / "shapes3d.yaml"
    context = build(*overrides, file=file)
    with pytest.raises(UserError, match=says):
        run_pipeline(context)
    assert not context.folder.exists()


@pytest.mark.parametrize("system", ["autoencoder", "latent_diffusion"])
def test_one_image_does_for_stages_without_a_code(build, make_noise, system, monkeypatch):
    monkeypatch.setattr(make_noise, "__len__", lambda self: 1)
    context = build(file=CONFIGS / system / "shapes3d.yaml")
    run_pipeline(context)
    assert all(stage.trained for stage in context.stages.values())


@pytest.mark.parametrize("system", ["disdiff", "beta_vae"])
def test_two_images_do_for_a_code(build, make_noise, system, monkeypatch):
    monkeypatch.setattr(make_noise, "__len__", lambda self: 2)
    context = build("evaluation.num_pairs=0", file=CONFIGS / system / "shapes3d.yaml")
    run_pipeline(context)
    assert context.stages["code"].trained


def test_the_frozen_model_is_looked_at(build):
    context = build(file=CONFIGS / "latent_diffusion" / "shapes3d.yaml")
    run_pipeline(context)
    scores = context.stages["latent_diffusion"].record["scores"]
    assert [key for key in scores if key.startswith("z0_error_")] == [
        f"z0_error_{t}" for t in range(50, 1000, 100)
    ]
    assert 0 < scores["z0_error_50"] < scores["z0_error_450"]
    stages = (context.stages["latent_diffusion"].folder, context.folder / "stages" / "latent_diffusion")
    assert all((folder / "samples.png").stat().st_size > 1000 for folder in stages)


def test_first_stages_trained_before_change_nothing_of_the_code(build):
    """The auxiliary decoder starts at the same weights whether first stages were just trained or not."""
    auxiliary = "code.loss.auxiliary={weight: 1.0, hidden: 8, pretrain_steps: 2}"
    found = []
    for name in ("trains", "loads"):
        context = build(auxiliary, f"run.name={name}")
        run_pipeline(context)
        found.append(weights(context)["code"])
    assert found[0] == found[1]
