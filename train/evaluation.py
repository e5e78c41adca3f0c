"""How good a model is on held-out pairs, in figures and in pictures."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from train.data.pairs import Pair, PairDataset
from train.losses import from_order
from train.models.decoder import Decoding
from train.models.registry import Model
from train.models.vtt import VTT
from train.objective import normalised
from train.reliability import auroc


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (B,) of boxes (B, 4) in cx, cy, w, h."""
    low = torch.maximum(a[:, :2] - a[:, 2:] / 2, b[:, :2] - b[:, 2:] / 2)
    high = torch.minimum(a[:, :2] + a[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2)
    intersection = (high - low).clamp(min=0).prod(1)
    return intersection / (a[:, 2:].prod(1) + b[:, 2:].prod(1) - intersection).clamp(min=1e-9)


class Prediction(NamedTuple):
    """A model's answer to a batch.

    Attributes:
        boxes: (B, 4) cx, cy, w, h in [0, 1] of the search image.
        presence: (B,), SeqTrack's 1 - P(END) or the score of VTT's best query.
        decoding: what the boxes are read from; None for a VTT.
    """

    boxes: Tensor
    presence: Tensor
    decoding: Decoding | None = None


@torch.inference_mode()
def predict(model: Model, pair: Pair, window: Tensor | None = None) -> Prediction:
    """The model's answer to a batch: SeqTrack's, decoded greedily with the penalty `window`, or VTT's best query."""
    if isinstance(model, VTT):
        kernel = model.fold(model.kernel(normalised(pair.templates[:, 0])))
        boxes, scores = model.find(normalised(pair.search), pair.extent, kernel)
        top = scores.argmax(1, keepdim=True)
        return Prediction(boxes.take_along_dim(top[..., None], 1)[:, 0], scores.amax(1))
    tokens = model.encode(normalised(pair.templates), normalised(pair.search))
    decoding = model.generate(tokens, window, history=pair.history)
    boxes = from_order(decoding.tokens / (model.config.bins - 1), model.config.order)
    return Prediction(boxes, decoding.presence, decoding)


def validate(model: Model, loader: DataLoader[Pair], device: torch.device) -> dict[str, float]:
    """Mean overlap, share of overlaps above 0.5, and AUROC of presence against absence, on held-out pairs; NaN where no
    pair, or every one, shows the target."""
    model.eval()
    overlaps, presence, labels = [], [], []
    for batch in loader:
        pair = Pair(*(tensor.to(device) for tensor in batch))
        boxes, p, _ = predict(model, pair)
        overlaps.append(iou(boxes, pair.box)[pair.present])
        presence.append(p)
        labels.append(pair.present)
    overlap, p, label = torch.cat(overlaps), torch.cat(presence), torch.cat(labels)
    return {
        "iou": overlap.mean().item(),
        "sr50": (overlap > 0.5).float().mean().item(),
        "auroc": auroc(p.double().cpu().numpy(), label.cpu().numpy()),
    }


def picture_sheet(model: Model, pairs: PairDataset, path: Path, device: torch.device, columns: int = 8) -> None:
    """Write the first pairs with the true box in white and the model's in green, red where it says absent."""
    model.eval()
    examples = [pairs[i] for i in range(min(len(pairs), 4 * columns))]
    batch = Pair(*(torch.stack(tensors).to(device) for tensors in zip(*examples, strict=True)))
    boxes, presence, _ = predict(model, batch)
    tiles = []
    for example, box, p in zip(examples, boxes.cpu(), presence.tolist(), strict=True):
        third = example.search.shape[0] // 3
        tile = np.ascontiguousarray(example.search.numpy())
        if example.present:
            _outline(tile, example.box, (255, 255, 255))
        _outline(tile, box, (80, 220, 60) if p > 0.5 else (60, 60, 230))
        template = cv2.resize(example.templates[0].numpy(), (third, third), interpolation=cv2.INTER_AREA)
        tile[:third, :third] = template
        tiles.append(cv2.copyMakeBorder(tile, 1, 1, 1, 1, cv2.BORDER_CONSTANT))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    cv2.imwrite(str(path), np.vstack(rows))


def _outline(image: np.ndarray, box: Tensor, colour: tuple[int, int, int]) -> None:  # type: ignore[type-arg]
    height, width = image.shape[:2]
    cx, cy, w, h = (box * torch.tensor([width, height, width, height])).tolist()
    low, high = (round(cx - w / 2), round(cy - h / 2)), (round(cx + w / 2), round(cy + h / 2))
    cv2.rectangle(image, low, high, colour, 1, cv2.LINE_AA)
