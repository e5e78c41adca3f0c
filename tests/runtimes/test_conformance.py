"""What every backend must do, the same for all: run on each one that works on this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from small_graphs import ALIASES, CASES, LINEAR, TWO_INPUTS, Case, node, normal, save_graph, with_sidecar

from edgetrack_runtimes import BACKENDS, Session, SessionOptions, TensorSpec, discover, open_session
from edgetrack_runtimes.errors import BackendError, BackendUnavailableError, GraphError, SessionClosedError, TensorError

AVAILABLE = [status.backend for status in discover() if status.available]
ABSENT = [backend for backend in BACKENDS if backend not in AVAILABLE]
OPTIONS = SessionOptions(threads=1)


@pytest.fixture(params=AVAILABLE)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def opened(backend: str, tmp_path: Path) -> Callable[[Case], Session]:
    """Opens a case on the backend under test."""
    return lambda case: open_session(backend, case.save(tmp_path), OPTIONS)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def each_case(test: Callable) -> Callable:
    return pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)(test)


# --- what it computes


@each_case
def test_outputs_are_those_of_numpy(opened: Callable, case: Case, rng: np.random.Generator) -> None:
    feeds = case.inputs(rng)
    outputs = opened(case).run(feeds)
    expected = case.expected(feeds)
    assert list(outputs) == list(expected)
    for name, value in outputs.items():
        assert (value.dtype, value.shape) == (expected[name].dtype, expected[name].shape)
        assert_allclose(value, expected[name], rtol=1e-4, atol=1e-4)


@each_case
def test_specs_are_those_of_the_graph(opened: Callable, case: Case) -> None:
    session = opened(case)
    assert dict(session.inputs) == {name: TensorSpec(name, shape, dtype) for name, dtype, shape in case.input_values}
    assert dict(session.outputs) == {name: TensorSpec(name, shape, dtype) for name, dtype, shape in case.output_values}


def test_a_session_says_what_it_runs_on(opened: Callable, backend: str) -> None:
    session = opened(LINEAR)
    (where,) = session.placement
    assert session.backend == backend
    assert session.placement[where] >= 1
    assert where.lower().removesuffix("executionprovider") == backend.split("-")[1]
    assert session.runtime_version[0].isdigit()


def test_nan_passes_and_stays_in_its_row(opened: Callable, rng: np.random.Generator) -> None:
    x = normal(rng, 2, 256)
    x[0, 17] = np.nan
    total = opened(LINEAR).run({"x": x})["sum"]
    assert np.isnan(total[0]).all()
    assert np.isfinite(total[1]).all()


@pytest.mark.parametrize(
    "arrange",
    [
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: np.ascontiguousarray(x[:, ::-1])[:, ::-1],
    ],
    ids=["fortran", "strided", "reversed"],
)
def test_strides_do_not_matter(opened: Callable, rng: np.random.Generator, arrange: Callable) -> None:
    x = normal(rng, 2, 256)
    session = opened(LINEAR)
    assert_array_equal(session.run({"x": arrange(x)})["y"], session.run({"x": x})["y"])


def test_a_read_only_array_is_taken_and_left_alone(opened: Callable, rng: np.random.Generator) -> None:
    x = normal(rng, 2, 256)
    before = x.copy()
    x.flags.writeable = False
    assert_allclose(opened(LINEAR).run({"x": x})["y"], LINEAR.expected({"x": x})["y"], rtol=1e-4, atol=1e-4)
    assert_array_equal(x, before)


# --- who owns what


@pytest.mark.parametrize("case", [LINEAR, ALIASES], ids=lambda case: case.name)
@pytest.mark.parametrize("uploaded", [False, True], ids=["arrays", "uploaded"])
def test_outputs_belong_to_the_caller(opened: Callable, case: Case, rng: np.random.Generator, uploaded: bool) -> None:
    session, first, second = opened(case), case.inputs(rng), case.inputs(rng)

    def fed(arrays: dict) -> dict:
        return {name: session.upload(name, value) for name, value in arrays.items()} if uploaded else arrays

    feeds = fed(first)
    outputs = session.run(feeds)
    kept = {name: value.copy() for name, value in outputs.items()}
    session.run(fed(second))
    for name, value in outputs.items():
        assert_array_equal(value, kept[name], err_msg=f"{name} changed with the next run")
        value[...] = 99
    for name, value in session.run(feeds).items():
        assert_array_equal(value, kept[name], err_msg=f"writing to {name} reached the session or its inputs")


def test_an_input_array_may_be_reused(opened: Callable, rng: np.random.Generator) -> None:
    session, x = opened(ALIASES), normal(rng, 2, 3)
    expected = -x
    outputs = session.run({"x": x})
    x[...] = 5
    assert_array_equal(outputs["negative"], expected)
    assert_array_equal(outputs["x"], -expected)
    assert_array_equal(session.run({"x": x})["same"], np.full((2, 3), 5, np.float32))


# --- values kept on the device


@each_case
def test_an_uploaded_value_counts_as_its_array(opened: Callable, case: Case, rng: np.random.Generator) -> None:
    session, feeds = opened(case), case.inputs(rng)
    uploaded = {name: session.upload(name, value) for name, value in feeds.items()}
    expected = session.run(feeds)
    for _ in range(2):
        for name, value in session.run(uploaded).items():
            assert_array_equal(value, expected[name])
    for name, tensor in uploaded.items():
        assert tensor.spec == session.inputs[name]
        assert_array_equal(tensor.numpy(), feeds[name])


def test_an_uploaded_value_is_a_copy(opened: Callable, rng: np.random.Generator) -> None:
    session, a, b = opened(TWO_INPUTS), normal(rng, 3, 4), normal(rng, 3, 4)
    expected = a - b
    uploaded = session.upload("a", a)
    a[...] = 0
    uploaded.numpy()[...] = 0
    assert_array_equal(session.run({"a": uploaded, "b": b})["y"], expected)


def test_an_uploaded_value_fits_any_input_like_its_own(opened: Callable, rng: np.random.Generator) -> None:
    session = opened(TWO_INPUTS)
    a = session.upload("a", normal(rng, 3, 4))
    assert_array_equal(session.run({"a": a, "b": a})["y"], np.zeros((3, 4), np.float32))


def test_an_uploaded_value_of_another_session_is_refused(opened: Callable, rng: np.random.Generator) -> None:
    session, other, a = opened(TWO_INPUTS), opened(TWO_INPUTS), normal(rng, 3, 4)
    with pytest.raises(TensorError, match="'a' was uploaded to another session; upload it to this one"):
        session.run({"a": other.upload("a", a), "b": a})


def test_an_uploaded_value_outlives_its_session(opened: Callable, rng: np.random.Generator) -> None:
    session, x = opened(LINEAR), normal(rng, 2, 256)
    tensor = session.upload("x", x)
    session.close()
    assert_array_equal(tensor.numpy(), x)


# --- what it refuses


X = np.zeros((2, 256), np.float32)
REFUSED = {
    "missing": ({}, "missing 'x'; its inputs are 'x' \\(float32 \\(2, 256\\)\\)"),
    "unknown": ({"x": X, "y": X}, "unknown 'y'; its inputs are 'x'"),
    "misnamed": ({"X": X}, "missing 'x' and unknown 'X'"),
    "longer": ({"x": np.zeros((3, 256), np.float32)}, "'x' is float32 \\(2, 256\\), received shape \\(3, 256\\)"),
    "flat": ({"x": X.ravel()}, "received shape \\(512,\\)"),
    "transposed": ({"x": X.T}, "received shape \\(256, 2\\)"),
    "empty": ({"x": X[:0]}, "received shape \\(0, 256\\)"),
    "double": ({"x": X.astype(np.float64)}, "received dtype float64.*astype\\('float32'\\)"),
    "integer": ({"x": X.astype(np.int32)}, "received dtype int32"),
    "byte-swapped": ({"x": X.astype(">f4")}, "received dtype >f4"),
    "list": ({"x": X.tolist()}, "received a list; expected a numpy array"),
    "none": ({"x": None}, "received a NoneType"),
}


@pytest.mark.parametrize(("feeds", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_feeds_that_do_not_fit_are_refused(opened: Callable, feeds: dict, message: str) -> None:
    session = opened(LINEAR)
    with pytest.raises(TensorError, match=message) as caught:
        session.run(feeds)
    assert f"linear.onnx on {session.backend}" in str(caught.value)
    assert_array_equal(session.run({"x": X})["sum"], LINEAR.expected({"x": X})["sum"])  # nothing is broken by it


def test_uploads_that_do_not_fit_are_refused(opened: Callable) -> None:
    session = opened(LINEAR)
    with pytest.raises(TensorError, match="no input 'y'; its inputs are 'x'"):
        session.upload("y", X)
    with pytest.raises(TensorError, match="received shape \\(1, 256\\)"):
        session.upload("x", X[:1])
    with pytest.raises(TensorError, match="received dtype float64"):
        session.upload("x", X.astype(np.float64))


def test_an_upload_for_an_input_of_another_shape_is_refused(opened: Callable) -> None:
    session = opened(next(case for case in CASES if case.name == "bool_mask"))
    mask, a = session.upload("mask", np.ones(6, bool)), np.zeros(6, np.float32)
    with pytest.raises(TensorError, match=r"'b' is float32 \(6,\), received a tensor uploaded as 'mask', bool"):
        session.run({"mask": mask, "a": a, "b": mask})


# --- graphs it cannot run


def test_a_missing_graph(backend: str, tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.onnx", tmp_path):
        with pytest.raises(GraphError, match=f"{path}: no such file"):
            open_session(backend, path)


@pytest.mark.parametrize("content", [b"", b"not a graph" * 30, "truncated"], ids=["empty", "garbage", "truncated"])
def test_a_broken_graph(backend: str, tmp_path: Path, content: bytes | str) -> None:
    whole = LINEAR.save(tmp_path)
    path = tmp_path / "broken.onnx"
    path.write_bytes(content if isinstance(content, bytes) else whole.read_bytes()[:-200])
    with pytest.raises(GraphError, match=r"broken\.onnx: (ONNX Runtime cannot load|OpenVINO cannot read) it: \S"):
        open_session(backend, str(path))


def test_a_graph_with_an_unknown_operator(backend: str, tmp_path: Path) -> None:
    value = ("float32", (2,))
    path = save_graph(tmp_path / "novel.onnx", [node("Teleport", "x", "y")], [("x", *value)], [("y", *value)], {})
    with pytest.raises(GraphError, match=r"novel\.onnx.*Teleport"):
        open_session(backend, path)


def test_a_graph_with_an_open_input_size(backend: str, tmp_path: Path) -> None:
    value = ("float32", ("batch", 3))
    path = save_graph(tmp_path / "open.onnx", [node("Neg", "x", "y")], [("x", *value)], [("y", *value)], {})
    with pytest.raises(GraphError, match=r"open\.onnx: (input 'x'|output 'y') has shape .*; expected fixed sizes"):
        open_session(backend, path)


def test_a_graph_with_an_open_output_size(backend: str, tmp_path: Path) -> None:
    path = save_graph(
        tmp_path / "open.onnx", [node("NonZero", "x", "y")], [("x", "float32", (4,))], [("y", "int64", (1, "n"))], {}
    )
    with pytest.raises(GraphError, match=r"open\.onnx: output 'y' has shape"):
        open_session(backend, path)


def test_weights_beside_the_graph(opened: Callable, backend: str, tmp_path: Path, rng: np.random.Generator) -> None:
    feeds = LINEAR.inputs(rng)
    expected = opened(LINEAR).run(feeds)["y"]
    path = with_sidecar(LINEAR.save(tmp_path), "weights.bin")
    assert_array_equal(open_session(backend, path, OPTIONS).run(feeds)["y"], expected)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(GraphError, match=r"linear\.onnx: .*weights\.bin"):
        open_session(backend, path, OPTIONS)


# --- options


def test_auto_is_the_precision_of_the_graph(backend: str, tmp_path: Path, rng: np.random.Generator) -> None:
    x, path = normal(rng, 2, 256), LINEAR.save(tmp_path)
    exact = x.astype(np.float64) @ LINEAR.constants["w"] + LINEAR.constants["b"]
    error, refused = {}, {}
    for precision in ("auto", "fp32", "fp16", "bf16"):
        try:
            session = open_session(backend, path, SessionOptions(threads=1, precision=precision))
        except BackendError as refusal:
            refused[precision] = str(refusal)
        else:
            error[precision] = np.abs(session.run({"x": x})["sum"] - exact).max()
    assert error["auto"] == error["fp32"] < 1e-4
    for precision, message in refused.items():
        assert f"precision '{precision}'" in message
    for precision in error.keys() - {"auto", "fp32"}:  # what is not refused is done
        assert 10 * error["auto"] < error[precision] < 1


def test_a_run_on_two_threads_gives_the_same(backend: str, tmp_path: Path, rng: np.random.Generator) -> None:
    x, path = {"x": normal(rng, 2, 256)}, LINEAR.save(tmp_path)
    one, two = (open_session(backend, path, SessionOptions(threads=n)).run(x)["y"] for n in (1, 2))
    assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_a_cached_engine_computes_the_same(backend: str, tmp_path: Path, rng: np.random.Generator) -> None:
    x, path, cache = {"x": normal(rng, 2, 256)}, LINEAR.save(tmp_path), tmp_path / "cache"
    expected = open_session(backend, path, OPTIONS).run(x)["y"]
    for _ in range(2):
        session = open_session(backend, path, SessionOptions(threads=1, cache_dir=cache))
        assert_array_equal(session.run(x)["y"], expected)
    folders = list(cache.iterdir()) if cache.exists() else []
    if backend in ("onnxruntime-cpu", "onnxruntime-cuda"):
        assert folders == []  # nothing is compiled that could be kept
    else:
        assert len(folders) == 1
        assert folders[0].name.startswith(backend)
        assert any(folders[0].iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [({"precision": "int4"}, "precision is 'int4'; expected one of auto, fp32"), ({"threads": 0}, "threads is 0")],
)
def test_options_out_of_range(option: dict, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        SessionOptions(**option)


# --- threads and the end


def test_each_thread_gets_its_own_results(opened: Callable, rng: np.random.Generator) -> None:
    session = opened(LINEAR)
    feeds = [LINEAR.inputs(rng) for _ in range(4)]
    wrong: list[object] = []
    start = threading.Barrier(len(feeds))

    def work(own: dict[str, NDArray]) -> None:
        expected = LINEAR.expected(own)["y"]
        state = {"x": session.upload("x", own["x"])}
        start.wait()
        try:
            for turn in range(100):
                y = session.run(own if turn % 2 else state)["y"]
                if not np.allclose(y, expected, rtol=1e-4, atol=1e-4):
                    wrong.append(y)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(own,)) for own in feeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_closed_session_runs_no_more(opened: Callable, rng: np.random.Generator) -> None:
    session, feeds = opened(LINEAR), LINEAR.inputs(rng)
    outputs = session.run(feeds)
    session.close()
    session.close()
    with pytest.raises(SessionClosedError, match=r"linear\.onnx on .* is closed; load the model"):
        session.run(feeds)
    with pytest.raises(SessionClosedError, match="is closed"):
        session.upload("x", feeds["x"])
    assert_allclose(outputs["y"], LINEAR.expected(feeds)["y"], rtol=1e-4, atol=1e-4)  # what was handed out stays


def test_leaving_the_context_closes(opened: Callable) -> None:
    with opened(LINEAR) as session:
        session.run({"x": X})
    with pytest.raises(SessionClosedError):
        session.run({"x": X})


def test_closing_under_a_run_ends_in_a_named_error(opened: Callable, rng: np.random.Generator) -> None:
    session, feeds = opened(LINEAR), LINEAR.inputs(rng)
    ends: list[BaseException] = []
    running = threading.Barrier(4)

    def work() -> None:
        session.run(feeds)
        running.wait()
        try:
            while True:
                session.run(feeds)
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    running.wait()
    session.close()
    for thread in threads:
        thread.join()
    assert [type(error) for error in ends] == [SessionClosedError] * 3


# --- backends that do not work here


@pytest.mark.parametrize("absent", ABSENT)
def test_an_absent_backend_says_so(absent: str, tmp_path: Path) -> None:
    reason = next(status.reason for status in discover() if status.backend == absent)
    with pytest.raises(BackendUnavailableError) as caught:
        open_session(absent, LINEAR.save(tmp_path))
    assert str(caught.value) == reason
    assert reason.startswith(f"{absent}: ")


def test_an_unknown_backend_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="no backend 'onnxruntime-gpu'; there are onnxruntime-tensorrt, "):
        open_session("onnxruntime-gpu", LINEAR.save(tmp_path))
