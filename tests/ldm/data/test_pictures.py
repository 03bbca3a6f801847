import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from ldm.data.batches import ImageBatches, StepSampler, build_loader
from ldm.data.image_folder import FolderStore
from ldm.data.pictures import CROPS, SCAN, Pictures, Preparation, find_corrupt, to_rgb
from ldm.data.prepare import convert
from ldm.errors import UserError

SMALL = Preparation("center", 8)
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def fill(root, count=12, size=(20, 16)):
    """Pictures of one colour each, in nested folders: number i has the red i * 6."""
    for number in range(count):
        path = root / f"{'ab'[number % 2]}" / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (number * 6, 50, 200)).save(path)


def open_folder(root, size=8, crop="center", **options):
    return Pictures("folder", FolderStore(root), Preparation(crop, size), **options)


class TestModes:
    """Every mode becomes the RGB values that its own definition gives."""

    @pytest.mark.parametrize(
        ("image", "wanted"),
        [
            (Image.fromarray(RAMP), np.stack([RAMP] * 3, axis=2)),
            (Image.fromarray(RAMP.astype(np.uint16) * 257), np.stack([RAMP] * 3, axis=2)),
            (Image.fromarray(RAMP > 100), np.stack([255 * (RAMP > 100)] * 3, axis=2)),
            (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), np.full((2, 2, 3), (10, 20, 30))),
            (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), np.full((2, 2, 3), 255)),
            (Image.new("LA", (2, 2), (40, 0)), np.full((2, 2, 3), 255)),
            (Image.new("CMYK", (2, 2), (0, 0, 0, 0)), np.full((2, 2, 3), 255)),
        ],
        ids=["grey", "16 bits", "1 bit", "opaque", "transparent", "grey and alpha", "cmyk"],
    )
    def test_becomes_rgb(self, image, wanted):
        assert np.array_equal(np.asarray(to_rgb(image)), wanted)

    def test_palettes_with_and_without_transparency(self):
        colour = Image.new("RGB", (4, 4), (200, 100, 0))
        palette = colour.quantize(4)
        assert np.array_equal(np.asarray(to_rgb(palette)), np.asarray(colour))
        with Image.open(io.BytesIO(encode(palette, transparency=palette.getpixel((0, 0))))) as image:
            assert image.mode == "P" and np.asarray(to_rgb(image)).min() == 255

    def test_floats_are_refused(self):
        with pytest.raises(ValueError, match="range is unknown"):
            to_rgb(Image.fromarray(RAMP.astype(np.float32)))


class TestCrops:
    def test_upright_by_exif(self):
        picture = Image.new("RGB", (12, 8))
        picture.paste((255, 0, 0), (0, 0, 12, 4))  # the upper half is red
        turned = picture.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees clockwise
        image = Preparation("squash", 8)(encode(turned, exif=exif))
        assert image[:3, :, 0].min() > 250 and image[5:, :, 0].max() < 5

    def test_center_squash_and_pad(self):
        wide = Image.new("RGB", (32, 16), (0, 0, 255))
        wide.paste((255, 0, 0), (8, 0, 24, 16))  # the central square is red
        center, squash, pad = (Preparation(crop, 16)(encode(wide)) for crop in ("center", "squash", "pad"))
        assert np.array_equal(center, np.full((16, 16, 3), (255, 0, 0)))
        assert squash[:, 7].tolist() == [[255, 0, 0]] * 16 and squash[:, 0].tolist() == [[0, 0, 255]] * 16
        assert pad[0].max() == 0 and pad[8, 0].tolist() == [0, 0, 255]

    def test_downscaling_is_antialiased(self):
        checks = Image.fromarray(np.indices((64, 64)).sum(axis=0).astype(np.uint8) % 2 * 255)
        image = Preparation("center", 8)(encode(checks))
        assert 118 <= image.min() and image.max() <= 138

    @pytest.mark.parametrize(
        ("crop", "box"), [("d2c128", (25, 57, 153, 185)), ("center178", (0, 20, 178, 198))]
    )
    def test_crops_of_celeba(self, crop, box):
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (218, 178, 3), dtype=np.uint8))
        wanted = picture.crop(box).resize((64, 64), Image.Resampling.BICUBIC)
        got = Preparation(crop, 64)(encode(picture))
        assert np.abs(got.astype(int) - np.asarray(wanted)).max() <= 1
        with pytest.raises(ValueError, match="12x8 pixels, aligned CelebA has 178x218"):
            Preparation(crop, 64)(encode(Image.new("RGB", (12, 8))))

    def test_an_unknown_crop(self):
        with pytest.raises(UserError, match=f"data.crop=round is unknown; choose one of {', '.join(CROPS)}"):
            Preparation("round", 8)


