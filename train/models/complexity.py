"""Parameters and multiply-accumulates, counted the way the paper's table counts them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from train.models.registry import Config
from train.models.seqtrack import SeqTrack, SeqTrackConfig
from train.models.vtt import VTT, VTTConfig


class Complexity(NamedTuple):
    """What a model weighs and what a frame costs.

    Attributes:
        parameters: of the whole model.
        frame_parameters: of what runs for every frame; isolated templates leave their position table out of it.
        macs: multiply-accumulates of templates, search and decoding, without the attention's two matrix products.
        frame_macs: of what runs for every frame, counted the same way.
    """

    parameters: int
    frame_parameters: int
    macs: int
    frame_macs: int


def complexity(config: Config) -> Complexity:
    """Count on the meta device: nothing is allocated or computed."""
    with torch.device("meta"):
        return _vtt(config) if isinstance(config, VTTConfig) else _seqtrack(config)


def _seqtrack(config: SeqTrackConfig) -> Complexity:
    model = SeqTrack(config).eval()
    templates = torch.empty(1, config.templates, 3, config.template_size, config.template_size)
    search = torch.empty(1, 3, config.search_size, config.search_size)
    with FlopCounterMode(display=False) as at_init:
        state = model.template_state(templates)
    with FlopCounterMode(display=False) as per_frame:
        tokens = model.encode_search(search, state)
        model.logits(tokens, torch.empty(1, model.decoder.prompt + 4, dtype=torch.long))
    parameters = sum(p.numel() for p in model.parameters())
    template_only = model.encoder.template_position.numel() if config.template_attention != "joint" else 0
    frame = _macs(per_frame)
    return Complexity(parameters, parameters - template_only, _macs(at_init) + frame, frame)


def _vtt(config: VTTConfig) -> Complexity:
    model = VTT(config).eval()
    with FlopCounterMode(display=False) as at_init:
        kernel = model.kernel(torch.empty(1, 3, config.template_size, config.template_size))
    with FlopCounterMode(display=False) as per_frame:
        model.find(torch.empty(1, 3, config.search_height, config.search_width), torch.empty(1, 2), model.fold(kernel))
    parameters = sum(p.numel() for p in model.parameters())
    # The folded weight comes from the template's graph; its product is a batched one, which the counter leaves out.
    frame_parameters = parameters - sum(p.numel() for p in (*model.phi.parameters(), model.reduce.weight))
    frame = _macs(per_frame) + math.prod(config.grid) * model.reduce.weight.numel()
    return Complexity(parameters, frame_parameters, _macs(at_init) + frame, frame)


def _macs(counter: FlopCounterMode) -> int:
    counts = counter.get_flop_counts()["Global"]
    # Batched products are the attention's; a linear layer is mm or addmm. The counter takes a multiply-add as two.
    return sum(flops for op, flops in counts.items() if "bmm" not in str(op)) // 2
