"""Micro-benchmarks of the parts of a frame: ``python -m pytest benchmarks/micro --benchmark-enable``.

Not a part of the tests. They are for seeing what a change does; what a device does is measured by ``latency``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pytest_benchmark.fixture import BenchmarkFixture

import edgetrack
from edgetrack.bundle import shipped_models
from edgetrack.decoding import greedy_decode, hanning_window
from edgetrack.imaging import check_frame, crop_square, normalise
from edgetrack.scene import Scene
from edgetrack_runtimes import SessionOptions, discover, open_session

BACKENDS = [status.backend for status in discover() if status.available]


@pytest.fixture(scope="module")
def film() -> list[tuple[np.ndarray, tuple[float, float, float, float]]]:
    """Ten drawn frames (720, 1280, 3) with the target's box."""
    return [(frame.image, frame.box) for frame in Scene(0, (1280, 720)).frames(10)]


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest) -> edgetrack.Model:
    """The first shipped model on each backend, on one thread."""
    names = [name for name in shipped_models() if name.startswith("seqtrack")]
    if not names:
        pytest.skip("no SeqTrack model ships with this checkout")
    return edgetrack.load(names[0], request.param, threads=1)


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_crop(benchmark: BenchmarkFixture, film: list, factor: float) -> None:
    image, box = film[0]
    benchmark(crop_square, image, np.asarray(box), factor, 256)


def test_normalise(benchmark: BenchmarkFixture, film: list) -> None:
    image, box = film[0]
    benchmark(normalise, crop_square(image, np.asarray(box), 4.0, 256).image)


def test_check_frame(benchmark: BenchmarkFixture, film: list) -> None:
    benchmark(check_frame, film[0][0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_session_overhead(benchmark: BenchmarkFixture, backend: str, tmp_path: Path) -> None:
    """A graph that does next to nothing: what is left is the session's own work."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", value[:1], value[1:])
    path = tmp_path / "relu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    with open_session(backend, path, SessionOptions(threads=1)) as session:
        benchmark(session.run, {"x": np.ones((1, 16), np.float32)})


def test_decode(benchmark: BenchmarkFixture, model: edgetrack.Model) -> None:
    """Four cached steps."""
    session, decoder = model.session("decode_step"), model.manifest.decoder
    rng = np.random.default_rng(0)
    keys, values = (
        rng.standard_normal(session.inputs[name].shape).astype(np.float32) for name in ("cross_keys", "cross_values")
    )
    benchmark(greedy_decode, session, keys, values, hanning_window(1.0, decoder.bins), decoder.bins, decoder.order)


@pytest.mark.parametrize("decode", ["fused", "cached"])
def test_update(benchmark: BenchmarkFixture, model: edgetrack.Model, film: list, decode: str) -> None:
    tracker = edgetrack.Tracker(model, decode=decode)
    tracker.init(*film[0])
    benchmark(tracker.update, film[1][0])


def test_init(benchmark: BenchmarkFixture, model: edgetrack.Model, film: list) -> None:
    benchmark(edgetrack.Tracker(model).init, *film[0])
