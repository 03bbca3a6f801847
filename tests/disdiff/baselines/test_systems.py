"""Every system builds from its files and is the same to scores and edits; identities between them."""

import pytest
import torch
import torch.nn.functional as F

from disdiff.baselines.conditional import TokenBlock
from disdiff.baselines.encoders import build_attention
from disdiff.build import SYSTEMS, build_denoiser, build_latent_space, build_model, get_system
from disdiff.config.schema import CONFIGS, load_config, read_yaml
from disdiff.editing.units import decode_code, sample_start, swap_units
from disdiff.method.losses import snr_weight
from disdiff.method.model import DisDiff, training_coefficient
from disdiff.runs.stages import list_settings
from ldm.data.source import to_float
from ldm.diffusion.process import q_sample, sample_noise
from ldm.diffusion.sampler import SAMPLERS, SamplerConfig, sample
from ldm.diffusion.schedule import gather
from ldm.errors import UserError
from ldm.nn.layers import CrossAttention, ResBlock
from ldm.nn.unet import Level
from ldm.tasks import sample_latents

OTHERS = (
    *("pdae", "encdiff", "dyga", "infodiffusion", "diffae"),
    *("beta_vae", "infovae", "factor_vae", "beta_tcvae"),
)
OF_DATA = ("bases", "data", "evaluation")


def without_data(path):
    """What a file says of its system, as text."""
    return str({key: value for key, value in read_yaml(path).items() if key not in OF_DATA})


# one file of those that differ in the data set alone, which has no part in these tests
FILES = list(
    {without_data(path): path for name in OTHERS for path in sorted((CONFIGS / name).glob("*.yaml"))}.values()
)
ABLATIONS = sorted((CONFIGS / "disdiff" / "ablations").glob("*.yaml"))
TINY = [
    "preset=smoke",
    "autoencoder.network={patch: 1, channels: 4, channel_mult: [1, 2], num_groups: 2}",
    "latent_diffusion.unet={channels: 8, channel_mult: [1, 2], num_groups: 4}",
    "code.encoder={channels: 8, hidden: 0}",
    "trunk.channels=8",
]
SIZE, BATCH = 16, 4


def name_of(path):
    return f"{path.parent.name}-{path.stem}"


def build(path, *overrides):
    """A tiny system with random weights, and its configuration."""
    config = load_config([path], [*TINY, *overrides])
    torch.manual_seed(0)
    space = build_latent_space(config)
    denoiser = build_denoiser(config, space)
    torch.manual_seed(1)
    return build_model(config, space, denoiser, SIZE), config


def build_task(path, *overrides):
    model, config = build(path, *overrides)
    return get_system(config).build_task(config, model, "cpu").train()


def build_batch(model):
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        statistics = model.latent_space.autoencoder.encode_statistics(to_float(image))
    return {"statistics": statistics, **({"image": image} if model.encoder_input.array == "image" else {})}


def loss_at(task, step=3):
    return task.compute_loss(build_batch(task.model), step, task.step_generator(step))


@pytest.mark.parametrize("path", ABLATIONS, ids=name_of)
def test_every_ablation_is_short_and_builds_and_loads_elsewhere(path):
    assert len(path.read_text().splitlines()) <= 10
    assert type(build(path)[0]) is DisDiff
    assert load_config([path], ["preset=paper"]).run.name == f"disdiff-ablations-{path.stem}-paper-s0"


@pytest.mark.parametrize(("channels", "heads"), [(8, 1), (32, 1), (64, 2), (128, 4), (256, 4)])
def test_attention_of_an_encoder_has_heads_of_32_channels_or_more(channels, heads):
    assert build_attention(channels).num_heads == heads


