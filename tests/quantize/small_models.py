"""Small models with random weights, of both kinds of template attention and all kinds of stem."""

from __future__ import annotations

from dataclasses import replace

import torch

from train.models.seqtrack import SeqTrack, SeqTrackConfig

JOINT = SeqTrackConfig(
    search_size=64,
    template_size=32,
    encoder_dim=32,
    encoder_depth=2,
    encoder_heads=2,
    decoder_dim=16,
    decoder_heads=2,
    decoder_ffn=32,
    bins=40,
    memory="xz",
)
ISOLATED = replace(JOINT, template_attention="isolated", stem_widths=(8, 8, 16), templates=1, order="whxy")
BACKBONE = replace(ISOLATED, stem_widths=(), backbone="efficientnet-lite0", order="xywh")
CONFIGS = {"joint": JOINT, "isolated": ISOLATED, "backbone": BACKBONE}


def random_model(kind: str, **changes: object) -> SeqTrack:
    """`changes` replace entries of the configuration."""
    torch.manual_seed(7)
    model = SeqTrack(replace(CONFIGS[kind], **changes)).eval()
    with torch.no_grad():
        # The random embedding is nearly the same for all tokens; a larger one makes each step depend on the last.
        model.decoder.embedding.weight.mul_(50)
    return model
