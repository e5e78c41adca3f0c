"""INT8 graphs: integers all through, the fake-quant model's numbers, and rules that name what breaks them."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from small_int8 import batches, calibrated_model, examples
from small_models import CONFIGS, random_model
from torch import Tensor, nn

import edgetrack
from edgetrack.bundle import find_model, read_bundle, shipped_models
from edgetrack_runtimes import Session, SessionOptions, open_session
from edgetrack_runtimes.onnxruntime_session import SCALE_AFTER_CLIP, constants_after_relu
from quantize.calibrate import calibrate
from quantize.export import ExportError, Int8, _proof, _to_onnx, export_bundle, write_sharing_weights
from quantize.fake import QuantAttend, freeze
from quantize.graphs import GraphSpec, channels_last, seqtrack_graphs
from quantize.placement import float_products, place, quantised_layers
from quantize.proof import executed
from quantize.qdq import QdqError, check_found, check_qdq, check_tensorrt, fold
from train.models.attention import Attend
from train.models.seqtrack import SeqTrack
from train.objective import normalised

BACKENDS = ("onnxruntime-cpu", "openvino-cpu")


@pytest.fixture(scope="module", params=["isolated", "backbone"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[SeqTrack, Path]:
    """A frozen fake-quant model and the bundle with both variants."""
    kind = request.param
    int8 = calibrated_model(kind)
    freeze(int8)
    out = tmp_path_factory.mktemp(kind) / "model"
    variant = Int8(int8, {"method": "percentile"}, batches(kind)[2:])
    export_bundle(random_model(kind), out, name="small", metadata={}, int8=variant)
    return int8, out


def graph_path(bundle: Path, name: str) -> Path:
    return bundle / "int8" / f"{name}.onnx"


def folded(kind: str, graph: str) -> tuple[SeqTrack, onnx.ModelProto]:
    model = calibrated_model(kind)
    freeze(model)
    proto = _to_onnx(seqtrack_graphs(model, torch.Generator().manual_seed(0))[graph])
    fold(proto)
    return model, proto


def products(model: SeqTrack) -> int:
    """How many of a model's layers `track` runs in integers, counted by hand: the decoder steps four times.

    START goes into the first step whatever the picture: the first layer's products are constants up to the
    cross-attention's query, that is self_q, self_k, self_v, self_out and cross_q.
    """
    layers = [name for name in quantised_layers(model) if name != "decoder.embedding"]  # a look-up, no product
    per_step = [n for n in layers if n.startswith("decoder.") and not n.endswith(("cross_k", "cross_v", "bottleneck"))]
    return len(layers) - len(per_step) + 4 * len(per_step) - 5


def test_every_rounded_layer_is_executed_in_integers(built: tuple[SeqTrack, Path]) -> None:
    model, bundle = built
    for backend in BACKENDS:
        found = executed(backend, graph_path(bundle, "track"))
        assert sum(found.integer.values()) == products(model), (backend, found)
    # A decoder layer has six products for each token, after the memory's two; the vocabulary has three.
    assert executed("openvino-cpu", graph_path(bundle, "decode_step")).integer == {"FullyConnected": 2 * 8 + 3}
    proof = json.loads((bundle / "manifest.json").read_text())["accuracy"]["int8"]
    assert sum(proof["runtimes"]["onnxruntime-cpu"]["executed"]["track"]["integer"].values()) == products(model)


def test_a_joint_model_is_executed_in_integers_too(tmp_path: Path) -> None:
    model, proto = folded("joint", "track")
    check_tensorrt(proto)
    write_sharing_weights({"track": proto}, tmp_path / "int8", {})
    for backend in BACKENDS:
        assert sum(executed(backend, tmp_path / "int8" / "track.onnx").integer.values()) == products(model)


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_are_the_fake_quant_models(built: tuple[SeqTrack, Path], backend: str) -> None:
    model, bundle = built
    with torch.no_grad():
        for graph, spec in seqtrack_graphs(model, torch.Generator().manual_seed(5)).items():
            with open_session(backend, graph_path(bundle, graph), SessionOptions(threads=1)) as session:
                found = session.run({name: tensor.numpy() for name, tensor in spec.inputs.items()})
            expected = spec.module(*spec.inputs.values())
            for name, value in zip(spec.outputs, [expected] if torch.is_tensor(expected) else expected, strict=True):
                distance = np.linalg.norm(found[name] - value.numpy()) / np.linalg.norm(value.numpy())
                assert distance < 0.02, (graph, name)


@pytest.mark.parametrize("built", ["isolated"], indirect=True)
def test_a_graph_of_the_frame_that_computes_something_else_is_refused(
    built: tuple[SeqTrack, Path], tmp_path: Path
) -> None:
    model, bundle = built
    broken = tmp_path / "int8"
    shutil.copytree(bundle / "int8", broken)
    proto = onnx.load(broken / "track.onnx", load_external_data=False)
    rounded = {node.output[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    scales = {tensor.name: tensor for tensor in proto.graph.initializer if not tensor.dims and not tensor.external_data}
    for index, node in enumerate(proto.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] in rounded and node.input[1] in scales:
            node.input[1] = add(proto, f"wide{index}", 8 * numpy_helper.to_array(scales[node.input[1]]))
    onnx.save(proto, broken / "track.onnx")
    int8 = Int8(model, {}, batches("isolated")[2:])
    names = ("template", "encode", "decode_step", "track")
    _proof(random_model("isolated"), int8, {name: graph_path(bundle, name) for name in names})
    with pytest.raises(ExportError, match=r"int8 on \S+-cpu: track\.\w+ is .* at most .* is allowed"):
        _proof(random_model("isolated"), int8, {name: broken / f"{name}.onnx" for name in names})


def test_weights_are_stored_once_as_bytes(built: tuple[SeqTrack, Path]) -> None:
    model, bundle = built
    folders = {name: (bundle / name / "weights.bin").stat().st_size for name in ("fp32", "int8")}
    weights = sum(layer.weight.numel() for layer in quantised_layers(model).values())
    total = sum(parameter.numel() for name, parameter in model.named_parameters() if "log_scale" not in name)
    # A byte for what is rounded and four for the rest; scales, constants and alignment in small models weigh a lot.
    assert folders["int8"] < 1.35 * (weights + 4 * (total - weights))
    assert folders["int8"] < 0.6 * folders["fp32"]


def test_the_tracker_prefers_int8_on_a_cpu_and_tracks_with_it(built: tuple[SeqTrack, Path]) -> None:
    _, bundle = built
    frame = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    for backend in BACKENDS:
        tracker = edgetrack.Tracker(bundle, backend, threads=1)
        assert tracker.model.precision == "int8"
        tracker.init(frame, [40.0, 30.0, 20.0, 24.0])
        assert np.isfinite(tracker.update(frame).box).all()


def test_the_proof_is_in_the_manifest(built: tuple[SeqTrack, Path]) -> None:
    manifest = read_bundle(built[1]).manifest
    proof = manifest.accuracy["int8"]
    assert manifest.provenance["int8"] == {"method": "percentile"}
    assert proof["runtimes"].keys() == set(BACKENDS)
    for found in proof["runtimes"].values():
        assert max(found["difference"].values()) < 0.1
        assert found["choices_equal"] > 0.95
        assert found["overlap_with_fp32"]["mean"] == pytest.approx(
            proof["fake-quant"]["overlap_with_fp32"]["mean"], abs=0.02
        )


def test_constants_after_relu_are_replaced_without_changing_the_numbers(built: tuple[SeqTrack, Path]) -> None:
    """What the session computes is what ONNX Runtime makes of the file by itself, but with all convolutions integer."""
    model, bundle = built
    graph = graph_path(bundle, "template")
    convs = [name for name in quantised_layers(model) if "stem" in name]
    # EfficientNet-Lite0 has eleven blocks up to stride 16, two convolutions behind a ReLU6 in each; one is float.
    after_relu = 21 if model.config.backbone else len(model.config.stem_widths)
    replaced = constants_after_relu(graph).values()
    assert sum(value.dtype == np.int8 for value in replaced) == after_relu
    assert sum(value.dtype == np.float32 for value in replaced) == (after_relu if model.config.backbone else 0)
    feeds = {
        "templates": seqtrack_graphs(model, torch.Generator().manual_seed(5))["template"].inputs["templates"].numpy()
    }
    plain = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    with open_session("onnxruntime-cpu", graph, SessionOptions(threads=1)) as session:
        for name, value in session.run(feeds).items():
            expected = plain.run([name], feeds)[0]
            assert np.linalg.norm(value - expected) < 0.02 * np.linalg.norm(expected)
    assert executed("onnxruntime-cpu", graph).integer["QLinearConv"] == len(convs)


@pytest.mark.parametrize("name", shipped_models())
def test_what_ships_passes_the_checks_of_today(name: str) -> None:
    bundle = read_bundle(find_model(name))
    for graph in bundle.manifest.variants["int8"].graphs.values():
        proto = onnx.load(bundle.root / graph.file)
        assert check_qdq(proto).integer.total() > 10
        check_tensorrt(proto)


def test_replaced_constants_live_as_long_as_their_session(
    built: tuple[SeqTrack, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime uses their memory and does not keep it."""
    alive: list[weakref.ref[np.ndarray]] = []

    def watched(graph: Path) -> dict[str, np.ndarray]:
        found = constants_after_relu(graph)
        alive.extend(map(weakref.ref, found.values()))
        return found

    monkeypatch.setattr("edgetrack_runtimes.onnxruntime_session.constants_after_relu", watched)
    session = open_session("onnxruntime-cpu", graph_path(built[1], "template"), SessionOptions(threads=1))
    gc.collect()
    assert alive
    assert all(constant() is not None for constant in alive)
    session.close()
    del session
    gc.collect()
    assert not any(constant() is not None for constant in alive)