class TestPictures:
    def test_first_last_and_random_ones_are_the_files(self, tmp_path):
        """Mixed sizes and modes: central square and bicubic resampling, by Pillow's own steps."""
        rng = np.random.default_rng(0)
        for number in range(20):
            width, height = rng.integers(8, 60, 2)
            pixels = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            pixels.convert("L" if number % 3 == 0 else "RGB").save(tmp_path / f"{number:02}.png")
        wanted = []
        for path in sorted(tmp_path.iterdir()):
            image = Image.open(path).convert("RGB")
            side, (width, height) = min(image.size), image.size
            left, upper = (width - side) / 2, (height - side) / 2
            box = (left, upper, left + side, upper + side)
            wanted.append(np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC, box)))
        random = torch.randint(20, (1000,), generator=torch.Generator().manual_seed(0))
        index = torch.cat([torch.tensor([0, 19]), random])
        images = open_folder(tmp_path).images(index)
        assert np.array_equal(images, np.stack(wanted).transpose(0, 3, 1, 2)[index])

    def test_reads_in_any_order(self, tmp_path):
        fill(tmp_path)
        source = open_folder(tmp_path)
        names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*.png"))
        red = torch.tensor([int(name[2:6]) * 6 for name in names])
        index = torch.tensor([11, 0, 3, 3, 7])
        images = source.images(index)
        assert images.shape == (5, 3, 8, 8) and images.dtype == torch.uint8 and images.is_contiguous()
        assert torch.equal(images[:, 0, 4, 4].long(), red[index])
        assert source.factor_space is None and source.attribute_names == () and not source.skipped
        with pytest.raises(ValueError, match="rows from 0 to 11"):
            source.images(torch.tensor([12]))

    def test_workers_read_what_this_process_reads(self, tmp_path):
        fill(tmp_path)
        source = open_folder(tmp_path)
        sampler = StepSampler(12, batch_size=5, num_steps=3, seed=0)
        loader = build_loader(
            ImageBatches(source, torch.arange(12)), sampler, num_workers=2, pin_memory=False
        )
        for positions, batch in zip(sampler, loader, strict=True):
            assert torch.equal(batch["image"], source.images(positions))
        assert torch.equal(
            pickle.loads(pickle.dumps(source)).images(torch.arange(3)), source.images(torch.arange(3))
        )

    def test_the_identity_is_content_and_preparation_not_place(self, tmp_path):
        for name in ("one", "two", "three"):
            fill(tmp_path / name)
        first = open_folder(tmp_path / "one").identity
        assert open_folder(tmp_path / "two").identity == first
        assert open_folder(tmp_path / "one", size=16).identity != first
        assert open_folder(tmp_path / "one", crop="squash").identity != first
        Image.new("RGB", (20, 16), (1, 1, 1)).save(tmp_path / "three" / "a" / "0000.png")
        assert open_folder(tmp_path / "three").identity != first


