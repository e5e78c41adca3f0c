"""Loading: the choice of backend and precision, sessions opened once and checked, and closing."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from synthetic_bundle import ColourNet, manifest_of, write_colour_bundle, write_graphs

import edgetrack
import edgetrack.model
from edgetrack import (
    BackendError,
    BackendUnavailableError,
    BundleError,
    GraphError,
    IntegrityError,
    ManifestError,
    OptionError,
    SessionClosedError,
    Tracker,
    load,
)
from edgetrack.bundle import pack, write_bundle
from edgetrack_runtimes import BackendStatus, open_session

CPU = "onnxruntime-cpu"


class Opened:
    """Stands before `open_session`: keeps a record, and refuses the graphs and backends it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str]] = []
        self.options: list = []
        self.sessions: list = []
        self.refused: set[tuple[str, str]] = set()
        monkeypatch.setattr(edgetrack.model, "open_session", self)

    def __call__(self, backend, graph, options):
        self.calls.append((backend, graph.stem))
        self.options.append(options)
        if (backend, graph.stem) in self.refused:
            raise GraphError(f"{backend} cannot compile {graph.stem}")
        # Whatever backend was asked for, one that every machine has runs the graph.
        self.sessions.append(open_session(CPU, graph))
        return self.sessions[-1]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretend that exactly the named backends are available, best first, after one that is not."""

    def pretend(*available: str) -> None:
        statuses = [BackendStatus("onnxruntime-cuda", False, "no GPU answers; install a driver", None, ())]
        statuses += [BackendStatus(name, True, "", "1.0", ("device",)) for name in available]
        monkeypatch.setattr(edgetrack.model, "discover", lambda: statuses)

    return pretend


@pytest.fixture(scope="module")
def two_precisions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an "int8" variant, which is the fp32 one again under other file names."""
    root, net = tmp_path_factory.mktemp("bundles") / "two", ColourNet()
    root.mkdir()
    write_graphs(root, net)
    variants = manifest_of(net).model_dump()["variants"]
    graphs = {}
    for name, graph in variants["fp32"]["graphs"].items():
        graphs[name] = {**graph, "file": f"int8/{name}.onnx"}
        (root / "int8").mkdir(exist_ok=True)
        (root / "int8" / f"{name}.onnx").write_bytes((root / f"{name}.onnx").read_bytes())
    return write_bundle(root, manifest_of(net, variants={**variants, "int8": {"graphs": graphs}})).root


def test_what_a_model_says_of_itself(colour_model, colour_bundle) -> None:
    assert colour_model.backend == CPU
    assert colour_model.precision == "fp32"
    assert colour_model.manifest == colour_bundle.manifest
    assert repr(colour_model) == "<Model 'colour' (seqtrack) fp32 on onnxruntime-cpu>"


def test_loads_an_archive(colour_bundle, tmp_path, scene) -> None:
    frames, truth = scene
    seen = []
    for path in (colour_bundle.root, pack(colour_bundle.root, tmp_path / "colour.zip")):
        tracker = Tracker(load(path, CPU, threads=1))
        tracker.init(frames[0], truth[0])
        seen.append([tracker.update(frame).box for frame in frames[1:4]])
    assert seen[0] == seen[1]


def test_an_unknown_model() -> None:
    with pytest.raises(BundleError, match="no model 'seqtrack-giant'"):
        load("seqtrack-giant", CPU)


def test_a_damaged_bundle_is_refused_before_a_runtime_sees_it(damaged, opened) -> None:
    with (damaged / "template.onnx").open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(IntegrityError):
        load(damaged, CPU)
    assert opened.calls == []


def test_graphs_are_opened_when_they_are_needed(colour_bundle, opened) -> None:
    model = load(colour_bundle.root, CPU)
    assert opened.calls == [(CPU, "template"), (CPU, "track")]
    Tracker(model)
    assert len(opened.calls) == 2
    Tracker(model, decode="cached")
    assert opened.calls[2:] == [(CPU, "encode"), (CPU, "decode_step")]


def test_a_cached_tracker_opens_only_its_own_graphs(colour_bundle, opened) -> None:
    Tracker(colour_bundle.root, CPU, decode="cached")
    assert opened.calls == [(CPU, "template"), (CPU, "encode"), (CPU, "decode_step")]


