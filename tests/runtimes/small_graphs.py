"""Small ONNX graphs, each with inputs to feed it and what numpy says must come out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

Arrays = dict[str, NDArray]
Value = tuple[str, str, Sequence[int | str]]  # name, numpy dtype, shape


def save_graph(
    path: Path, nodes: Sequence[onnx.NodeProto], inputs: Sequence[Value], outputs: Sequence[Value], constants: Arrays
) -> Path:
    def infos(values: Sequence[Value]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
            for name, dtype, shape in values
        ]

    weights = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), path.stem, infos(inputs), infos(outputs), weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def with_sidecar(path: Path, sidecar: str) -> Path:
    """The same graph with its weights in a file of their own."""
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=sidecar, size_threshold=0)
    return path


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}_{outputs.replace(' ', '_')}", **attributes)


@dataclass(frozen=True)
class Case:
    """inputs: random feeds; expected: the outputs computed in numpy from the feeds."""

    name: str
    nodes: Sequence[onnx.NodeProto]
    input_values: Sequence[Value]
    output_values: Sequence[Value]
    constants: Arrays
    inputs: Callable[[np.random.Generator], Arrays]
    expected: Callable[[Arrays], Arrays]

    def save(self, folder: Path) -> Path:
        return save_graph(
            folder / f"{self.name}.onnx", self.nodes, self.input_values, self.output_values, self.constants
        )


def normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


def softmax(x: NDArray) -> NDArray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def convolved(x: NDArray, w: NDArray) -> NDArray:
    """Cross-correlation with padding 1 and stride 1; x (1, C, H, W), w (D, C, 3, 3)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # (1, C, H, W, 3, 3)
    return np.einsum("nchwij,dcij->ndhw", windows, w)


def quantised(x: NDArray, scale: float) -> NDArray:
    """What QuantizeLinear and DequantizeLinear make of x: symmetric int8, ties to even."""
    return np.clip(np.rint(x / np.float32(scale)), -128, 127).astype(np.float32) * np.float32(scale)


_rng = np.random.default_rng(7)
W = normal(_rng, 256, 8)
B = normal(_rng, 8)
KERNEL = normal(_rng, 4, 3, 3, 3)
TABLE = normal(_rng, 11, 6)
W8 = _rng.integers(-127, 128, (32, 8), dtype=np.int8)
SCALE = np.float32(0.03125)
V8 = _rng.integers(-127, 128, (8, 4), dtype=np.int8)
COLUMNS = normal(_rng, 8, 8)
COLUMN_BIASES = normal(_rng, 8)

# 256 products a sum: enough that bf16 arithmetic, which some CPUs default to, is far outside the tolerance.
LINEAR = Case(
    "linear",
    [node("MatMul", "x w", "xw"), node("Add", "xw b", "sum"), node("Relu", "sum", "y")],
    [("x", "float32", (2, 256))],
    [("y", "float32", (2, 8)), ("sum", "float32", (2, 8))],
    {"w": W, "b": B},
    lambda rng: {"x": normal(rng, 2, 256)},
    lambda f: {"y": np.maximum(f["x"] @ W + B, 0), "sum": f["x"] @ W + B},
)
TWO_INPUTS = Case(
    "two_inputs",
    [node("Sub", "a b", "y")],
    [("a", "float32", (3, 4)), ("b", "float32", (3, 4))],
    [("y", "float32", (3, 4))],
    {},
    lambda rng: {"a": normal(rng, 3, 4), "b": normal(rng, 3, 4)},
    lambda f: {"y": f["a"] - f["b"]},
)
# Outputs that a runtime could be tempted to hand out as its own memory or as the caller's.
ALIASES = Case(
    "aliases",
    [node("Identity", "x", "same"), node("Identity", "w", "constant"), node("Neg", "x", "negative")],
    [("x", "float32", (2, 3))],
    [
        ("x", "float32", (2, 3)),
        ("same", "float32", (2, 3)),
        ("constant", "float32", (8,)),
        ("negative", "float32", (2, 3)),
    ],
    {"w": B},
    lambda rng: {"x": normal(rng, 2, 3)},
    lambda f: {"x": f["x"], "same": f["x"], "constant": B, "negative": -f["x"]},
)


