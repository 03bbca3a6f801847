"""Train the tiny CLIP on captions of Shapes3D, to try CLIP guidance and discovery offline."""

import argparse
import time
from pathlib import Path

import torch
from tqdm import tqdm

from disdiff.build import build_source
from disdiff.clip.preprocess import Preprocess
from disdiff.clip.tiny import NAME, PREPROCESSING, build_tiny_clip, describe_training, save_tiny_clip
from disdiff.clip.tiny_training import TinyTraining, train_tiny_clip, zero_shot_accuracy
from disdiff.commands.common import count, number
from disdiff.commands.terminal import begin_parser
from disdiff.config.schema import DataConfig
from ldm.data.source import split_indices
from ldm.errors import UserError
from ldm.files import expand_home
from ldm.numbers import POSITIVE, SEED
from ldm.training.threads import list_counts, set_threads

EXAMPLES = """examples:
  disdiff tiny-clip                       train pretrained/tiny_clip again, in runs/tiny-clip
  disdiff tiny-clip --minutes 5           stop after five minutes
  disdiff tiny-clip --seed 1 --out runs/tiny-clip-1

A model that this CLIP guides is weakly supervised, because the captions are labels in words. The CLIP is
trained on the first images of the fixed split of the data set and evaluated on the last ones. Its folder
records them, and discovery uses other images."""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = begin_parser(__doc__, EXAMPLES)
    defaults = TinyTraining()
    parser.add_argument(
        "--out",
        type=expand_home,
        default=Path("runs/tiny-clip"),
        help="output folder (default: runs/tiny-clip)",
    )
    parser.add_argument("--minutes", type=number(POSITIVE), default=10.0, help="time limit (default: 10)")
    parser.add_argument(
        "--steps",
        type=count,
        default=defaults.num_steps,
        help=f"training steps at most (default: {defaults.num_steps})",
    )
    parser.add_argument("--seed", type=number(SEED), default=0, help="seed (default: 0)")
    parser.add_argument("--num-train", type=count, default=50_000, help="training images (default: 50000)")
    parser.add_argument("--num-eval", type=count, default=4_000, help="held-out images (default: 4000)")
    parser.add_argument(
        "--root",
        type=expand_home,
        default="data/shapes3d",
        help="folder of the published Shapes3D file (default: data/shapes3d)",
    )
    parser.add_argument(
        "--real", action="store_true", help="train on the published file instead of procedural data"
    )
    return parser


def main(arguments: argparse.Namespace) -> None:
    """Train, evaluate on held-out images, and write weights and record."""
    kind = "never" if arguments.real else "always"
    source = build_source(DataConfig(root=str(arguments.root), procedural=kind))
    if arguments.num_train + arguments.num_eval > len(source):
        raise UserError(
            f"--num-train and --num-eval add up to more than the {len(source)} images; lower one of them"
        )
    train, held_out = split_indices(source, arguments.num_train, arguments.num_eval)
    training = TinyTraining(num_steps=arguments.steps, seed=arguments.seed)
    set_threads(list_counts(None, "cpu"))
    torch.manual_seed(arguments.seed)
    net, tokenizer = build_tiny_clip()
    preprocess = Preprocess(
        source.image_size, PREPROCESSING["mean"], PREPROCESSING["std"], PREPROCESSING["interpolation"]
    )
    source.images(train[:1])  # builds the procedural maps before the clock starts
    start = time.monotonic()
    with tqdm(total=training.num_steps, desc=NAME, unit="step", dynamic_ncols=True, mininterval=1.0) as bar:

        def progress(done: int, loss: float) -> float:
            """Show the step; returns the fraction of `--minutes` that has passed."""
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update(done - bar.n)
            return (time.monotonic() - start) / (60 * arguments.minutes)

        steps = train_tiny_clip(net, tokenizer, preprocess, source, train, training, progress)
    seconds = time.monotonic() - start
    accuracy = zero_shot_accuracy(net, tokenizer, preprocess, source, held_out)
    record = {
        "trained_on": describe_training(source, arguments.num_train),
        "zero_shot": {"accuracy": accuracy, "num_images": len(held_out), "which": "held out: the last ones"},
        "training": {**vars(training), "steps_done": steps, "seconds": round(seconds, 1)},
    }
    save_tiny_clip(arguments.out, net, record)
    print(f"{NAME}: {steps} steps in {seconds / 60:.1f} min; zero-shot accuracy on held-out images:")
    for name, value in accuracy.items():
        print(f"  {name:24s} {value:.3f}")
    print(arguments.out)
