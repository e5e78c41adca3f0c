"""The models by kind, and all presets by name."""

from __future__ import annotations

from typing import Any, TypeAlias

from train.models import seqtrack, vtt
from train.models.seqtrack import SeqTrack, SeqTrackConfig
from train.models.vtt import VTT, VTTConfig

Config: TypeAlias = SeqTrackConfig | VTTConfig
Model: TypeAlias = SeqTrack | VTT

PRESETS: dict[str, Config] = {**seqtrack.PRESETS, **vtt.PRESETS}
_CONFIGS: dict[str, type[Config]] = {SeqTrackConfig.kind: SeqTrackConfig, VTTConfig.kind: VTTConfig}


def config_from_dict(kind: str, values: dict[str, Any]) -> Config:
    """The configuration that a kind's `to_dict` gave.

    Raises:
        ValueError: an unknown kind, or values that do not go together.
    """
    if kind not in _CONFIGS:
        raise ValueError(f"got a model of kind {kind!r}; expected one of {', '.join(_CONFIGS)}")
    return _CONFIGS[kind].from_dict(values)


def build(config: Config) -> Model:
    """The model of a configuration, with random weights."""
    return VTT(config) if isinstance(config, VTTConfig) else SeqTrack(config)
