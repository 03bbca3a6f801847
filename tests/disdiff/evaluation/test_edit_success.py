import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from disdiff.evaluation.edit_success import (
    FactorReader,
    complement,
    compute_editing,
    compute_reconstruction,
    draw_targets,
    find_probe,
    summarise_edits,
)
from disdiff.evaluation.probe import train_probe
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.errors import UserError

SAMPLER = SamplerConfig("ddim", 3, 0.0)


class Copier(torch.nn.Module):
    """A perfect model: unit 0 is the left half of the image, unit 1 the right; decoding shows them."""

    def __init__(self, model, mixed=False):
        super().__init__()
        self.latent_space, self.schedule, self.num_units, self.mixed = (
            model.latent_space,
            model.schedule,
            2,
            mixed,
        )

    @property
    def device(self):
        return self.latent_space.mean.device

    def encode(self, image):
        code = torch.stack([image[..., :8].flatten(1), image[..., 8:].flatten(1)], dim=1)
        return code.flip(1) if self.mixed else code

    def infer_noise(self, image, code, num_steps):
        return image


@pytest.fixture
def copier(model, monkeypatch):
    def decode(model, code, z_T, sampler, units=None, generator=None):
        code = code.flip(1) if model.mixed else code[:, :2]
        return code.unflatten(2, (3, 16, 8)).permute(0, 2, 3, 1, 4).flatten(3)

    monkeypatch.setattr("disdiff.evaluation.edit_success.decode_code", decode)
    return lambda **options: Copier(model, **options).eval()


@pytest.fixture
def eval_index(halves):
    return torch.randperm(len(halves), generator=torch.Generator().manual_seed(1))[:100]


