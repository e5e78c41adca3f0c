"""Weights in and out: safetensors files of our own, and official SeqTrack and ResNet weights under our names."""

from train.checkpoints.backbones import read_resnet, vtt_from_resnet
from train.checkpoints.files import CheckpointError, load_model, read_tensors, save_model, write_tensors
from train.checkpoints.official import OfficialWeightsError, read_official, seqtrack_from_official

__all__ = [
    "CheckpointError",
    "OfficialWeightsError",
    "load_model",
    "read_official",
    "read_resnet",
    "read_tensors",
    "save_model",
    "seqtrack_from_official",
    "vtt_from_resnet",
    "write_tensors",
]