def _shared(feeds: Arrays) -> Arrays:
    biased = quantised(feeds["x"], SCALE) @ (W8.astype(np.float32) * SCALE) + B
    product = quantised(biased, 16 * SCALE) @ (V8.astype(np.float32) * SCALE)
    return {"y": product, "positive": np.maximum(biased, 0)}


# What the result of a product, bias included, goes to twice: rounded into the next product, and as it is.
INT8_SHARED = Case(
    "int8_shared",
    [
        node("QuantizeLinear", "x scale zero", "x8"),
        node("DequantizeLinear", "x8 scale zero", "xq"),
        node("DequantizeLinear", "w8 scale zero", "w"),
        node("MatMul", "xq w", "xw"),
        node("Add", "xw b", "sum"),
        node("QuantizeLinear", "sum wide zero", "sum8"),
        node("DequantizeLinear", "sum8 wide zero", "sumq"),
        node("DequantizeLinear", "v8 scale zero", "v"),
        node("MatMul", "sumq v", "y"),
        node("Relu", "sum", "positive"),
    ],
    [("x", "float32", (2, 32))],
    [("y", "float32", (2, 4)), ("positive", "float32", (2, 8))],
    {
        "w8": W8,
        "v8": V8,
        "b": B,
        "scale": np.array(SCALE),
        "wide": np.array(16 * SCALE),
        "zero": np.array(0, np.int8),
    },
    lambda rng: {"x": normal(rng, 2, 32)},
    _shared,
)


def _keys(name: str, rounding: Sequence[onnx.NodeProto]) -> Case:
    """Attention's first product: queries by the transposed keys of six tokens, of two heads of four columns."""

    def scores(f: Arrays) -> Arrays:
        keys = (f["x"] @ COLUMNS + COLUMN_BIASES).reshape(1, 6, 2, 4).transpose(0, 2, 3, 1)
        if not rounding:
            return {"y": f["q"] @ keys}
        return {"y": quantised(f["q"], SCALE) @ quantised(keys, 4 * SCALE)}

    nodes = [
        node("MatMul", "x w", "xw"),
        node("Add", "xw b", "biased"),
        node("Reshape", "biased shape", "heads"),
        node("Transpose", "heads", "keys", perm=[0, 2, 3, 1]),
        *rounding,
        node("MatMul", "qq keysq" if rounding else "q keys", "y"),
    ]
    constants = {"w": COLUMNS, "b": COLUMN_BIASES, "shape": np.array([1, 6, 2, 4])}
    if rounding:
        constants |= {"scale": np.array(SCALE), "wide": np.array(4 * SCALE), "zero": np.array(0, np.int8)}
    return Case(
        name,
        nodes,
        [("x", "float32", (1, 6, 8)), ("q", "float32", (1, 2, 3, 4))],
        [("y", "float32", (1, 2, 3, 6))],
        constants,
        lambda rng: {"x": normal(rng, 1, 6, 8), "q": normal(rng, 1, 2, 3, 4)},
        scores,
    )