PICTURES = {
    "noise": lambda rng, shape: rng.standard_normal(shape),
    "zeros": lambda rng, shape: np.zeros(shape),
    "one value": lambda rng, shape: np.full(shape, rng.choice([-1.0, 1.0])),
    "two values": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "one pixel": lambda rng, shape: np.eye(1, np.prod(shape), int(rng.integers(np.prod(shape)))).reshape(shape),
}


@given(
    seed=st.integers(0, 2**32 - 1),
    picture=st.sampled_from(sorted(PICTURES)),
    size=st.sampled_from([1e-30, 1.0, 1e4, 1e30]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_input_makes_an_answer_that_is_not_finite(
    built: tuple[SeqTrack, Path], seed: int, picture: str, size: float
) -> None:
    """Of the frame's graph and, as that has no logits, of a decoder's step."""
    rng = np.random.default_rng(seed)
    for backend in BACKENDS:
        for graph in ("track", "decode_step"):
            session = opened(backend, graph_path(built[1], graph))
            fixed = {"window": 1, "token": 0, "position": 0}
            feeds = {
                name: np.full(t.shape, fixed[name], t.dtype)
                if name in fixed
                else (PICTURES[picture](rng, t.shape) * size).astype(t.dtype)
                for name, t in session.inputs.items()
            }
            assert all(np.isfinite(value).all() for value in session.run(feeds).values()), graph


@cache
def opened(backend: str, graph: Path) -> Session:
    return open_session(backend, graph, SessionOptions(threads=1))


@pytest.mark.parametrize("kind", CONFIGS)
def test_attention_products_at_256_tokens_are_integers(kind: str, tmp_path: Path) -> None:
    """On both runtimes, where they answer like the fake-quant model."""
    config = replace(CONFIGS[kind], search_size=256, templates=1, encoder_depth=1)
    torch.manual_seed(0)
    model = place(SeqTrack(config).eval())
    pair = examples(config)[0]
    calibrate(model, [pair], "mse")
    freeze(model)
    specs = seqtrack_graphs(model, torch.Generator().manual_seed(0))
    proto = _to_onnx(specs["encode"])
    fold(proto)
    layers = check_qdq(proto, float_products(model))
    check_tensorrt(proto)
    assert layers.integer["encoder.blocks.0.attn.attend"] == 2
    write_sharing_weights({"encode": proto}, tmp_path / "int8", {})
    with torch.no_grad():
        state = specs["template"].module(channels_last(normalised(pair.templates[0])))
        inputs = [channels_last(normalised(pair.search[:1])), *([state] if torch.is_tensor(state) else state)]
        expected = specs["encode"].module(*inputs)
    feeds = {name: value.numpy() for name, value in zip(specs["encode"].inputs, inputs, strict=True)}
    for backend in BACKENDS:
        integer, floating = executed(backend, tmp_path / "int8" / "encode.onnx")
        assert sum(integer.values()) == sum(layers.integer.values()), backend
        # A stem's first convolution, and the first depth-wise one.
        expected_floating = 2 if config.backbone else bool(config.stem_widths)
        assert sum(floating.values()) == expected_floating, floating
        with open_session(backend, tmp_path / "int8" / "encode.onnx", SessionOptions(threads=1)) as session:
            found = session.run(feeds)
        for name, value in zip(specs["encode"].outputs, expected, strict=True):
            assert np.linalg.norm(found[name] - value.numpy()) < 0.02 * np.linalg.norm(value.numpy()), (backend, name)


@pytest.mark.parametrize(
    ("floor", "scale", "read", "left"),
    [
        (0.0, 6 / 127, "y", []),
        (0.0, np.nextafter(np.float32(6 / 127), np.float32(1)), "y", []),
        (0.0, 2.5 / 127, "y", []),  # a range that calibration saw no more of
        (0.0, 6.1 / 127, "y", ["Clip"]),  # the ceiling, not the range, cuts
        (0.0, 6 / 127, "cut", ["Clip"]),  # what is not rounded is read, too
        (-1.0, 6 / 127, "y", ["Clip"]),
    ],
)
def test_a_relu6_is_a_relu_where_the_integers_end_at_its_ceiling(
    floor: float, scale: float, read: str, left: list[str]
) -> None:
    """Of TensorRT: see `check_tensorrt`. What is computed stays the same, by ONNX's own evaluator."""
    values = np.concatenate([np.linspace(-8, 8, 4097), [-1e6, 1e6, 5.9999995, 6.0000005]]).astype(np.float32)
    constants = {"floor": floor, "ceiling": 6.0, "scale": scale}
    proto = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Clip", ["x", "floor", "ceiling"], ["cut"]),
                helper.make_node("QuantizeLinear", ["cut", "scale", "zero"], ["integers"]),
                helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["y"]),
                helper.make_node("Add", ["y", read], ["sum"]),
            ],
            "relu6",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, values.shape)],
            [helper.make_tensor_value_info("sum", onnx.TensorProto.FLOAT, values.shape)],
            [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
            + [numpy_helper.from_array(np.array(0, np.int8), "zero")],
        ),
        opset_imports=[helper.make_opsetid("", 19)],
    )
    before = ReferenceEvaluator(proto).run(None, {"x": values})[0]
    fold(proto)
    assert [node.op_type for node in proto.graph.node if node.op_type in ("Clip", "Relu")] == (left or ["Relu"])
    np.testing.assert_array_equal(ReferenceEvaluator(proto).run(None, {"x": values})[0], before)


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = QuantAttend(Attend(), shares=False)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attend(q, k, v)


