"""The bound that spares OpenVINO on Arm a bias in the wrong units; that it does, `test_conformance` shows on Arm."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from small_graphs import CASES, INT8_SHARED, Case

from edgetrack_runtimes.openvino_arm import guard_biases, misplaces_biases

openvino = pytest.importorskip("openvino")
MODELS = Path(__file__).parents[2] / "edgetrack" / "models"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64"])
def test_only_arm_and_only_from_the_release_on_that_began_it(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    releases = ("2024.4.0", "2025.4.1", "2026.2.0", "2026.3.0", "2026.4.1", "2027.0.0")
    affected = [version for version in releases if misplaces_biases(version)]
    assert affected == ([] if machine == "x86_64" else ["2026.3.0", "2026.4.1", "2027.0.0"])


def test_the_bound_stands_before_every_reader_and_bounds_nothing(tmp_path: Path) -> None:
    core = openvino.Core()
    guarded = core.read_model(str(INT8_SHARED.save(tmp_path)))
    feeds = INT8_SHARED.inputs(np.random.default_rng(1))
    assert guard_biases(openvino, guarded) == 1
    (bound,) = [node for node in guarded.get_ops() if node.get_type_name() == "Clamp"]
    readers = [reader.get_node().get_type_name() for reader in bound.output(0).get_target_inputs()]
    assert sorted(readers) == ["FakeQuantize", "Relu"]
    assert bound.input_value(0).get_node().get_type_name() == "Add"
    assert len(bound.input_value(0).get_target_inputs()) == 1
    outputs = core.compile_model(guarded, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds)
    for name, expected in INT8_SHARED.expected(feeds).items():
        assert_allclose(outputs[name], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if case is not INT8_SHARED], ids=lambda case: case.name)
def test_other_graphs_stay_as_they_are(case: Case, tmp_path: Path) -> None:
    model = openvino.Core().read_model(str(case.save(tmp_path)))
    before = len(model.get_ops())
    assert guard_biases(openvino, model) == 0
    assert len(model.get_ops()) == before


@pytest.mark.parametrize("graph", ["seqtrack-nano/int8/track.onnx", "vtt-nano/int8/search.onnx"])
def test_the_shipped_models_have_a_place_for_it(graph: str) -> None:
    assert guard_biases(openvino, openvino.Core().read_model(str(MODELS / graph))) == 1