def test_every_system_has_a_configuration():
    assert {read_yaml(path).system for path in FILES} == set(OTHERS) < set(SYSTEMS)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_system_encodes_decodes_inverts_and_swaps(path, randomise):
    model, _ = build(path)
    randomise(model.networks)
    model.eval()
    image = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
    sampler, generator = SamplerConfig("ddim", 2), torch.Generator().manual_seed(0)
    with torch.no_grad():
        code = model.encode(image)
        assert code.shape == (2, model.num_units, 1)
        z_T = sample_start(model, 2, SIZE, generator)
        first = decode_code(model, code, z_T, sampler)
        swapped = decode_code(model, swap_units(code, code.flip(0), [0]), z_T, sampler)
        inferred = model.infer_noise(image, code, 2)
    assert first.shape == image.shape and inferred.shape == z_T.shape
    assert not torch.equal(first, swapped)
    with pytest.raises(UserError, match="no separate gradient fields"):
        decode_code(model, code, z_T, sampler, units=[0])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_training_moves_every_weight_and_nothing_frozen(path):
    encoder = "code.encoder={code_norm: none, freeze_steps: 0}"
    task = build_task(path, "code.train.learning_rate=0.01", encoder)
    frozen = [p.clone() for p in task.model.latent_space.parameters()]
    before = {name: p.clone() for name, p in task.trained.named_parameters()}
    optimizer = task.configure_optimizers()["optimizer"]
    for step in range(4):
        optimizer.zero_grad()
        loss_at(task, task.pretrain_steps + step).backward()
        optimizer.step()
    assert all(map(torch.equal, frozen, task.model.latent_space.parameters()))
    unmoved = [name for name, p in task.trained.named_parameters() if torch.equal(p, before[name])]
    assert not unmoved
    assert task.preview(build_batch(task.model), torch.Generator().manual_seed(0)).ndim == 5


class TestPDAE:
    path = CONFIGS / "pdae" / "shapes3d.yaml"
    same = ("trunk.kind=disdiff", "code.encoder.input=z")

    def test_its_loss_is_the_weighted_posterior_mean_shift(self, randomise):
        task = build_task(self.path)
        randomise(task.trained)
        model, batch, generator = task.model, build_batch(task.model), task.step_generator(3)
        schedule = model.schedule
        z_0 = sample_latents(model.latent_space, batch["statistics"], generator)
        code = model.networks.encoder(to_float(batch["image"]))
        t = torch.randint(0, 1000, (BATCH,), generator=generator)
        eps = sample_noise(z_0, generator)
        z_t = q_sample(schedule, z_0, t, eps)
        features = model.denoiser.features(z_t, t)
        grad = model.networks.decoder(features, code)[:, 0]
        k_t = gather(training_coefficient(schedule), t, z_t)
        error = (model.denoiser.decode(features) + k_t * grad - eps).square().flatten(1).mean(dim=1)
        assert torch.equal(loss_at(task), (snr_weight(schedule.snr, 0.1)[t] * error).mean())

    def test_it_equals_disdiff_of_one_unit(self, randomise):
        """Zero unit embedding, no L_dis, SNR weight, the same encoder, width and norm: the very same loss."""
        loss = (
            "norm: l2",
            "t_min: 0",
            "t_max: null",
            "weighting: snr",
            "weight_disentangle: 0.0",
            "weight_kl: 0.0",
        )
        disdiff = build_task(
            CONFIGS / "disdiff" / "shapes3d.yaml",
            *("code.num_units=1", "code.unit_dim=6", "code.decoder.unit_embedding=learned"),
            *("code.encoder.input=z", "code.decoder.condition=shared"),
            f"code.loss={{{', '.join(loss)}}}",
        )
        pdae = build_task(self.path, *self.same)
        randomise(pdae.trained)
        for parameter in disdiff.trained.decoder.unit_embedding.project.parameters():
            parameter.data.zero_()
        missing = disdiff.trained.load_state_dict(pdae.trained.state_dict(), strict=False)
        assert not missing.unexpected_keys and all("unit_embedding" in key for key in missing.missing_keys)
        assert type(disdiff.model) is DisDiff
        assert torch.equal(loss_at(disdiff), loss_at(pdae))

    @pytest.mark.parametrize("system", ["pdae", "disdiff"])
    @pytest.mark.parametrize("name", SAMPLERS)
    def test_with_a_new_decoder_it_samples_as_its_latent_diffusion(self, system, name):
        model, config = build(CONFIGS / system / "shapes3d.yaml", "latent_diffusion.schedule.num_steps=6")
        sampler, z_T = SamplerConfig(name, 3, 0.0), torch.randn(2, 4, 8, 8)
        code = torch.randn(2, model.num_units, config.code.unit_dim if system == "disdiff" else 1)
        made, base = (
            sample(sampler, eps_fn, model.schedule, z_T, torch.Generator().manual_seed(0))
            for eps_fn in (model.eps_fn(code), model.denoiser)
        )
        assert torch.equal(made, base) and not torch.equal(made, z_T)

    def test_the_published_weights_and_coefficients(self, linear_schedule):
        """Table A3 of PDAE's code: linear betas 1e-4 .. 2e-2, gamma = 0.1."""
        t = torch.tensor([0, 10, 50, 100, 200, 300, 500, 700, 900, 999])
        weights = [0.0003, 0.0040, 0.0425, 0.1299, 0.3666, 0.5805, 0.7202, 0.6039, 0.4396, 0.3636]
        coefficients = [0.0, -0.0405, -0.1671, -0.3177, -0.5804, -0.7730, -0.9547, -0.9894, -0.9908, -0.9899]
        found = snr_weight(linear_schedule.snr, 0.1)[t]
        torch.testing.assert_close(found, torch.tensor(weights), atol=6e-5, rtol=0)
        found = training_coefficient(linear_schedule)[t]
        torch.testing.assert_close(found, torch.tensor(coefficients), atol=6e-5, rtol=0)


