"""benchmarks/streaming.py measures what it says: the same images from both places, and memory in between."""

import json

import pytest
import torch

from ldm.data.batches import TensorBatches


@pytest.fixture
def streaming(load_benchmark):
    return load_benchmark("streaming")


def test_memory_is_watched_between_the_steps(streaming):
    with streaming.watch_memory(0.001) as peaks:
        before = streaming.anonymous_megabytes()
        held = torch.ones(2**25)  # 134 MB
        for _ in range(20):
            held.mul_(1)
        del held
    assert max(peaks) > before + 100


def test_copies_in_memory_hold_the_same(streaming):
    arrays = {"a": torch.arange(3000)[:, None], "b": torch.arange(3000) / 7}
    copy = streaming.hold(TensorBatches(arrays))
    assert all(torch.equal(copy.arrays[name], array) for name, array in arrays.items())
    assert copy.arrays["a"].data_ptr() != arrays["a"].data_ptr()


def test_a_verdict_is_of_memory_and_of_the_median_pair(streaming):
    speed = {"ratio": 0.94, "least": 0.9, "most": 1.0}
    result = {
        "megabytes_above_imports": {"autoencoder": 300, "code": 2500},
        "autoencoder": {"speed": speed},
    }
    memory, stage = streaming.judge(result)
    assert "2500 MB (code)" in memory and memory.endswith("MISSED")
    assert "0.940 (0.900 to 1.000)" in stage and stage.endswith("MISSED")
    speed["ratio"] = result["megabytes_above_imports"]["code"] = 0.96
    assert all(line.endswith("kept") for line in streaming.judge(result))


@pytest.mark.slow
def test_a_small_trial_runs_and_leaves_nothing(streaming, tmp_path, monkeypatch, capsys):
    words = ["--num-images", "600", "--preset", "smoke", "--steps", "2", "--rounds", "2", "--threads", "1"]
    monkeypatch.chdir(tmp_path)
    streaming.main(streaming.make_parser().parse_args([*words, "--scratch", str(tmp_path)]))
    said = capsys.readouterr().out
    result = json.loads(said[: said.rindex("}") + 1])
    assert result["num_images"] == 600 and result["procedural"]
    for stage in ("autoencoder", "latent_diffusion", "code"):
        assert 0 < result["megabytes_above_imports"][stage] < 2000
        for kind in ("speed", "reading"):
            assert result[stage][kind]["ratio"] > 0
    assert not list(tmp_path.iterdir())
