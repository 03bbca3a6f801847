import json

import numpy as np
import pytest
import torch

from disdiff.report.grids import save_grid
from disdiff.report.sliders import FRAMES, save_frames


@pytest.fixture
def scores():
    """Of two units and two factors: unit 1 carries `wall <hue>`, unit 0 a little of `scale`."""
    return {
        "dci": {
            "importance": [[0.0, 0.1], [1.0, 0.9]],
            "disentanglement": 0.4321,
            "completeness": 0.5,
            "informativeness": 0.75,
            "estimator": "trees",
            "sizes": {"train": 10_000},
        },
        "factor_vae": {"eval_accuracy": 0.87, "votes": [[1, 40], [60, 2]]},
        "mig": {"score": 0.3, "mutual_information": [[0.1, 0.7], [1.2, 0.2]]},
    }


@pytest.fixture
def codes():
    generator = np.random.default_rng(0)
    return {
        "codes": generator.normal(size=(60, 2, 1)).astype(np.float32),
        "factors": generator.integers(0, 3, (60, 2)),
        "factor_names": np.array(["wall <hue>", "scale"]),
    }


@pytest.fixture
def run_folder(tmp_path, scores, codes):
    """A run folder without weights and pictures."""
    metrics = {
        "system": "disdiff",
        "preset": "small",
        "seed": 0,
        "dataset": {"name": "shapes3d", "procedural": True, "num_images": 480_000},
        "scores": {"paper": scores},
        "editing": {
            "probe": "originals",
            "with_reconstructions": {"success": {"wall <hue>": 1.0, "scale": 0.5}, "success_mean": 0.75},
            "success": {"wall <hue>": 0.9, "scale": 0.4},
            "success_mean": 0.65,
            "kept": {"wall <hue>": {"scale": 0.88}, "scale": {"wall <hue>": 0.97}},
            "kept_mean": 0.925,
            "kept_min": 0.88,
            "assigned_unit": {"wall <hue>": 1, "scale": 0},
            "by_name": {
                "units": {"wall <hue>": [1, 2], "scale": [0]},
                "success": {"wall <hue>": 0.96, "scale": 0.4},
                "success_mean": 0.68,
                "kept_mean": 0.91,
            },
            "unedited": {"wall <hue>": 1.0, "scale": 0.95},
            "probe_accuracy": {"wall <hue>": 1.0, "scale": 0.99},
            "probe_accuracy_originals": {"wall <hue>": 1.0, "scale": 0.995},
        },
        "reconstruction": {
            "psnr": 25.5,
            "autoencoder_psnr": 29.0,
            "inferred_psnr": 25.5,
            "random_psnr": 20.0,
            **{f"{kind}_ssim": 0.9 for kind in ("autoencoder", "inferred", "random")},
            **{f"{kind}_edge_error": 0.25 for kind in ("autoencoder", "inferred", "random")},
        },
        "controls": {
            "fast": {
                "num_images": 2000,
                "seed": 0,
                "run": {"factor_vae": 0.86, "dci": 0.44},
                "controls": [{"name": "PCA <of latents>", "seed": None, "factor_vae": 0.6, "dci": 0.5}],
            }
        },
        "stages": {"autoencoder": {"steps": 1500, "seconds": 200.0}},
        "seconds_total": 900.0,
        "device": "x86_64, 2 threads",
        "versions": {"torch": "2.15.0"},
        "commit": "0123456789ab",
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "config.yaml").write_text("seed: 0\nname: <none>\n")
    (tmp_path / "log.csv").write_text("step,loss,invariant\n10,0.5,\n20,0.4,1.2\n")
    np.savez(tmp_path / "codes.npz", **codes)
    return tmp_path


@pytest.fixture
def full_run_folder(run_folder):
    """The same with every picture, the frames of two units, and a codebook in use."""
    for name in ("swap", "traversal", "fields", "reconstruction", "samples"):
        save_grid(run_folder / f"{name}.png", torch.rand(2, 3, 3, 16, 16), name)
    frames = torch.linspace(-1, 1, 3)[:, None, None, None, None].expand(2, 3, 2, 3, 16, 16)
    save_frames(run_folder / FRAMES, frames, [1, 0], (-1.5, 0.0, 1.5))
    stage = run_folder / "stages" / "autoencoder"
    stage.mkdir(parents=True)
    scores = {"psnr": 29.0, "perplexity": 812.4, "used": 0.623}
    (stage / "stage.json").write_text(json.dumps({"stage": "autoencoder", "scores": scores}))
    return run_folder
