"""External locations, read off files that the onnx package wrote: wherever ONNX allows a tensor, and only there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import LINEAR, with_sidecar

from edgetrack_runtimes.onnx_file import external_locations


def outside(location: str = "w.bin") -> TensorProto:
    tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("offset", "0"), ("location", location), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def sparse() -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=outside("values.bin"), indices=outside("indices.bin"), dims=[1])


def model_with(**graph: object) -> onnx.ModelProto:
    return onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g", **graph))


def attributed(**attribute: object) -> onnx.ModelProto:
    attribute_proto = onnx.AttributeProto(name="a", **attribute)
    return model_with(node=[onnx.NodeProto(op_type="If", attribute=[attribute_proto])])


INNER = onnx.GraphProto(name="inner", initializer=[outside()])
PLACES: dict[str, tuple[onnx.ModelProto, set[str]]] = {
    "initializer": (model_with(initializer=[outside("a.bin"), outside("b/c.bin")]), {"a.bin", "b/c.bin"}),
    "sparse initializer": (model_with(sparse_initializer=[sparse()]), {"values.bin", "indices.bin"}),
    "attribute": (attributed(t=outside()), {"w.bin"}),
    "list attribute": (attributed(tensors=[outside("a"), outside("b")]), {"a", "b"}),
    "sparse attribute": (attributed(sparse_tensor=sparse()), {"values.bin", "indices.bin"}),
    "sparse list attribute": (attributed(sparse_tensors=[sparse()]), {"values.bin", "indices.bin"}),
    "subgraph": (attributed(g=INNER), {"w.bin"}),
    "list of subgraphs": (attributed(graphs=[INNER]), {"w.bin"}),
    "subgraph of a subgraph": (attributed(g=attributed(g=INNER).graph), {"w.bin"}),
    "function": (
        onnx.ModelProto(functions=[onnx.FunctionProto(name="f", node=attributed(t=outside()).graph.node)]),
        {"w.bin"},
    ),
    "beyond ASCII": (model_with(initializer=[outside("gewichte-ü.bin")]), {"gewichte-ü.bin"}),
    "none": (model_with(initializer=[helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])]), set()),
    "only spelled in a weight": (
        model_with(initializer=[TensorProto(name="w", data_type=2, raw_data=b"\x0a\x08location\x12\x05a.bin")]),
        set(),
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_found_where_a_tensor_may_be(tmp_path: Path, place: str) -> None:
    model, expected = PLACES[place]
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    assert external_locations(tmp_path / "g.onnx") == expected


def test_found_in_a_whole_graph(tmp_path: Path) -> None:
    assert external_locations(with_sidecar(LINEAR.save(tmp_path), "linear.data")) == {"linear.data"}


def field(number: int, payload: bytes) -> bytes:
    """One length-delimited field whose number is below 16 and whose length is below 128."""
    return bytes([number << 3 | 2, len(payload)]) + payload


def model_of(entry: bytes) -> bytes:
    return field(7, field(5, field(13, entry)))


KEY, VALUE = field(1, b"location"), field(2, b"w.bin")
GROUP = b"\x9b\x01" + b"\x08\x07" + field(5, b"skipped") + b"\x9c\x01"  # field 19, which ONNX does not have


@pytest.mark.parametrize(
    "entry",
    [
        KEY + VALUE,
        VALUE + KEY,
        field(1, b"offset") + KEY + field(2, b"other") + VALUE,
        GROUP + VALUE + GROUP + KEY,
        VALUE + b"\x7d1234" + b"\x7912345678" + b"\x78\xff\x01" + KEY,  # fields 15: four, eight and some bytes
        b"\x8a\x80\x00\x88\x00location" + VALUE,  # numbers longer than they need to be
    ],
    ids=["key first", "value first", "the last of two counts", "groups", "unknown fields", "padded numbers"],
)
def test_found_however_an_entry_is_encoded(tmp_path: Path, entry: bytes) -> None:
    (tmp_path / "g.onnx").write_bytes(model_of(entry))
    assert external_locations(tmp_path / "g.onnx") == {"w.bin"}
    (tensor,) = onnx.load_model_from_string(model_of(entry)).graph.initializer  # protobuf reads it so too
    assert [(e.key, e.value) for e in tensor.external_data] == [("location", "w.bin")]


def test_a_location_without_a_value_is_empty(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(model_of(KEY))
    assert external_locations(tmp_path / "g.onnx") == {""}


def test_a_graph_in_two_parts_is_one(tmp_path: Path) -> None:
    """Protobuf merges a message that comes twice."""
    (tmp_path / "g.onnx").write_bytes(
        b"".join(model_with(initializer=[outside(name)]).SerializeToString() for name in ("a", "b"))
    )
    assert external_locations(tmp_path / "g.onnx") == {"a", "b"}


def nested(depth: int) -> bytes:
    """A tensor in subgraphs of subgraphs; each level is a node, its attribute and the graph of that."""
    graph = field(5, field(13, KEY + VALUE))
    for _ in range(depth):
        for number in (6, 5, 1):
            length = len(graph)
            graph = bytes([number << 3 | 2, length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14]) + graph
    return bytes([7 << 3 | 2, len(graph) & 0x7F | 0x80, len(graph) >> 7 & 0x7F | 0x80, len(graph) >> 14]) + graph


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"not a graph at all",
        model_of(KEY + VALUE)[:-1],
        model_of(KEY + VALUE) + b"\x0e\x00",
        model_of(KEY + VALUE) + b"\x9b\x01",
        model_of(KEY + VALUE) + b"\x9c\x01",
        model_of(KEY + VALUE) + b"\x3a" + b"\xff" * 10 + b"\x01",
        model_of(KEY + VALUE + b"\x12"),
    ],
    ids=["empty", "zero", "text", "cut off", "wire type 6", "open group", "end of no group", "endless", "inner"],
)
def test_what_is_no_graph_names_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "g.onnx").write_bytes(content)
    assert external_locations(tmp_path / "g.onnx") == set()


def test_nesting_deeper_than_pythons_is_walked(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(nested(1500))
    assert external_locations(tmp_path / "g.onnx") == {"w.bin"}


@pytest.mark.parametrize("change", [lambda b: b[: len(b) // 2], lambda b: b[::-1]], ids=["half", "reversed"])
def test_damage_never_raises(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = with_sidecar(LINEAR.save(tmp_path), "linear.data")
    path.write_bytes(change(path.read_bytes()))
    assert external_locations(path) <= {"linear.data"}
