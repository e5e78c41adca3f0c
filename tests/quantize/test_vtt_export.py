"""The exported VTT bundle is the model: candidates, boxes and scores of PyTorch on every CPU runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import edgetrack
from edgetrack.bundle import read_bundle
from edgetrack.imaging import canvas_to_boxes, crop_square, letterbox, normalise
from quantize.cli import app
from quantize.export import ExportError, compare, export_bundle
from train.checkpoints import save_model
from train.models.vtt import PRESETS, VTT, VTTConfig

BACKENDS = ("onnxruntime-cpu", "openvino-cpu")
CONFIGS = {
    "nano": VTTConfig(
        search_width=96,
        search_height=64,
        template_size=32,
        template_factor=1.2,
        backbone="resnet-nano",
        dim=16,
        encoder_layers=1,
        decoder_layers=2,
        heads=2,
        ffn=24,
        queries=5,
    ),
    "r50": VTTConfig(
        search_width=96, search_height=64, template_size=32, dim=16, encoder_layers=0, decoder_layers=1, heads=2, ffn=24
    ),
}


def random_vtt(kind: str) -> VTT:
    torch.manual_seed(5)
    model = VTT(CONFIGS[kind]).eval()
    with torch.no_grad():
        # Let what the frame shows move the answers, further than random weights of this size do.
        for name, parameter in model.named_parameters():
            if name.endswith("conv2.weight") and not parameter.any():
                torch.nn.init.kaiming_normal_(parameter)
        model.box[-1].weight.mul_(4)
    return model


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[VTT, Path]:
    model = random_vtt(request.param)
    out = tmp_path_factory.mktemp(request.param) / "model"
    export_bundle(model, out, name=request.param, metadata={"training": {"step": 3}})
    return model, out


def film(count: int, size: tuple[int, int] = (160, 120)) -> list[np.ndarray]:
    """A textured patch wandering over noise."""
    rng = np.random.default_rng(0)
    width, height = size
    background = rng.integers(0, 255, (height, width, 3), np.uint8)
    patch = rng.integers(0, 255, (30, 24, 3), np.uint8)
    frames = []
    for i in range(count):
        frame = background.copy()
        frame[40 + 4 * i : 70 + 4 * i, 10 + 6 * i : 34 + 6 * i] = patch
        frames.append(frame)
    return frames


def resized(boxes: np.ndarray, answer: np.ndarray, box: list[float]) -> np.ndarray:
    """The boxes with half of the error in size that `answer`, the first frame's, has of the known box taken off."""
    low, high = np.maximum(answer[:2], box[:2]), np.minimum(answer[:2] + answer[2:], np.add(box[:2], box[2:]))
    shared = np.prod(np.maximum(high - low, 0))
    if shared / (np.prod(answer[2:]) + np.prod(box[2:]) - shared) <= 0.25:
        return boxes
    sizes = boxes[:, 2:] * np.sqrt(box[2:] / answer[2:])
    return np.hstack([boxes[:, :2] + boxes[:, 2:] / 2 - sizes / 2, sizes])


@torch.no_grad()
def found_by_pytorch(model: VTT, first: np.ndarray, box: list[float], frame: np.ndarray) -> tuple[np.ndarray, ...]:
    """All candidates, best first: the correlation done as one and reduced after it, nothing folded."""
    config = model.config
    x, y, w, h = box
    side = max(w, h)
    square = np.asarray([x + (w - side) / 2, y + (h - side) / 2, side, side])
    crop = crop_square(first, square, config.template_factor, config.template_size).image
    kernel = model.phi(model.backbone(torch.from_numpy(normalise(crop)).permute(2, 0, 1)[None]))
    canvas = letterbox(frame, config.search_width, config.search_height)
    features = model.backbone(torch.from_numpy(normalise(canvas.image)).permute(2, 0, 1)[None])
    correlated = F.conv2d(features, kernel.transpose(0, 1), groups=features.shape[1])
    tokens = F.conv2d(correlated, model.reduce.weight[..., None, None], model.reduce.bias).flatten(2).transpose(1, 2)
    visible = model.visible(torch.from_numpy(canvas.extent).float()[None])
    answers = model.answer(model.decode(model.encode(tokens, visible), visible))
    scores = answers.logits[-1, 0].softmax(-1)[:, 1].numpy()
    boxes = canvas_to_boxes(answers.boxes[-1, 0].double().numpy(), canvas.extent, frame.shape[1::-1])
    order = np.argsort(-scores)
    return boxes[order], scores[order]


