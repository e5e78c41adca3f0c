"""Keys whose rows are moved for OpenVINO; that they are the same keys, `test_conformance` shows of every backend."""

from __future__ import annotations

import dataclasses
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from small_graphs import CASES, INT8_KEYS, KEYS, Case, node

from edgetrack_runtimes import SessionOptions, open_session, openvino_keys
from edgetrack_runtimes.openvino_keys import is_quick_with_rows, move_rows

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.skipif(not hasattr(openvino, "opset8"), reason="this release of OpenVINO makes no nodes")
MODELS = Path(__file__).parents[2] / "edgetrack" / "models"


def orders(model: Any) -> Counter[tuple[int, ...]]:
    """How often each order of a transposition is in a model."""
    transposes = [node for node in model.get_ops() if node.get_type_name() == "Transpose"]
    return Counter(tuple(each.input_value(1).get_node().get_data().tolist()) for each in transposes)


@pytest.mark.parametrize("case", [KEYS, INT8_KEYS], ids=lambda case: case.name)
def test_rows_are_moved_and_the_product_transposes(case: Case, tmp_path: Path) -> None:
    core = openvino.Core()
    model = core.read_model(str(case.save(tmp_path)))
    feeds = case.inputs(np.random.default_rng(1))
    assert orders(model) == {(0, 2, 3, 1): 1}
    assert move_rows(openvino, model) == 1
    assert orders(model) == {(0, 2, 1, 3): 1, (0, 1, 3, 2): 1}
    (last,) = [each for each in model.get_ops() if each.get_type_name() == "MatMul" and "y" in each.output(0).names]
    assert last.input_value(1).get_node().get_type_name() == "Transpose"
    outputs = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feeds)
    assert_allclose(outputs["y"], case.expected(feeds)["y"], rtol=1e-4, atol=1e-4)


def test_a_bias_stands_between_the_move_and_the_rounding(tmp_path: Path) -> None:
    model = openvino.Core().read_model(str(INT8_KEYS.save(tmp_path)))
    move_rows(openvino, model)
    (rounding,) = [
        each
        for each in model.get_ops()
        if each.get_type_name() == "FakeQuantize" and list(each.get_output_shape(0)) == [1, 2, 6, 4]
    ]
    bias = rounding.input_value(0).get_node()
    assert bias.get_type_name() == "Add"
    assert bias.input_value(0).get_node().get_type_name() == "Transpose"


def _changed(case: Case, name: str, *, drop: str = "", add: tuple[Any, ...] = (), **constants: Any) -> Case:
    nodes = [each for each in case.nodes if each.output[0] != drop]
    at = next((i for i, each in enumerate(case.nodes) if each.output[0] == drop), len(nodes))
    return dataclasses.replace(
        case, name=name, nodes=[*nodes[:at], *add, *nodes[at:]], constants=case.constants | constants
    )


OTHERS = (
    _changed(KEYS, "read_twice", add=(node("Relu", "keys", "positive"),)),
    _changed(KEYS, "keys_first", drop="y", add=(node("MatMul", "keys square", "y"),), square=np.eye(6, dtype="f4")),
    _changed(
        KEYS,
        "moved_already",
        drop="keys",
        add=(
            node("Transpose", "heads", "rows", perm=[0, 2, 1, 3]),
            node("Transpose", "rows", "keys", perm=[0, 1, 3, 2]),
        ),
    ),
    _changed(INT8_KEYS, "a_bias_a_value", b=np.ones((1, 6, 8), np.float32)),
    _changed(INT8_KEYS, "one_bias", b=np.float32(0.5)),
    _changed(INT8_KEYS, "biased_read_twice", add=(node("Relu", "biased", "positive"),)),
    _changed(INT8_KEYS, "heads_read_twice", add=(node("Relu", "heads", "positive"),)),
    _changed(INT8_KEYS, "rounded_read_twice", add=(node("Relu", "keysq", "positive"),)),
    _changed(INT8_KEYS, "no_bias", drop="biased", add=(node("Relu", "xw", "biased"),)),
    _changed(
        INT8_KEYS,
        "another_head_a_step",
        drop="keys8",
        add=(node("QuantizeLinear", "keys steps zeros", "keys8", axis=1),),
        steps=np.array([0.1, 0.2], np.float32),
        zeros=np.zeros(2, np.int8),
    ),
    _changed(
        INT8_KEYS,
        "halved",
        drop="keysq",
        add=(node("DequantizeLinear", "keys8 wide zero", "k"), node("Mul", "k rows", "keysq")),
        rows=np.ones((4, 1), np.float32),
    ),
)


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: case.name)
def test_keys_that_cannot_be_moved_stay(case: Case, tmp_path: Path) -> None:
    if any(each.output[0] == "positive" for each in case.nodes):
        shape = {"keys": (1, 2, 4, 6), "keysq": (1, 2, 4, 6), "biased": (1, 6, 8), "heads": (1, 6, 2, 4)}
        source = next(each for each in case.nodes if each.output[0] == "positive").input[0]
        case = dataclasses.replace(case, output_values=[*case.output_values, ("positive", "float32", shape[source])])
    if case.name == "keys_first":
        case = dataclasses.replace(case, output_values=[("y", "float32", (1, 2, 4, 6))])
    model = openvino.Core().read_model(str(case.save(tmp_path)))
    before = [each.get_type_name() for each in model.get_ordered_ops()]
    assert move_rows(openvino, model) == 0
    assert [each.get_type_name() for each in model.get_ordered_ops()] == before


@pytest.mark.parametrize("case", [case for case in CASES if case not in (KEYS, INT8_KEYS)], ids=lambda case: case.name)
def test_other_graphs_stay_as_they_are(case: Case, tmp_path: Path) -> None:
    model = openvino.Core().read_model(str(case.save(tmp_path)))
    before = orders(model)
    assert move_rows(openvino, model) == 0
    assert orders(model) == before


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_all_attention_of_the_shipped_search_is_moved(precision: str) -> None:
    model = openvino.Core().read_model(str(MODELS / "vtt-nano" / precision / "search.onnx"))
    assert move_rows(openvino, model) == 5  # three layers of the encoder, two of the decoder


@pytest.mark.parametrize(
    ("machine", "makes_nodes"), [("x86_64", True), ("AMD64", True), ("x86_64", False), ("aarch64", True)]
)
def test_sessions_move_rows_where_that_was_measured(
    machine: str, makes_nodes: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    if not makes_nodes:
        monkeypatch.delattr(openvino, "opset8")
    quick = makes_nodes and machine != "aarch64"
    assert is_quick_with_rows(openvino) is quick
    moved: list[int] = []
    monkeypatch.setattr(openvino_keys, "move_rows", lambda *given: moved.append(move_rows(*given)))
    open_session("openvino-cpu", KEYS.save(tmp_path), SessionOptions())
    assert moved == ([1] if quick else [])
