import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import disdiff
from disdiff.build import build_denoiser, build_latent_space, build_model
from disdiff.commands.common import load_image
from disdiff.config.schema import load_config, to_yaml
from disdiff.editing.image_input import to_images, to_pictures
from disdiff.interop.exporting import export_run
from ldm.data.catalog import DataOptions, open_data
from ldm.errors import UserError
from ldm.files import save_json
from ldm.training.weight_files import save_weights

ROOT = Path(__file__).resolve().parents[2]
SIZE = 64
TINY = [
    *(f"latent_diffusion.unet.{option}" for option in ("channels=8", "num_groups=4", "num_heads=1")),
    *("autoencoder.network.channels=8", "autoencoder.network.num_groups=4"),
    *("code.encoder.channels=8", "trunk.channels=8", "vae.channels=8"),
]


def write_run(folder, system, randomise, *overrides):
    """A run of an untrained model of `system` at its smoke sizes, with random codes."""
    path = ROOT / "configs" / system / "shapes3d.yaml"
    always = ["preset=smoke", "sampler.num_steps=2", "data.procedural=always", *TINY]
    config = load_config([path], [*always, *overrides])
    space = build_latent_space(config)
    denoiser = build_denoiser(config, space)
    torch.manual_seed(0)
    model = build_model(config, space, denoiser, SIZE).eval()
    randomise(model.networks)
    parts = {"autoencoder": space, "latent_diffusion": randomise(denoiser), "code": model.networks}
    for name, module in parts.items():
        save_weights(folder / "stages" / name / "model.safetensors", module)
        save_json(folder / "stages" / name / "stage.json", {"image_size": SIZE})
    (folder / "config.yaml").write_text(to_yaml(config))
    image = torch.rand(6, 3, SIZE, SIZE) * 2 - 1
    with torch.no_grad():
        codes = model.encode(image).numpy()
    shape = codes.shape[1:]
    rng = np.random.default_rng(0)
    arrays = {
        "codes": rng.normal(size=(60, *shape)).astype(np.float32),
        "factors": rng.integers(0, 2, (60, 2)),
    }
    np.savez(folder / "codes.npz", **arrays, factor_names=np.array(["wall hue", "scale"]))
    save_json(folder / "metrics.json", {"system": system, "scores": {}})
    return folder


@pytest.fixture
def images():
    return torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def model(tmp_path, randomise):
    """A DisDiff whose first two units carry the wall hue, the third the scale."""
    folder = write_run(tmp_path / "run", "disdiff", randomise)
    loaded = disdiff.load(folder, "cpu")
    importance = np.zeros((loaded.num_units, 2))
    importance[[0, 1, 2], [0, 0, 1]] = 0.3, 0.6, 0.1
    save_json(folder / "metrics.json", {"scores": {"fast": {"dci": {"importance": importance.tolist()}}}})
    return disdiff.load(folder, "cpu")


