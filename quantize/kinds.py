"""What a model's kind decides: its graphs, and its part of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor

from edgetrack.bundle import OnlineSettings, SearchOnlineSettings
from edgetrack.decoding import CENTRE_STEPS
from edgetrack.imaging import IMAGENET_MEAN, IMAGENET_STD
from quantize.graphs import GraphSpec, seqtrack_feeds, seqtrack_graphs
from quantize.vtt_graphs import vtt_feeds, vtt_graphs
from train.data.pairs import Pair
from train.losses import from_order
from train.models.registry import Model
from train.models.seqtrack import SeqTrackConfig
from train.models.vtt import VTT, VTTConfig

COLOURS = {"color": "rgb", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
VTT_THRESHOLD = 0.97
"""Of the best query's probability, from which the paper takes the target for present."""


def graphs(model: Model, generator: torch.Generator) -> dict[str, GraphSpec]:
    """The graphs of a model by name, with random example inputs drawn from `generator`."""
    return vtt_graphs(model, generator) if isinstance(model, VTT) else seqtrack_graphs(model, generator)


def feeds(model: Model, pair: Pair, index: int) -> dict[str, dict[str, Tensor]]:
    """What the graphs are fed for one example of a batch, by graph and input."""
    return vtt_feeds(model, pair, index) if isinstance(model, VTT) else seqtrack_feeds(model, pair, index)


def box(model: Model, outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What was chosen in a frame's outputs, tokens (1, 4) or the best query (1,), and the box (1, 4) that it means.

    Boxes are cx, cy, w, h in [0, 1] of the search image.
    """
    config = model.config
    if isinstance(config, VTTConfig):
        best = outputs["scores"].argmax(1)
        return best, outputs["boxes"][:, best[0]]
    tokens = outputs["tokens"]
    return tokens, from_order(tokens / (config.bins - 1), config.order)


def described(model: Model, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifests of a model's kind have of their own; online settings and score are the checkpoint's or else
    the paper's."""
    config = model.config
    return _vtt(config, metadata) if isinstance(config, VTTConfig) else _seqtrack(config, metadata)


def _seqtrack(config: SeqTrackConfig, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Online defaults of Sec. 3.3 and 4.1."""
    return {
        "preprocessing": {
            **COLOURS,
            "search": {"size": config.search_size, "factor": config.search_factor},
            "template": {"size": config.template_size, "factor": config.template_factor},
        },
        "decoder": {
            "bins": config.bins,
            "order": config.order,
            "decoding": config.decoding,
            "prompt_frames": config.prompt_frames,
        },
        "templates": config.templates,
        "online": {
            **_defaults(OnlineSettings),
            "window": 1.0 if CENTRE_STEPS[config.order] else 0.0,
            "update_interval": 25 if config.templates > 1 else None,
            "update_threshold": 0.015,
            "clip_margin": 10.0,
            **metadata.get("online", {}),
        },
        "score": metadata.get("score") or {"source": "likelihood", "ok_threshold": 0.0},
    }


def _vtt(config: VTTConfig, metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "preprocessing": {
            **COLOURS,
            "search": {"width": config.search_width, "height": config.search_height},
            "template": {"size": config.template_size, "factor": config.template_factor},
        },
        "queries": config.queries,
        "online": {**_defaults(SearchOnlineSettings), **metadata.get("online", {})},
        "score": metadata.get("score") or {"source": "top", "ok_threshold": VTT_THRESHOLD},
    }


def _defaults(settings: type[BaseModel]) -> dict[str, Any]:
    """What need not be said, said, so that a setting finds it there to change."""
    return {name: field.default for name, field in settings.model_fields.items() if not field.is_required()}
