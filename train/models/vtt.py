"""VTT, the visual tracking transformer: a template's kernel over the whole frame, encoded, and asked for the target.

Without public code, the paper is the specification. What it leaves open follows DETR (Carion et al. 2020), on which it
builds: the sine positions, positions on the decoder's keys, the initialisation.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from train.models.attention import Attend, merge_heads, split_heads
from train.models.backbones import BACKBONES, build_backbone, check_backbone


@dataclass(frozen=True)
class VTTConfig:
    """Everything that decides the model's shape and what it is shown. Defaults are the paper's, on a fixed canvas.

    The frame is scaled to fit a canvas of `search_width` x `search_height` pixels and lies in its top-left corner. The
    template is the square around the target whose side is `template_factor` times the target's longer side.
    """

    kind: ClassVar[str] = "vtt"
    templates: ClassVar[int] = 1
    prompt_frames: ClassVar[int] = 0

    search_width: int = 1344
    search_height: int = 800
    template_size: int = 128
    template_factor: float = 1.0
    backbone: str = "resnet50"
    dim: int = 256
    encoder_layers: int = 6
    decoder_layers: int = 6
    heads: int = 8
    ffn: int = 2048
    queries: int = 100
    dropout: float = 0.1
    normalised: bool = False
    """Whether the backbone's features are normalised, each cell's over its channels, before they are correlated."""

    def __post_init__(self) -> None:
        check_backbone(
            self.backbone,
            search_width=self.search_width,
            search_height=self.search_height,
            template_size=self.template_size,
        )
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim is {self.dim}; expected a multiple of heads, which is {self.heads}, and of 4")
        if self.encoder_layers < 0 or self.decoder_layers < 1:
            raise ValueError(
                f"encoder_layers is {self.encoder_layers} and decoder_layers {self.decoder_layers}; "
                "expected at least 0 and 1"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the canvas's features."""
        stride = BACKBONES[self.backbone].stride
        return self.search_height // stride, self.search_width // stride

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VTTConfig:
        return cls(**values)


PRESETS: dict[str, VTTConfig] = {
    "vtt-r50": VTTConfig(),
    "vtt-nano": VTTConfig(
        search_width=448,
        search_height=256,
        template_size=128,
        template_factor=1.25,
        backbone="efficientnet-lite0",
        dim=128,
        encoder_layers=3,
        decoder_layers=2,
        heads=4,
        ffn=384,
        queries=16,
        dropout=0.0,
        normalised=True,
    ),
}
"""The paper's model and the edge preset, whose canvas is landscape as cameras are.

ImageNet's features need a template of 128 px: before anything was learned, the cell most like it lay on the target in
49% of the development sequences' frames, every eighth of which was looked at, and in 9% with one of 64 px, whose 4 x 4
cells are border for the most part.
"""


class Answers(NamedTuple):
    """What the queries answer, after each of L decoder layers.

    Attributes:
        boxes: (L, B, N, 4) cx, cy, w, h in [0, 1] of the canvas's width and height.
        logits: (L, B, N, 2), of "not the target" and "the target".
    """

    boxes: Tensor
    logits: Tensor


class Outputs(NamedTuple):
    """What training looks at.

    Attributes:
        states: the queries' (B, N, D) after each decoder layer.
        memory: the encoder's tokens (B, M, D).
        kernel: of the templates, (B, C).
        features: the backbone's of the canvases, row by row, (B, M, C).
    """

    states: list[Tensor]
    memory: Tensor
    kernel: Tensor
    features: Tensor


class MultiHeadAttention(nn.Module):
    """Concat(head_1, ..., head_H) W^O, head_i = Attention(q W_i^Q, k W_i^K, v W_i^V)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        self.attend = Attend()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, M, D) twice, bool (B, 1, 1, M) -> (B, N, D)."""
        heads = self.heads
        q, k, v = split_heads(self.q(q), heads), split_heads(self.k(k), heads), split_heads(self.v(v), heads)
        return self.out(merge_heads(self.attend(q, k, v, visible)))


class Layer(nn.Module):
    """x = Norm(x + Attention(x + p_x, m + p_m, m)); x = Norm(x + W_2 relu(W_1 x)).

    With the memory m = x it is the encoder's layer, with the encoder's tokens the decoder's: the paper's decoder has no
    self-attention.
    """

    def __init__(self, config: VTTConfig) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config.dim, config.heads)
        self.fc1 = nn.Linear(config.dim, config.ffn)
        self.fc2 = nn.Linear(config.ffn, config.dim)
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, position: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """(B, N, D), its positions (1, N, D), m + p_m and m (B, M, D), bool (B, 1, 1, M) -> (B, N, D)."""
        x = self.norm1(x + self.dropout(self.attention(x + position, keys, values, visible)))
        return self.norm2(x + self.dropout(self.fc2(self.dropout(F.relu(self.fc1(x))))))