def test_a_product_of_two_may_be_float_where_the_layer_says_so() -> None:
    module = Attending()
    freeze(module)
    proto = _to_onnx(GraphSpec(module, {name: torch.randn(1, 1, 4, 4) for name in "qkv"}, ("y",)))
    fold(proto)
    layers = check_qdq(proto)
    assert layers.integer == layers.floating == {"attend": 1}
    check_qdq(proto, float_products(module))
    with pytest.raises(QdqError, match="attend: computed in float"):
        check_qdq(proto, {"attend": 0})


def test_a_layer_kept_in_float_stays_in_float() -> None:
    model = calibrated_model("isolated", keep_float=("encoder.blocks.0.fc1",))
    freeze(model)
    proto = _to_onnx(seqtrack_graphs(model, torch.Generator().manual_seed(0))["encode"])
    fold(proto)
    layers = check_qdq(proto, float_products(model))
    assert layers.floating["encoder.blocks.0.fc1"] == 1
    with pytest.raises(QdqError, match=r"encoder\.blocks\.0\.fc1: computed in float"):
        check_qdq(proto, {"encoder.blocks.0.fc1": 0})


def stem_layers() -> list[tuple[str, str]]:
    """The convolutions that can be left in float, one block of each shape of a backbone's."""
    found = [("isolated", name) for name in quantised_layers(place(random_model("isolated"))) if ".stem." in name]
    blocks = ("features.blocks.0.", "features.blocks.1.", "features.blocks.2.expand", "stem.proj")
    backbone = quantised_layers(place(random_model("backbone")))
    return found + [("backbone", name) for name in backbone if any(f"{block}" in name for block in blocks)]


