"""Weights in and out: safetensors files of our own, and official SeqTrack weights under our names."""

from train.checkpoints.files import CheckpointError, load_model, read_tensors, save_model, write_tensors
from train.checkpoints.official import OfficialWeightsError, read_official, seqtrack_from_official

__all__ = [
    "CheckpointError",
    "OfficialWeightsError",
    "load_model",
    "read_official",
    "read_tensors",
    "save_model",
    "seqtrack_from_official",
    "write_tensors",
]
