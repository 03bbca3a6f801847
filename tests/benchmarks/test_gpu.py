"""benchmarks/gpu.py on the CPU with tiny networks: rows, curves, what it repeats and when it ends."""

import json

import pytest

SIZES = ("--device", "cpu", "--size", "tiny", "--modes", "float32")
STAGES = ("code", "latent_diffusion", "autoencoder")


@pytest.fixture
def gpu(load_benchmark, noise_images, monkeypatch):
    """The benchmark, in this process, with few steps and points, however fast the machine is."""
    gpu = load_benchmark("gpu")

    class Inline:
        def run(self, function, *arguments, seconds):
            assert seconds > 0
            return function(*arguments)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setattr(gpu, "Worker", Inline)
    monkeypatch.setattr(gpu, "ROW_SHARE", 0)
    monkeypatch.setattr(gpu, "FIRST_STAGE_SHARE", 0)
    return gpu


@pytest.fixture
def plan(gpu, monkeypatch):
    """Return a function that sets the points."""

    def to_the_next(marks):
        def plan_round(images, *rest):
            ahead = [mark for mark in marks if mark > min(images.values())]
            return ([name for name, n in images.items() if n < ahead[0]], ahead[0]) if ahead else None

        monkeypatch.setattr(gpu, "plan_round", plan_round)

    return to_the_next


@pytest.fixture
def run(gpu, tmp_path):
    """Return a function that calls the command and reads its file."""

    def call(*words, minutes=600):
        out = ("--out", str(tmp_path), "--runs", str(tmp_path / "elsewhere"))
        gpu.main(gpu.make_parser().parse_args(["--minutes", str(minutes), *SIZES, *out, *words]))
        return json.loads((tmp_path / "gpu.json").read_text())

    return call


def test_a_trial_measures_trains_and_goes_on(gpu, run, plan, load_benchmark, tmp_path, monkeypatch, capsys):
    plan([16])
    first = run()
    assert set(first["rows"]) == {f"tiny/{stage}/float32" for stage in STAGES}
    for row in first["rows"].values():
        assert row["batch_size"] == 8 and row["steps"] == 2 and row["peak_memory_mb"] > 0
        assert row["images_per_second"] == pytest.approx(8 * row["steps"] / row["seconds"])
    training = first["training"]
    assert training["size"] == "tiny" and "failed" not in training
    assert training["first_stages"]["latent_diffusion"]["images"] == 16
    assert set(training["overrides"]["without L_dis"]) - set(training["overrides"]["with L_dis"]) == {
        "code.loss.weight_disentangle=0"
    }
    for points in training["curves"].values():
        assert [point["images"] for point in points] == [16]
        assert all(0 <= point["scores"]["fast"]["dci"] <= 1 for point in points)
    assert (tmp_path / "gpu.png").stat().st_size > 1000
    assert not (tmp_path / "elsewhere" / "timing").exists()
    monkeypatch.setattr(gpu, "time_stage", None)
    monkeypatch.setattr(gpu, "train_one", None)
    plan([16, 40])
    growth = load_benchmark("growth")
    monkeypatch.setattr(growth, "score_code", lambda context, protocol: {"reason": "not asked"})
    second = run()
    assert second["rows"] == first["rows"] and second["calls"] == [600, 600]
    for variant, points in second["training"]["curves"].items():
        assert points[:1] == training["curves"][variant] and points[1]["images"] == 40
    assert "without L_dis: 40 images: not asked (fast)" in capsys.readouterr().out


def test_what_takes_too_long_is_said_and_tried_again(gpu, run, monkeypatch):
    def late(*arguments, **options):
        raise TimeoutError("not finished in 7 s")

    def broken(*arguments, **options):
        raise ChildProcessError("OutOfMemoryError: tried to allocate too much")

    inline = gpu.Worker.run
    for fault, key in ((late, "out_of_time"), (broken, "failed")):
        monkeypatch.setattr(gpu.Worker, "run", lambda self, f, *a, seconds, fault=fault: (
            fault() if f is gpu.time_stage else inline(self, f, *a, seconds=seconds)
        ))  # fmt: skip
        result = run()
        assert all(list(row) == [key] for row in result["rows"].values())
        assert "is not measured" in result["training"]["failed"] and "curves" not in result["training"]


def test_another_machine_is_not_mixed_in(gpu, run, monkeypatch):
    monkeypatch.setattr(gpu, "list_rows", lambda sizes, modes: [])
    run()
    monkeypatch.setattr(gpu, "describe_machine", lambda: {"device": "a", "processor": "b", "versions": "c"})
    with pytest.raises(gpu.UserError, match="of another machine .device differs"):
        run()


def test_rounds_are_planned_within_the_time(gpu):
    gpu.MARKS = [100, 300, 1000]
    rates = {"a": 10.0, "b": 20.0}
    plan = gpu.plan_round
    assert plan({"a": 0, "b": 0}, rates, 1e9, 11, 10) == (["a", "b"], 300)  # 110 images take 11 s
    assert plan({"a": 0, "b": 0}, rates, 1e9, 1, 10) == (["a", "b"], 100)
    assert plan({"a": 100, "b": 300}, rates, 1e9, 1, 10) == (["a"], 300)
    assert plan({"a": 1000, "b": 1000}, rates, 1e9, 1, 10) is None
    # 0.8 of 41 s without two points of 5 s are 24.8 s: 160 images of both, which need 16 and 8 s
    assert plan({"a": 100, "b": 100}, rates, 41, 5, 10) == (["a", "b"], 260)
    assert plan({"a": 100, "b": 100}, rates, 10, 5, 10) is None
    assert plan({"a": 100, "b": 120}, rates, 7, 5, 10) == (["a"], 110)


def test_the_modes_of_a_gpu_are_left_out_on_a_cpu(gpu, tmp_path):
    words = ["--minutes", "1", "--out", str(tmp_path)]
    arguments = gpu.make_parser().parse_args(words)
    modes = {device: gpu.Session(arguments, device, None).modes for device in ("cpu", "cuda")}
    assert set(modes["cuda"]) - set(modes["cpu"]) == {"tf32", "cuda_graphs"}
    assert modes["cuda"] == list(gpu.MODES)
