"""SeqTrack (Chen et al., CVPR 2023): a ViT encoder, a causal decoder, and the box as a sequence of four tokens."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from edgetrack.decoding import CENTRE_STEPS
from train.losses import box_tokens, in_order
from train.models.decoder import Decoder, Decoding
from train.models.vit import TemplateState, ViT

MEMORIES = ("x", "xz", "token")
DECODINGS = ("autoregressive", "bidirectional")


@dataclass(frozen=True)
class SeqTrackConfig:
    """Everything that decides the model's shape and what its tokens mean. Defaults are SeqTrack-B256's.

    Sizes are pixels; factors are the side of a crop in units of the box's geometric mean side.
    """

    kind: ClassVar[str] = "seqtrack"

    search_size: int = 256
    template_size: int = 256
    search_factor: float = 4.0
    template_factor: float = 4.0
    templates: int = 2
    template_slots: bool = False
    """Beyond the paper: an embedding of each slot, by which the first template, which was given, is told from those
    that the tracker took itself and that may show something else."""
    patch: int = 16
    stem_widths: tuple[int, ...] = ()
    """Widths of the convolutional stem's inner layers; empty for plain patches."""
    backbone: str = ""
    """Instead of either: the network, one of `BACKBONES`, whose features are projected to tokens."""
    encoder_dim: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    mlp_ratio: float = 4.0
    template_attention: str = "joint"
    memory: str = "x"
    """What the decoder attends to: "x" the search tokens, "xz" all tokens, "token" their mean (paper, Tab. 6)."""
    decoder_dim: int = 256
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_ffn: int = 1024
    dropout: float = 0.1
    bins: int = 4000
    order: str = "xywh"
    """"xywh" or "whxy": cx, cy, w, h or w, h, cx, cy; "corner": the left, top, right and bottom edge."""
    decoding: str = "autoregressive"
    """"autoregressive", one token after the other, or "bidirectional", all at once."""
    prompt_frames: int = 0
    """The decoder is told the boxes of so many frames before; the paper's temporal prompt has four."""

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES:
            raise ValueError(f"memory is {self.memory!r}; expected one of {', '.join(MEMORIES)}")
        if self.order not in CENTRE_STEPS:
            raise ValueError(f"order is {self.order!r}; expected one of {', '.join(CENTRE_STEPS)}")
        if self.decoding not in DECODINGS:
            raise ValueError(f"decoding is {self.decoding!r}; expected one of {', '.join(DECODINGS)}")
        if self.template_slots and self.templates == 1:
            raise ValueError("template_slots is true with one template; expected false, there is nothing to tell apart")
        if self.prompt_frames < 0:
            raise ValueError(f"prompt_frames is {self.prompt_frames}; expected 0 or more")
        if self.template_attention == "separate" and self.memory != "xz":
            raise ValueError(
                f"memory is {self.memory!r} with separate template attention; expected 'xz', or the decoder would not "
                "see the templates"
            )
        for name, dim, heads in (
            ("encoder", self.encoder_dim, self.encoder_heads),
            ("decoder", self.decoder_dim, self.decoder_heads),
        ):
            if dim % heads:
                raise ValueError(f"{name}_dim is {dim}; expected a multiple of {name}_heads, which is {heads}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the search tokens."""
        return self.search_size // self.patch, self.search_size // self.patch

    @property
    def search_tokens(self) -> int:
        return (self.search_size // self.patch) ** 2

    @property
    def template_tokens(self) -> int:
        """Of one template."""
        return (self.template_size // self.patch) ** 2

    @property
    def memory_tokens(self) -> int:
        return {
            "x": self.search_tokens,
            "xz": self.search_tokens + self.templates * self.template_tokens,
            "token": 1,
        }[self.memory]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` is the inverse."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SeqTrackConfig:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


_L256 = SeqTrackConfig(encoder_dim=1024, encoder_depth=24, encoder_heads=16)

PRESETS: dict[str, SeqTrackConfig] = {
    "seqtrack-b256": SeqTrackConfig(),
    "seqtrack-b384": SeqTrackConfig(search_size=384, template_size=384),
    "seqtrack-l256": _L256,
    "seqtrack-l384": replace(_L256, search_size=384, template_size=384),
    "seqtrack-nano": SeqTrackConfig(
        search_size=192,
        template_size=80,
        search_factor=5.0,
        template_factor=2.0,
        template_slots=True,
        backbone="efficientnet-lite0",
        encoder_dim=160,
        encoder_depth=4,
        encoder_heads=5,
        template_attention="isolated",
        decoder_dim=128,
        decoder_heads=4,
        decoder_ffn=512,
        dropout=0.0,
        bins=400,
    ),
}
"""The paper's four variants (Tab. 1) and the edge preset. The edge preset's template is the middle of what the search
crop would show, at nearly the same scale, so a matching patch looks the same in both. The second template, which the
tracker takes itself, is told from the first: it may be wrong, and a target that is gone must not be found by it."""


class SeqTrack(nn.Module):
    """The model. Images are normalised RGB float; see `edgetrack.imaging.normalise`."""

    def __init__(self, config: SeqTrackConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ViT(
            search_size=config.search_size,
            template_size=config.template_size,
            patch=config.patch,
            stem_widths=config.stem_widths,
            backbone=config.backbone,
            dim=config.encoder_dim,
            depth=config.encoder_depth,
            heads=config.encoder_heads,
            mlp_ratio=config.mlp_ratio,
            template_attention=config.template_attention,
            template_slots=config.templates if config.template_slots else 0,
        )
        self.decoder = Decoder(
            bins=config.bins,
            memory_dim=config.encoder_dim,
            memory_tokens=config.memory_tokens,
            dim=config.decoder_dim,
            layers=config.decoder_layers,
            heads=config.decoder_heads,
            ffn=config.decoder_ffn,
            dropout=config.dropout,
            decoding=config.decoding,
            prompt=4 * config.prompt_frames,
        )

    @property
    def pretrained(self) -> str:
        """The part that comes with weights from elsewhere and may learn at a rate of its own."""
        return "encoder.stem.features" if self.config.backbone else "encoder"

    def template_state(self, templates: Tensor) -> TemplateState:
        """(B, T, 3, St, St) -> what `encode_search` needs of the templates."""
        return self.encoder.template_state(templates)

    def encode_search(self, search: Tensor, state: TemplateState) -> Tensor:
        """(B, 3, S, S) and the templates' state -> tokens (B, Ns + T * Nt, D), ordered [search, templates]."""
        return self.encoder(search, state)

    def encode(self, templates: Tensor, search: Tensor) -> Tensor:
        """Templates (B, T, 3, St, St) and search (B, 3, S, S) -> tokens (B, Ns + T * Nt, D)."""
        return self.encode_search(search, self.template_state(templates))

    def memory(self, tokens: Tensor) -> Tensor:
        """The tokens that the decoder attends to, (B, M, D)."""
        if self.config.memory == "x":
            return tokens[:, : self.config.search_tokens]
        return tokens if self.config.memory == "xz" else tokens.mean(1, keepdim=True)

    def project_memory(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encoder tokens -> the decoder's cross-attention keys and values, (Ld, B, Hd, M, d) each."""
        return self.decoder.project_memory(self.memory(tokens))

    def logits(self, tokens: Tensor, sequence: Tensor) -> Tensor:
        """Encoder tokens and token ids (B, N), as `Decoder.written` gives them -> logits (B, N, bins + 2)."""
        return self.decoder(sequence, *self.project_memory(tokens))

    def answers(self, tokens: Tensor, coordinates: Tensor, history: Tensor) -> Tensor:
        """Teacher-forced logits of what follows the prompt, (B, 4 or 5, bins + 2), 5 if END is answered, too.

        Args:
            tokens: the encoder's.
            coordinates: (B, 4) the right token ids, in the model's order.
            history: (B, F, 4) cx, cy, w, h of the last frames' boxes, oldest first, in units of the search crop.
        """
        sequence = self.decoder.written(coordinates, self.prompt(history))
        return self.logits(tokens, sequence)[:, self.decoder.prompt :]

    def prompt(self, history: Tensor) -> Tensor:
        """Boxes (B, F, 4) of the last frames -> the prompt's token ids (B, 4 F)."""
        return box_tokens(in_order(history, self.config.order), self.config.bins).flatten(1)

    @torch.no_grad()
    def generate(
        self, tokens: Tensor, window: Tensor | None = None, order: str | None = None, history: Tensor | None = None
    ) -> Decoding:
        """Greedy decoding from encoder tokens; the token ids are in `order`.

        `window` (bins,) multiplies the probabilities of the two centre tokens; `order` defaults to the configuration's;
        `history` is as in `answers`, and may be left out where there is no prompt.
        """
        prompt = None if history is None else self.prompt(history)
        return self.decoder.generate(*self.project_memory(tokens), window, order or self.config.order, prompt)
