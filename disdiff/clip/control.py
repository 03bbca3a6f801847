"""Controls for discovery: randomised gradient decoders, whose units should get no names."""

import math

import torch
from torch import nn

from disdiff.method.gradient_decoder import GradientDecoder
from disdiff.method.model import DisDiff, ImageModel
from ldm.errors import UserError, look_up

CONTROLS = {
    "output": "the gradient decoder with a random output layer",
    "decoder": "an untrained gradient decoder with a random output layer",
}


def randomise_fields(model: ImageModel, kind: str, seed: int) -> str:
    """Replace weights of a model's gradient decoder by random numbers, in place.

    With `kind` `output` these are the output layer's, with the trained weights' standard deviation; with
    `decoder` those of all layers. Returns the description of the control, for outputs.

    Raises:
        UserError: the kind is unknown, or the model has no gradient decoder.
    """
    says = look_up("--control", kind, CONTROLS)
    if not isinstance(model, DisDiff):
        raise UserError("this system has no gradient decoder to randomise; leave out --control")
    decoder: GradientDecoder = model.networks.decoder
    generator = torch.Generator().manual_seed(seed)
    layers = [decoder.decoder.out_conv] if kind == "output" else list(decoder.modules())
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            std = layer.weight.std().item() if kind == "output" else math.sqrt(1 / fan_in)
            _redraw(layer.weight, std, generator)
    if kind == "decoder":
        for name, parameter in decoder.named_parameters():
            if name.startswith(("condition", "unit_embedding")):
                fan_in = parameter.shape[-2] if parameter.ndim > 1 else 1
                _redraw(parameter, math.sqrt(1 / fan_in), generator)
    return says


def _redraw(weight: nn.Parameter, std: float, generator: torch.Generator) -> None:
    drawn = torch.randn(weight.shape, generator=generator) * std
    with torch.no_grad():
        weight.copy_(drawn)