@pytest.mark.parametrize(("kind", "name"), stem_layers())
def test_any_convolution_may_be_kept_in_float(kind: str, name: str, tmp_path: Path) -> None:
    """What is around it stays in integers, and the runtimes compute what the fake-quant model does."""
    model = calibrated_model(kind, keep_float=(name,))
    assert quantised_layers(place(random_model(kind))).keys() - quantised_layers(model).keys() == {name}
    freeze(model)
    spec = seqtrack_graphs(model, torch.Generator().manual_seed(0))["template"]
    proto = _to_onnx(spec)
    fold(proto)
    layers = check_qdq(proto, float_products(model))
    check_tensorrt(proto)
    assert layers.floating[name] == 1
    assert all(layers.integer[other] for other in quantised_layers(model) if ".stem." in other)
    write_sharing_weights({"template": proto}, tmp_path / "int8", {})
    with torch.no_grad():
        expected = spec.module(*spec.inputs.values())
    for backend in BACKENDS:
        with open_session(backend, tmp_path / "int8" / "template.onnx", SessionOptions(threads=1)) as session:
            found = session.run({key: value.numpy() for key, value in spec.inputs.items()})
        for key, value in zip(spec.outputs, [expected] if torch.is_tensor(expected) else expected, strict=True):
            assert np.linalg.norm(found[key] - value.numpy()) < 0.02 * np.linalg.norm(value.numpy()), (backend, key)


