"""Engine folders: one per graph with its weights, precision, runtime version and device."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data
from small_graphs import LINEAR, node, save_graph, with_sidecar

from edgetrack_runtimes.cache import engine_folder, graph_hash
from edgetrack_runtimes.errors import BackendError

KEY = {"backend": "onnxruntime-tensorrt", "precision": "auto", "runtime_version": "1.31.1", "device": "cuda0"}


def test_the_folder_is_made_and_found_again(tmp_path: Path) -> None:
    graph = LINEAR.save(tmp_path)
    folder = engine_folder(tmp_path / "deep" / "cache", graph, **KEY)
    assert folder.is_dir()
    assert folder.name == f"onnxruntime-tensorrt-{graph_hash(graph)[:16]}-auto-1.31.1-cuda0"
    assert engine_folder(tmp_path / "deep" / "cache", graph, **KEY) == folder


# TensorRT's engine for "auto" may use TF32, which "fp32" must not be given.
@pytest.mark.parametrize(
    "changed",
    [{"backend": "openvino-gpu"}, {"precision": "fp32"}, {"runtime_version": "1.31.2"}, {"device": "cuda1"}],
)
def test_every_part_of_the_key_counts(tmp_path: Path, changed: dict) -> None:
    graph = LINEAR.save(tmp_path)
    assert engine_folder(tmp_path, graph, **KEY) != engine_folder(tmp_path, graph, **KEY | changed)


def test_names_of_devices_make_safe_folders(tmp_path: Path) -> None:
    folder = engine_folder(tmp_path, LINEAR.save(tmp_path), **KEY | {"device": "GPU.0: Intel(R) Arc(TM) ../../A770"})
    assert folder.parent == tmp_path
    assert folder.name.endswith("-GPU.0_Intel_R_Arc_TM_.._.._A770")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    graph = LINEAR.save(tmp_path)
    with pytest.raises(BackendError, match=r"cannot make the engine cache folder .*linear"):
        engine_folder(graph, graph, **KEY)  # below a file


def test_graphs_differ_by_their_external_weights(tmp_path: Path) -> None:
    """Two trainings of one architecture have equal graphs: mistaking one's engine for the other's must not happen."""

    def trained(seed: int, sidecar: str) -> str:
        folder = tmp_path / f"{seed}-{sidecar.replace('/', '-')}"
        (folder / sidecar).parent.mkdir(parents=True)
        weights = np.random.default_rng(seed).standard_normal((64, 8)).astype(np.float32)
        shapes = [("x", "float32", (2, 64))], [("y", "float32", (2, 8))]
        path = save_graph(folder / "g.onnx", [node("MatMul", "x w", "y")], *shapes, {"w": weights})
        with_sidecar(path, sidecar)
        graphs.add(path.read_bytes())
        return graph_hash(path)

    for sidecar in ("g.onnx.data", "weights/" + "long" * 40 + ".bin"):
        graphs: set[bytes] = set()
        first, second = trained(0, sidecar), trained(1, sidecar)
        assert len(graphs) == 1  # the graphs themselves are equal
        assert first != second


@pytest.mark.parametrize("location", ["gone.bin", "long" * 100 + ".bin", "."])
def test_external_weights_that_are_not_there_are_left_to_the_runtime(tmp_path: Path, location: str) -> None:
    model = onnx.load(LINEAR.save(tmp_path))
    set_external_data(model.graph.initializer[0], location)
    path = tmp_path / "g.onnx"
    path.write_bytes(model.SerializeToString())
    assert graph_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