def test_threads_that_want_a_graph_open_it_once(colour_bundle, opened, monkeypatch) -> None:
    model = load(colour_bundle.root, CPU)
    opened.calls.clear()

    def slowly(*arguments: object) -> object:
        time.sleep(0.02)  # long enough for the other threads to come along
        return opened(*arguments)

    monkeypatch.setattr(edgetrack.model, "open_session", slowly)
    barrier, sessions = threading.Barrier(6), []

    def worker() -> None:
        barrier.wait()
        sessions.append(model.session("encode"))

    threads = [threading.Thread(target=worker) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened.calls == [(CPU, "encode")]
    assert len(sessions) == 6
    assert len(set(map(id, sessions))) == 1


# Backends


def test_auto_takes_the_first_available_backend(colour_bundle, opened, machine, caplog) -> None:
    machine("openvino-gpu", CPU)
    with caplog.at_level(logging.INFO, "edgetrack"):
        assert load(colour_bundle.root).backend == "openvino-gpu"
    assert "chose openvino-gpu" in caplog.text
    assert "onnxruntime-cuda: no GPU answers; install a driver" in caplog.text


@pytest.mark.parametrize("graph", ["template", "track"])
def test_auto_goes_on_when_a_backend_cannot_run_a_graph(colour_bundle, opened, machine, caplog, graph) -> None:
    machine("openvino-gpu", CPU)
    opened.refused.add(("openvino-gpu", graph))
    with caplog.at_level(logging.INFO, "edgetrack"):
        assert load(colour_bundle.root).backend == CPU
    warning = next(record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert f"openvino-gpu cannot compile {graph}" in warning
    assert f"chose {CPU}" in caplog.text
    if graph == "track":  # the session opened on the backend that was given up is not left open
        with pytest.raises(SessionClosedError):
            opened.sessions[0].run({})


def test_auto_says_why_no_backend_will_do(colour_bundle, opened, machine) -> None:
    machine("openvino-cpu")
    opened.refused.add(("openvino-cpu", "track"))
    with pytest.raises(BackendUnavailableError) as caught:
        load(colour_bundle.root)
    assert "onnxruntime-cuda: no GPU answers; install a driver" in str(caught.value)
    assert "openvino-cpu: openvino-cpu cannot compile track" in str(caught.value)


def test_a_reason_that_names_its_backend_is_not_named_twice(colour_bundle, monkeypatch) -> None:
    reason = "openvino-cpu: openvino cannot be imported"
    statuses = [BackendStatus("openvino-cpu", False, reason, None, ()), BackendStatus(CPU, False, "no", None, ())]
    monkeypatch.setattr(edgetrack.model, "discover", lambda: statuses)
    with pytest.raises(BackendUnavailableError) as caught:
        load(colour_bundle.root)
    assert str(caught.value).splitlines()[1:] == [f"  {reason}", f"  {CPU}: no"]


def test_a_named_backend_is_used_or_raises(colour_bundle, opened, machine) -> None:
    machine(CPU)
    opened.refused.add(("openvino-npu", "template"))
    with pytest.raises(GraphError):
        load(colour_bundle.root, "openvino-npu")
    assert {backend for backend, _ in opened.calls} == {"openvino-npu"}


def test_an_unknown_backend(colour_bundle) -> None:
    with pytest.raises(BackendUnavailableError, match="abacus"):
        load(colour_bundle.root, "abacus")


def test_options_reach_the_sessions(colour_bundle, opened, tmp_path) -> None:
    load(colour_bundle.root, CPU, "bf16", threads=3, allow_fallback=True, cache_dir=str(tmp_path))
    for options in opened.options:
        assert (options.threads, options.precision) == (3, "bf16")
        assert options.allow_fallback
        assert options.cache_dir == tmp_path


# Precisions


@pytest.mark.parametrize(
    ("backend", "precision", "folder", "hint", "name"),
    [
        (CPU, "auto", "int8", "auto", "int8"),
        ("openvino-cpu", "auto", "int8", "auto", "int8"),
        ("openvino-gpu", "auto", "", "auto", "fp32"),
        ("openvino-gpu", "int8", "int8", "auto", "int8"),
        (CPU, "fp32", "", "fp32", "fp32"),
        ("openvino-gpu", "fp16", "", "fp16", "fp16"),
        ("openvino-cpu", "bf16", "", "bf16", "bf16"),
        ("openvino-cpu", "int8+bf16", "int8", "bf16", "int8+bf16"),
        ("onnxruntime-tensorrt", "int8+fp16", "int8", "fp16", "int8+fp16"),
    ],
)
def test_precision(two_precisions, opened, backend, precision, folder, hint, name) -> None:
    model = load(two_precisions, backend, precision)
    assert model.precision == name
    assert {options.precision for options in opened.options} == {hint}
    assert {session.graph.parent for session in opened.sessions} == {two_precisions / folder}


def test_auto_precision_where_a_release_is_slow_in_integers(two_precisions, opened, monkeypatch) -> None:
    monkeypatch.setattr(pytest.importorskip("onnxruntime"), "__version__", "1.22.1")
    assert load(two_precisions, CPU).precision == "fp32"
    assert load(two_precisions, CPU, "int8").precision == "int8"
    assert load(two_precisions, "openvino-cpu").precision == "int8"


def test_auto_precision_without_int8(colour_bundle) -> None:
    assert load(colour_bundle.root, CPU, threads=1).precision == "fp32"


@pytest.mark.parametrize("precision", ["int4", "int8", "", "FP32", "int8+bf16", "fp32+bf16", "+bf16", "bf16+"])
def test_an_unknown_precision_lists_what_there_is(colour_bundle, opened, precision) -> None:
    with pytest.raises(OptionError) as caught:
        load(colour_bundle.root, CPU, precision)
    assert f"precision={precision!r}; the bundle 'colour' has fp32, and can be run in fp16, bf16" in str(caught.value)
    assert opened.calls == []


def test_an_unknown_precision_lists_what_integers_go_with(two_precisions, opened) -> None:
    with pytest.raises(OptionError, match=r"has fp32, int8, and can be run in fp16, bf16, int8\+fp16, int8\+bf16$"):
        load(two_precisions, CPU, "int8+fp32")
    assert opened.calls == []


# A graph that is not what the manifest says


@pytest.mark.parametrize("backend", [CPU, "openvino-cpu"])
def test_a_graph_with_other_tensors_is_refused(tmp_path, backend) -> None:
    """The manifest is sound and the hashes are right, but the graphs were made for another number of bins."""
    write_graphs(tmp_path, ColourNet(bins=21))
    write_bundle(tmp_path, manifest_of(ColourNet(bins=41)))
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, backend)
    message = str(caught.value)
    assert "track.onnx does not match the manifest: inputs" in message
    assert "found window float32 (21,); expected window float32 (41,)" in message


def test_every_graph_has_run_once_before_it_is_used(colour_bundle, monkeypatch) -> None:
    ran: list[str] = []

    def recording(backend, graph, options):
        session = open_session(CPU, graph)
        run = session.run
        monkeypatch.setattr(session, "run", lambda feeds: (ran.append(graph.stem), run(feeds))[1])
        return session

    monkeypatch.setattr(edgetrack.model, "open_session", recording)
    load(colour_bundle.root, CPU).session("encode")
    assert sorted(ran) == ["encode", "template", "track"]


def test_a_backend_that_cannot_run_what_it_opened_is_passed_over(colour_bundle, monkeypatch, machine) -> None:
    machine("openvino-gpu", CPU)

    def fail(feeds: object) -> None:
        raise GraphError("the device is gone")

    def failing(backend, graph, options):
        session = open_session(CPU, graph)
        if backend != CPU:
            monkeypatch.setattr(session, "run", fail)
        return session

    monkeypatch.setattr(edgetrack.model, "open_session", failing)
    assert load(colour_bundle.root).backend == CPU


def test_a_refused_graph_is_not_left_open(tmp_path, opened) -> None:
    write_graphs(tmp_path, ColourNet(bins=21))
    write_bundle(tmp_path, manifest_of(ColourNet(bins=41)))
    with pytest.raises(ManifestError):
        load(tmp_path, CPU)
    assert len(opened.sessions) == 2
    for session in opened.sessions:
        with pytest.raises(SessionClosedError):
            session.run({})


def test_an_onnx_file_that_is_none(tmp_path) -> None:
    net = ColourNet()
    write_graphs(tmp_path, net)
    (tmp_path / "track.onnx").write_bytes(b"not onnx")
    write_bundle(tmp_path, manifest_of(net))
    with pytest.raises(GraphError):
        load(tmp_path, CPU)


# Sharing and closing


def test_a_model_loads_as_itself(colour_model) -> None:
    assert load(colour_model) is colour_model
    assert load(colour_model, CPU, "fp32", threads=1) is colour_model
    assert Tracker(colour_model).model is colour_model


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "openvino-cpu"},
        {"precision": "int8"},
        {"threads": 2},
        {"allow_fallback": True},
        {"cache_dir": "cache"},
    ],
    ids=str,
)
def test_options_of_loading_do_not_change_a_loaded_model(colour_model, options) -> None:
    with pytest.raises(OptionError) as caught:
        load(colour_model, **options)
    assert f"got {next(iter(options))}=" in str(caught.value)
    assert "which was loaded with" in str(caught.value)


