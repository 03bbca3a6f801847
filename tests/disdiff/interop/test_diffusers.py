"""First stages in the layout of diffusers, which need not be installed to read them."""

import json
import re

import pytest
import safetensors.torch
import torch

from disdiff.interop.importing import ImportOptions, import_files
from ldm.errors import UserError

NAMES = [  # from the released layout to that of diffusers, in this order
    (r"^encoder\.down\.(\d)\.block", r"encoder.down_blocks.\1.resnets"),
    (r"^encoder\.down\.(\d)\.attn", r"encoder.down_blocks.\1.attentions"),
    (r"^encoder\.down\.(\d)\.downsample", r"encoder.down_blocks.\1.downsamplers.0"),
    (r"^decoder\.up\.(\d)\.block", lambda m: f"decoder.up_blocks.{2 - int(m[1])}.resnets"),
    (r"^decoder\.up\.(\d)\.attn", lambda m: f"decoder.up_blocks.{2 - int(m[1])}.attentions"),
    (r"^decoder\.up\.(\d)\.upsample", lambda m: f"decoder.up_blocks.{2 - int(m[1])}.upsamplers.0"),
    (r"mid\.block_(\d)", lambda m: f"mid_block.resnets.{int(m[1]) - 1}"),
    (r"mid\.attn_1", "mid_block.attentions.0"),
    (r"attentions\.(\d)\.norm\.", r"attentions.\1.group_norm."),
    (r"attentions\.(\d)\.(q|k|v)\.", r"attentions.\1.to_\2."),
    (r"proj_out", "to_out.0"),
    (r"nin_shortcut", "conv_shortcut"),
    (r"(en|de)coder\.norm_out", r"\1coder.conv_norm_out"),
]


def rename(state):
    """A released autoencoder's state under the names of diffusers, whose attention has matrices."""
    renamed = {}
    for name, tensor in state.items():
        for pattern, words in NAMES:
            name = re.sub(pattern, words, name)
        renamed[name] = tensor[..., 0, 0].clone() if ".to_" in name and tensor.ndim == 4 else tensor.clone()
    return renamed


def save(folder, state, **config):
    folder.mkdir()
    safetensors.torch.save_file(state, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps({"norm_num_groups": 32, **config}))
    return folder


def read(folder):
    return import_files([folder], ImportOptions("autoencoder", "shapes3d"))


def error(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize("kind", ["kl", "vq"])
@torch.no_grad()
def test_the_layout_of_diffusers(released, noise_images, tmp_path, image, kind):
    original = released.fill(released.autoencoder(kind), 3)
    scaling = {"scaling_factor": 0.5, "shift_factor": 0.1} if kind == "kl" else {"scaling_factor": 0.5}
    got = read(save(tmp_path / "vae", rename(original.state_dict()), **scaling))
    space, z, shift = got.modules["autoencoder"].eval(), original.encode(image), 0.1 * (kind == "kl")
    assert error(space.encode(image), (z - shift) * 0.5) < 1e-4
    assert error(space.decode((z - shift) * 0.5), original.decode(z)) < 1e-4
    assert not got.fitted and got.config.autoencoder.network.attention_levels == [2]
    assert not got.config.autoencoder.legacy_codebook and not got.report["left_out"]


@torch.no_grad()
def test_the_first_names_that_diffusers_gave_attention(released, noise_images, tmp_path, image):
    original = released.fill(released.autoencoder("kl"), 3)
    state = rename(original.state_dict())
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    got = read(save(tmp_path / "vae", state, scaling_factor=1.0))
    assert error(got.modules["autoencoder"].eval().encode(image), original.encode(image)) < 1e-4


@torch.no_grad()
def test_latents_standardised_channel_by_channel_and_a_folder_in_several_files(
    released, noise_images, tmp_path, image
):
    original = released.fill(released.autoencoder("kl"), 3)
    mean, std = [0.1, 0.2, -0.3], [1.0, 2.0, 0.5]
    folder = save(tmp_path / "vae", rename(original.state_dict()), scaling_factor=0.5, latents_mean=mean,
                  latents_std=std)  # fmt: skip
    whole = folder / "diffusion_pytorch_model.safetensors"
    state = safetensors.torch.load_file(whole)
    whole.unlink()
    places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(state)}
    for part in set(places.values()):
        safetensors.torch.save_file({n: t for n, t in state.items() if places[n] == part}, folder / part)
    (folder / f"{whole.name}.index.json").write_text(json.dumps({"weight_map": places}))
    got = read(folder)
    space, z = got.modules["autoencoder"].eval(), original.encode(image)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (mean, std))
    assert error(space.encode(image), (z - mean) * 0.5 / std) < 1e-4
    assert got.config.autoencoder.standardise == "channel"


@torch.no_grad()
def test_another_models_description_beside_a_compvis_file_is_not_read(
    released, noise_images, tmp_path, image
):
    original = released.fill(released.autoencoder("kl"), 3)
    (tmp_path / "config.json").write_text("{")
    torch.save(original.state_dict(), tmp_path / "a.ckpt")
    assert (
        error(read(tmp_path / "a.ckpt").modules["autoencoder"].eval().encode(image), original.encode(image))
        < 1e-4
    )


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"scaling_factor": "0.5"}, "scaling_factor is '0.5', not a number"),
        ({"norm_num_groups": [32]}, "norm_num_groups is .32., not a number"),
        ({"latents_mean": [0.0], "latents_std": [1.0], "scaling_factor": 1.0}, "must be 3 numbers each"),
        ({"latents_mean": [0.0] * 3, "latents_std": [0.0] * 3, "scaling_factor": 1.0}, "the second above 0"),
        ({"scaling_factor": -1.0}, "scale_factor is -1"),
    ],
)
def test_a_description_that_is_wrong(released, noise_images, tmp_path, config, says):
    folder = save(tmp_path / "vae", rename(released.autoencoder("kl").state_dict()), **config)
    with pytest.raises(UserError, match=says):
        read(folder)


def test_folders_that_are_none(released, noise_images, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="without diffusion_pytorch_model.safetensors"):
        read(tmp_path / "empty")
    state = rename(released.autoencoder("kl").state_dict())
    folder = save(tmp_path / "vae", state)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot read .*config.json"):
        read(folder)
    without = {name: tensor for name, tensor in state.items() if "quant" not in name}
    with pytest.raises(UserError, match="no quant_conv"):
        read(save(tmp_path / "other", without))


@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
@torch.no_grad()
def test_equals_diffusers_itself(noise_images, tmp_path, image, kind):
    diffusers = pytest.importorskip("diffusers", reason="the optional extra `diffusers` is not installed")
    torch.manual_seed(0)
    options = {} if kind == "AutoencoderKL" else {"num_vq_embeddings": 20}
    model = getattr(diffusers, kind)(
        block_out_channels=(32, 64), layers_per_block=1, latent_channels=4, norm_num_groups=16, act_fn="silu",
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"), scaling_factor=0.3,
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"), **options,
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path / "vae")
    space = read(tmp_path / "vae").modules["autoencoder"].eval()
    z = model.encode(image)
    z = z.latent_dist.mode() if kind == "AutoencoderKL" else z.latents
    assert error(space.encode(image), 0.3 * z) < 1e-4
    assert error(space.decode(0.3 * z), model.decode(z).sample) < 1e-4