KEYS = _keys("keys", [])
INT8_KEYS = _keys(
    "int8_keys",
    [
        node("QuantizeLinear", "q scale zero", "q8"),
        node("DequantizeLinear", "q8 scale zero", "qq"),
        node("QuantizeLinear", "keys wide zero", "keys8"),
        node("DequantizeLinear", "keys8 wide zero", "keysq"),
    ],
)
CASES = (
    LINEAR,
    TWO_INPUTS,
    ALIASES,
    Case(
        "conv",
        [node("Conv", "x w", "y", pads=[1, 1, 1, 1])],
        [("x", "float32", (1, 3, 9, 7))],
        [("y", "float32", (1, 4, 9, 7))],
        {"w": KERNEL},
        lambda rng: {"x": normal(rng, 1, 3, 9, 7)},
        lambda f: {"y": convolved(f["x"], KERNEL)},
    ),
    Case(
        "attention",
        [node("MatMul", "q k", "qk"), node("Softmax", "qk", "p", axis=-1), node("MatMul", "p v", "y")],
        [("q", "float32", (1, 2, 5, 4)), ("k", "float32", (1, 2, 4, 6)), ("v", "float32", (1, 2, 6, 3))],
        [("y", "float32", (1, 2, 5, 3))],
        {},
        lambda rng: {"q": normal(rng, 1, 2, 5, 4), "k": normal(rng, 1, 2, 4, 6), "v": normal(rng, 1, 2, 6, 3)},
        lambda f: {"y": softmax(f["q"] @ f["k"]) @ f["v"]},
    ),
    Case(
        "int64_token",
        [
            node("Gather", "table token", "row", axis=0),
            node("Add", "token step", "next"),
            node("ArgMax", "row", "best"),
        ],
        [("token", "int64", (1,)), ("step", "int64", ())],
        [("row", "float32", (1, 6)), ("next", "int64", (1,)), ("best", "int64", (1, 6))],
        {"table": TABLE},
        lambda rng: {"token": rng.integers(0, 11, 1), "step": np.array(rng.integers(1, 9))},
        lambda f: {"row": TABLE[f["token"]], "next": f["token"] + f["step"], "best": np.zeros((1, 6), np.int64)},
    ),
    Case(
        "int32",
        [node("Mul", "x x", "y")],
        [("x", "int32", (7,))],
        [("y", "int32", (7,))],
        {},
        lambda rng: {"x": rng.integers(-1000, 1000, 7, dtype=np.int32)},
        lambda f: {"y": f["x"] * f["x"]},
    ),
    Case(
        "uint8_image",
        [
            node("Transpose", "image", "planes", perm=[2, 0, 1]),
            node("Cast", "planes", "float", to=onnx.TensorProto.FLOAT),
            node("Div", "float peak", "unit"),
        ],
        [("image", "uint8", (4, 5, 3))],
        [("planes", "uint8", (3, 4, 5)), ("unit", "float32", (3, 4, 5))],
        {"peak": np.array(255, np.float32)},
        lambda rng: {"image": rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)},
        lambda f: {"planes": f["image"].transpose(2, 0, 1), "unit": f["image"].transpose(2, 0, 1) / np.float32(255)},
    ),
    Case(
        "bool_mask",
        [node("Where", "mask a b", "y"), node("Not", "mask", "rest")],
        [("mask", "bool", (6,)), ("a", "float32", (6,)), ("b", "float32", (6,))],
        [("y", "float32", (6,)), ("rest", "bool", (6,))],
        {},
        lambda rng: {"mask": rng.random(6) < 0.5, "a": normal(rng, 6), "b": normal(rng, 6)},
        lambda f: {"y": np.where(f["mask"], f["a"], f["b"]), "rest": ~f["mask"]},
    ),
    Case(
        "scalar",
        [node("Mul", "x x", "y")],
        [("x", "float32", ())],
        [("y", "float32", ())],
        {},
        lambda rng: {"x": np.array(rng.standard_normal(), np.float32)},
        lambda f: {"y": np.array(f["x"] * f["x"])},
    ),
    Case(
        "float16",
        [node("Add", "x x", "y")],
        [("x", "float16", (2, 5))],
        [("y", "float16", (2, 5))],
        {},
        lambda rng: {"x": rng.standard_normal((2, 5)).astype(np.float16)},
        lambda f: {"y": f["x"] + f["x"]},
    ),
    Case(
        "int8_linear",
        [
            node("QuantizeLinear", "x scale zero", "x8"),
            node("DequantizeLinear", "x8 scale zero", "xq"),
            node("DequantizeLinear", "w8 scale zero", "w"),
            node("MatMul", "xq w", "y"),
        ],
        [("x", "float32", (2, 32))],
        [("y", "float32", (2, 8))],
        {"w8": W8, "scale": np.array(SCALE), "zero": np.array(0, np.int8)},
        lambda rng: {"x": 2 * normal(rng, 2, 32)},
        lambda f: {"y": quantised(f["x"], SCALE) @ (W8.astype(np.float32) * SCALE)},
    ),
    INT8_SHARED,
    KEYS,
    INT8_KEYS,
)
