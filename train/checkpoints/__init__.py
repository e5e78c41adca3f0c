"""Weights in and out: safetensors files of our own, and those of SeqTrack, MAE, DETR, torchvision and
EfficientNet."""

from train.checkpoints.averaging import average, summary
from train.checkpoints.backbones import is_convolutional, is_mae, seqtrack_from_mae, with_backbone
from train.checkpoints.files import CheckpointError, load_model, read_tensors, save_model, write_tensors
from train.checkpoints.foreign import OfficialWeightsError, read_state
from train.checkpoints.official import seqtrack_from_official

__all__ = [
    "CheckpointError",
    "OfficialWeightsError",
    "average",
    "is_convolutional",
    "is_mae",
    "load_model",
    "read_state",
    "read_tensors",
    "save_model",
    "seqtrack_from_mae",
    "seqtrack_from_official",
    "summary",
    "with_backbone",
    "write_tensors",
]
