"""Which layers compute in integers: rules by module type and name, and their application to a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from quantize.fake import FakeQuantize, QuantAttend, QuantConv2d, QuantLinear
from train.models.attention import Attend
from train.models.seqtrack import SeqTrack, SeqTrackConfig

LAYERS: dict[type[nn.Module], Any] = {nn.Linear: QuantLinear, nn.Conv2d: QuantConv2d, Attend: QuantAttend}
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
    options: dict[str, bool] | None = field(default_factory=dict)


def rules(config: SeqTrackConfig) -> tuple[Rule, ...]:
    """The rules of a model; for each module the first that matches decides, and one that none matches stays float."""
    last = len(config.stem_widths)
    attention = (Rule(Attend),) if config.search_tokens >= ATTENTION_TOKENS else ()
    return (
        Rule(nn.Linear),
        Rule(nn.Conv2d, "encoder.stem.proj", {"output": True}),
        # Three channels fill no integer dot product: in INT8 it takes twice its float time on OpenVINO, as long on ORT.
        Rule(nn.Conv2d, "encoder.stem.convs.0", None),
        Rule(nn.Conv2d, f"encoder.stem.convs.{last}", {"after_relu": True, "output": True}),
        Rule(nn.Conv2d, "encoder.stem.convs.*", {"after_relu": True}),
        *attention,
    )


def place(model: SeqTrack, keep_float: Iterable[str] = ()) -> SeqTrack:
    """Replace the layers of `model`, in place, by ones that round; their parameters keep their names.

    Args:
        keep_float: names of modules to leave alone, with * and ?.

    Raises:
        ValueError: a name of `keep_float` matches nothing that would be quantised.
    """
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
    for name, (module, rule) in found.items():
        if not any(fnmatchcase(name, pattern) for pattern in keep_float):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, LAYERS[rule.kind](module, **rule.options))
    return model


def quantised_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that round, by name."""
    kinds = tuple(LAYERS.values())
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def roundings(model: nn.Module) -> dict[str, FakeQuantize]:
    """The activations' roundings, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantize)}