@pytest.mark.parametrize("backend", BACKENDS)
def test_candidates_are_those_of_the_pytorch_model(exported: tuple[VTT, Path], backend: str) -> None:
    model, bundle = exported
    box = [10.0, 40.0, 24.0, 30.0]
    # Wide, high and of the canvas's own aspect: padding below, beside and nowhere.
    for size in ((160, 120), (200, 100), (180, 120)):
        frames = film(4, size)
        tracker = edgetrack.Tracker(bundle, backend, threads=1)
        tracker.init(frames[0], box)
        assert tracker.candidates() == ()
        first, _ = found_by_pytorch(model, frames[0], box, frames[0])
        for frame in frames[1:]:
            track = tracker.update(frame)
            boxes, scores = found_by_pytorch(model, frames[0], box, frame)
            boxes = resized(boxes, first[0], box)
            candidates = tracker.candidates()
            assert len(candidates) == model.config.queries
            np.testing.assert_allclose([c.score for c in candidates], scores, atol=1e-4)
            found = np.asarray([c.box for c in candidates])
            separate = np.abs(np.subtract.outer(scores, scores) + np.eye(len(scores))).min(1) > 1e-4
            np.testing.assert_allclose(found[separate], boxes[separate], atol=0.2)
            assert (track.box, track.score) == (candidates[0].box, candidates[0].score)
            assert track.ok == (track.score >= 0.97)


def test_another_target_and_another_frame_change_the_answer(exported: tuple[VTT, Path]) -> None:
    _, bundle = exported
    frames = film(6)
    tracker = edgetrack.Tracker(bundle, "onnxruntime-cpu", threads=1)
    answers = []
    for box in ((10.0, 40.0, 24.0, 30.0), (100.0, 10.0, 40.0, 20.0)):
        tracker.init(frames[0], box)
        answers += [
            [(*c.box, c.score) for c in (tracker.update(frame), tracker.candidates())[1]] for frame in frames[::5]
        ]
    first = [np.sort(np.asarray(answer), axis=0) for answer in answers]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(first) for b in first[:i])


def test_manifest_states_the_model(exported: tuple[VTT, Path]) -> None:
    model, bundle = exported
    manifest = read_bundle(bundle).manifest
    assert manifest.kind == "vtt"
    assert manifest.provenance["config"] == model.config.to_dict()
    assert manifest.provenance["training"] == {"step": 3}
    assert (manifest.queries, manifest.score.ok_threshold) == (model.config.queries, 0.97)
    assert (manifest.preprocessing.search.width, manifest.preprocessing.search.height) == (96, 64)
    facts = {
        p.key: p.value for p in onnx.load(bundle / "fp32" / "search.onnx", load_external_data=False).metadata_props
    }
    assert json.loads(facts["queries"]) == manifest.queries


def test_the_frames_graph_holds_neither_phi_nor_the_reduction(exported: tuple[VTT, Path]) -> None:
    model, bundle = exported
    graph = onnx.load(bundle / "fp32" / "search.onnx").graph
    held = sum(onnx.numpy_helper.to_array(tensor).size for tensor in graph.initializer)
    assert held < sum(p.numel() for p in model.state_dict().values()) - model.phi.weight.numel() + 20_000
    assert not any(tuple(tensor.dims) == tuple(model.phi.weight.shape) for tensor in graph.initializer)


def test_a_graph_that_computes_something_else_is_refused(exported: tuple[VTT, Path]) -> None:
    model, bundle = exported
    other = VTT(model.config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.box[-1].bias[0] += 0.5
    with pytest.raises(ExportError, match=r"search on .*: boxes differs"):
        compare(other, {"search": bundle / "fp32" / "search.onnx"})


def test_command_writes_a_bundle_and_settings_reach_the_manifest(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", random_vtt("nano"))
    arguments = ["export", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "small.zip")]
    result = CliRunner().invoke(app, [*arguments, "--set", "score.ok_threshold=0.5"])
    assert result.exit_code == 0, result.output
    assert read_bundle(tmp_path / "small.zip").manifest.score.ok_threshold == 0.5
    assert edgetrack.load(tmp_path / "small.zip", "onnxruntime-cpu").manifest.name == "small"


def test_the_edge_preset_exports(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_bundle(VTT(PRESETS["vtt-nano"]).eval(), tmp_path / "nano", name="nano", metadata={})
    graph = onnx.load(tmp_path / "nano" / "fp32" / "search.onnx").graph
    # 4 M parameters, and the positions and other constants that the exporter computes in advance.
    assert sum(onnx.numpy_helper.to_array(tensor).size for tensor in graph.initializer) <= 4_000_000