SYSTEMS = ["disdiff", "pdae", "encdiff", "diffae", "infodiffusion", "beta_vae", "infovae"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_encodes_edits_and_decodes(tmp_path, randomise, images, system):
    model = disdiff.load(write_run(tmp_path / system, system, randomise), "cpu")
    codes = model.encode(images)
    assert codes.shape[:2] == (2, model.num_units) and not codes.requires_grad
    noise = model.infer_noise(images, codes)
    made = model.decode(codes, noise)
    assert made.shape == images.shape and made.abs().max() <= 1
    assert torch.equal(made, model.decode(codes, noise))
    assert torch.equal(model.decode(codes, seed=3), model.decode(codes, seed=3))
    assert model.swap(images[:1], images, 1).shape == images.shape
    torch.testing.assert_close(model.swap(images, images, 0), made, atol=1e-5, rtol=0)
    assert model.traverse(images, 1, (-2, 2)).shape == (2, 2, 3, SIZE, SIZE)
    assert model.interpolate(images[0], images[1], 2).shape == (2, 3, SIZE, SIZE)
    moved = model.move_attribute(images[0], "scale", 1, [-0.3])
    assert moved.shape == (1, 3, SIZE, SIZE)
    space = model.run.source.factor_space
    texts = tuple(tuple(f"value {place}" for place in range(size)) for size in space.sizes)
    model.run.source.factor_space = replace(space, values=texts)
    assert torch.equal(model.move_attribute(images[0], "scale", "value 1", [-0.3]), moved)
    with pytest.raises(UserError, match="scale has no value 1; choose one of value 0, value 1"):
        model.move_attribute(images[0], "scale", 1, [-0.3])
    exported = disdiff.load(export_run(tmp_path / system, tmp_path / "exported"), "cpu")
    assert torch.equal(exported.encode(images), codes) and exported.image_size == SIZE
    if system in ("disdiff", "pdae"):
        fields = model.gradient_fields(images, t=300)
        z_shape = model.run.model.latent_space.latent_shape(SIZE)
        assert fields.shape == (2, model.num_units if system == "disdiff" else 1, *z_shape)
    else:
        with pytest.raises(UserError, match="has no gradient fields"):
            model.gradient_fields(images)


def test_edits_say_what_becomes_of_the_code(model, images):
    other = images.flip(0)
    codes = model.encode(images)
    edited = model.edit(images, disdiff.Edit("wall hue", toward=other, strength=0.7))
    assert edited.units == [1, 0]  # all that carry it, the strongest first
    expected = codes.clone()
    expected[:, :2] += 0.7 * (codes.flip(0) - codes)[:, :2]
    torch.testing.assert_close(edited.codes, expected)
    assert torch.equal(edited.codes_before, codes)
    noise = model.infer_noise(images)
    torch.testing.assert_close(edited.images, model.decode(expected, noise), atol=1e-5, rtol=0)
    torch.testing.assert_close(edited.reconstructed, model.decode(codes, noise), atol=1e-5, rtol=0)
    both = model.edit(images[:1], [disdiff.Edit("Wall hue", by=2), disdiff.Edit(3, toward=images[1])])
    assert both.units == [1, 3]
    moved = ((both.codes - both.codes_before)[0, 1] @ model.directions.axis[1]) / model.directions.std[1]
    assert moved.item() == pytest.approx(2, abs=1e-4)
    torch.testing.assert_close(both.codes[0, [2, 3]], torch.stack([codes[0, 2], codes[1, 3]]))
    nothing = model.edit(images, disdiff.Edit(0, toward=other, strength=0))
    torch.testing.assert_close(nothing.images, nothing.reconstructed, atol=1e-5, rtol=0)


def test_units_have_names_from_evaluation_and_from_discovery(model, tmp_path):
    assert model.find_units("scale") == [2]  # none is strong: the one that matters most
    assert model.find_units(["2", 0, "wall hue"]) == [2, 0, 1]
    assert model.unit_names[1].startswith("unit 1 · wall hue 0.60")
    found = [
        {"unit": 3, "verdict": "named", "name": "smile"},
        {"unit": 1, "verdict": "not named", "name": "hat"},
    ]
    save_json(tmp_path / "run" / "discovery.json", {"units": found})
    assert disdiff.load(tmp_path / "run", "cpu").find_units("Smile") == [3]
    for name, says in (("hat", "one of: wall hue, scale"), (99, "no unit 99"), ("-1", "no unit -1")):
        with pytest.raises(UserError, match=says):
            model.find_units(name)


def test_the_same_image_in_every_form(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    picture = Image.fromarray(array)
    picture.save(tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [array, array[None], picture, tmp_path / "a.png", str(tmp_path / "a.png"), tensor]
    forms += [tensor / 127.5 - 1, [picture], (array, tensor)]
    for form in forms:
        got = to_images(form, SIZE)
        assert got.shape == (len(got), 3, SIZE, SIZE) and got.dtype == torch.float32
        assert got.is_contiguous()  # else convolutions round another way than for images of a data set
        torch.testing.assert_close(got, (tensor / 127.5 - 1).expand_as(got), atol=1e-6, rtol=0)
    assert np.array_equal(np.array(to_pictures(to_images(array, SIZE))[0]), array)


def test_pictures_of_other_sizes_and_modes():
    wide = Image.new("RGBA", (300, 100), (255, 0, 0, 255))
    assert torch.equal(to_images(wide, SIZE)[0, :, 5, 5], torch.tensor([1.0, -1.0, -1.0]))
    turned = Image.new("RGB", (64, 64))
    turned.paste((255, 255, 255), (0, 0, 32, 64))  # the left half is white
    turned.getexif()[0x0112] = 6  # to be turned by 90 degrees clockwise: the upper half becomes white
    assert to_images(turned, SIZE)[0, 0, 0, 63] == 1 and to_images(turned, SIZE)[0, 0, 63, 0] == -1
    grey = to_images(Image.new("L", (20, 30), 255), SIZE, channels=1)
    assert grey.shape == (1, 1, SIZE, SIZE) and to_pictures(grey)[0].mode == "L"
    assert to_images(np.zeros((2, SIZE, SIZE), np.uint8), SIZE, 1).shape == (2, 1, SIZE, SIZE)


def picture_of(mode, size):
    """A picture with a bright left and a dark right, which no two crops make the same square of."""
    pixels = np.linspace(255, 0, size[0])[None, :, None] * np.ones((size[1], 1, 3))
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("crop", ["center", "squash", "pad"])
def test_own_pictures_are_read_as_those_of_the_run(tmp_path, randomise, crop):
    """By the same crop, with transparency over white and 16 bits as 8, whatever way they are given."""
    data = tmp_path / "data"
    data.mkdir()
    clear = picture_of("RGBA", (150, 100))
    clear.putalpha(0)
    pictures = {"wide.png": picture_of("RGB", (150, 100)), "clear.png": clear}
    pictures["deep.png"] = Image.fromarray(
        np.linspace(0, 65535, 100 * 150).reshape(100, 150).astype("uint16")
    )
    for name, picture in pictures.items():
        picture.save(data / name)
    source = open_data(DataOptions("folder", str(data), crop=crop))
    options = ("data.name=folder", f"data.root={data}", "data.procedural=auto")
    run = write_run(tmp_path / "run", "disdiff", randomise, *options, f"data.crop={crop}")
    model = disdiff.load(run, "cpu")
    for position, name in enumerate(source.store.names):
        wanted = source.images(torch.tensor([position])) / 127.5 - 1
        for got in (load_image(str(data / name), source), model._read(data / name)):
            assert torch.equal(got, wanted)
        assert torch.equal(model._read([Image.open(data / name)]), wanted)
    assert load_image("1", source).equal(model._read(data / source.store.names[1]))


def test_crops_of_celeba_are_for_aligned_pictures(randomise):
    face = picture_of("RGB", (178, 218))
    box = face.crop((25, 57, 153, 185)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    assert torch.equal(to_images(face, SIZE, crop="d2c128"), to_images(np.array(box), SIZE))
    other = picture_of("RGB", (178, 178))
    assert torch.equal(to_images(other, SIZE, crop="d2c128"), to_images(other, SIZE))
    with pytest.raises(UserError, match="the picture cannot be used: it has floats"):
        to_images(Image.fromarray(np.zeros((4, 4), np.float32)), SIZE)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((SIZE, SIZE, 3)), "uint8 of shape .* got float64"),
        (np.zeros((3, SIZE, SIZE), np.uint8), "uint8 of shape"),
        (np.zeros((32, 32, 3), np.uint8), "PIL picture, which may have any size"),
        (torch.zeros(3, 32, 32), r"of shape \(3, 64, 64\)"),
        (torch.zeros(3, SIZE, SIZE, dtype=torch.int64), "int64"),
        (torch.full((3, SIZE, SIZE), 255.0), "up to 255"),
        (torch.full((3, SIZE, SIZE), torch.nan), "up to nan"),
        ("missing.png", "cannot read the picture missing.png"),
        ([], "list is not an image"),
        ({"image": 1}, "dict is not an image"),
        (None, "NoneType is not an image"),
    ],
)
def test_what_is_no_image_is_named(images, says):
    with pytest.raises(UserError, match=says):
        to_images(images, SIZE)


def test_bad_requests_are_one_sentence(model, images, tmp_path):
    requests = [
        (lambda: disdiff.load(tmp_path), "not a run folder"),
        (lambda: disdiff.load(tmp_path, "tpu"), "choose one of auto, cpu, cuda, mps"),
        (lambda: disdiff.load(model.run.folder, guidance=-1.0), "sampler.guidance=-1.0 is out of range"),
        (lambda: model.decode(torch.zeros(2, 3)), "codes must have shape"),
        (lambda: model.decode(model.encode(images), torch.zeros(1, 4, 8, 8)), "noise for 1"),
        (lambda: model.swap(images, images[[0, 0, 1]], 0), "do not match 3 target images"),
        (lambda: model.gradient_fields(images, t=1000), "no step t=1000"),
        (lambda: model.edit(images, disdiff.Edit(0)), "needs exactly one of toward"),
        (lambda: model.edit(images, disdiff.Edit(0, toward=images, by=1)), "needs exactly one of toward"),
        (lambda: model.edit(images, []), "list of edits is empty"),
        (lambda: model.move_attribute(images[0], "colour", 1, [1]), "this run has: wall hue, scale"),
    ]
    for request, says in requests:
        with pytest.raises(UserError, match=says):
            request()


@pytest.mark.parametrize(
    "image",
    [torch.rand(3, SIZE, SIZE), torch.zeros(2, 3, SIZE, SIZE).double(), torch.ones(3, SIZE, SIZE).half()],
)
def test_floats_without_a_value_below_0_are_refused_with_the_remedy(image):
    with pytest.raises(
        UserError, match=r"\[0, 1\].* \[-1, 1\]: convert them by 2 \* x - 1,.* uint8"
    ) as caught:
        to_images(image, SIZE)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="2 \\* x - 1"):
        to_images([torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), image], SIZE)