@pytest.mark.parametrize("size", [0.0, 1e-20, 1e-9])
@pytest.mark.parametrize(
    ("kind", "layer", "bias"),
    [
        ("isolated", "encoder.stem.convs.1", 0.3),
        # Behind a ReLU6, where ONNX Runtime counts in steps half as large.
        ("backbone", "encoder.stem.features.blocks.9.project", 1.0),
        ("backbone", "encoder.stem.features.blocks.9.depthwise", 2.0),
    ],
)
def test_the_bias_of_a_filter_of_next_to_nothing_is_added_on_every_runtime(
    kind: str, layer: str, bias: float, size: float, tmp_path: Path
) -> None:
    """In units of its weights it would be beyond 32 bits, in which ONNX Runtime adds it."""
    model = random_model(kind)
    convolution = model.get_submodule(layer)
    with torch.no_grad():
        convolution.weight[::2] *= size
        convolution.bias += bias
    model = place(model)
    calibrate(model, batches(kind)[:2], "mse")
    wanted = {}
    spec = seqtrack_graphs(model, torch.Generator().manual_seed(0))["template"]
    for frozen in (False, True):
        if frozen:
            freeze(model)
        with torch.no_grad():
            wanted[frozen] = spec.module(*spec.inputs.values())[0].numpy()
    assert np.linalg.norm(wanted[True] - wanted[False]) < 0.02 * np.linalg.norm(wanted[False])
    proto = _to_onnx(spec)
    fold(proto)
    check_qdq(proto)
    write_sharing_weights({"template": proto}, tmp_path / "int8", {})
    for backend in BACKENDS:
        with open_session(backend, tmp_path / "int8" / "template.onnx", SessionOptions(threads=1)) as session:
            found = session.run({key: value.numpy() for key, value in spec.inputs.items()})[spec.outputs[0]]
        assert np.linalg.norm(found - wanted[True]) < 0.05 * np.linalg.norm(wanted[True]), backend


def test_a_layer_that_no_graph_names_is_missed() -> None:
    model, proto = folded("isolated", "encode")
    layers = [check_qdq(proto)]
    check_found(layers, [name for name in quantised_layers(model) if ".blocks.0." in name])
    with pytest.raises(QdqError, match=r"decoder\.head\.0, no\.such: in no graph by these names"):
        check_found(layers, ["encoder.blocks.0.fc1", "decoder.head.0", "no.such"])