class VTT(nn.Module):
    """The model. Images are normalised RGB float; see `edgetrack.imaging.normalise`."""

    pretrained: ClassVar[str] = "backbone"
    """The part that comes with weights from elsewhere and may learn at a rate of its own."""

    def __init__(self, config: VTTConfig) -> None:
        super().__init__()
        self.config = config
        shape = BACKBONES[config.backbone]
        self.backbone = build_backbone(config.backbone)
        # A small backbone learned from nothing puts out features of a fifth; their product with a kernel made of such
        # would vanish beside the positions, and for long nothing would be learned.
        self.norm = nn.LayerNorm(shape.channels) if config.normalised else nn.Identity()
        self.phi = nn.Conv2d(shape.channels, shape.channels, config.template_size // shape.stride)
        self.reduce = nn.Linear(shape.channels, config.dim)
        self.encoder = nn.ModuleList(Layer(config) for _ in range(config.encoder_layers))
        self.queries = nn.Parameter(torch.empty(1, config.queries, config.dim))
        self.decoder = nn.ModuleList(Layer(config) for _ in range(config.decoder_layers))
        self.box = nn.ModuleList(nn.Linear(config.dim, width) for width in (config.dim, config.dim, 4))
        self.score = nn.Linear(config.dim, 2)
        self.register_buffer("position", sine_positions(*config.grid, config.dim), persistent=False)
        nn.init.normal_(self.queries)
        for part in (self.encoder, self.decoder, self.box, self.score, self.reduce):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        if config.normalised:
            # The kernel begins as the template's mean feature, so that its product with a cell's is their likeness.
            nn.init.zeros_(self.phi.weight)
            with torch.no_grad():
                self.phi.weight.diagonal()[:] = 1 / self.phi.weight[0, 0].numel()

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> the backbone's features, (B, H / stride, W / stride, C)."""
        return self.norm(self.backbone(images).movedim(1, -1))

    def kernel(self, templates: Tensor) -> Tensor:
        """Template crops (B, 3, St, St) -> the kernel z, one value per channel of the backbone, (B, C)."""
        return self.phi(self.features(templates).movedim(-1, 1)).flatten(1)

    def fold(self, kernel: Tensor) -> Tensor:
        """The kernel z (B, C) and the reduction's weight W (D, C) -> (W diag(z))^T, (B, C, D).

        A depth-wise correlation with a 1x1 kernel scales each channel, and the 1x1 reduction that follows is linear:
        together they are one product, and for a frame the correlation costs nothing.
        """
        return kernel[..., None] * self.reduce.weight.t()

    def correlate(self, features: Tensor, folded: Tensor) -> Tensor:
        """Features of canvases (B, M, C) and the folded weight (B, C, D) or (C, D) -> tokens (B, M, D)."""
        return features @ folded + self.reduce.bias

    def visible(self, extent: Tensor) -> Tensor:
        """The shares of the canvas's width and height that the frame covers, (B, 2) -> bool (B, 1, 1, M).

        A token is visible where more than a hundredth of its cell's side is.
        """
        (rows, columns), device = self.config.grid, extent.device
        x = torch.arange(columns, device=device) + 0.01 < extent[:, :1] * columns  # (B, columns)
        y = torch.arange(rows, device=device) + 0.01 < extent[:, 1:] * rows  # (B, rows)
        return (y[:, :, None] & x[:, None, :]).flatten(1)[:, None, None]

    def encode(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """Correlated tokens (B, M, D) -> the encoder's (B, M, D)."""
        for layer in self.encoder:
            tokens = layer(tokens, self.position, tokens + self.position, tokens, visible)
        return tokens

    def decode(self, memory: Tensor, visible: Tensor) -> list[Tensor]:
        """The encoder's tokens (B, M, D) -> the queries' states (B, N, D) after each decoder layer."""
        states = [self.queries.expand(len(memory), -1, -1)]
        keys = memory + self.position
        for layer in self.decoder:
            states.append(layer(states[-1], self.queries, keys, memory, visible))
        return states[1:]

    def answer(self, states: list[Tensor]) -> Answers:
        """The prediction heads, one set for all layers, on the queries' states (B, N, D)."""
        x = stacked = torch.stack(states)  # (L, B, N, D)
        for linear in self.box[:-1]:
            x = F.relu(linear(x))
        return Answers(self.box[-1](x).sigmoid(), self.score(stacked))

    def forward(self, templates: Tensor, search: Tensor, extent: Tensor) -> Outputs:
        """Templates (B, 3, St, St), canvases (B, 3, H, W) and extents (B, 2)."""
        visible = self.visible(extent)
        kernel, features = self.kernel(templates), self.features(search).flatten(1, 2)
        memory = self.encode(self.correlate(features, self.fold(kernel)), visible)
        return Outputs(self.decode(memory, visible), memory, kernel, features)

    def find(self, search: Tensor, extent: Tensor, folded: Tensor) -> tuple[Tensor, Tensor]:
        """Canvases, extents and folded weights -> boxes (B, N, 4) and scores (B, N), the last layer's."""
        visible = self.visible(extent)
        features = self.features(search).flatten(1, 2)
        memory = self.encode(self.correlate(features, folded), visible)
        boxes, logits = self.answer(self.decode(memory, visible)[-1:])
        return boxes[0], logits[0].float().softmax(-1)[..., 1]


def sine_positions(rows: int, columns: int, dim: int) -> Tensor:
    """DETR's fixed 2-D positions (1, rows * columns, dim): the first half of the channels tells the row, the second the
    column, each counted from 1 and scaled to 2 pi at the last."""
    count = dim // 2
    exponent = 2 * (torch.arange(count) // 2) / count
    halves = []
    for length in (rows, columns):
        ticks = torch.arange(1, length + 1) / length * 2 * math.pi
        angle = ticks[:, None] / 10000**exponent
        halves.append(torch.where(torch.arange(count) % 2 == 0, angle.sin(), angle.cos()))  # (length, count)
    y, x = halves
    y, x = y[:, None].expand(rows, columns, count), x[None].expand(rows, columns, count)
    return torch.cat([y, x], -1).reshape(1, rows * columns, dim)