def test_bright_images_come_in_as_bytes_and_their_edits_go_through(model):
    white = torch.full((3, SIZE, SIZE), 255, dtype=torch.uint8)
    assert (to_images(white, SIZE) == 1).all()
    codes = model.encode(white)
    assert torch.equal(model.edit(white, disdiff.Edit(0, toward=white)).codes_before, codes)
    assert model.interpolate(white, white, 2).shape == (2, 3, SIZE, SIZE)
    assert model.move_attribute(white, "scale", 1, 0.1).shape == (1, 3, SIZE, SIZE)
    one_dark_pixel = to_images(white, SIZE)
    one_dark_pixel[0, 0, 0, 0] = -0.01
    assert model.encode(one_dark_pixel).shape == codes.shape


def test_numbers_of_every_type_are_numbers(model, images):
    for one in (3, np.int64(3), np.uint8(3), torch.tensor(3), "3", " +3 ", [np.int32(3)], np.array([3]), {3}):
        assert model.find_units(one) == [3]
    assert model.find_units([]) == [] and model.find_units(np.array([2, 0])) == [2, 0]
    codes = model.encode(images.double())
    assert torch.equal(codes, model.encode(images))
    noise = model.infer_noise(images, codes.numpy(), np.int64(2))
    made = model.decode(codes, noise, steps=2)
    assert torch.equal(made, model.decode(codes.double().numpy(), noise.double(), steps=torch.tensor(2)))
    assert torch.equal(model.decode(codes, seed=np.int64(3)), model.decode(codes, seed=3))
    assert torch.equal(model.swap(images, images[:1], np.int64(0)), model.swap(images, images[:1], 0))
    assert torch.equal(model.traverse(images, 0, 1), model.traverse(images, 0, np.array([1.0])))
    edits = [disdiff.Edit(0, by=np.float32(1)), disdiff.Edit(np.int64(0), by=1)]
    assert torch.equal(*(model.edit(images, edit).images for edit in edits))
    assert (
        disdiff.load(str(model.run.folder), torch.device("cpu"), np.float32(1)).num_units == model.num_units
    )