class TestDiffAE:
    path = CONFIGS / "diffae" / "shapes3d.yaml"

    def test_the_code_scales_every_block_and_shifts_none(self):
        """(1 + s_c) (h (1 + s_t) + b_t): a scale of -1 leaves nothing, which no shift could undo."""
        model, _ = build(self.path)
        blocks = [module for module in model.networks.denoiser.modules() if isinstance(module, ResBlock)]
        assert blocks and all(
            block.cond_affine.out_features == block.out_conv.in_channels for block in blocks
        )

    def test_stochastic_encoding_gives_the_image_back(self, randomise):
        """DDIM backwards under the code, then forwards: nearer with more steps; random noise is far off."""
        model, _ = build(self.path, "autoencoder.kind=identity", "latent_diffusion.schedule.beta_end=0.01")
        randomise(model.networks.encoder)
        model.eval()
        for block in model.networks.denoiser.modules():
            if isinstance(block, ResBlock):
                torch.nn.init.normal_(block.out_conv.weight, std=0.02)
        torch.nn.init.normal_(model.networks.denoiser.decoder.out_conv.weight, std=0.02)
        image = torch.rand(2, 3, SIZE, SIZE) * 2 - 1
        with torch.no_grad():
            code, errors = model.encode(image), []
            for steps in (5, 40):
                z_T = model.infer_noise(image, code, steps)
                errors.append(
                    (decode_code(model, code, z_T, SamplerConfig("ddim", steps)) - image).abs().mean()
                )
            fresh = torch.randn(z_T.shape, generator=torch.Generator().manual_seed(0))
            random = (decode_code(model, code, fresh, SamplerConfig("ddim", 40)) - image).abs().mean()
        assert errors[1] < errors[0] and errors[1] < 0.1 * random

    def test_the_simplified_one_is_infodiffusion_without_its_prior(self):
        infodiffusion = build_task(CONFIGS / "infodiffusion" / "shapes3d.yaml", "prior.weight=0.0")
        simplified = build_task(CONFIGS / "diffae" / "simplified.yaml", "trunk.channels=8")
        assert torch.equal(loss_at(infodiffusion), loss_at(simplified))
        held = build_task(CONFIGS / "infodiffusion" / "shapes3d.yaml")
        assert loss_at(held) > loss_at(simplified)

    def test_the_published_one_is_infodiffusion_under_its_conditioning(self):
        overrides = ("trunk.kind=half_unet", "conditional.condition=scale", "prior.weight=0")
        infodiffusion = build_task(CONFIGS / "infodiffusion" / "shapes3d.yaml", *overrides)
        diffae = build_task(CONFIGS / "diffae" / "shapes3d.yaml")
        assert torch.equal(loss_at(infodiffusion), loss_at(diffae))


def test_encdiff_conditions_by_tokens_of_single_units(randomise):
    model, _ = build(CONFIGS / "encdiff" / "shapes3d.yaml")
    randomise(model.networks)
    code = torch.randn(2, model.num_units, 1)
    moved = code.clone()
    moved[:, 2] += 1
    changed = (model.networks.condition(moved) != model.networks.condition(code)).any(dim=2)
    assert changed[:, 2].all() and not changed[:, [0, 1, 3, 4, 5]].any()


