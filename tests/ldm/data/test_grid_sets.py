"""Cars3D, MPI3D, dSprites and SmallNORB on small files of the published layouts, made here."""

import gzip
import pickle
import struct

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from ldm.data import cars3d, dsprites, mpi3d, smallnorb
from ldm.data.batches import ImageBatches, StepSampler, build_loader
from ldm.data.cars3d import open_cars3d
from ldm.data.dsprites import open_dsprites
from ldm.data.factor_space import FactorSpace
from ldm.data.mpi3d import open_mpi3d
from ldm.data.smallnorb import PARTS, open_smallnorb
from ldm.errors import UserError

MPI3D_SIZES = (3, 2, 2, 3, 3, 4, 2)  # in place of (6, 6, 2, 3, 3, 40, 40)
DSPRITES_SIZES = (3, 6, 5, 4, 4)
CARS = 2


def draw_images(count, *shape, values=256):
    """Random images."""
    return np.random.default_rng(0).integers(0, values, (count, *shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def meshes():
    """Content of the `.mat` files of some cars."""
    return draw_images(CARS, *cars3d.MAT_SHAPE)


@pytest.fixture(scope="module")
def car_images(meshes):
    """All 64x64 images in the order elevation, azimuth, car."""
    views = [
        meshes[car, :, :, :, azimuth, elevation]
        for elevation in range(4) for azimuth in range(24) for car in range(CARS)
    ]  # fmt: skip
    shrunk = [Image.fromarray(view).resize((64, 64), Image.Resampling.LANCZOS) for view in views]
    return np.stack([np.asarray(image) for image in shrunk])


def last_first_and_random(count):
    """The first, the last and 1,000 random positions."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([torch.tensor([0, count - 1]), torch.randint(count, (1000,), generator=generator)])


def assert_is(source, images, factors):
    """Every position asked for gives the image and the factors that plain indexing gives."""
    assert len(source) == len(images)
    index = last_first_and_random(len(images))
    wanted = images[index]
    if wanted.ndim == 3:
        wanted = np.repeat(wanted[..., None], 3, axis=3)
    assert np.array_equal(source.images(index), wanted.transpose(0, 3, 1, 2))
    assert np.array_equal(source.factors(index), factors[index])
    assert source.images(index).is_contiguous() and source.factors(index).dtype == torch.int64


def assert_workers_agree(source):
    everything = torch.arange(len(source))
    sampler = StepSampler(len(source), batch_size=20, num_steps=3, seed=0)
    loader = build_loader(ImageBatches(source, everything), sampler, num_workers=2, pin_memory=False)
    for positions, batch in zip(sampler, loader, strict=True):
        assert torch.equal(batch["image"], source.images(positions))
    assert torch.equal(
        pickle.loads(pickle.dumps(source)).images(everything[:5]), source.images(everything[:5])
    )


def enumerate_factors(sizes):
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)


class TestDeclarations:
    @pytest.mark.parametrize(
        ("spaces", "count"),
        [
            (cars3d.SPACE, 17_568),
            (mpi3d.GRIDS[0], 1_036_800),
            (mpi3d.GRIDS[1], 460_800),
            (dsprites.DSPRITES, 737_280),
            (smallnorb.SPACE, 4_860),
        ],
    )
    def test_sizes(self, spaces, count):
        assert len(spaces) == count


class TestMPI3D:
    @pytest.fixture(autouse=True)
    def small_grid(self, monkeypatch):
        monkeypatch.setattr(mpi3d, "GRIDS", (FactorSpace(mpi3d.NAMES, MPI3D_SIZES),))

    @pytest.fixture
    def images(self):
        return draw_images(int(np.prod(MPI3D_SIZES)), 64, 64, 3)

    @pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
    @pytest.mark.parametrize("variant", list(mpi3d.VARIANTS))
    def test_images_and_factors(self, tmp_path, images, save, variant):
        save(tmp_path / mpi3d.VARIANTS[variant][-1], images=images)
        source = open_mpi3d(variant, tmp_path)
        assert_is(source, images, enumerate_factors(MPI3D_SIZES))
        assert source.name == variant and not source.procedural
        assert_workers_agree(source)

    def test_the_identity_is_the_contents(self, tmp_path, images):
        np.savez(tmp_path / "mpi3d_toy.npz", images=images)
        first = open_mpi3d("mpi3d_toy", tmp_path).identity
        np.savez_compressed(tmp_path / "mpi3d_toy.npz", images=images)
        assert open_mpi3d("mpi3d_toy", tmp_path).identity == first
        np.savez(tmp_path / "mpi3d_toy.npz", images=255 - images)
        assert open_mpi3d("mpi3d_toy", tmp_path).identity != first

    def test_bad_files(self, tmp_path, images):
        with pytest.raises(UserError, match="has no mpi3d_toy.npz; .*`disdiff data mpi3d_toy`"):
            open_mpi3d("mpi3d_toy", tmp_path)
        path = tmp_path / "mpi3d_toy.npz"
        np.savez(path, images=images[:-1])
        with pytest.raises(UserError, match=f"has {len(images) - 1} images, expected {len(images)}"):
            open_mpi3d("mpi3d_toy", tmp_path)
        np.savez(path, pictures=images)
        with pytest.raises(UserError, match="mpi3d_toy.npz is not the file of this data set"):
            open_mpi3d("mpi3d_toy", tmp_path)
        np.savez(path, images=images)
        path.write_bytes(path.read_bytes()[:-5000])
        with pytest.raises(UserError, match="mpi3d_toy.npz is not an npz file, or is truncated"):
            open_mpi3d("mpi3d_toy", tmp_path)


class TestDSprites:
    @pytest.fixture(autouse=True)
    def small_grid(self, monkeypatch):
        monkeypatch.setattr(dsprites, "DSPRITES", FactorSpace(dsprites.DSPRITES.names, DSPRITES_SIZES))

    @pytest.fixture
    def arrays(self):
        factors = enumerate_factors(DSPRITES_SIZES)
        classes = np.concatenate([np.zeros((len(factors), 1), np.int64), factors], axis=1)
        return {"imgs": draw_images(len(factors), 64, 64, values=2), "latents_classes": classes}

    def write(self, root, form, arrays):
        path = root / f"{dsprites.STEM}{form}"
        if form == ".npz":  # with a pickle in it, as published
            metadata = np.array({"title": "dSprites dataset"}, dtype=object)
            np.savez_compressed(path, metadata=metadata, **arrays)
        else:
            with h5py.File(path, "w") as file:
                file.create_dataset("imgs", data=arrays["imgs"], chunks=(200, 8, 16), compression="gzip")
                file["latents/classes"] = arrays["latents_classes"]
        return path

    @pytest.mark.parametrize("form", [".npz", ".hdf5"])
    def test_images_and_factors(self, tmp_path, arrays, form):
        self.write(tmp_path, form, arrays)
        source = open_dsprites(tmp_path)
        assert_is(source, arrays["imgs"] * 255, arrays["latents_classes"][:, 1:])
        assert "grey, as three equal channels" in source.preparation
        assert_workers_agree(source)

    @pytest.mark.parametrize("form", [".npz", ".hdf5"])
    def test_a_subset_is_told_by_its_classes(self, tmp_path, arrays, form):
        chosen = np.random.default_rng(0).permutation(len(arrays["imgs"]))[:300]
        part = {name: array[chosen] for name, array in arrays.items()}
        self.write(tmp_path, form, part)
        assert_is(open_dsprites(tmp_path), part["imgs"] * 255, part["latents_classes"][:, 1:])

    def test_bad_files(self, tmp_path, arrays):
        part = {name: array[:50] for name, array in arrays.items()}
        self.write(tmp_path, ".npz", {**part, "latents_classes": part["latents_classes"][:49]})
        with pytest.raises(UserError, match="has 50 images but not one row of 6 classes for each"):
            open_dsprites(tmp_path)
        self.write(tmp_path, ".npz", {**part, "latents_classes": part["latents_classes"] + 7})
        with pytest.raises(UserError, match="a class that dSprites does not have"):
            open_dsprites(tmp_path)
        shuffled = {**arrays, "latents_classes": arrays["latents_classes"][::-1]}
        self.write(tmp_path, ".npz", shuffled)
        with pytest.raises(UserError, match="not in its order"):
            open_dsprites(tmp_path)

    @pytest.mark.parametrize("form", [".npz", ".hdf5"])
    @pytest.mark.parametrize("value", [2, 255])
    def test_images_that_are_not_binary_are_refused(self, tmp_path, arrays, form, value):
        """255 times 255 would be 1 in 8 bits: nearly black."""
        arrays["imgs"][500, 3, 3] = value
        self.write(tmp_path, form, arrays)
        for _ in range(2):  # also once the file is unpacked
            with pytest.raises(UserError, match=f"dsprites have values up to {value}, expected at most 1"):
                open_dsprites(tmp_path)


class TestCars3D:
    @pytest.fixture(autouse=True)
    def few_cars(self, monkeypatch):
        monkeypatch.setattr(cars3d, "SPACE", FactorSpace(cars3d.SPACE.names, (4, 24, CARS)))

    def write_mats(self, root, meshes):
        (root / "cars").mkdir()
        for number, mesh in enumerate(meshes):
            savemat(root / "cars" / f"car_{number:03}_mesh.mat", {"im": mesh})

    def test_a_folder_of_mat_files(self, tmp_path, meshes, car_images):
        self.write_mats(tmp_path, meshes)
        source = open_cars3d(tmp_path)
        assert_is(source, car_images, enumerate_factors((4, 24, CARS)))
        again = open_cars3d(tmp_path)  # from what was kept
        assert again.identity == source.identity
        assert_workers_agree(again)

    @pytest.mark.parametrize("key", ["images", "imgs"])
    def test_npz(self, tmp_path, car_images, key):
        np.savez(tmp_path / "cars3d.npz", **{key: car_images})
        assert_is(open_cars3d(tmp_path), car_images, enumerate_factors((4, 24, CARS)))

    def test_bad_files(self, tmp_path, meshes):
        with pytest.raises(UserError, match="has no cars/"):
            open_cars3d(tmp_path)
        self.write_mats(tmp_path, meshes[:1])
        with pytest.raises(UserError, match="has 1 .mat files, expected 2"):
            open_cars3d(tmp_path)
        second = tmp_path / "cars" / "car_001_mesh.mat"
        second.write_bytes((tmp_path / "cars" / "car_000_mesh.mat").read_bytes()[:100_000])
        with pytest.raises(UserError, match="car_001_mesh.mat is not a MATLAB file .*or is truncated"):
            open_cars3d(tmp_path)
        savemat(second, {"im": meshes[0][:64]})
        with pytest.raises(UserError, match="car_001_mesh.mat: expected 'im' to be uint8 of shape"):
            open_cars3d(tmp_path)
        assert not (tmp_path / "cars3d.images.npy").exists()


def write_matrix(path, array, opener=open):
    """NYU's binary matrix format."""
    magic = {"uint8": 0x1E3D4C55, "int32": 0x1E3D4C54}[str(array.dtype)]
    sizes = [*array.shape, *[1] * (3 - array.ndim)]
    with opener(path, "wb") as file:
        file.write(struct.pack(f"<{2 + len(sizes)}i", magic, array.ndim, *sizes) + array.tobytes())


class TestSmallNORB:
    @pytest.fixture
    def parts(self):
        rng = np.random.default_rng(0)

        def draw():
            columns = [rng.integers(0, size, 200) for size in (10, 9, 18, 6)]
            columns[2] *= 2  # azimuths are even
            return {
                "dat": rng.integers(0, 256, (200, 2, 96, 96), dtype=np.uint8),
                "cat": rng.integers(0, 5, 200).astype(np.int32),
                "info": np.stack(columns, axis=1).astype(np.int32),
            }

        return [draw() for _ in PARTS]

    def write(self, root, parts, zipped=False):
        for name, part in zip(PARTS, parts, strict=True):
            for kind, array in part.items():
                path = root / f"smallnorb-{name}-{kind}.mat{'.gz' * zipped}"
                write_matrix(path, array, gzip.open if zipped else open)

    @pytest.mark.parametrize("zipped", [False, True])
    def test_images_and_factors(self, tmp_path, parts, zipped):
        self.write(tmp_path, parts, zipped)
        source = open_smallnorb(tmp_path)
        left = np.concatenate([part["dat"][:, 0] for part in parts])
        shrunk = [Image.fromarray(image).resize((64, 64), Image.Resampling.LANCZOS) for image in left]
        category = np.concatenate([part["cat"] for part in parts])
        info = np.concatenate([part["info"] for part in parts])
        factors = np.stack([category, info[:, 1], info[:, 2] // 2, info[:, 3]], axis=1)
        assert_is(source, np.stack([np.asarray(image) for image in shrunk]), factors)
        assert_workers_agree(source)

    def test_bad_files(self, tmp_path, parts):
        self.write(tmp_path, parts)
        path = tmp_path / f"smallnorb-{PARTS[1]}-dat.mat"
        whole = path.read_bytes()
        path.write_bytes(whole[:-100])
        with pytest.raises(UserError, match="testing-dat.mat is not a complete SmallNORB file .*truncated"):
            open_smallnorb(tmp_path)
        path.write_bytes(b"MATLAB 5.0 MAT-file" + whole)
        with pytest.raises(UserError, match="testing-dat.mat is not a complete SmallNORB file"):
            open_smallnorb(tmp_path)
        path.unlink()
        with pytest.raises(UserError, match="has no smallnorb-5x01235.*-dat.mat nor"):
            open_smallnorb(tmp_path)
        assert not (tmp_path / "smallnorb.images.npy").exists()
        self.write(tmp_path, [parts[0], {**parts[1], "info": parts[1]["info"] + 9}])
        with pytest.raises(UserError, match="a label is not a value of SmallNORB"):
            open_smallnorb(tmp_path)

    def test_odd_azimuths_and_other_shapes(self, tmp_path, parts):
        parts[0]["info"][3, 2] += 1
        self.write(tmp_path, parts)
        with pytest.raises(UserError, match="a label is not a value of SmallNORB"):
            open_smallnorb(tmp_path)
        path = tmp_path / f"smallnorb-{PARTS[0]}-cat.mat"
        for size in (-200, 0, 2**31 - 1):
            path.write_bytes(struct.pack("<5i", 0x1E3D4C54, 1, size, 1, 1) + bytes(800))
            with pytest.raises(UserError, match="training-cat.mat is not a complete SmallNORB file"):
                open_smallnorb(tmp_path)

    @pytest.mark.parametrize("kind", ["dat", "cat", "info"])
    def test_files_that_are_longer_than_they_say(self, tmp_path, parts, kind):
        self.write(tmp_path, parts)
        with (tmp_path / f"smallnorb-{PARTS[1]}-{kind}.mat").open("ab") as file:
            file.write(b"x")
        with pytest.raises(UserError, match=f"testing-{kind}.mat is not a complete SmallNORB file .*longer"):
            open_smallnorb(tmp_path)

    @pytest.mark.parametrize("kind", ["dat", "cat", "info"])
    def test_the_sums_of_zipped_files_are_checked(self, tmp_path, parts, kind):
        self.write(tmp_path, parts, zipped=True)
        path = tmp_path / f"smallnorb-{PARTS[1]}-{kind}.mat.gz"
        data = bytearray(path.read_bytes())
        data[-8] ^= 1  # of the checksum
        path.write_bytes(data)
        with pytest.raises(UserError, match=f"testing-{kind}.mat.gz is not a complete SmallNORB file .*CRC"):
            open_smallnorb(tmp_path)
        assert not (tmp_path / "smallnorb.images.npy").exists()