@pytest.mark.parametrize(
    "unit", [True, np.bool_(True), 3.0, None, b"1", {"a": 1}, [[1]], "--3", "", [None], -1]
)
def test_what_is_no_unit_is_named(model, unit):
    with pytest.raises(UserError, match="unit"):
        model.find_units(unit)


def test_odd_arguments_are_one_sentence(model, images):
    codes, many = model.encode(images), images[[0, 0, 1]]
    noise = model.infer_noise(images, codes, 2)
    nan = torch.full_like(noise, torch.nan)
    requests = {
        "no image": [
            lambda: model.encode(images[:0]),
            lambda: model.encode(np.zeros((0, SIZE, SIZE, 3), "u1")),
        ],
        "put channels": [
            lambda: model.encode(images.permute(0, 2, 3, 1)),
            lambda: model.encode(np.zeros((SIZE, SIZE, 3), np.uint16)),
            lambda: model.encode(images.to_sparse()),
        ],
        "codes must have shape": [
            *(lambda c=c: model.decode(c, noise) for c in (codes[0], codes[:, 1:], codes > 0, None, "codes")),
            *(lambda c=c: model.decode(c, noise) for c in (codes[:0], codes * torch.nan, codes.tolist())),
            lambda: model.decode(codes.to_sparse(), noise),
            lambda: model.decode(torch.cat([codes, codes], dim=2), noise),
        ],
        "noise must have shape": [
            *(lambda z=z: model.decode(codes, z) for z in (noise[..., 1:], noise.flatten(1), nan, 3, [1])),
        ],
        "there are 2": [lambda: model.infer_noise(images, codes[:1]), lambda: model.decode(codes, noise[0])],
        "steps=": [lambda s=s: model.decode(codes, noise, steps=s) for s in (0, -1, True, 2.5, "2", [2])],
        "cannot sample in": [lambda: model.decode(codes, noise, steps=10**6)],
        "seed=": [lambda s=s: model.decode(codes, seed=s) for s in (2**70, 1.5, "a", None, True)],
        "list of units is empty": [
            lambda: model.swap(images, images, []),
            lambda: model.traverse(images, ()),
        ],
        "amounts": [
            lambda a=a: model.traverse(images, 0, a) for a in ([], [torch.nan], "12", [None], [True])
        ],
        "out of range": [
            lambda: model.edit(images, disdiff.Edit(0, by="a")),
            lambda: model.edit(images, disdiff.Edit(0, by=torch.inf)),
            lambda: model.edit(images, disdiff.Edit(0, toward=images, strength=None)),
            lambda: disdiff.load(model.run.folder, guidance="2"),
        ],
        "is not an edit": [lambda e=e: model.edit(images, e) for e in ("edit", None, [3])],
        "or a single one": [lambda: model.edit(images, disdiff.Edit(0, toward=many))],
        "expected a single image": [
            lambda: model.interpolate(images, images[0]),
            lambda: model.move_attribute(images, "scale", 1, [0.1]),
        ],
        "columns=": [lambda c=c: model.interpolate(images[0], images[1], c) for c in (1, 2.5, True)],
        "strengths is empty": [lambda: model.move_attribute(images[0], "scale", 1, [])],
        "value=": [lambda v=v: model.move_attribute(images[0], "scale", v, [0.1]) for v in ("1", 1.0, None)],
        "t=": [lambda t=t: model.gradient_fields(images, t) for t in (2.5, True, -1)],
        "not the path of a run folder": [lambda p=p: disdiff.load(p) for p in (None, 3)],
    }
    for says, calls in requests.items():
        for call in calls:
            with pytest.raises(UserError, match=says) as caught:
                call()
            assert "\n" not in str(caught.value)