def test_probe_learns_the_factors_and_is_reproducible(model, halves):
    index = torch.arange(len(halves))
    first, second = (train_probe(model.latent_space, halves, index, 30, 0) for _ in range(2))
    image = to_float(halves.images(index))
    assert (first.predict(image) == halves.factors(index)).float().mean() > 0.98
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in first.parameters()) and not first.training


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_probe_trains_in_every_mode_and_leaves_the_default_generator(model, halves, mode):
    state = torch.get_rng_state()
    with mode():
        index = torch.arange(len(halves))
        probe = train_probe(model.latent_space, halves, index, 40, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert (probe.predict(to_float(halves.images(index))) == halves.factors(index)).float().mean() > 0.98


def test_too_few_steps_are_refused(model, halves):
    with pytest.raises(UserError, match="at least 10"):
        train_probe(model.latent_space, halves, torch.arange(5), 9, 0)


def test_blur_misleads_the_probe_of_originals_only(copier, halves, eval_index, monkeypatch):
    """A first stage that mixes up the brightness: who has seen its pictures reads them, who has not errs."""
    model, names = copier(), halves.factor_space.names
    table = torch.tensor([1, 2, 3, 0]) * 80 / 127.5 - 1

    def blur(z, **_):
        rank = ((z[:, 0, 0, 0] + 1) * 127.5 / 80).round().long()
        image = z.clone()
        image[..., :8] = table[rank][:, None, None, None]
        image[:, 1, :2, 8:] = 0.9  # a mark of the first stage
        return image

    monkeypatch.setattr(model.latent_space, "decode", blur)
    result = compute_editing(model, halves, eval_index, np.eye(2), SAMPLER, 20, seed=0, probe_steps=150)
    lenient = result["with_reconstructions"]
    assert result["probe"] == "originals" and set(result["success"]) == set(lenient["success"]) == set(names)
    lenient_right, strict_right = (each["probe_accuracy"]["brightness"] for each in (lenient, result))
    assert lenient_right > strict_right + 0.3
    assert result["probe_accuracy_originals"]["brightness"] > 0.9 > 0.6 > strict_right


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_probe_is_kept_for_other_runs_on_the_same_first_stage(
    model, halves, eval_index, tmp_path, monkeypatch, mode
):
    def find(steps=20, both=True):
        with mode():
            shared = (tmp_path, model.latent_space, halves, eval_index, steps, 0, lambda share: None)
            return find_probe(*shared, with_reconstructions=both)

    first = find()
    train = "disdiff.evaluation.edit_success.train_probe"
    monkeypatch.setattr(train, lambda *arguments: pytest.fail("trained again"))
    second, image = find(), to_float(halves.images(eval_index))
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    assert torch.equal(first.predict(image), second.predict(image)) and not second.training
    with pytest.raises(pytest.fail.Exception):  # another probe
        find(steps=21)
    with pytest.raises(pytest.fail.Exception):  # of originals only
        find(both=False)
    monkeypatch.undo()
    originals = find(both=False)
    monkeypatch.setattr(train, lambda *arguments: pytest.fail("trained again"))
    with torch.no_grad():
        model.latent_space.mean += 1
    assert torch.equal(find(both=False).predict(image), originals.predict(image))  # whatever the first stage
    with pytest.raises(pytest.fail.Exception):  # another first stage
        find()


def test_a_perfect_model_edits_perfectly(copier, halves, eval_index):
    result = compute_editing(copier(), halves, eval_index, np.eye(2), SAMPLER, 40, seed=0, probe_steps=60)
    assert result["probe_accuracy"] == {"brightness": 1.0, "scale": 1.0}
    assert result["success"] == {"brightness": 1.0, "scale": 1.0} and result["kept_min"] == 1.0
    assert result["assigned_unit"] == {"brightness": 0, "scale": 1}
    assert result["success_within_one"]["scale"] == 1.0
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_wrong_unit_never_succeeds_and_disturbs_the_other_factor(copier, halves, eval_index):
    model, wrong = copier(mixed=True), np.eye(2)
    result = compute_editing(model, halves, eval_index, wrong, SAMPLER, 40, seed=0, probe_steps=60)
    assert result["success_mean"] == 0.0
    assert result["kept_min"] < 0.6
    assert result["unedited"] == {"brightness": 1.0, "scale": 1.0}


def test_a_factor_in_two_units_needs_both(copier, halves, eval_index):
    """The last unit does nothing alone; a factor's name finds both of its units, in both orders."""
    model = copier()
    model.num_units, encode = 3, model.encode
    model.encode = lambda image: torch.cat([encode(image), encode(image)[:, :1]], dim=1)
    importance = np.array([[0.4, 0], [0, 1], [0.6, 0]])
    result = compute_editing(model, halves, eval_index, importance, SAMPLER, 40, seed=0, probe_steps=60)
    together = result["by_name"]
    assert result["assigned_unit"] == {"brightness": 2, "scale": 1}
    assert together["units"] == {"brightness": [2, 0], "scale": [1]}
    assert result["success"] == {"brightness": 0.0, "scale": 1.0}
    assert together["success"] == {"brightness": 1.0, "scale": 1.0} and together["kept_min"] == 1.0
    assert set(result["with_reconstructions"]["by_name"]) == set(together)


def test_a_factor_may_have_a_number_for_a_name(copier, halves, eval_index, monkeypatch):
    """A column `7` of a folder's factors.csv is a factor, and no unit 7."""
    monkeypatch.setattr(halves, "factor_space", replace(halves.factor_space, names=("7", "scale")))
    result = compute_editing(copier(), halves, eval_index, np.eye(2), SAMPLER, 20, seed=0, probe_steps=60)
    assert result["by_name"]["units"] == {"7": [0], "scale": [1]}


def test_rates_of_edits():
    wanted = torch.tensor([[0, 5], [1, 5], [2, 5], [3, 5]])
    edits = {"hue": (wanted + torch.tensor([0, 1]), wanted), "scale": (wanted + torch.tensor([2, 1]), wanted)}
    result = summarise_edits(edits)
    assert result["success"] == {"hue": 1.0, "scale": 0.0} and result["success_mean"] == 0.5
    assert result["success_within_one"] == {"hue": 1.0, "scale": 1.0}
    assert result["kept"] == {"hue": {"scale": 0.0}, "scale": {"hue": 0.0}}
    assert (result["kept_mean"], result["kept_min"], result["kept_within_one_min"]) == (0.0, 0.0, 0.0)
    assert summarise_edits({"hue": (wanted[:, :1], wanted[:, :1])})["kept_min"] is None


def test_targets_differ_in_the_factor(halves, eval_index, generator):
    values = halves.factors(eval_index)[:, 0]
    target = draw_targets(halves, eval_index, 0, values, generator)
    assert (halves.factors(target)[:, 0] != values).all()
    assert torch.isin(target, eval_index).all()
    same = eval_index[values == 2]
    with pytest.raises(UserError, match="the same brightness"):
        draw_targets(halves, same, 0, torch.full((3,), 2), generator)


def test_complement_is_the_rest():
    assert complement(torch.tensor([3, 0]), 5).tolist() == [1, 2, 4]
    with pytest.raises(UserError, match="none is left"):
        complement(torch.arange(4), 4)


def test_reconstruction_of_the_first_stage_and_of_codes(model, halves, eval_index):
    steps, shares = SamplerConfig("ddim", 20, 1.0), []
    result = compute_reconstruction(
        model,
        halves,
        eval_index,
        steps,
        6,
        seed=0,
        progress=lambda name, share: shares.append(share),
    )
    assert result["autoencoder_psnr"] == 100.0 and result["autoencoder_mse"] == 0.0
    assert result["psnr"] == result["inferred_psnr"] > result["random_psnr"]
    assert result["autoencoder_edge_error"] == 0 < result["inferred_edge_error"]
    assert result["autoencoder_ssim"] == pytest.approx(1, abs=1e-3) and result["random_ssim"] < 1
    assert result["inferred_psnr"] == pytest.approx(-10 * np.log10(result["inferred_mse"]))
    assert result["num_images"] == 6 and result["sampler"]["eta"] == 0.0
    assert shares[-1] == 1.0
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("factor", [0, 1])
def test_a_factor_with_one_value_is_not_edited_and_the_other_is(copier, halves, eval_index, factor):
    same = eval_index[halves.factors(eval_index)[:, factor] == 1]
    result = compute_editing(copier(), halves, same, np.eye(2), SAMPLER, 20, seed=0, probe_steps=60)
    other = halves.factor_space.names[1 - factor]
    assert result["success"] == {other: 1.0} and result["assigned_unit"] == {other: 1 - factor}
    assert result["kept_mean"] is None and set(result["unedited"]) == set(halves.factor_space.names)


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1.0), (0.75, 0.5), (1.0, 0.0)])
def test_edits_start_from_the_share_of_new_noise(copier, halves, eval_index, monkeypatch, share, kept):
    inferred = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    seen, model = [], copier()
    monkeypatch.setattr(FactorReader, "infer_noise", lambda self, index, code, progress: inferred)

    def read_factors(self, code, z_T, progress=None):
        seen.append(z_T)
        return torch.zeros(2, len(code), 2, dtype=torch.long)

    monkeypatch.setattr(FactorReader, "read_factors", read_factors)
    result = compute_editing(
        model, halves, eval_index, np.eye(2), SAMPLER, 40, seed=0, probe_steps=10, new_noise=share
    )
    assert result["noise"] == ("inferred" if share == 0 else f"{share:.0%} new")
    for z_T in seen:
        correlation = torch.corrcoef(torch.stack([z_T.flatten(), inferred.flatten()]))[0, 1]
        assert correlation == pytest.approx(kept, abs=0.03) and z_T.std() == pytest.approx(1, abs=0.03)


def test_other_labels_of_the_same_images_have_a_probe_of_their_own(copier, halves, eval_index, tmp_path):
    for labels in ("first", "first", "second"):
        halves.factors_sha256 = labels
        compute_editing(
            copier(), halves, eval_index, np.eye(2), SAMPLER, 4, seed=0, probe_steps=10, cache_folder=tmp_path
        )
    assert len(list(tmp_path.glob("probe-*"))) == 4  # two probes each
