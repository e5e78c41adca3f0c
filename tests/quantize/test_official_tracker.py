"""The whole chain against the official tracker: crop, normalise, decode, map back, clip, template update."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors import safe_open
from shared import shared

import edgetrack
from quantize.export import export_bundle
from train.checkpoints import seqtrack_from_official


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, np.ndarray], Path]:
    """The official tracker's boxes, and a bundle of its weights."""
    with safe_open(shared("parity", "public_track.safetensors"), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state = {name.removeprefix("state_dict."): t for name, t in tensors.items() if name.startswith("state_dict.")}
    model = seqtrack_from_official(state, encoder_heads=4, decoder_heads=4)
    out = tmp_path_factory.mktemp("official") / "model"
    export_bundle(model, out, name="official", metadata={})
    boxes = {name.removeprefix("boxes."): t.numpy() for name, t in tensors.items() if name.startswith("boxes.")}
    return boxes, out


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino-cpu"])
@pytest.mark.parametrize("decode", ["fused", "cached"])
@pytest.mark.parametrize(
    ("run", "options"),
    [
        ("plain_vot_bag", {"window": 0.0, "update_interval": 0}),
        ("window_dtb_Surfing06", {"window": 1.0, "update_interval": 0}),
        ("window_update5_Car4", {"window": 1.0, "update_interval": 5, "update_threshold": 0.0}),
    ],
)
def test_boxes_are_the_official_trackers(
    official: tuple[dict[str, np.ndarray], Path], run: str, options: dict[str, float], decode: str, backend: str
) -> None:
    boxes, bundle = official
    expected = boxes[run]
    folder = shared("data", "sequences", "dev", run.split("_", 2 if run.count("update") else 1)[-1])
    tracker = edgetrack.Tracker(bundle, backend, threads=1, decode=decode, **options)
    tracker.init(cv2.imread(str(folder / "00000001.jpg")), expected[0])
    for number, box in enumerate(expected[1:], start=2):
        found = tracker.update(cv2.imread(str(folder / f"{number:08d}.jpg"))).box
        np.testing.assert_allclose(found, box, atol=0.5, err_msg=f"frame {number}")
