"""What a model answers to examples, of either kind, and how far two answers are apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from train.data.pairs import Pair
from train.losses import box_tokens, in_order
from train.models.registry import Model
from train.models.vtt import VTT
from train.objective import normalised


class Answer(NamedTuple):
    """The answer to a batch.

    Attributes:
        logits: (B, K, V), of SeqTrack's K = 4 tokens, teacher-forced, or of VTT's K queries' two classes.
        boxes: (B, K, 4) VTT's, cx, cy, w, h in [0, 1]; None for SeqTrack, whose boxes are its tokens.
        tokens: (B, M, D) the encoder's.
    """

    logits: Tensor
    boxes: Tensor | None
    tokens: Tensor


def answer(model: Model, pair: Pair) -> Answer:
    """What a model answers to a batch."""
    if isinstance(model, VTT):
        states, memory, *_ = model(normalised(pair.templates[:, 0]), normalised(pair.search), pair.extent)
        # In half precision a box would be known to half a pixel.
        with torch.autocast(memory.device.type, enabled=False):
            boxes, logits = model.answer([states[-1].float()])
        return Answer(logits[0], boxes[0], memory)
    tokens = model.encode(normalised(pair.templates), normalised(pair.search))
    ids = box_tokens(in_order(pair.box, model.config.order), model.config.bins)
    return Answer(model.answers(tokens, ids, pair.history)[:, :4], None, tokens)


def divergence(found: Answer, wanted: Answer) -> Tensor:
    """How far an answer is from the one that is wanted, (B,).

    The Kullback-Leibler divergence of its distributions in nats, the mean over all K; and of VTT's boxes the sum of the
    coordinates' differences, the mean over the queries weighted by the wanted probability of the target.
    """
    # In float64: one layer's share is small beside the terms that it is the sum of.
    log_p, wanted_log_p = (side.logits.double().log_softmax(-1) for side in (found, wanted))
    apart = F.kl_div(log_p, wanted_log_p, log_target=True, reduction="none").sum(-1).mean(1)
    if found.boxes is None or wanted.boxes is None:
        return apart
    sure = wanted_log_p[..., 1].exp()
    return apart + ((found.boxes - wanted.boxes).abs().sum(-1) * sure).sum(1) / sure.sum(1)
