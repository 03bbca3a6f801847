"""Every mode and form of file becomes the RGB values that its definition gives, or is refused by name."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from disdiff.editing.image_input import to_images
from ldm.data.catalog import DataOptions, open_data
from ldm.data.pixels import to_rgb
from ldm.errors import UserError

WHITE = [255] * 3


def png(depth, colour, row, clear=None, size=(2, 1)):
    """The bytes of a PNG of one row, also of depths that Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    middle = b"" if clear is None else chunk(b"tRNS", clear)
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + middle
        + chunk(b"IDAT", zlib.compress(b"\0" + row))
        + chunk(b"IEND", b"")
    )


def tiff(bits, photometric, data, sample_format=1, order="<"):
    """The bytes of a TIFF of two pixels in one channel."""
    tags = [(256, 2), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1)]
    tags += [(279, len(data)), (339, sample_format)]
    data += b"\0" * (len(data) % 2)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def save(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(*values):
    return [[[value] * 3 for value in values]]


def palette_with_alpha():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 255, 0, 255, 0, 0], "RGBA")
    image.putdata([0, 1])
    return image


def frames(kind):
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return save(pictures[0], kind, save_all=True, append_images=pictures[1:], duration=100)


FILES = {
    "16-bit PNG": (png(16, 0, struct.pack(">HH", 0x1234, 0xFFFF)), grey(0x12, 255)),
    "16-bit PNG, 0 is transparent": (
        png(16, 0, struct.pack(">HH", 0x1234, 0), struct.pack(">H", 0)),
        grey(0x12, 255),
    ),
    "16-bit PNG, one value is transparent": (
        png(16, 0, struct.pack(">HH", 0x1234, 0x1235), struct.pack(">H", 0x1234)),
        grey(255, 0x12),
    ),
    "4-bit PNG with a transparent value": (png(4, 0, b"\x53", struct.pack(">H", 5)), grey(255, 3 * 17)),
    "2-bit PNG with a transparent value": (png(2, 0, b"\x60", struct.pack(">H", 1)), grey(255, 2 * 85)),
    "1-bit PNG with a transparent value": (png(1, 0, b"\x00", struct.pack(">H", 0)), grey(255, 255)),
    "8-bit PNG with a transparent value": (png(8, 0, b"\x05\x06", struct.pack(">H", 5)), grey(255, 6)),
    "RGB PNG with a transparent value": (
        png(8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 1, 2, 3)),
        [[WHITE, [4, 5, 6]]],
    ),
    "16-bit RGB PNG with a transparent value": (
        png(
            16,
            2,
            struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x3412, 0, 0),
            struct.pack(">3H", 0x1234, 0x5678, 0x9ABC),
        ),
        [[WHITE, [0x34, 0, 0]]],
    ),
    "16-bit grey and alpha PNG": (png(16, 4, struct.pack(">4H", 0x1234, 0xFFFF, 9, 0)), grey(0x12, 255)),
    "16-bit RGBA PNG": (
        png(16, 6, struct.pack(">8H", 0x1234, 0x5678, 0x9ABC, 0xFFFF, 0, 0, 0, 0)),
        [[[0x12, 0x56, 0x9A], WHITE]],
    ),
    "8-bit TIFF": (tiff(8, 1, bytes([10, 250])), grey(10, 250)),
    "8-bit TIFF, white is zero": (tiff(8, 0, bytes([10, 250])), grey(245, 5)),
    "12-bit TIFF": (tiff(12, 1, bytes([0xFF, 0xF0, 0x80])), grey(255, 8)),
    "16-bit TIFF": (tiff(16, 1, struct.pack("<HH", 0x1234, 0xFFFF)), grey(0x12, 255)),
    "16-bit TIFF, white is zero": (tiff(16, 0, struct.pack("<HH", 0x1234, 0xFFFF)), grey(0xED, 0)),
    "16-bit TIFF, big-endian": (tiff(16, 1, struct.pack(">HH", 0x1234, 0xFFFF), 1, ">"), grey(0x12, 255)),
    "PGM up to 255": (b"P5 2 1 255\n" + bytes([7, 255]), grey(7, 255)),
    "PGM up to 15": (b"P5 2 1 15\n" + bytes([1, 15]), grey(17, 255)),
    "PGM up to 1000": (b"P5 2 1 1000\n" + struct.pack(">HH", 500, 1000), grey(128, 255)),
    "PGM up to 65535": (b"P5 2 1 65535\n" + struct.pack(">HH", 0x1234, 65535), grey(0x12, 255)),
    "16-bit PPM": (b"P6 1 1 65535\n" + struct.pack(">3H", 65535, 0, 65535), [[[255, 0, 255]]]),
}


class TestFiles:
    @pytest.mark.parametrize(("data", "wanted"), FILES.values(), ids=list(FILES))
    def test_values(self, data, wanted):
        with Image.open(io.BytesIO(data)) as image:
            assert np.asarray(to_rgb(image)).tolist() == wanted

    def test_jpeg_2000_of_16_bits(self):
        data = save(Image.fromarray(np.full((8, 8), 0x1234, np.uint16)), "JPEG2000", irreversible=False)
        with Image.open(io.BytesIO(data)) as image:
            assert set(np.asarray(to_rgb(image)).ravel().tolist()) == {0x12}

    def test_cmyk_jpeg_with_the_marker_of_adobe(self):
        data = save(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
        with Image.open(io.BytesIO(data)) as image:
            assert b"Adobe" in data and image.mode == "CMYK"
            assert np.abs(np.asarray(to_rgb(image)).astype(int) - [255, 0, 0]).max() <= 3

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
    def test_of_several_frames_the_first_is_taken(self, kind):
        with Image.open(io.BytesIO(frames(kind))) as image:
            assert np.abs(np.asarray(to_rgb(image)).astype(int) - [255, 0, 0]).max() <= 5

    @pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
    @pytest.mark.parametrize("mode", ["RGB", "I;16"])
    def test_upright_by_exif(self, kind, mode):
        pixels = np.zeros((4, 2), np.uint8)
        pixels[0] = 255
        if (kind, mode) == ("WEBP", "I;16"):
            pytest.skip("WebP has 8 bits")
        image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"lossless": True} if kind == "WEBP" else {}
        data = save(image if mode == "I;16" else image.convert("RGB"), kind, exif=exif, **options)
        with Image.open(io.BytesIO(data)) as image:
            assert np.asarray(to_rgb(image))[..., 0].tolist() == [[0, 0, 0, 255]] * 2


