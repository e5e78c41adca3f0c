"""Which layers compute in integers: rules by module type and name, and their application to a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, TypeVar

from torch import nn

from quantize.fake import FakeQuantize, QuantAttend, QuantConv2d, QuantEmbedding, QuantLinear
from quantize.norms import fold_norms
from train.models.attention import Attend
from train.models.efficientnet import EFFICIENTNETS, EfficientNetConfig
from train.models.registry import Config, Model
from train.models.resnet import RESNETS, ResNetConfig
from train.models.seqtrack import SeqTrackConfig
from train.models.vtt import VTTConfig

ModelT = TypeVar("ModelT", bound=Model)

LAYERS: dict[type[nn.Module], Any] = {
    nn.Linear: QuantLinear,
    nn.Conv2d: QuantConv2d,
    nn.Embedding: QuantEmbedding,
    Attend: QuantAttend,
}
"""What each type of module is replaced by."""
ATTENTION_TOKENS = 256
"""From how many search tokens on (256 px at patch 16) the attention's matrix products pay for rounding their operands;
below, the roundings cost more than the products."""


@dataclass(frozen=True)
class Rule:
    """Modules of type `kind` whose name matches `where` (* and ? as in file names) are replaced, with `options`; or,
    where those are None, left in float."""

    kind: type[nn.Module]
    where: str = "*"
    options: dict[str, bool | str] | None = field(default_factory=dict)


def rules(config: Config) -> tuple[Rule, ...]:
    """The rules of a model; for each module the first that matches decides, and one that none matches stays float."""
    is_vtt = isinstance(config, VTTConfig)
    # Three quarters of what rounding lost on vtt-nano's smallest targets were the second product's doing; rounded, it
    # saves a hundredth of the time.
    attention = (Rule(Attend, options={"shares": not is_vtt}),) if math.prod(config.grid) >= ATTENTION_TOKENS else ()
    return (*(_vtt(config) if is_vtt else _seqtrack(config)), *attention)


def _seqtrack(config: SeqTrackConfig) -> tuple[Rule, ...]:
    last = len(config.stem_widths)
    return (
        Rule(nn.Linear),
        Rule(nn.Embedding),
        Rule(nn.Conv2d, "encoder.stem.proj", {"output": True}),
        # Three channels fill no integer dot product: in INT8 it takes twice its float time on OpenVINO, as long on ORT.
        Rule(nn.Conv2d, "encoder.stem.convs.0", None),
        Rule(nn.Conv2d, f"encoder.stem.convs.{last}", {"after_relu": True, "output": True}),
        Rule(nn.Conv2d, "encoder.stem.convs.*", {"after_relu": True}),
        *_backbone("encoder.stem.features", config.backbone),
    )


def _backbone(where: str, name: str) -> Iterator[Rule]:
    """Those of the backbone called `name` that is at `where`; none where there is none."""
    if name in EFFICIENTNETS:
        yield from _efficientnet(where, EFFICIENTNETS[name])
    elif name in RESNETS:
        yield from _resnet(where, RESNETS[name])


def _efficientnet(where: str, config: EfficientNetConfig) -> Iterator[Rule]:
    yield Rule(nn.Conv2d, f"{where}.stem", None)  # three channels, as above
    # Half of what rounding changed in seqtrack-nano was its doing: the first convolution's channels reach far apart,
    # and each meets nine weights alone. It is a hundredth of the multiplications.
    yield Rule(nn.Conv2d, f"{where}.blocks.0.depthwise", None)
    first = 0
    for stage in config.stages:
        # What a stage's first block projects is not added to what it expanded: the next block takes it as it is.
        rounded = {"rounded_by": f"{where}.blocks.{first}.project"}
        yield Rule(nn.Conv2d, f"{where}.blocks.{first + 1}.expand", rounded)
        first += stage.blocks
    yield Rule(nn.Conv2d, f"{where}.*.expand")
    yield Rule(nn.Conv2d, f"{where}.*.depthwise", {"after_relu": True})
    yield Rule(nn.Conv2d, f"{where}.*.project", {"after_relu": True, "output": True})


def _vtt(config: VTTConfig) -> tuple[Rule, ...]:
    return (
        # Never called: its weight is what a template's kernel is folded into, an input of the frame's graph.
        Rule(nn.Linear, "reduce", None),
        Rule(nn.Linear),
        Rule(nn.Conv2d, "phi", {"output": True}),
        # The first decoder layer asks with what is a parameter, not computed in a frame: a constant, folded in float.
        Rule(Attend, "decoder.0.attention.attend", None),
        *_backbone("backbone", config.backbone),
    )


def _resnet(where: str, config: ResNetConfig) -> Iterator[Rule]:
    yield Rule(nn.Conv2d, f"{where}.conv1", None)  # three channels, as above
    # A block's last convolution and its shortcut go into a sum, not into a ReLU and the next convolution.
    for last in ("conv3" if config.bottleneck else "conv2", "downsample.0"):
        yield Rule(nn.Conv2d, f"{where}.*.{last}", {"after_relu": True, "output": True})
    yield Rule(nn.Conv2d, f"{where}.*", {"after_relu": True})


def place(model: ModelT, keep_float: Iterable[str] = ()) -> ModelT:
    """Replace the layers of `model`, in place, by ones that round; their parameters keep their names.

    Normalisations are folded into the convolutions before them first. A convolution that goes straight into one that is
    left in float, in its block or stack, is rounded itself, which else the next one's input would do.

    Args:
        keep_float: names of modules to leave alone, with * and ?.

    Raises:
        ValueError: a name of `keep_float` matches nothing that would be quantised.
    """
    fold_norms(model)
    applied = rules(model.config)
    keep_float = tuple(keep_float)
    found: dict[str, tuple[nn.Module, Rule]] = {}
    for name, module in model.named_modules():
        # By exact type: what is rounded already is a subclass.
        rule = next((r for r in applied if type(module) is r.kind and fnmatchcase(name, r.where)), None)
        if rule is not None and rule.options is not None:
            found[name] = (module, rule)
    for pattern in keep_float:
        if not any(fnmatchcase(name, pattern) for name in found):
            raise ValueError(f"{pattern!r} is no layer that is quantised; expected one of {', '.join(found)}")
    kept = {name for name in found if any(fnmatchcase(name, pattern) for pattern in keep_float)}
    into_kept = {before for before, name in pairwise(found) if name in kept and _parent(before) == _parent(name)}
    for name, (module, rule) in found.items():
        if name not in kept:
            options: dict[str, Any] = dict(rule.options or {})
            if "rounded_by" in options:
                options["rounded_by"] = model.get_submodule(options["rounded_by"])
            if rule.kind is nn.Conv2d and name in into_kept:
                options["output"] = True
            setattr(model.get_submodule(_parent(name)), name.rpartition(".")[2], LAYERS[rule.kind](module, **options))
    return model


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def quantised_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that round, by name."""
    kinds = tuple(LAYERS.values())
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def float_products(model: nn.Module) -> dict[str, int]:
    """For each layer that rounds, how many products it computes in float for each in integers."""
    layers = quantised_layers(model)
    return {name: int(isinstance(layer, QuantAttend) and not layer.shares) for name, layer in layers.items()}


def roundings(model: nn.Module) -> dict[str, FakeQuantize]:
    """The activations' roundings, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantize)}
