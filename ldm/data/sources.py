"""Files, sizes, licences and download addresses of the published data sets.

Sizes are those of the arrays, derived from their shapes. The publishers give no checksums; the sha256 of a
download is stored, so that `check` can find later damage.
"""

from dataclasses import dataclass, replace

from ldm.data.smallnorb import PARTS

BUCKET = "https://storage.googleapis.com"
REED = "http://www.scottreed.info/files"
LSUN = "http://dl.yf.io/lsun/scenes"
NORB = "https://cs.nyu.edu/~ylclab/data/norb-v1.0-small"
SEE = "see the source"


@dataclass(frozen=True)
class Remote:
    """A file to download: address, name below the root, and for an archive the files to extract."""

    url: str
    file: str
    unpack: str | None = None


@dataclass(frozen=True)
class Origin:
    """What a user needs to know to get a data set; `remotes` is empty if it must be downloaded by hand."""

    content: str
    layout: str
    page: str
    licence: str = SEE
    remotes: tuple[Remote, ...] = ()
    note: str = ""


def _mpi3d(kind: str, num_images: str, gigabytes: float, remotes: tuple[Remote, ...]) -> Origin:
    note = "" if remotes else "The publisher's page names the file; its address is not verified by us."
    return Origin(
        f"MPI3D {kind}: {num_images} images of 64x64x3 with seven factors, {gigabytes} GB unpacked",
        f"mpi3d_{kind}.npz (images)",
        "https://github.com/rr-learning/disentanglement_dataset",
        "CC BY 4.0",
        remotes,
        note,
    )


def _drawn(content: str) -> Origin:
    return Origin(content, "none, the images are drawn when they are read", "this package", "MIT")


def _pictures(content: str, page: str, remotes: tuple[Remote, ...] = (), note: str = "") -> Origin:
    layout = "a folder of pictures, nested or not, or an LMDB (pip install -e '.[lmdb]')"
    return Origin(content, layout, page, SEE, remotes, note)


DSPRITES = Origin(
    "dSprites: 737,280 binary images of 64x64 with five factors, 3.0 GB unpacked",
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz (imgs, latents_classes), or .hdf5",
    "https://github.com/google-deepmind/dsprites-dataset",
    SEE,
    (
        Remote(
            "https://github.com/google-deepmind/dsprites-dataset/raw/master/"
            "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
            "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
        ),
    ),
)
ORIGINS = {
    "shapes3d": Origin(
        "Shapes3D: 480,000 images of 64x64x3 with six factors, 5.9 GB when uncompressed",
        "3dshapes.h5 (images uint8 (480000, 64, 64, 3), labels float64 (480000, 6)), or 3dshapes.npz",
        "https://github.com/google-deepmind/3d-shapes",
        SEE,
        (Remote(f"{BUCKET}/3d-shapes/3dshapes.h5", "3dshapes.h5"),),
        "A compressed file is unpacked once to 3dshapes.images.npy beside it, which takes another 5.9 GB.",
    ),
    "shapes3d_nonlinear": _drawn(
        "Shapes3D in a rendering that is not linear in colours: 480,000 images of 64x64x3 with six factors"
    ),
    "cars3d": Origin(
        "Cars3D: 17,568 images with elevation 4, azimuth 24 and car 183, resized from 128x128 to 64x64",
        "cars/*.mat (183 files; im uint8 (128, 128, 3, 24, 4)), or cars3d.npz (images, in factor order)",
        "http://www.scottreed.info",
        SEE,
        (Remote(f"{REED}/nips2015-analogy-data.tar.gz", "cars.tar.gz", "cars/*.mat"),),
        "The 64x64 images are kept in cars3d.images.npy (0.2 GB).",
    ),
    "mpi3d_toy": _mpi3d(
        "toy", "1,036,800", 12.7,
        (Remote(f"{BUCKET}/mpi3d_disentanglement_dataset/data/mpi3d_toy.npz", "mpi3d_toy.npz"),),
    ),  # fmt: skip
    "mpi3d_realistic": _mpi3d(
        "realistic", "1,036,800", 12.7,
        (Remote(f"{BUCKET}/mpi3d_disentanglement_dataset/data/mpi3d_realistic.npz", "mpi3d_realistic.npz"),),
    ),  # fmt: skip
    "mpi3d_real": _mpi3d(
        "real", "1,036,800", 12.7,
        (Remote(f"{BUCKET}/mpi3d_disentanglement_dataset/data/real.npz", "mpi3d_real.npz"),),
    ),  # fmt: skip
    "mpi3d_real_complex": _mpi3d("real_complex", "460,800", 5.7, ()),
    "dsprites": DSPRITES,
    "dsprites_color": replace(DSPRITES, content=f"{DSPRITES.content}; each sprite in a random colour"),
    "dsprites_noise": replace(DSPRITES, content=f"{DSPRITES.content}; over random noise"),
    "glyphs": _drawn(
        "Glyphs: 604,800 images of 64x64x3 of letters with eight factors, in fonts that matplotlib ships"
    ),
    "people_emoji": Origin(
        "People emoji: 378 portraits of the font Noto Color Emoji with three factors, each at 81 places",
        "NotoColorEmoji.ttf; an installed one is found by itself (Debian: fonts-noto-color-emoji)",
        "https://github.com/googlefonts/noto-emoji",
        "SIL Open Font License 1.1",
        note="Pillow needs the layout library raqm, which its wheels have.",
    ),
    "smallnorb": Origin(
        "SmallNORB: 48,600 grey photographs of 96x96 with four factors, resized to 64x64",
        "smallnorb-5x46789x9x18x6x2x96x96-training-{dat,cat,info}.mat and "
        "smallnorb-5x01235x9x18x6x2x96x96-testing-{dat,cat,info}.mat, also as .gz",
        NORB,
        SEE,
        tuple(
            Remote(f"{NORB}/smallnorb-{part}-{kind}.mat.gz", f"smallnorb-{part}-{kind}.mat.gz")
            for part in PARTS
            for kind in ("dat", "cat", "info")
        ),
    ),
    "celeba": Origin(
        "CelebA: 202,599 aligned faces of 178x218 with 40 binary attributes",
        "img_align_celeba/*.jpg, list_attr_celeba.txt, list_eval_partition.txt",
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
        note="The publisher distributes it through Google Drive: download it by hand.",
    ),
    "ffhq": _pictures(
        "FFHQ: 70,000 faces of 1024x1024 or smaller",
        "https://github.com/NVlabs/ffhq-dataset",
        note="The publisher distributes it through Google Drive: download it by hand.",
    ),
    "bedroom": _pictures(
        "LSUN bedroom: 3,033,042 photographs, shorter side 256",
        "https://github.com/fyu/lsun",
        (Remote(f"{LSUN}/bedroom_train_lmdb.zip", "bedroom.zip", "bedroom_train_lmdb/*.mdb"),),
    ),
    "horse": _pictures("LSUN horse: photographs", "https://github.com/fyu/lsun", note="Download it by hand."),
    "folder": _pictures("Your own pictures, of any kind and size", "your disk"),
}  # fmt: skip