class TestDyGA:
    path = CONFIGS / "dyga" / "shapes3d.yaml"

    def test_without_dropout_and_shift_it_is_encdiff(self, randomise):
        plain = build_task(self.path, "conditional={skip_dropout: 0.0, anchors: {shift: 0.0}}")
        encdiff = build_task(CONFIGS / "encdiff" / "shapes3d.yaml")
        for task in (plain, encdiff):
            torch.manual_seed(2)
            randomise(task.trained)
        assert torch.equal(loss_at(plain), loss_at(encdiff))
        path = CONFIGS / "encdiff" / "shapes3d.yaml"
        plain, encdiff = (
            list_settings(load_config([file], overrides), "code")
            for file, overrides in (
                (self.path, ["conditional={skip_dropout: 0.0, anchors: {shift: 0.0}}"]),
                (path, []),
            )
        )
        assert plain == encdiff and not {"skip_dropout", "anchors"} & set(plain["conditional"])

    def test_both_change_training_and_not_sampling(self, randomise):
        task = build_task(
            self.path, "conditional={skip_dropout: 0.5, anchors: {shift: 0.5, memory: 4, every: 1}}"
        )
        randomise(task.trained)
        z, t, code = torch.randn(2, 4, 8, 8), torch.tensor([5, 90]), torch.randn(2, 6, 1)
        torch.manual_seed(0)
        assert not torch.equal(task.trained(z, t, code), task.trained(z, t, code))
        task.trained.eval()
        assert torch.equal(task.trained(z, t, code), task.model.eps_fn(code)(z, t))
        loss_at(task)
        assert task.anchors.num_seen == BATCH and task.anchors.share.any()

    def test_anchors_are_part_of_a_checkpoint_and_not_of_the_result(self):
        task = build_task(self.path)
        checkpoint = {"state_dict": task.state_dict()}
        task.on_save_checkpoint(checkpoint)
        assert {"anchors.mean", "anchors.memory"} < checkpoint["state_dict"].keys()
        assert not [name for name in task.result.state_dict() if "anchor" in name]


class TestTotalCorrelation:
    beta_vae = CONFIGS / "beta_vae" / "shapes3d.yaml"
    vae = ("prior.zeta=0", "prior.weight=1")

    def test_a_beta_tcvae_of_ones_is_the_vae(self):
        ones = build_task(CONFIGS / "beta_tcvae" / "shapes3d.yaml", "beta_tcvae.total_correlation=1")
        assert torch.equal(loss_at(ones), loss_at(build_task(self.beta_vae, *self.vae)))

    def test_a_factor_vae_without_gamma_trains_as_the_vae(self):
        path = CONFIGS / "factor_vae" / "shapes3d.yaml"
        none, some, vae = (
            build_task(path, "factor_vae.gamma=0"),
            build_task(path),
            build_task(self.beta_vae, *self.vae),
        )
        for task in (none, some, vae):
            loss_at(task).backward()
        same, other = (
            [
                torch.equal(a.grad, b.grad)
                for a, b in zip(t.trained.parameters(), vae.trained.parameters(), strict=True)
            ]
            for t in (none, some)
        )
        assert all(same) and not all(other)

    def test_the_discriminator_is_trained_and_not_part_of_the_result(self):
        task = build_task(CONFIGS / "factor_vae" / "shapes3d.yaml", "code.train.learning_rate=0.01")
        before = [parameter.clone() for parameter in task.term.parameters()]
        optimizer = task.configure_optimizers()["optimizer"]
        loss_at(task).backward()
        optimizer.step()
        assert not any(map(torch.equal, before, task.term.parameters()))
        assert [group["betas"] for group in optimizer.param_groups] == [
            (0.9, 0.999),
            (0.9, 0.999),
            (0.5, 0.9),
        ]
        assert not [name for name in task.result.state_dict() if "discriminator" in name]


class TestTokenBlock:
    @pytest.fixture
    def block(self):
        torch.manual_seed(0)
        return TokenBlock(CrossAttention(8, 6, num_heads=2, num_groups=4))

    def test_it_starts_as_the_identity(self, block):
        h = torch.randn(2, 8, 4, 4)
        assert torch.equal(block(h, torch.randn(2, 3, 6)), h)

    def test_it_is_a_gated_layer_at_every_pixel_after_the_attention(self, block, randomise):
        randomise(block)
        h, context = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 6)
        attended = block.attention(h, context)
        pixel = F.layer_norm(attended[1, :, 2, 3], (8,), block.norm.weight, block.norm.bias)
        value, gate = (block.lift.weight @ pixel + block.lift.bias).chunk(2)
        expected = attended[1, :, 2, 3] + block.out.weight @ (value * F.gelu(gate)) + block.out.bias
        torch.testing.assert_close(block(h, context)[1, :, 2, 3], expected)
        assert block.lift.out_features == 2 * 4 * 8

    def test_encdiff_has_one_after_every_block_and_disdiff_none(self):
        model, _ = build(CONFIGS / "encdiff" / "shapes3d.yaml")
        levels = [module for module in model.networks.denoiser.modules() if isinstance(module, Level)]
        assert levels and all(isinstance(level.cross, TokenBlock) for level in levels)
        assert isinstance(model.networks.denoiser.decoder.middle_cross, TokenBlock)
        path = CONFIGS / "disdiff" / "ablations" / "attention_condition.yaml"
        assert not [m for m in build(path)[0].modules() if isinstance(m, TokenBlock)]


