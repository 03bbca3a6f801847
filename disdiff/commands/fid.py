"""Compute FID and KID of a run's images against its data set; of reconstructions also MSE, PSNR and SSIM."""

import argparse
from dataclasses import asdict, fields, replace

import torch
from omegaconf import OmegaConf

from disdiff.commands.common import add_sampler_options, build_parser, load_named_run
from disdiff.config.places import results_folder
from disdiff.config.schema import WeightsConfig, merge, parse_overrides
from disdiff.evaluation import image_features as features
from disdiff.evaluation import image_sets as sets
from disdiff.evaluation.row_cache import RowCache
from disdiff.metrics.fid import check_num_images
from disdiff.runs import image_sets as run_sets
from ldm.device import resolve_device
from ldm.diffusion.sampler import SAMPLERS
from ldm.errors import check_option
from ldm.files import expand_home, save_json
from ldm.weights import resolve_weight

EXAMPLES = """examples:
  disdiff fid pretrained/shapes3d                       10,000 samples
  disdiff fid pretrained/shapes3d --images inferred     reconstructions from inferred noise
  disdiff fid pretrained/shapes3d --images other.npy    images of another code base
  disdiff fid pretrained/shapes3d --set weights.inception=FILE --resize tensorflow1
  disdiff fid pretrained/shapes3d --features random --num 100   a trial without weights; not FID
After an interruption, repeat the command to continue. Results are comparable only for the same --num,
--reference and --resize. Writes RUN/fid/<images>.json (for a file, <name>-<checksum>.json); --out PATH
changes the path."""
WEIGHTS = [f"weights.{part.name}" for part in fields(WeightsConfig)]


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = build_parser(__doc__, EXAMPLES, "file of the results, JSON (default: in RUN/fid)")
    parser.add_argument(
        "--images", default="samples", help=f"{', '.join(run_sets.KINDS)} or FILE.npy (default: samples)"
    )
    parser.add_argument("--num", type=int, default=10_000, help="images on either side (default: 10000)")
    parser.add_argument(
        "--reference",
        choices=run_sets.SPLITS,
        default="eval",
        help="split of the reference images (default: eval)",
    )
    parser.add_argument("--sampler", choices=SAMPLERS, help="sampler (default: that of the run)")
    add_sampler_options(parser, "number of sampling steps (default: that of the run)")
    parser.add_argument(
        "--features", choices=("inception", "random"), default="inception", help="(inception)"
    )
    parser.add_argument("--resize", choices=features.RESIZE_MODES, default="bilinear", help="(bilinear)")
    parser.add_argument("--lpips", action="store_true", help="also LPIPS of reconstructions; needs VGG16")
    parser.add_argument("--allow-few", action="store_true", help="accept fewer images than FID needs")
    parser.add_argument(
        "--cache", type=expand_home, metavar="DIR", help="cache of images and features (default: RUN/fid)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a key weights.* of the run"
    )
    return parser


def read_weights(own: WeightsConfig, texts: list[str]) -> WeightsConfig:
    """The section `weights` of the run with the `--set` overrides applied."""
    for text in texts:
        check_option("--set", text.partition("=")[0], WEIGHTS)
    return merge([OmegaConf.create({"weights": asdict(own)}), parse_overrides(texts)]).weights


def describe(result: dict) -> str:
    """What was compared and how, then one line per result."""
    sampler = result["images"].get("sampler")
    made = f" by {sampler['name']} in {sampler['num_steps']} steps" if sampler else ""
    lines = [
        f"{result['num_images']} images ({result['images']['kind']}){made} against as many of"
        f" {result['reference']['data']} ({result['reference']['split']}); {result['features']['name']},"
        f" resize: {result['features']['resize']}"
    ]
    for name, entry in result["distances"].items():
        prefix, parts = ("", {name: entry}) if "score" in entry else (f"{name}: ", entry)
        lines += [f"  {prefix}{key} {part['score']:.5g}{part.get('note', '')}" for key, part in parts.items()]
    quality = result.get("reconstruction", {})
    return "\n".join(lines + [f"  {name} {quality[name]:.5g}" for name in sets.SCORES if name in quality])


@torch.inference_mode()
def main(arguments: argparse.Namespace) -> None:
    """Make or load images, and compute their distances and errors."""
    device, kind, num = resolve_device(arguments.device), arguments.images, arguments.num
    run = load_named_run(arguments)
    weights = read_weights(run.config.weights, arguments.set)
    take, set_by = weights.allow_download, "--set "
    if arguments.features == "random":
        extract: features.RandomFeatures | features.InceptionFeatures = features.RandomFeatures(device)
    else:
        path = features.find_inception(weights.inception, take, set_by)
        extract = features.InceptionFeatures(path, arguments.resize, device)
    check_num_images(num, extract.dims, allow_few=arguments.allow_few)
    lpips = None
    if arguments.lpips:
        path = resolve_weight(features.LPIPS_VGG16, weights.vgg16, take, set_by)
        lpips = features.VGGDistance(path, device)
    own, folder = run.config.sampler, results_folder(run.folder) / "fid"
    cache = RowCache(arguments.cache or folder)
    sampler = replace(own, name=arguments.sampler or own.name, num_steps=arguments.steps or own.num_steps)
    if kind in run_sets.KINDS:
        images = run_sets.model_images(run, kind, sampler, arguments.seed, cache)
    else:
        images = sets.file_images(expand_home(kind))
    data = run_sets.data_images(run, arguments.reference)
    options = {"seed": arguments.seed, "cache": cache, "allow_few": arguments.allow_few}
    result = {
        "num_images": num,
        "images": images.identity,
        "dataset": {"name": run.source.name, "procedural": run.source.procedural},
        "reference": data.identity,
        "features": extract.identity,
        "distances": sets.compute_distances(images, data, extract, num, **options),
    }
    if kind in ("inferred", "random"):
        source = run_sets.data_images(run, "eval")
        result["reconstruction"] = sets.compute_reconstruction_quality(images, source, num, cache, lpips)
    save_json(out := arguments.out or folder / run_sets.name_result(images, kind), result)
    print(describe(result), out, sep="\n")
