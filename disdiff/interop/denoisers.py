"""Map U-Nets, gradient decoders and factor encoders of LDM and DisDiff checkpoints to our names.

    theirs                                          ours
    time_embed, input_blocks                        time_mlp, conv_in, down           (frozen)
    middle_block, output_blocks, out                decoder                           (frozen)
    shift_middle_block, shift_output_blocks, shift_out   decoder.decoder              (gradient fields)
    repre_embed, part_latents, part_emb             decoder.condition, decoder.unit_embedding
    cond_stage_model.encoder                        encoder.trunk, encoder.head

Sizes follow from the tensor shapes. The number of attention heads does not and must be given.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from disdiff.config.schema import CodeConfig
from disdiff.interop.autoencoders import Shapes, count_while, get_shape
from disdiff.method.factor_encoder import FactorEncoderConfig
from disdiff.method.gradient_decoder import GradientDecoderConfig
from ldm.errors import UserError
from ldm.nn.unet import UNetConfig

RES_BLOCK = {
    "in_norm": "in_layers.0",
    "in_conv": "in_layers.2",
    "emb_affine": "emb_layers.1",
    "cond_affine": "cond_emb_layers.1",
    "out_norm": "out_layers.0",
    "out_conv": "out_layers.3",
    "shortcut": "skip_connection",
}
ATTENTION = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}
FOREIGN = {"label_emb": "a class", "transformer_blocks": "text or tokens", "id_predictor": "a codebook"}


@dataclass(frozen=True)
class Heads:
    """Attention heads: their number or the channels per head; None for the rule of the released models.

    Models whose time embedding scales and shifts (DisDiff, LSUN churches) have 8 heads. Models whose time
    embedding is added (faces, bedrooms) have heads of 32 channels.
    """

    number: int | None = None
    channels: int | None = None

    def resolve(self, adds_time: bool) -> int:
        """Value of `num_heads` in the configuration; negative for channels per head."""
        if self.number or self.channels:
            return self.number or -self.channels
        return -32 if adds_time else 8


def describe_unet(shapes: Shapes, heads: Heads) -> UNetConfig:
    """The configuration of a U-Net with the given tensor names (without prefix) and shapes.

    Raises:
        UserError: the U-Net is conditional, or a tensor is missing.
    """
    for word, what in FOREIGN.items():
        if any(word in name for name in shapes):
            raise UserError(
                f"the U-Net is conditioned on {what} ({word}); only unconditional U-Nets can be imported"
            )
    count = count_while(lambda k: f"output_blocks.{k}.0.in_layers.2.weight" in shapes)
    channels = get_shape(shapes, "input_blocks.0.0.weight")[0]
    resampled = [k for k in range(count) if find_resample(shapes, k) is not None]
    per_level = (resampled[0] + 1 if resampled else count) or 1
    if count != per_level * (len(resampled) + 1):
        raise UserError(
            f"the U-Net has {count} output blocks, {len(resampled)} of which resample: not a U-Net"
        )
    widths = [shapes[f"output_blocks.{k}.0.in_layers.2.weight"][0] for k in range(0, count, per_level)][::-1]
    attends = [f"output_blocks.{k}.1.qkv.weight" in shapes for k in range(0, count, per_level)][::-1]
    emb = get_shape(shapes, "middle_block.0.emb_layers.1.weight")
    adds_time = emb[0] == get_shape(shapes, "middle_block.0.in_layers.2.weight")[0]
    residual = any(find_resample(shapes, k) == "in_layers" for k in resampled)
    if any(width % channels for width in widths) or emb[1] != 4 * channels or (adds_time and residual):
        raise UserError(
            "the U-Net's widths do not follow the rule of latent diffusion; it cannot be imported"
        )
    return UNetConfig(
        channels=channels,
        channel_mult=[width // channels for width in widths],
        num_res_blocks=per_level - 1,
        attention_levels=[depth for depth, attend in enumerate(attends) if attend],
        num_heads=heads.resolve(adds_time),
        resample="residual" if residual else "conv_shift" if adds_time else "conv",
    )


def find_resample(shapes: Shapes, k: int) -> str | None:
    """How output block `k` doubles the resolution: `conv`, `in_layers` (inside a residual block) or None."""
    for place in (1, 2):
        for word, name in (("conv", "conv"), ("in_layers", "in_layers.2")):
            if f"output_blocks.{k}.{place}.{name}.weight" in shapes:
                return word
    return None


def name_unet(targets: Iterable[str]) -> dict[str, str]:
    """Their name of each tensor in the state of a `UNet`."""
    targets = list(targets)
    decoder = name_decoder([t.removeprefix("decoder.") for t in targets if t.startswith("decoder.")])
    names = {f"decoder.{target}": name for target, name in decoder.items()}
    for target in targets:
        stem, _, rest = target.partition(".")
        if stem == "time_mlp":
            names[target] = f"time_embed.{rest}"
        elif stem == "conv_in":
            names[target] = f"input_blocks.0.0.{rest}"
        elif stem == "down":
            index, _, rest = rest.partition(".")
            names[target] = f"input_blocks.{int(index) + 1}.{name_level(rest, {'conv': '0.op'})}"
    return names


def name_decoder(targets: Iterable[str], prefix: str = "") -> dict[str, str]:
    """Their name of each tensor of a `UNetDecoder`; the gradient decoder's begin with `shift_`."""
    targets, names = list(targets), {}
    middle = {"middle_in": 0, "middle_attention": 1, "middle_out": 2}
    attends = {target.split(".")[1] for target in targets if ".attention." in target}
    for target in targets:
        stem, _, rest = target.partition(".")
        if stem in middle:
            words = ATTENTION if stem == "middle_attention" else RES_BLOCK
            names[target] = f"{prefix}middle_block.{middle[stem]}.{swap_head(rest, words)}"
        elif stem == "up":
            index, _, rest = rest.partition(".")
            resample = 2 if index in attends else 1
            if rest.startswith("resample."):
                part = swap_head(rest.removeprefix("resample."), {**RES_BLOCK, "conv": "conv"})
                names[target] = f"{prefix}output_blocks.{index}.{resample}.{part}"
            else:
                names[target] = f"{prefix}output_blocks.{index}.{name_level(rest, {})}"
        else:
            names[target] = f"{prefix}out.{ {'out_norm': 0, 'out_conv': 2}[stem] }.{rest}"
    return names