def test_a_stage_depends_on_what_its_system_reads():
    path = CONFIGS / "infodiffusion" / "shapes3d.yaml"
    plain, *others = (
        list_settings(load_config([path], [*TINY, *overrides]), "code")
        for overrides in (
            [],
            ["code.loss.norm=l1"],
            ["vae.channels=8"],
            ["prior.weight=0.2"],
            ["latent_diffusion.unet.num_heads=4"],
        )
    )
    assert [plain == other for other in others] == [True, True, False, False]
    disdiff = load_config([CONFIGS / "disdiff" / "shapes3d.yaml"])
    assert list_settings(disdiff, "code").keys() == vars(disdiff.code).keys()


@pytest.mark.parametrize(
    ("system", "override", "named"),
    [
        ("infodiffusion", "prior.zeta=2", "zeta"),
        ("infodiffusion", "prior.zeta=0.5", "posterior=none"),
        ("infodiffusion", "prior.kernel=rbf", "prior.kernel"),
        ("infodiffusion", "prior.kind=ring", "prior.kind"),
        ("infodiffusion", "conditional.condition=shift", "conditional.condition"),
        ("diffae", "trunk.kind=unet", "trunk.kind"),
        ("beta_vae", "vae.likelihood=laplace", "vae.likelihood"),
        ("beta_vae", "code.encoder.input=z", "code.encoder.input"),
        ("beta_vae", "prior.weight=1", "MMD"),
        ("beta_vae", "code.encoder.start=principal", "code.encoder.start"),
        ("encdiff", "code.encoder={start: bilinear, input: image}", "code.encoder.start=bilinear"),
        ("encdiff", "code.encoder={start: bilinear, posterior: bernoulli}", "other than bernoulli"),
        ("diffae", "code.encoder.start=bilinear", "trunk.kind=disdiff"),
        ("factor_vae", "code.encoder.posterior=bernoulli", "code.encoder.posterior"),
        ("beta_tcvae", "code.encoder.posterior=bernoulli", "code.encoder.posterior"),
        ("dyga", "code.unit_dim=2", "conditional.anchors.shift"),
        ("encdiff", "sampler.guidance=2", "encdiff has no gradient fields"),
    ],
)
def test_what_cannot_be_is_refused(system, override, named):
    overrides = ["prior.weight=1"] if override == "prior.zeta=0.5" else []
    with pytest.raises(UserError, match=named):
        build(CONFIGS / system / "shapes3d.yaml", *overrides, override)


def test_pixels_of_large_images_are_too_many_to_be_whitened():
    config = load_config([CONFIGS / "disdiff" / "shapes3d.yaml"], [*TINY, "autoencoder.kind=identity"])
    space = build_latent_space(config)
    with pytest.raises(UserError, match="whiten_ridge.*12288"):
        build_model(config, space, build_denoiser(config, space), 64)


def test_encdiff_pretrains_its_code_as_disdiff_does():
    """Before `pretrain_steps` no gradient reaches the denoiser, and KL and total correlation are dearer."""
    task = build_task(CONFIGS / "encdiff" / "learnt_code.yaml", "preset=small")
    batch = build_batch(task.model)
    z_0 = sample_latents(task.model.latent_space, batch["statistics"], None)
    task.fit_data(z_0)
    loss = task.compute_loss(batch, 0, task.step_generator(0))
    parts = task.stats
    assert "reconstruction" not in parts
    code = 0.001 * parts["kl"] + 0.015 * parts["correlation"]
    torch.testing.assert_close(loss.detach(), parts["decoded"] + 2 * code)  # `first_price`
    loss.backward()
    assert all(p.grad is None for p in task.trained.denoiser.parameters())
    assert any(p.grad is not None for p in task.trained.encoder.parameters())
    task.compute_loss(batch, task.pretrain_steps, task.step_generator(0))
    assert {"reconstruction", "decoded", "kl", "correlation"} <= task.stats.keys()