def first(proto: onnx.ModelProto, op: str) -> onnx.NodeProto:
    return next(node for node in proto.graph.node if node.op_type == op)


def add(proto: onnx.ModelProto, name: str, value: np.ndarray) -> str:
    proto.graph.initializer.append(numpy_helper.from_array(value, name))
    return name


def zero_point_of_one(proto: onnx.ModelProto) -> None:
    first(proto, "QuantizeLinear").input[2] = add(proto, "one", np.array(1, np.int8))


def unsigned(proto: onnx.ModelProto) -> None:
    first(proto, "QuantizeLinear").input[2] = add(proto, "unsigned", np.array(0, np.uint8))


def negative_scale(proto: onnx.ModelProto) -> None:
    first(proto, "QuantizeLinear").input[1] = add(proto, "negative", np.array(-1, np.float32))


def zero_scale(proto: onnx.ModelProto) -> None:
    first(proto, "QuantizeLinear").input[1] = add(proto, "nothing", np.array(0.0, np.float32))


def endless_scale(proto: onnx.ModelProto) -> None:
    first(proto, "QuantizeLinear").input[1] = add(proto, "endless", np.array(np.inf, np.float32))


def scales_by_channel(proto: onnx.ModelProto) -> None:
    first(proto, "QuantizeLinear").input[1] = add(proto, "several", np.ones(8, np.float32))


def half_a_product(proto: onnx.ModelProto) -> None:
    product = first(proto, "MatMul")
    weight = next(node for node in proto.graph.node if product.input[1] in node.output)
    shape = next(t.dims for t in proto.graph.initializer if t.name == weight.input[0])
    product.input[1] = add(proto, "float", np.zeros(shape, np.float32))


def vector_bias(proto: onnx.ModelProto) -> None:
    row = next(t for t in proto.graph.initializer if t.name.endswith(".row"))
    flat = numpy_helper.to_array(row).reshape(-1)
    proto.graph.initializer.remove(row)
    add(proto, row.name, flat)


def other_axis(proto: onnx.ModelProto) -> None:
    product = first(proto, "MatMul")
    weight = next(node for node in proto.graph.node if product.input[1] in node.output)
    weight.attribute[0].i = 0


def heavy_pair(proto: onnx.ModelProto) -> None:
    product = first(proto, "MatMul")
    weight = next(node for node in proto.graph.node if product.input[1] in node.output)
    integers = next(tensor for tensor in proto.graph.initializer if tensor.name == weight.input[0])
    heavier = numpy_helper.to_array(integers).copy()
    heavier[2:4, 0] = [-65, -64]
    weight.input[0] = add(proto, "heavier", heavier)


def double(proto: onnx.ModelProto) -> None:
    add(proto, "double", np.zeros(3))


def foreign(proto: onnx.ModelProto) -> None:
    first(proto, "Softmax").domain = "com.microsoft"