MODES = {
    "1": (Image.new("1", (1, 1), 1), WHITE),
    "L": (Image.new("L", (1, 1), 7), [7] * 3),
    "P": (Image.new("RGB", (1, 1), (200, 100, 0)).quantize(2), [200, 100, 0]),
    "PA": (Image.new("P", (1, 1)).convert("PA"), [0] * 3),
    "LA": (Image.new("LA", (1, 1), (0, 51)), [204] * 3),
    "La": (Image.new("LA", (1, 1), (0, 51)).convert("La"), [204] * 3),
    "RGB": (Image.new("RGB", (1, 1), (1, 2, 3)), [1, 2, 3]),
    "RGBX": (Image.new("RGBX", (1, 1), (1, 2, 3, 0)), [1, 2, 3]),
    "RGBA": (Image.new("RGBA", (1, 1), (0, 0, 0, 51)), [204] * 3),
    "RGBa": (Image.new("RGBA", (1, 1), (0, 0, 0, 51)).convert("RGBa"), [204] * 3),
    "CMYK": (Image.new("CMYK", (1, 1), (255, 0, 0, 0)), [0, 255, 255]),
    "YCbCr": (Image.new("YCbCr", (1, 1), (77, 128, 128)), [77] * 3),
    "HSV": (Image.new("HSV", (1, 1), (0, 255, 255)), [255, 0, 0]),
    "LAB": (Image.new("LAB", (1, 1), (255, 128, 128)), WHITE),
    "I;16": (Image.new("I;16", (1, 1), 0x1234), [0x12] * 3),
    "I;16L": (Image.new("I;16L", (1, 1), 0x1234), [0x12] * 3),
    "I;16B": (Image.new("I;16B", (1, 1), 0x1234), [0x12] * 3),
    "palette with alpha": (palette_with_alpha().crop((1, 0, 2, 1)), WHITE),
}


class TestModes:
    @pytest.mark.parametrize(("image", "wanted"), MODES.values(), ids=list(MODES))
    def test_values(self, image, wanted):
        got = np.asarray(to_rgb(image)).astype(int)
        assert got.shape == (1, 1, 3) and np.abs(got - wanted).max() <= (image.mode == "LAB")

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (Image.new("I", (1, 1), 200), "32-bit integers .mode I., whose range is unknown"),
            (Image.new("I", (1, 1), 60_000), "32-bit integers .mode I."),
            (Image.new("F", (1, 1), 0.5), "floats .mode F., whose range is unknown"),
        ],
    )
    def test_unknown_ranges_are_refused(self, image, message):
        with pytest.raises(ValueError, match=message):
            to_rgb(image)


UNKNOWN = {
    "32-bit integers .mode I.": tiff(32, 1, struct.pack("<II", 5, 200)),
    "floats .mode F.": tiff(32, 1, struct.pack("<ff", 0.5, 1), 3),
    "signed integers .mode I.": tiff(16, 1, struct.pack("<hh", -5, 200), 2),
    "signed integers .mode L.": tiff(8, 1, bytes([5, 250]), 2),
}


class TestNaming:
    """A file that is refused is named, with its mode, as a picture of a data set and as input of a model."""

    @pytest.mark.parametrize(("message", "data"), UNKNOWN.items(), ids=list(UNKNOWN))
    def test_the_file_and_the_mode(self, tmp_path, message, data):
        (tmp_path / "x.tif").write_bytes(data)
        with pytest.raises(UserError, match=f"x.tif cannot be read .it has {message}"):
            open_data(DataOptions("folder", str(tmp_path), image_size=8))._read(0)
        with pytest.raises(UserError, match=f"cannot read the picture .*x.tif: it has {message}"):
            to_images(tmp_path / "x.tif", 8)

    def test_damaged_files_as_input_of_a_model(self, tmp_path):
        for name, data in (("a.png", b""), ("b.png", FILES["16-bit PNG"][0][:44]), ("c.gif", b"GIF89a\0")):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(UserError, match=f"cannot read the picture .*{name}: "):
                to_images(tmp_path / name, 8)

    def test_a_file_gives_a_model_what_it_gives_a_data_set(self, tmp_path):
        (tmp_path / "x.png").write_bytes(FILES["4-bit PNG with a transparent value"][0])
        source = open_data(DataOptions("folder", str(tmp_path), image_size=8))
        assert np.allclose(to_images(tmp_path / "x.png", 8), source._read(0).transpose(2, 0, 1) / 127.5 - 1)

    @pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32, bool])
    def test_arrays_of_other_types_are_refused(self, dtype):
        with pytest.raises(UserError, match=f"numpy images must be uint8 .*got {np.dtype(dtype)}"):
            to_images(np.zeros((8, 8, 3), dtype), 8)
