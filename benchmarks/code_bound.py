"""Measure the swaps that a code allows: those that its auxiliary decoder draws, without diffusion.

Gradient fields draw a swap as well as they can. The auxiliary decoder A, which trained the code, shows what
the code allows: z_0 + A(swapped code) - A(code), judged as all edits are. A exists in training only, so this
needs the checkpoint of a run whose last stage is being trained, or was interrupted. It writes
`code_bound.json` to the run folder.

usage:
  python benchmarks/code_bound.py --base configs/disdiff/shapes3d.yaml seed=27
"""

import argparse
from typing import cast

import numpy as np
import torch
from torch import Tensor

from disdiff.commands.terminal import run_script
from disdiff.commands.train import begin_job_parser
from disdiff.config.schema import load_config
from disdiff.evaluation.edit_success import compute_editing
from disdiff.method.auxiliary_decoder import AuxiliaryDecoder
from disdiff.method.code_task import CodeTask
from disdiff.method.model import Generation, ImageModel
from disdiff.metrics._inputs import unit_scalars
from disdiff.metrics.dci import compute_dci
from disdiff.runs.context import Context, open_context
from disdiff.runs.encoding import code_batches, initial_latents
from disdiff.runs.results import encode_codes, progress_bar
from disdiff.runs.stages import shared_folder
from disdiff.runs.training import build_task, train_first_stages
from ldm.errors import UserError
from ldm.files import save_json
from ldm.training.checkpoint import LAST, count_steps, read_checkpoint

TRAIN, TEST = 2000, 1000  # codes by which units are assigned to factors
AUXILIARY = "auxiliary."  # prefix of its weights in a checkpoint


class AuxiliaryModel(ImageModel):
    """Draws images by the auxiliary decoder A; the "noise" of an image is its latent less A(code)."""

    def __init__(self, model: ImageModel, auxiliary: AuxiliaryDecoder) -> None:
        super().__init__(model.latent_space, model.networks, model.encoder_input)
        self.auxiliary = auxiliary

    def noise_shape(self, image_size: int) -> tuple[int, int, int]:
        """Shape (C, h, w) of a latent."""
        return self.latent_space.latent_shape(image_size)

    def infer_noise(self, image: Tensor, code: Tensor, num_steps: int) -> Tensor:
        """z_0 - A(code), shape (B, C, h, w)."""
        return self.latent_space.encode(image) - self.auxiliary.draw(code)

    def generate(self, code: Tensor, z_T: Tensor, how: Generation) -> Tensor:
        """The images of z_T + A(code)."""
        return self.latent_space.decode(z_T + self.auxiliary.draw(code))


def load_model(context: Context) -> AuxiliaryModel:
    """The encoder and the auxiliary decoder in the run's checkpoint.

    Raises:
        UserError: there is no checkpoint, or the run has no auxiliary decoder.
    """
    path = context.stages["code"].folder / "resume.ckpt"
    if not path.exists():
        raise UserError(
            f"there is no {path}: it is written while the last stage is trained, and deleted at its end; "
            "start the run and interrupt it after its first part"
        )
    train_first_stages(context)
    task = cast(CodeTask, build_task(context, "code"))
    task.fit_data(initial_latents(context, code_batches(context)))
    if task.auxiliary is None:
        raise UserError("this run has no auxiliary decoder; set code.loss.auxiliary.weight=1")
    saved = read_checkpoint(path)
    print(f"the checkpoint has {count_steps(saved):,} of {task.budget.num_steps:,} steps")
    for prefix, module in ((LAST, context.model.networks), (AUXILIARY, task.auxiliary)):
        state = {
            key.removeprefix(prefix): w for key, w in saved["state_dict"].items() if key.startswith(prefix)
        }
        module.load_state_dict(state)
    return AuxiliaryModel(context.model, task.auxiliary).eval()


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    return begin_job_parser(__doc__, "")


@torch.no_grad()
def main(arguments: argparse.Namespace) -> None:
    """Assign units to factors, swap them, and write the rates."""
    context = open_context(load_config(arguments.base, arguments.overrides))
    model, evaluation = load_model(context), context.config.evaluation
    found = encode_codes(model, context.source, context.eval_index[: TRAIN + TEST])
    if "factors" not in found:
        raise UserError("swaps are judged by labels; use labelled data")
    sizes = {"num_train": TRAIN, "num_test": TEST}
    dci = compute_dci(unit_scalars(found["codes"]), found["factors"], seed=evaluation.seed, **sizes)
    with progress_bar("swaps") as progress:
        rates = compute_editing(
            model,
            context.source,
            context.eval_index,
            np.array(dci["importance"]),
            context.config.sampler,
            evaluation.num_pairs,
            evaluation.seed,
            evaluation.probe_steps,
            progress,
            cache_folder=shared_folder(context.config),
        )
    save_json(context.folder / "code_bound.json", {"disentanglement": dci["disentanglement"], **rates})
    by_name = cast(dict, rates["by_name"])
    print(
        "swaps by name right: " + ", ".join(f"{name} {rate:.2f}" for name, rate in by_name["success"].items())
    )
    print(f"others kept: mean {by_name['kept_mean']:.2f}, worst pair {by_name['kept_min']:.2f}")


if __name__ == "__main__":
    run_script(main, make_parser())
