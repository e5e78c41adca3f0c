"""The graphs that SeqTrack runs as on a device, each a module of named tensors with a batch of one.

Two where all coordinates are decoded at once, template and track; else four. Images go in as they lie in memory, the
channels last: OpenVINO convolves integers in that order, and other runtimes transpose them faster than Python would.

T templates of side St, search side S; L, H, d encoder layers, heads and head width; Nt tokens of one template, D their
width; Ld, Hd, dd decoder layers, heads and head width; M memory tokens, V = bins + 2, F frames of the prompt,
P = 4 F + 5 (the prompt, START and four tokens).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgetrack.decoding import CENTRE_STEPS
from train.data.pairs import Pair
from train.models.decoder import Decoding, SlotCache
from train.models.seqtrack import SeqTrack, SeqTrackConfig
from train.models.vit import TemplateState
from train.objective import normalised


class GraphSpec(NamedTuple):
    """A module, one example of each of its inputs by name, and the names of its outputs, in order."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


def named(spec: GraphSpec, values: Tensor | tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What a graph's module returned, by the outputs' names."""
    return dict(zip(spec.outputs, (values,) if isinstance(values, Tensor) else values, strict=True))


def state_names(config: SeqTrackConfig) -> tuple[str, ...]:
    """The tensors that stand for the templates: tokens, keys and values, as far as the frame's graph needs them."""
    if config.template_attention != "isolated":
        return ("template_tokens",)
    tokens = () if config.memory == "x" else ("template_tokens",)
    return (*tokens, "template_keys", "template_values")


def option_names(config: SeqTrackConfig) -> tuple[str, ...]:
    """What decoding takes besides: the penalty on the centre, where there are tokens for it, and the prompt."""
    window = ("window",) if CENTRE_STEPS[config.order] else ()
    return (*window, "prompt") if config.prompt_frames else window


def channels_first(images: Tensor) -> Tensor:
    """What a graph is given, (N, H, W, 3), as the model takes it, (N, 3, H, W)."""
    return images.permute(0, 3, 1, 2)


def channels_last(images: Tensor) -> Tensor:
    """The inverse of `channels_first`."""
    return images.permute(0, 2, 3, 1).contiguous()


class TemplateGraph(nn.Module):
    """templates (T, St, St, 3) -> the template state, under the names of `state_names`."""

    def __init__(self, model: SeqTrack) -> None:
        super().__init__()
        self.model = model

    def forward(self, templates: Tensor) -> tuple[Tensor, ...]:
        state = self.model.template_state(channels_first(templates)[None])
        return tuple(getattr(state, name.removeprefix("template_")) for name in state_names(self.model.config))


class _SearchGraph(nn.Module):
    def __init__(self, model: SeqTrack) -> None:
        super().__init__()
        self.model = model

    def cross(self, search: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        config = self.model.config
        given = {name.removeprefix("template_"): t for name, t in zip(state_names(config), state, strict=True)}
        if "tokens" not in given:  # not part of the memory: nothing of them is read
            given["tokens"] = search.new_empty(1, 0, config.encoder_dim)
        memory = self.model.encode_search(channels_first(search), TemplateState(**given))
        return self.model.project_memory(memory)


class EncodeGraph(_SearchGraph):
    """search (1, S, S, 3) and the template state -> cross_keys, cross_values (Ld, 1, Hd, M, dd)."""

    def forward(self, search: Tensor, *state: Tensor) -> tuple[Tensor, Tensor]:
        return self.cross(search, state)


class TrackGraph(_SearchGraph):
    """search, the template state and, as `option_names` says, window (bins,) and prompt (1, 4 F) -> tokens (1, 4),
    likelihoods (1, 4), presence (1,), probabilities (1, 4, bins)."""

    def forward(self, search: Tensor, *state_and_options: Tensor) -> tuple[Tensor, ...]:
        config = self.model.config
        count = len(state_names(config))
        options = dict(zip(option_names(config), state_and_options[count:], strict=True))
        cross = self.cross(search, state_and_options[:count])
        return tuple(self.model.decoder.generate(*cross, order=config.order, **options))


class DecodeStepGraph(nn.Module):
    """token (1,), position (1,), past_keys, past_values (Ld, 1, Hd, P, dd), cross_keys, cross_values (Ld, 1, Hd, M, dd)
    -> logits (1, V), present_keys, present_values."""

    def __init__(self, model: SeqTrack) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self,
        token: Tensor,
        position: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
        cross_keys: Tensor,
        cross_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        cache = SlotCache(past_keys, past_values, position)
        return self.decoder.step(token[:, None], position, cache, cross_keys, cross_values), *cache.present()


@torch.no_grad()
def seqtrack_graphs(model: SeqTrack, generator: torch.Generator) -> dict[str, GraphSpec]:
    """The graphs by name, with random example inputs drawn from `generator`, coherent from one graph to the next."""
    config = model.config

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    template, encode, track = TemplateGraph(model), EncodeGraph(model), TrackGraph(model)
    templates = normal(config.templates, config.template_size, config.template_size, 3)
    search = normal(1, config.search_size, config.search_size, 3)
    state = dict(zip(state_names(config), template(templates), strict=True))
    every_option = {
        "window": torch.rand(config.bins, generator=generator),
        "prompt": torch.randint(config.bins, (1, model.decoder.prompt), generator=generator),
    }
    options = {name: every_option[name] for name in option_names(config)}
    ends = {
        "template": GraphSpec(template, {"templates": templates}, state_names(config)),
        "track": GraphSpec(track, {"search": search, **state, **options}, Decoding._fields),
    }
    if config.decoding == "bidirectional":
        return ends
    cross = dict(zip(("cross_keys", "cross_values"), encode(search, *state.values()), strict=True))
    layers, _, heads, _, width = cross["cross_keys"].shape
    past = (layers, 1, heads, model.decoder.sequence, width)
    step_inputs = {
        "token": torch.randint(config.bins, (1,), generator=generator),
        "position": torch.randint(model.decoder.sequence - 1, (1,), generator=generator),
        "past_keys": normal(*past),
        "past_values": normal(*past),
        **cross,
    }
    return {
        **ends,
        "encode": GraphSpec(encode, {"search": search, **state}, tuple(cross)),
        "decode_step": GraphSpec(DecodeStepGraph(model), step_inputs, ("logits", "present_keys", "present_values")),
    }


@torch.no_grad()
def seqtrack_feeds(model: SeqTrack, pair: Pair, index: int) -> dict[str, dict[str, Tensor]]:
    """What the graphs are fed for one example of a batch, by graph and input; the decoder at its first step."""
    config = model.config
    images = pair.templates[index], pair.search[index : index + 1]
    templates, search = (channels_last(normalised(image)) for image in images)
    state = dict(zip(state_names(config), TemplateGraph(model)(templates), strict=True))
    every_option = {"window": torch.ones(config.bins), "prompt": model.prompt(pair.history[index : index + 1])}
    options = {name: every_option[name] for name in option_names(config)}
    feeds = {"template": {"templates": templates}, "track": {"search": search, **state, **options}}
    if config.decoding == "autoregressive":
        feeds["encode"] = {"search": search, **state}
        keys, values = EncodeGraph(model)(search, *state.values())
        past = torch.zeros(*keys.shape[:3], model.decoder.sequence, keys.shape[-1])
        feeds["decode_step"] = {
            "token": torch.tensor([model.decoder.start]),
            "position": torch.tensor([0]),
            "past_keys": past,
            "past_values": past,
            "cross_keys": keys,
            "cross_values": values,
        }
    return feeds