def test_closing(colour_bundle) -> None:
    model = load(colour_bundle.root, CPU, threads=1)
    session = model.session("template")
    model.close()
    model.close()
    assert "closed" in repr(model)
    with pytest.raises(SessionClosedError, match="'colour' was closed"):
        model.session("template")
    with pytest.raises(SessionClosedError):
        session.run({"templates": np.zeros((2, 32, 32, 3), np.float32)})


def test_a_model_is_closed_at_the_end_of_its_block(colour_bundle) -> None:
    with load(colour_bundle.root, CPU, threads=1) as model:
        model.session("template")
    with pytest.raises(SessionClosedError, match="'colour' was closed"):
        model.session("template")


def test_a_closed_model_is_loaded_again_not_used(colour_bundle, scene) -> None:
    frames, truth = scene
    model = load(colour_bundle.root, "onnxruntime-cpu")
    tracker = Tracker(model)
    tracker.init(frames[0], truth[0])
    model.close()
    with pytest.raises(SessionClosedError, match="load the model"):
        tracker.update(frames[1])
    with pytest.raises(SessionClosedError, match="load it again"):
        load(model)


@pytest.mark.parametrize("options", [{"backend": None}, {"precision": 8}])
def test_names_that_are_none(colour_bundle, options) -> None:
    with pytest.raises(OptionError, match="expected a name"):
        load(colour_bundle.root, **options)


