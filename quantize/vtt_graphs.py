"""The two graphs that VTT runs as on a device, each a module of named tensors with a batch of one.

St, W, H template side, canvas width and height; C channels of the backbone, D width of the transformer; N queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantize.graphs import GraphSpec, channels_first, channels_last
from train.data.pairs import Pair
from train.models.vtt import VTT
from train.objective import normalised


class KernelGraph(nn.Module):
    """template (1, St, St, 3) -> kernel (C, D): the template's kernel and the reduction, folded into one weight."""

    def __init__(self, model: VTT) -> None:
        super().__init__()
        self.model = model

    def forward(self, template: Tensor) -> Tensor:
        return self.model.fold(self.model.kernel(channels_first(template)))[0]


class SearchGraph(nn.Module):
    """search (1, H, W, 3), extent (1, 2) and kernel (C, D) -> boxes (1, N, 4), scores (1, N)."""

    def __init__(self, model: VTT) -> None:
        super().__init__()
        self.model = model

    def forward(self, search: Tensor, extent: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.find(channels_first(search), extent, kernel)


@torch.no_grad()
def vtt_graphs(model: VTT, generator: torch.Generator) -> dict[str, GraphSpec]:
    """The graphs by name, with random example inputs drawn from `generator`, coherent from one graph to the next."""
    config = model.config
    template = torch.randn(1, config.template_size, config.template_size, 3, generator=generator)
    search = torch.randn(1, config.search_height, config.search_width, 3, generator=generator)
    extent = 0.5 + 0.5 * torch.rand(1, 2, generator=generator)
    kernel = KernelGraph(model)
    return {
        "template": GraphSpec(kernel, {"template": template}, ("kernel",)),
        "search": GraphSpec(
            SearchGraph(model), {"search": search, "extent": extent, "kernel": kernel(template)}, ("boxes", "scores")
        ),
    }


@torch.no_grad()
def vtt_feeds(model: VTT, pair: Pair, index: int) -> dict[str, dict[str, Tensor]]:
    """What the graphs are fed for one example of a batch, by graph and input."""
    one = slice(index, index + 1)
    template, search = (channels_last(normalised(image)) for image in (pair.templates[one, 0], pair.search[one]))
    kernel = KernelGraph(model)(template)
    return {
        "template": {"template": template},
        "search": {"search": search, "extent": pair.extent[one], "kernel": kernel},
    }
