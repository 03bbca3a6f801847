"""Map autoencoders of CompVis latent diffusion (also taming, DisDiff) and of diffusers to our names.

Both are the VQGAN network under different tensor names. The configuration follows from the tensor shapes: the
width of every level, the number of blocks, the places of attention, and whether there is a codebook.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from disdiff.config.schema import AutoencoderConfig
from ldm.autoencoder.networks import NetworkConfig
from ldm.errors import UserError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """Names of the parts of an autoencoder; `{}` stands for the level, a second `{}` for the block."""

    levels: Mapping[str, str]  # for `encoder` and `decoder`
    block: str
    attention: str
    resample: Mapping[str, str]
    middle: tuple[str, str, str]
    reversed_decoder: bool  # whether the decoder's levels are counted from the lowest resolution
    parts: Mapping[str, str]  # our name: their name


COMPVIS = Layout(
    levels={"encoder": "down.{}", "decoder": "up.{}"},
    block="block.{}",
    attention="attn.{}",
    resample={"encoder": "downsample.conv", "decoder": "upsample.conv"},
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    reversed_decoder=False,
    parts={"shortcut": "nin_shortcut", "query": "q", "key": "k", "value": "v", "out": "proj_out"},
)
DIFFUSERS = Layout(
    levels={"encoder": "down_blocks.{}", "decoder": "up_blocks.{}"},
    block="resnets.{}",
    attention="attentions.{}",
    resample={"encoder": "downsamplers.0.conv", "decoder": "upsamplers.0.conv"},
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    reversed_decoder=True,
    parts={
        **{"shortcut": "conv_shortcut", "norm": "group_norm", "norm_out": "conv_norm_out"},
        **{"query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"},
    },
)
OLD_DIFFUSERS = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}  # before 0.15


def detect_layout(shapes: Shapes) -> Layout | None:
    """The layout that the names belong to; None if they fit neither layout."""
    for layout in (COMPVIS, DIFFUSERS):
        if f"encoder.{layout.levels['encoder'].format(0)}.{layout.block.format(0)}.conv1.weight" in shapes:
            return layout
    return None


def describe_autoencoder(shapes: Shapes, layout: Layout, num_groups: int = 32) -> AutoencoderConfig:
    """The configuration of an autoencoder with the given tensor names and shapes.

    Args:
        shapes: shape of each tensor, by name without the prefix of the first stage.
        layout: layout of the names.
        num_groups: groups of every GroupNorm, which shapes do not show; 32 in all released models.

    Raises:
        UserError: our network cannot represent the autoencoder, or a tensor is missing.
    """
    level = layout.levels["encoder"]
    count = count_while(
        lambda i: f"encoder.{level.format(i)}.{layout.block.format(0)}.conv1.weight" in shapes
    )
    blocks = f"encoder.{level.format(0)}.{layout.block}.conv1.weight"
    num_blocks = count_while(lambda j: blocks.format(j) in shapes)
    first = [f"encoder.{level.format(i)}.{layout.block.format(0)}.conv1.weight" for i in range(count)]
    widths = [shapes[name][0] for name in first]
    channels, in_channels = get_shape(shapes, "encoder.conv_in.weight")[:2]
    z_channels = get_shape(shapes, "decoder.conv_in.weight")[1]
    out_channels = get_shape(shapes, "decoder.conv_out.weight")[0]
    attention = [f"encoder.{level.format(i)}.{layout.attention.format(0)}." for i in range(count)]
    if any(width % channels for width in widths) or out_channels != in_channels:
        raise UserError(
            f"the autoencoder has levels of {widths} channels after a first of {channels}, and reads "
            f"{in_channels} but writes {out_channels} image channels; only levels of integer multiples and "
            "equal image channels can be imported"
        )
    network = NetworkConfig(
        in_channels=in_channels,
        channels=channels,
        channel_mult=[width // channels for width in widths],
        num_res_blocks=num_blocks,
        z_channels=z_channels,
        attention=any(name.startswith(f"encoder.{layout.middle[1]}.") for name in shapes),
        attention_levels=[
            i for i, prefix in enumerate(attention) if any(n.startswith(prefix) for n in shapes)
        ],
        num_groups=num_groups,
    )
    codebook = shapes.get("quantize.embedding.weight")
    embed_dim = shapes.get("post_quant_conv.weight", (0, z_channels))[1]
    if embed_dim != z_channels or (codebook is not None and codebook[1] != z_channels):
        raise UserError(
            f"the autoencoder has {z_channels} inner channels but {embed_dim} latent channels; only equal "
            "numbers, as in all released latent diffusion models, can be imported"
        )
    if codebook is None:
        return AutoencoderConfig(kind="kl", network=network, standardise="scalar")
    return AutoencoderConfig("vq", network, codebook[0], legacy_codebook=True, standardise="scalar")


def name_autoencoder(
    targets: Iterable[str], layout: Layout, num_levels: int, old: bool = False
) -> dict[str, str]:
    """Their name of each of the names `targets` in the state of an `Autoencoder` of `num_levels` levels.

    `old` is for attention with the names of diffusers before 0.15.
    """
    return {target: translate(target, layout, num_levels, old) for target in targets}


def translate(target: str, layout: Layout, num_levels: int, old: bool = False) -> str:
    """Their name of our tensor `target`."""
    target = target.replace("quantizer.", "quantize.", 1)
    side, _, rest = target.partition(".")
    if side not in layout.levels:
        return target
    level = re.fullmatch(r"levels\.(\d+)\.(\w+)\.(.*)", rest)
    middle = re.fullmatch(r"middle\.(\d)\.(.*)", rest)
    if middle:
        head, tail = layout.middle[int(middle[1])], middle[2]
    elif level:
        index = int(level[1])
        index = num_levels - 1 - index if side == "decoder" and layout.reversed_decoder else index
        head = layout.levels[side].format(index)
        if level[2] == "resample":
            return f"{side}.{head}.{layout.resample[side]}.{level[3].removeprefix('conv.')}"
        number, _, tail = level[3].partition(".")
        kind = layout.block if level[2] == "blocks" else layout.attention
        head = f"{head}.{kind.format(number)}"
    else:
        head, tail = "", rest
    part, _, leaf = tail.rpartition(".")
    word = layout.parts.get(part, part)
    if old:
        word = OLD_DIFFUSERS.get(word, word)
    return ".".join(filter(None, (side, head, word, leaf)))


def count_while(exists: Callable[[int], bool]) -> int:
    """The smallest of 0, 1, 2, ... that does not exist."""
    count = 0
    while exists(count):
        count += 1
    return count


def get_shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    """Shape of a required tensor; UserError if the tensor is missing."""
    if name not in shapes:
        raise UserError(f"the file has no tensor {name}; it is damaged, or does not match --kind")
    return shapes[name]