def name_level(rest: str, extra: Mapping[str, str]) -> str:
    """Their name, without the block number, of a tensor of a level or a resampling block."""
    head, _, tail = rest.partition(".")
    if head == "res":
        return f"0.{swap_head(tail, RES_BLOCK)}"
    if head == "attention":
        return f"1.{swap_head(tail, ATTENTION)}"
    if head in extra:
        return f"{extra[head]}.{tail}"
    return f"0.{swap_head(rest, RES_BLOCK)}"


def swap_head(name: str, words: Mapping[str, str]) -> str:
    """`name` with its first part replaced according to `words`."""
    head, _, tail = name.partition(".")
    return f"{words[head]}.{tail}"


def describe_code(shapes: Shapes, num_units: int | None = None) -> CodeConfig:
    """The configuration of a DisDiff's last stage, from the shapes of all tensors by their foreign names.

    Without `num_units` N follows from the width of the code.

    Raises:
        UserError: a tensor is missing, or the widths contradict `num_units`.
    """
    unit_dim = get_shape(shapes, f"{UNET}repre_embed.weight")[1]
    outputs = get_shape(shapes, f"{ENCODER}{find_head(shapes)}.weight")[0]
    parts = get_shape(shapes, f"{UNET}part_latents.weight")
    orthogonal = parts[0] == parts[1] == 2 * get_shape(shapes, f"{UNET}input_blocks.0.0.weight")[0]
    units = num_units or (outputs // unit_dim if orthogonal else parts[0])
    if outputs not in (units * unit_dim, 2 * units * unit_dim):
        raise UserError(
            f"the encoder has {outputs} outputs, which are not {units} units of {unit_dim} (or their means "
            "and variances); correct --units"
        )
    posterior = "none" if outputs == units * unit_dim else "gaussian"
    width = get_shape(shapes, f"{ENCODER}0.weight")[0]
    return CodeConfig(
        num_units=units,
        unit_dim=unit_dim,
        encoder=FactorEncoderConfig(input="image", channels=width, norm="batch", posterior=posterior),
        decoder=GradientDecoderConfig(unit_embedding="orthogonal" if orthogonal else "learned"),
    )


UNET, ENCODER = "model.diffusion_model.", "cond_stage_model.encoder."


def find_head(shapes: Shapes) -> int:
    """Index of the encoder's last layer, the only one with a matrix; UserError if there is no such layer."""
    places = [
        int(name.removeprefix(ENCODER).split(".")[0])
        for name, shape in shapes.items()
        if name.startswith(ENCODER) and name.endswith(".weight") and len(shape) == 2
    ]
    if not places:
        raise UserError(f"the file has no factor encoder ({ENCODER}...); give a DisDiff checkpoint")
    return places[0]


def name_code(targets: Iterable[str], head: int) -> dict[str, str]:
    """Their name, prefix included, of each tensor in the state of DisDiff's `CodeNetworks`."""
    targets = list(targets)
    stem = "decoder.decoder."
    fields = name_decoder([t.removeprefix(stem) for t in targets if t.startswith(stem)], "shift_")
    names = {f"{stem}{target}": f"{UNET}{name}" for target, name in fields.items()}
    single = {
        "decoder.condition.project": f"{UNET}repre_embed",
        "decoder.unit_embedding.project": f"{UNET}part_emb",
        "encoder.head": f"{ENCODER}{head}",
    }
    block = {"conv3": "convs.1", "norm": "convs.2", "conv1": "convs.4"}
    for target in targets:
        module, _, leaf = target.rpartition(".")
        if module in single:
            names[target] = f"{single[module]}.{leaf}"
        elif target in ("decoder.unit_embedding.generator", "decoder.unit_embedding.table"):
            names[target] = f"{UNET}part_latents.weight"
        elif target.startswith("encoder.trunk."):
            place, _, part = module.removeprefix("encoder.trunk.").partition(".")
            names[target] = ".".join(filter(None, (f"{ENCODER}{place}", block.get(part), leaf)))
    return names