def cast(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(
        helper.make_node("Cast", [proto.graph.input[0].name], ["wide"], name="widen", to=onnx.TensorProto.DOUBLE)
    )


def any_size(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "tokens"


def double_output(proto: onnx.ModelProto) -> None:
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


def gemm(proto: onnx.ModelProto) -> None:
    weight = add(proto, "plain", np.eye(32, dtype=np.float32))
    proto.graph.node.append(helper.make_node("Gemm", [proto.graph.input[0].name, weight], ["product"], name="linear"))


def float_weight(proto: onnx.ModelProto) -> None:
    first(proto, "QuantizeLinear").input[0] = add(proto, "plain", np.ones((4, 4), np.float32))


def other_scale(proto: onnx.ModelProto) -> None:
    quantize = first(proto, "QuantizeLinear")
    dequantize = next(node for node in proto.graph.node if node.input and node.input[0] == quantize.output[0])
    dequantize.input[1] = add(proto, "other", np.array(0.5, np.float32))


def nothing_quantised(proto: onnx.ModelProto) -> None:
    quantize = first(proto, "QuantizeLinear")
    dequantize = next(node for node in proto.graph.node if node.input and node.input[0] == quantize.output[0])
    dequantize.input[0] = proto.graph.input[0].name


def clipped(proto: onnx.ModelProto) -> None:
    quantize = first(proto, "QuantizeLinear")
    bounds = [add(proto, name, np.array(value, np.float32)) for name, value in (("floor", 0), ("ceiling", 6))]
    proto.graph.node.append(helper.make_node("Clip", [quantize.input[0], *bounds], ["cut"], name="relu6"))
    quantize.input[0] = "cut"


def clipped_and_moved(proto: onnx.ModelProto) -> None:
    clipped(proto)
    quantize = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "cut")
    proto.graph.node.append(helper.make_node("Transpose", ["cut"], ["turned"]))
    quantize.input[0] = "turned"


def wide_constant(proto: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.array(3.14), "value")
    proto.graph.node.append(helper.make_node("Constant", [], ["wide"], name="pi", value=value))


def unsigned_fill(proto: onnx.ModelProto) -> None:
    shape = add(proto, "shape", np.array([2], np.int64))
    value = numpy_helper.from_array(np.array([1], np.uint8), "value")
    proto.graph.node.append(helper.make_node("ConstantOfShape", [shape], ["filled"], name="fill", value=value))


def huge_bias(proto: onnx.ModelProto) -> None:
    """Of a convolution by a filter of 1 in steps of 1, on an image in steps of 1."""
    constants = [add(proto, "one", np.array(1, np.float32)), add(proto, "zero", np.array(0, np.int8))]
    weight = add(proto, "filter", np.ones((1, 1, 1, 1), np.int8))
    ones = [add(proto, "ones", np.ones(1, np.float32)), add(proto, "zeros", np.zeros(1, np.int8))]
    bias = add(proto, "heavy", np.array([2.0**32], np.float32))
    proto.graph.input.append(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 1, 2, 2)))
    proto.graph.node.extend(
        [
            helper.make_node("QuantizeLinear", ["image", *constants], ["image8"]),
            helper.make_node("DequantizeLinear", ["image8", *constants], ["image32"]),
            helper.make_node("DequantizeLinear", [weight, *ones], ["filter32"], axis=0),
            helper.make_node("Conv", ["image32", "filter32", bias], ["added"], name="widened"),
            helper.make_node("QuantizeLinear", ["added", *constants], ["added8"]),
            helper.make_node("DequantizeLinear", ["added8", *constants], ["added32"]),
        ]
    )


def huge_bias_behind_relu6(proto: onnx.ModelProto) -> None:
    """Half as large, on an image in what ONNX Runtime is given steps half as large for."""
    huge_bias(proto)
    for tensor in proto.graph.initializer:
        if tensor.name == "heavy":
            tensor.CopyFrom(numpy_helper.from_array(np.array([2.0**30 * 1.01], np.float32), "heavy"))
        if tensor.name == "one":
            tensor.name = f"{SCALE_AFTER_CLIP}<0:1.0>"
    for node in proto.graph.node:
        node.input[:] = [f"{SCALE_AFTER_CLIP}<0:1.0>" if value == "one" else value for value in node.input]


