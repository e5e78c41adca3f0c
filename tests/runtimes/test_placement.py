"""No silent fallback: nodes that would run elsewhere are found, named and refused."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_graphs import LINEAR, node, normal, save_graph

from edgetrack_runtimes import SessionOptions, onnxruntime_session, open_session, openvino_session
from edgetrack_runtimes.errors import BackendError, GraphError, PlacementError
from edgetrack_runtimes.placement import PlacedNode, counted, require_placement

CUDA, CPU, TENSORRT = "CUDAExecutionProvider", "CPUExecutionProvider", "TensorrtExecutionProvider"


def record(*nodes: tuple[str, str]) -> list[PlacedNode]:
    return [PlacedNode(f"{op}_{index}", op, where) for index, (op, where) in enumerate(nodes)]


def test_nodes_are_counted_by_place() -> None:
    assert counted(record(("Add", CPU), ("MatMul", CUDA), ("MatMul", CUDA))) == {CUDA: 2, CPU: 1}


def test_a_graph_in_one_place_passes() -> None:
    require_placement(record(("MatMul", CUDA), ("Add", CUDA)), CUDA, graph="g.onnx", backend="onnxruntime-cuda")


@pytest.mark.parametrize("op", ["Shape", "Size", "Constant", "MemcpyToHost", "MemcpyFromHost"])
def test_bookkeeping_may_stay_on_the_host(op: str) -> None:
    require_placement(record(("MatMul", CUDA), (op, CPU)), CUDA, graph="g.onnx", backend="onnxruntime-cuda")


@pytest.mark.parametrize("op", ["MatMul", "Gather", "Cast", "Concat", "ArgMax"])
def test_a_node_that_computes_may_not(op: str) -> None:
    with pytest.raises(PlacementError) as caught:
        require_placement(record(("MatMul", CUDA), (op, CPU)), CUDA, graph="g.onnx", backend="onnxruntime-cuda")
    assert str(caught.value).startswith("g.onnx: onnxruntime-cuda was asked for, but 1 of 2 nodes")
    assert f"{op} '{op}_1' on {CPU}" in str(caught.value)
    assert "allow_fallback=True" in str(caught.value)


def test_cuda_is_not_tensorrt() -> None:
    with pytest.raises(PlacementError, match=f"Add 'Add_1' on {CUDA}"):
        require_placement(
            record(("MatMul", TENSORRT), ("Add", CUDA)), TENSORRT, graph="g.onnx", backend="onnxruntime-tensorrt"
        )


def test_a_long_list_is_cut_short() -> None:
    with pytest.raises(PlacementError, match=r"30 of 30 nodes .*Add_7' on .* and 22 more"):
        require_placement(record(*[("Add", CPU)] * 30), CUDA, graph="g.onnx", backend="onnxruntime-cuda")


# --- ONNX Runtime, whose record is read from real sessions


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend whose provider loads and takes no node: Azure's, in the CPU wheel, takes its own operators only."""
    ort = pytest.importorskip("onnxruntime")
    provider = "AzureExecutionProvider"
    if provider not in ort.get_available_providers():
        pytest.skip(f"this onnxruntime has no {provider}")
    monkeypatch.setitem(onnxruntime_session.PROVIDERS, "onnxruntime-azure", provider)
    return "onnxruntime-azure"


def test_onnxruntime_is_not_believed_but_asked(elsewhere: str, tmp_path: Path) -> None:
    with pytest.raises(PlacementError) as caught:
        onnxruntime_session.open_session(elsewhere, LINEAR.save(tmp_path), SessionOptions(threads=1))
    message = str(caught.value)
    assert "linear.onnx: onnxruntime-azure was asked for" in message
    assert "2 of 2 nodes would not run on AzureExecutionProvider: " in message
    assert f"Relu 'Relu_y' on {CPU}" in message
    assert "Gemm '" in message  # the runtime's own node, made of MatMul and Add


def test_onnxruntime_may_spread_a_graph_if_allowed(elsewhere: str, tmp_path: Path) -> None:
    options = SessionOptions(threads=1, allow_fallback=True)
    session = onnxruntime_session.open_session(elsewhere, LINEAR.save(tmp_path), options)
    assert session.placement == {CPU: 2}
    feeds = {"x": np.ones((2, 256), np.float32)}
    np.testing.assert_allclose(session.run(feeds)["y"], LINEAR.expected(feeds)["y"], rtol=1e-4, atol=1e-4)


