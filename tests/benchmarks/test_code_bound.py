"""benchmarks/code_bound.py on a tiny run that was interrupted."""

import json
from dataclasses import replace

import pytest
import torch

from disdiff.method.model import Generation
from disdiff.runs.training import train_first_stages, train_stage
from ldm.data.source import to_float
from ldm.diffusion.sampler import SamplerConfig
from ldm.training.checkpoint import Paused


@pytest.fixture
def interrupt(load_benchmark, tiny_system, noise_images, tmp_path, monkeypatch):
    """Return a function that opens a tiny run after one step of its last stage, and gives its arguments."""
    bound = load_benchmark("code_bound")
    monkeypatch.setattr(bound, "TRAIN", 200)
    monkeypatch.setattr(bound, "TEST", 100)
    short = [f"{stage}.train.images=64" for stage in ("autoencoder", "latent_diffusion")]
    sizes = ["data.num_train=64", "evaluation={num_images: 400, num_pairs: 4, probe_steps: 10}"]
    words = [*tiny_system, *short, *sizes, f"run.root={tmp_path}", "trainer.device=cpu"]

    def open_run(*overrides):
        arguments = ["--base", "configs/disdiff/shapes3d.yaml", *words, "run.name=run", *overrides]
        parsed = bound.make_parser().parse_args(arguments)
        context = bound.open_context(bound.load_config(parsed.base, parsed.overrides))
        train_first_stages(context)
        return context, parsed

    return bound, open_run


WITH_AUXILIARY = "code.loss.auxiliary={weight: 1.0, hidden: 8}"


def stop_after_one_step(context):
    with pytest.raises(Paused):
        train_stage(replace(context, pause=lambda step: step == 1), "code")


def test_swaps_are_those_of_the_auxiliary_decoder_and_are_judged(interrupt, capsys):
    bound, open_run = interrupt
    context, arguments = open_run(WITH_AUXILIARY)
    stop_after_one_step(context)
    model = bound.load_model(context)
    image = to_float(context.source.images(context.eval_index[:2]))
    code = model.encode(image)
    noise, how = model.infer_noise(image, code, 50), Generation(SamplerConfig())
    with torch.no_grad():
        rebuilt = model.latent_space.decode(model.latent_space.encode(image))
        torch.testing.assert_close(model.generate(code, noise, how), rebuilt)
        moved = model.generate(code.flip(0), noise, how)
        shift = model.auxiliary.draw(code.flip(0)) - model.auxiliary.draw(code)
        torch.testing.assert_close(moved, model.latent_space.decode(model.latent_space.encode(image) + shift))
    bound.main(arguments)
    assert "1 of " in capsys.readouterr().out
    written = json.loads((context.folder / "code_bound.json").read_text())
    assert set(written["by_name"]["success"]) == set(context.source.factor_space.names)
    assert 0 <= written["disentanglement"] <= 1


def test_it_needs_a_checkpoint_and_an_auxiliary_decoder(interrupt):
    bound, open_run = interrupt
    context, arguments = open_run()
    with pytest.raises(bound.UserError, match="interrupt it after its first part"):
        bound.main(arguments)
    stop_after_one_step(context)
    with pytest.raises(bound.UserError, match="no auxiliary decoder"):
        bound.main(arguments)