def test_importing_the_package_imports_no_torch():
    code = "import disdiff, sys; assert 'torch' not in sys.modules; assert 'load' in disdiff.__all__"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="nothing"):
        _ = disdiff.nothing


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda model, images: model.decode(model.encode(images), seed=-1), "seed=-1"),
        (lambda model, images: model.decode(model.encode(images), seed=2**32), "seed=4294967296"),
        (lambda model, images: model.gradient_fields(images, seed=2**64), "seed=18446744073709551616"),
        (lambda model, images: model.gradient_fields(images, t=1000), "t=1000"),
        (lambda model, images: model.infer_noise(images, steps=0), "steps=0"),
        (lambda model, images: model.infer_noise(images, steps=2.5), "steps=2.5"),
        (lambda model, images: model.edit(images, disdiff.Edit(0, by=float("nan"))), "by=nan"),
        (lambda model, images: model.edit(images, disdiff.Edit(0, toward=images, strength=2)), "strength=2"),
        (lambda model, images: model.traverse(images, 0, [0, float("inf")]), "amounts=inf"),
        (lambda model, images: model.traverse(images, 0, []), "amounts is empty"),
        (lambda model, images: model.interpolate(images, images, columns=1), "columns=1"),
        (lambda model, images: model.move_attribute(images[:1], "x", 0, [float("nan")]), "strengths=nan"),
        (lambda model, images: disdiff.load(model.run.folder, "cpu", float("inf")), "sampler.guidance=inf"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(model, images, call, named):
    with pytest.raises(UserError, match=named):
        call(model, images)


def test_the_largest_seed_is_a_seed(model, images):
    assert model.decode(model.encode(images), seed=2**32 - 1).isfinite().all()