def unknown(proto: onnx.ModelProto) -> None:
    first(proto, "Softmax").op_type = "Hardmax"


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (zero_point_of_one, r"attn\.qkv.*zero point is 1; expected the constant int8 0"),
        (unsigned, r"zero point is 0; expected the constant int8 0"),
        (negative_scale, r"scale is -1\.0; expected positive"),
        (zero_scale, r"scale is 0\.0; expected positive"),
        (endless_scale, r"scale is inf; expected positive"),
        (scales_by_channel, r"an activation with 8 scales; expected one"),
        (half_a_product, r"encoder\.blocks\.0\.attn\.qkv \(MatMul\): one operand is float"),
        (vector_bias, r"the bias is a vector"),
        (other_axis, r"encoder\.blocks\.0\.attn\.qkv\S* .*scales along axis 0 feeds MatMul"),
        (heavy_pair, r"encoder\.blocks\.0\.attn\.qkv\S* .*add up to 129; expected 128 at most"),
        (gemm, r"linear: is a Gemm, which ONNX Runtime computes in float"),
        (float_weight, r"quantises the constant plain; expected it stored as int8"),
        (other_scale, r"QuantizeLinear\): feeds DequantizeLinear; expected DequantizeLinear with the same scale"),
        (nothing_quantised, r"DequantizeLinear\): reads \S+; expected a QuantizeLinear or an int8 constant"),
        (double, r"double: is DOUBLE, which TensorRT has not"),
        (foreign, r"encoder\.blocks\.0\.attn\.attend: TensorRT has no operator com\.microsoft::Softmax"),
        (cast, r"widen: is DOUBLE, which TensorRT has not"),
        (any_size, r"expected fixed sizes and one of TensorRT's types"),
        (double_output, r"expected fixed sizes and one of TensorRT's types"),
        (wide_constant, r"pi: is DOUBLE, which TensorRT has not"),
        (unsigned_fill, r"fill: is UINT8, which TensorRT has not"),
        (huge_bias, r"widened \(Conv\): a bias is 4\.3e\+09 steps"),
        (huge_bias_behind_relu6, r"widened \(Conv\): a bias is 2\.2e\+09 steps"),
        (clipped_and_moved, r"relu6: is a Clip in front of a QuantizeLinear, which TensorRT 8\.6 moves"),
        (clipped, r"relu6: is a Clip in front of a QuantizeLinear, which TensorRT 8\.6 moves"),
        (unknown, r"encoder\.blocks\.0\.attn\.attend: TensorRT has no operator ai\.onnx::Hardmax"),
    ],
)
def test_a_graph_that_breaks_a_rule_is_refused_by_name(
    plain_encode: bytes, mutate: Callable[[onnx.ModelProto], None], message: str
) -> None:
    proto = onnx.ModelProto.FromString(plain_encode)
    check_qdq(proto)
    check_tensorrt(proto)
    mutate(proto)
    check = check_tensorrt if "TensorRT" in message else check_qdq
    with pytest.raises(QdqError, match=message):
        check(proto)


def test_a_float_operation_behind_a_convolution_or_its_relu_is_refused() -> None:
    _, proto = folded("isolated", "template")
    check_qdq(proto)
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    conv = next(node for node in proto.graph.node if node.op_type == "Conv" and node.input[0] in dequantized)
    relu = next(node for node in proto.graph.node if conv.output[0] in node.input)
    assert relu.op_type == "Relu"
    for behind, operator in ((conv, "Abs"), (relu, "Relu")):
        broken = onnx.ModelProto.FromString(proto.SerializeToString())
        for node in broken.graph.node:
            node.input[:] = ["away" if name == behind.output[0] else name for name in node.input]
        at = list(proto.graph.node).index(behind) + 1
        broken.graph.node.insert(at, helper.make_node("Abs", [behind.output[0]], ["away"]))
        with pytest.raises(
            QdqError, match=rf"stem\.convs\.1 \(Conv\): puts out to {operator}; expected QuantizeLinear"
        ):
            check_qdq(broken)


def test_a_table_whose_scales_are_not_its_rows_is_refused() -> None:
    _, proto = folded("isolated", "decode_step")
    gather = next(n for n in proto.graph.node if n.op_type == "Gather" and n.input[0].endswith("weight"))
    table = next(node for node in proto.graph.node if gather.input[0] in node.output)
    check_qdq(proto)
    table.attribute[0].i = 1
    with pytest.raises(QdqError, match=r"decoder\.embedding.*scales along axis 1 feeds Gather"):
        check_qdq(proto)


@pytest.fixture(scope="module")
def plain_encode() -> bytes:
    """A joint model's encode graph without its stem, so that the first node of a kind is a block's."""
    _, proto = folded("joint", "encode")
    stem = [node for node in proto.graph.node if node.op_type == "Conv"]
    start = next(i for i, node in enumerate(proto.graph.node) if node.op_type == "LayerNormalization")
    value = proto.graph.node[start].input[0]
    del proto.graph.node[:start]
    assert stem
    config = CONFIGS["joint"]
    tokens = config.search_tokens + config.templates * config.template_tokens
    del proto.graph.input[:]
    proto.graph.input.append(helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, [1, tokens, 32]))
    return proto.SerializeToString()