def test_without_a_record_the_profile_of_a_run_tells(
    elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxruntime.capi.onnxruntime_inference_collection import Session

    monkeypatch.delattr(Session, "get_provider_graph_assignment_info", raising=False)
    monkeypatch.chdir(tmp_path)  # a profile written to the working directory would show
    path = LINEAR.save(tmp_path)
    with pytest.raises(PlacementError, match=f"Relu 'Relu_[0-9y]+' on {CPU}"):
        onnxruntime_session.open_session(elsewhere, path, SessionOptions(threads=1))
    session = open_session("onnxruntime-cpu", path, SessionOptions(threads=1))
    assert set(session.placement) == {CPU}
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_profile_needs_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    from onnxruntime.capi.onnxruntime_inference_collection import Session

    path = LINEAR.save(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    if hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        open_session("onnxruntime-cpu", path, SessionOptions(threads=1)).close()
    monkeypatch.delattr(Session, "get_provider_graph_assignment_info", raising=False)
    with pytest.raises(BackendError, match=r"onnxruntime-cpu: no folder for the profile .*No such file.*TMPDIR"):
        open_session("onnxruntime-cpu", path, SessionOptions(threads=1))


def test_record_and_profile_agree(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip("this onnxruntime keeps no record")
    config = ort.SessionOptions()
    config.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # fused nodes are named anew
    config.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    config.enable_profiling = True
    config.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(str(LINEAR.save(tmp_path)), config, providers=[CPU])
    recorded = onnxruntime_session.assigned_nodes(session)
    inputs = {spec.name: spec for spec in open_session("onnxruntime-cpu", LINEAR.save(tmp_path)).inputs.values()}
    assert Counter(recorded) == Counter(onnxruntime_session.profiled_nodes(session, inputs))
    assert {item.op for item in recorded} == {"MatMul", "Add", "Relu"}


# --- OpenVINO, with a second device that is played by the CPU


class TwoDevices:
    """A core with a GPU that does not take Relu, and whose HETERO works; all of it computed on the CPU."""

    def __init__(self, core: object, *, refuses: str = "Relu") -> None:
        self.core = core
        self.refuses = refuses
        self.compiled_for: list[str] = []

    def compile_model(self, model: object, device: str, settings: dict) -> object:
        self.compiled_for.append(device)
        if device == "GPU" and any(item.get_type_name() == self.refuses for item in model.get_ops()):
            raise RuntimeError(f"trace of sources\n{self.refuses} is not supported\n")
        return self.core.compile_model(model, "CPU", settings)

    def query_model(self, model: object, device: str) -> dict[str, str]:
        other = {"CPU": "CPU", "GPU": None, "HETERO:GPU,CPU": "CPU"}[device]
        places = {
            item.get_friendly_name(): other if item.get_type_name() == self.refuses else "GPU.0"
            for item in model.get_ops()
        }
        return {name: place for name, place in places.items() if place}


@pytest.fixture
def linear(tmp_path: Path) -> SimpleNamespace:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    path = LINEAR.save(tmp_path)
    return SimpleNamespace(core=core, model=core.read_model(str(path)), path=path)


def compiled(linear: SimpleNamespace, core: object, *, allow_fallback: bool) -> tuple:
    return openvino_session.compiled_model(core, linear.model, "GPU", {}, linear.path, "openvino-gpu", allow_fallback)


def test_openvino_names_what_a_device_does_not_take(linear: SimpleNamespace) -> None:
    with pytest.raises(PlacementError, match=r"linear\.onnx: openvino-gpu .* 1 of 3 nodes .* Relu 'y' on no device"):
        compiled(linear, TwoDevices(linear.core), allow_fallback=False)


def test_openvino_may_spread_a_graph_if_allowed(linear: SimpleNamespace) -> None:
    core = TwoDevices(linear.core)
    model, nodes = compiled(linear, core, allow_fallback=True)
    assert core.compiled_for == ["GPU", "HETERO:GPU,CPU"]
    assert counted(nodes) == {"GPU": 2, "CPU": 1}
    x = normal(np.random.default_rng(0), 2, 256)
    np.testing.assert_allclose(model(x)["sum"], LINEAR.expected({"x": x})["sum"], rtol=2e-2, atol=0.5)  # bf16 default


def test_openvino_failing_for_another_reason_is_not_called_placement(linear: SimpleNamespace) -> None:
    core = TwoDevices(linear.core)
    core.query_model = lambda model, device: {item.get_friendly_name(): "GPU" for item in model.get_ops()}
    with pytest.raises(GraphError, match=r"linear\.onnx: OpenVINO cannot compile it for GPU: Relu is not supported$"):
        compiled(linear, core, allow_fallback=True)


def test_openvino_running_on_another_device_is_noticed(linear: SimpleNamespace) -> None:
    core = TwoDevices(linear.core, refuses="nothing")  # compiles for the GPU, and executes on the CPU
    with pytest.raises(PlacementError, match=r"openvino-gpu was asked for, .* would not run on GPU: .* on CPU"):
        compiled(linear, core, allow_fallback=False)


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_graph_without_nodes_has_no_strays(backend: str, tmp_path: Path) -> None:
    pytest.importorskip(backend.removesuffix("-cpu"))
    value = ("x", "float32", (2,))
    path = save_graph(tmp_path / "through.onnx", [], [value], [value], {})
    assert sum(open_session(backend, path).placement.values()) == 0


def test_shapes_of_fixed_tensors_are_folded_before_nodes_are_placed(tmp_path: Path) -> None:
    """Why arithmetic on shapes need not be excused: none of it is left."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape first", "rows", axis=0),
        node("Concat", "rows rest", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    constants = {"first": np.array([0]), "rest": np.array([-1])}
    path = save_graph(
        tmp_path / "shapes.onnx", nodes, [("x", "float32", (2, 3, 4))], [("y", "float32", (2, 12))], constants
    )
    assert open_session("onnxruntime-cpu", path).placement == {CPU: 1}