@pytest.mark.parametrize("folder", [5, "", b"a", "a\0b", "\ud800", np.zeros(2)], ids=ascii)
@pytest.mark.parametrize("loaded", [False, True])
def test_a_cache_folder_that_is_no_path(colour_bundle, colour_model, folder, loaded) -> None:
    with pytest.raises(OptionError, match=r"got cache_dir=.*; expected the path of a folder, or None"):
        load(colour_model if loaded else colour_bundle.root, cache_dir=folder)


def test_a_cache_folder_that_is_a_file(colour_bundle, tmp_path) -> None:
    """Also for a backend that keeps nothing there."""
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="which is a file; expected a folder"):
        load(colour_bundle.root, CPU, cache_dir=tmp_path / "file")
    load(colour_bundle.root, CPU, cache_dir=tmp_path / "yet to make")


@pytest.mark.parametrize("value", ["no", 1, None, np.int64(0), np.zeros(2)], ids=repr)
@pytest.mark.parametrize("loaded", [False, True])
def test_fallback_is_allowed_or_not(colour_bundle, colour_model, value, loaded) -> None:
    with pytest.raises(OptionError, match=r"got allow_fallback=.*; expected True or False"):
        load(colour_model if loaded else colour_bundle.root, allow_fallback=value)


def test_fallback_may_be_numpys(colour_bundle, colour_model) -> None:
    assert load(colour_model, allow_fallback=np.False_) is colour_model
    assert load(colour_bundle.root, CPU, allow_fallback=np.True_).options.allow_fallback is True


def test_an_archive_stays_unpacked_while_its_model_lives(colour_bundle, tmp_path) -> None:
    model = load(pack(colour_bundle.root, tmp_path / "colour.zip"), CPU, threads=1)
    Tracker(model, decode="cached")  # opens graphs that load() did not


# The package


def test_importing_edgetrack_is_light() -> None:
    heavy = ["cv2", "onnxruntime", "openvino", "torch", "onnx", "pydantic", "edgetrack.compat"]
    code = f"import sys, edgetrack; print([m for m in {heavy} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_version_is_the_projects() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.*)"$', pyproject, re.MULTILINE).group(1) == edgetrack.__version__


def test_public_names_are_there() -> None:
    assert {"load", "Tracker", "Track", "Model", "EdgeTrackError", "__version__"} <= set(edgetrack.__all__)
    for name in edgetrack.__all__:
        assert getattr(edgetrack, name) is not None
    assert issubclass(BackendError, edgetrack.EdgeTrackError)


def test_a_bundle_of_one_template_loads(tmp_path) -> None:
    bundle = write_colour_bundle(tmp_path / "one", ColourNet(templates=1))
    assert load(bundle.root, CPU, threads=1).manifest.templates == 1
