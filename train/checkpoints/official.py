"""Official SeqTrack weights (microsoft/VideoX, SeqTrack) under this project's names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from train.checkpoints.foreign import OfficialWeightsError, check_fit, count
from train.models.seqtrack import SeqTrack, SeqTrackConfig

# (official pattern, our name). A pattern that packs several of our tensors names them in order, split along axis 0.
_RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"encoder\.body\.patch_embed\.proj\.(weight|bias)", (r"encoder.stem.proj.\1",)),
    (r"encoder\.body\.blocks\.(\d+)\.(norm1|norm2|attn\.qkv|attn\.proj)\.(weight|bias)", (r"encoder.blocks.\1.\2.\3",)),
    (r"encoder\.body\.blocks\.(\d+)\.mlp\.(fc1|fc2)\.(weight|bias)", (r"encoder.blocks.\1.\2.\3",)),
    (r"encoder\.body\.norm\.(weight|bias)", (r"encoder.norm.\1",)),
    (r"encoder\.body\.pos_embed", ("encoder.search_position", "encoder.template_position")),
    (r"bottleneck\.(weight|bias)", (r"decoder.bottleneck.\1",)),
    (r"pos_embed", ("decoder.memory_position",)),
    (r"decoder\.embedding\.word_embeddings\.weight", ("decoder.embedding.weight",)),
    (r"decoder\.embedding\.position_embeddings\.weight", ("decoder.position",)),
    (r"decoder\.embedding\.LayerNorm\.(weight|bias)", (r"decoder.embedding_norm.\1",)),
    (
        r"decoder\.body\.layers\.(\d+)\.self_attn\.in_proj_(weight|bias)",
        (r"decoder.layers.\1.self_q.\2", r"decoder.layers.\1.self_k.\2", r"decoder.layers.\1.self_v.\2"),
    ),
    (r"decoder\.body\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)", (r"decoder.layers.\1.self_out.\2",)),
    (
        r"decoder\.body\.layers\.(\d+)\.multihead_attn\.in_proj_(weight|bias)",
        (r"decoder.layers.\1.cross_q.\2", r"decoder.layers.\1.cross_k.\2", r"decoder.layers.\1.cross_v.\2"),
    ),
    (r"decoder\.body\.layers\.(\d+)\.multihead_attn\.out_proj\.(weight|bias)", (r"decoder.layers.\1.cross_out.\2",)),
    (r"decoder\.body\.layers\.(\d+)\.linear([12])\.(weight|bias)", (r"decoder.layers.\1.fc\2.\3",)),
    (r"decoder\.body\.layers\.(\d+)\.(norm[123])\.(weight|bias)", (r"decoder.layers.\1.\2.\3",)),
    (r"decoder\.body\.norm\.(weight|bias)", (r"decoder.norm.\1",)),
    (r"vocab_embed\.layers\.(\d+)\.(weight|bias)", (r"decoder.head.\1.\2",)),
)


def seqtrack_from_official(
    state_dict: Mapping[str, Tensor], *, encoder_heads: int, decoder_heads: int, memory: str = "x", templates: int = 2
) -> SeqTrack:
    """The model whose official weights are given, in eval mode; sizes are read off the tensors.

    Args:
        state_dict: the ``net`` entry of an official checkpoint.
        encoder_heads, decoder_heads: attention heads; tensors do not tell them (B: 12 and 8, L: 16 and 8).
        memory: what the decoder attends to: "x", "xz" or "token"; the official ``feature_type``.
        templates: number of template slots.

    Raises:
        OfficialWeightsError: names that are missing or unknown, or sizes that contradict each other.
    """
    try:
        config = _config(state_dict, encoder_heads, decoder_heads, memory, templates)
        model = SeqTrack(config)
    except KeyError as error:
        raise OfficialWeightsError(
            f"the weights lack {error}; expected the 'net' entry of an official SeqTrack checkpoint"
        ) from error
    except ValueError as error:
        raise OfficialWeightsError(str(error)) from error
    converted = {}
    for name, tensor in state_dict.items():
        for pattern, targets in _RULES:
            match = re.fullmatch(pattern, name)
            if match:
                names = [match.expand(target) for target in targets]
                converted.update(zip(names, _split(name, tensor, names, config), strict=True))
                break
        else:
            converted[f"net.{name}"] = tensor  # no name of the model's, so that it is refused
    check_fit(converted, model.state_dict(), "an official SeqTrack's weights")
    model.load_state_dict(converted)
    return model.eval()


def _split(name: str, tensor: Tensor, targets: list[str], config: SeqTrackConfig) -> list[Tensor]:
    if name == "encoder.body.pos_embed":  # one table, search positions first
        return list(tensor.split([config.search_tokens, config.template_tokens], 1))
    if name == "decoder.embedding.position_embeddings.weight":
        return [tensor[None]]
    return list(tensor.chunk(len(targets)))


def _config(
    state: Mapping[str, Tensor], encoder_heads: int, decoder_heads: int, memory: str, templates: int
) -> SeqTrackConfig:
    """Read the sizes. The encoder's position table holds search and template positions, of equal number."""
    dim, _, patch, _ = state["encoder.body.patch_embed.proj.weight"].shape
    grid = math.isqrt(state["encoder.body.pos_embed"].shape[1] // 2)
    vocabulary, decoder_dim = state["decoder.embedding.word_embeddings.weight"].shape
    return SeqTrackConfig(
        search_size=grid * patch,
        template_size=grid * patch,
        templates=templates,
        patch=patch,
        encoder_dim=dim,
        encoder_depth=count(state, r"encoder\.body\.blocks\.(\d+)\."),
        encoder_heads=encoder_heads,
        mlp_ratio=state["encoder.body.blocks.0.mlp.fc1.weight"].shape[0] / dim,
        memory=memory,
        decoder_dim=decoder_dim,
        decoder_layers=count(state, r"decoder\.body\.layers\.(\d+)\."),
        decoder_heads=decoder_heads,
        decoder_ffn=state["decoder.body.layers.0.linear1.weight"].shape[0],
        bins=vocabulary - 2,
    )