class TestCorruptPictures:
    @pytest.fixture
    def folder(self, tmp_path):
        fill(tmp_path, count=40)
        (tmp_path / "a" / "0004.png").write_bytes((tmp_path / "a" / "0004.png").read_bytes()[:40])
        (tmp_path / "b" / "0007.png").write_bytes(b"no picture")
        (tmp_path / "b" / "0009.png").write_bytes(b"")
        Image.new("RGB", (300, 300)).save(tmp_path / "b" / "0011.jpg", quality=95)
        jpeg = tmp_path / "b" / "0011.jpg"
        jpeg.write_bytes(jpeg.read_bytes()[: jpeg.stat().st_size // 2])
        return tmp_path

    def test_stop_names_the_picture_and_the_way_out(self, folder):
        source = open_folder(folder)
        assert len(source) == 41
        with pytest.raises(UserError, match=r"picture a/0004.png cannot be read \(.+\); .*data.corrupt=skip"):
            source.images(torch.tensor([2]))

    def test_from_a_worker_it_is_the_same_sentence(self, folder):
        batches = ImageBatches(open_folder(folder), torch.arange(41))
        loader = build_loader(batches, StepSampler(41, 41, 1, seed=0), num_workers=1, pin_memory=False)
        with pytest.raises(UserError) as failure:
            list(loader)
        message = str(failure.value)
        assert message.startswith(f"{folder}: the picture a/0004.png cannot be read") and "\n" not in message

    def test_skip_counts_and_names_them_and_reads_the_others(self, folder):
        source = open_folder(folder, corrupt="skip")
        assert source.skipped == ("a/0004.png", "b/0007.png", "b/0009.png", "b/0011.jpg")
        assert len(source) == 37
        reds = source.images(torch.arange(37))[:, 0, 4, 4].tolist()
        assert sorted(reds) == sorted(6 * i for i in range(40) if i not in (4, 7, 9))

    def test_one_among_thousands(self, tmp_path):
        """Stopped at and named when it is read, or counted and left out; the others are read as before."""
        good = encode(Image.new("RGB", (8, 8), (9, 50, 200)))
        for number in range(2000):
            (tmp_path / f"{number:04}.png").write_bytes(good)
        (tmp_path / "1023.png").write_bytes(good[: len(good) // 2])
        stopping, skipping = open_folder(tmp_path), open_folder(tmp_path, corrupt="skip")
        assert len(stopping) == 2000 and stopping.images(torch.tensor([1022, 1024])).shape == (2, 3, 8, 8)
        with pytest.raises(UserError, match=r"picture 1023.png cannot be read \(.+\); .*data.corrupt=skip"):
            stopping.images(torch.arange(1000, 1100))
        assert len(skipping) == 1999 and skipping.skipped == ("1023.png",)
        assert (skipping.images(torch.arange(1000, 1100))[:, 0] == 9).all()

    def test_the_search_is_kept_until_the_folder_changes(self, folder):
        store, told, calls = FolderStore(folder), [], []

        class Counting(Preparation):
            def __call__(self, data):
                calls.append(len(data))
                return super().__call__(data)

        counting = Counting("center", 8)
        first = find_corrupt(store, counting, lambda *progress: told.append(progress))
        assert (folder / SCAN).exists() and told[-1] == (41, 41) and len(calls) == 41
        assert find_corrupt(store, counting) == first and len(calls) == 41
        Image.new("RGB", (20, 16)).save(folder / "b" / "0007.png")
        assert set(first) - set(find_corrupt(FolderStore(folder), SMALL)) == {"b/0007.png"}

    def test_all_are_corrupt(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no")
        with pytest.raises(UserError, match="has no readable pictures"):
            open_folder(tmp_path, corrupt="skip")

    def test_an_unknown_choice(self, folder):
        with pytest.raises(UserError, match="data.corrupt=maybe is unknown; choose one of stop, skip"):
            open_folder(folder, corrupt="maybe")


class TestConversion:
    def test_is_used_from_then_on(self, tmp_path):
        fill(tmp_path)
        before = open_folder(tmp_path)
        path = convert(before)
        after, everything = open_folder(tmp_path), torch.arange(12)
        assert after.identity == before.identity and after._prepared is not None
        assert torch.equal(after.images(everything), before.images(everything))
        assert open_folder(tmp_path, size=16)._prepared is None
        path.write_bytes(path.read_bytes()[:-1])  # not whole
        assert open_folder(tmp_path)._prepared is None

    def test_a_full_disk_leaves_nothing(self, tmp_path, no_file_larger_than):
        fill(tmp_path)
        source = open_folder(tmp_path, size=64)
        with pytest.raises(UserError, match="cannot write .*free some space"), no_file_larger_than(20_000):
            convert(source)
        assert not list(tmp_path.glob(".*npy*")) and open_folder(tmp_path, size=64)._prepared is None
