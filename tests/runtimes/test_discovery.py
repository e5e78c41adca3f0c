"""What `discover` says of this machine, and that looking costs nothing until it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import pytest

from edgetrack_runtimes import BACKENDS, discover, onnxruntime_session, openvino_session, registry
from edgetrack_runtimes.errors import BackendUnavailableError


def test_every_backend_has_a_status_in_order_of_preference() -> None:
    found = discover()
    assert tuple(status.backend for status in found) == BACKENDS
    for status in found:
        assert status.available == bool(status.devices) == (not status.reason)


@pytest.mark.parametrize(("module", "backend"), [("onnxruntime", "onnxruntime-cpu"), ("openvino", "openvino-cpu")])
def test_an_installed_runtime_has_its_cpu(module: str, backend: str) -> None:
    runtime = pytest.importorskip(module)
    status = next(status for status in discover() if status.backend == backend)
    assert status.available
    assert runtime.__version__.startswith(status.runtime_version)


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_wheel_without_the_provider(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    onnxruntime_session.devices.cache_clear()
    with pytest.raises(BackendUnavailableError) as caught:
        onnxruntime_session.devices(backend)
    message = str(caught.value)
    assert f"has no {onnxruntime_session.PROVIDERS[backend]}, only CPUExecutionProvider" in message
    assert "pip uninstall onnxruntime, then pip install onnxruntime-gpu" in message
    assert "never install both" in message


@pytest.mark.parametrize(
    ("module", "backend", "package"),
    [
        ("onnxruntime", "onnxruntime-cpu", "onnxruntime"),
        ("onnxruntime", "onnxruntime-cuda", "onnxruntime-gpu"),
        ("openvino", "openvino-npu", "openvino"),
    ],
)
def test_a_runtime_that_is_not_installed(
    module: str, backend: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # import raises ImportError
    onnxruntime_session.devices.cache_clear()
    status = next(status for status in discover() if status.backend == backend)
    assert not status.available
    assert status.runtime_version is None
    assert status.reason.startswith(f"{backend}: {module} cannot be imported")
    assert status.reason.endswith(f"pip install {package}")


@pytest.mark.parametrize(("module", "other"), [("onnxruntime", "openvino"), ("openvino", "onnxruntime")])
def test_half_an_installation_is_no_runtime_and_stops_no_other(
    module: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(other)
    monkeypatch.setitem(sys.modules, module, ModuleType(module))  # a folder without __init__.py, as pip leaves it
    onnxruntime_session.devices.cache_clear()
    found = {status.backend: status for status in discover()}
    for backend in BACKENDS:
        if backend.startswith(module):
            assert not found[backend].available
            assert found[backend].runtime_version is None
            assert found[backend].reason.startswith(f"{backend}: the installation of {module} is broken (module")
            assert f"reinstall it: pip uninstall {module}" in found[backend].reason
    assert found[f"{other}-cpu"].available


def test_an_openvino_that_does_not_start_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")

    def core() -> None:
        raise RuntimeError("Exception from xml.cpp:9:\nplugins.xml: cannot be opened\n")

    monkeypatch.setattr(openvino_session, "_core", core)
    status = next(status for status in discover() if status.backend == "openvino-cpu")
    assert not status.available
    assert status.reason.startswith("openvino-cpu: OpenVINO does not start (plugins.xml: cannot be opened); reinstall")


@pytest.mark.parametrize("device", ["GPU", "NPU"])
def test_a_device_that_does_not_answer_says_what_it_needs(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")

    class NoDevice:
        available_devices = ("CPU",)

        def get_property(self, name: str, key: str) -> str:
            raise RuntimeError("Exception from core.cpp:268:\nlibdriver.so.1: cannot open shared object file\n\n")

    monkeypatch.setattr(openvino_session, "_core", NoDevice)
    with pytest.raises(BackendUnavailableError) as caught:
        openvino_session.devices(f"openvino-{device.lower()}")
    assert f"no {device} answers, only CPU (libdriver.so.1: cannot open shared object file)" in str(caught.value)
    assert f"it needs an Intel {device}" in str(caught.value)


def test_several_devices_of_one_kind_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")

    class TwoGpus:
        available_devices = ("CPU", "GPU.0", "GPU.1")

        def get_property(self, name: str, key: str) -> str:
            return {"GPU.0": "Intel(R) UHD Graphics (iGPU)", "GPU.1": "Intel(R) Arc(TM) A770 (dGPU)"}[name]

    monkeypatch.setattr(openvino_session, "_core", TwoGpus)
    assert openvino_session.devices("openvino-gpu") == (
        "GPU.0: Intel(R) UHD Graphics (iGPU)",
        "GPU.1: Intel(R) Arc(TM) A770 (dGPU)",
    )


def test_a_device_that_says_nothing_of_itself_stands_in_nobody_s_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")

    class HalfADriver:
        available_devices = ("CPU", "GPU")

        def get_property(self, name: str, key: str) -> str:
            if name == "GPU":
                raise RuntimeError("Exception from core.cpp:268:\nclGetDeviceInfo: CL_INVALID_DEVICE\n\n")
            return "A processor"

    monkeypatch.setattr(openvino_session, "_core", HalfADriver)
    found = {status.backend: status for status in discover()}
    assert "GPU does not say what it is (clGetDeviceInfo: CL_INVALID_DEVICE); it" in found["openvino-gpu"].reason
    assert found["openvino-cpu"].devices == ("CPU: A processor",)


def test_every_backend_belongs_to_a_runtime() -> None:
    named = [*onnxruntime_session.PROVIDERS, *openvino_session.DEVICES]
    assert sorted(named) == sorted(BACKENDS)
    assert registry._RUNTIMES.keys() == {backend.split("-")[0] for backend in BACKENDS}


def test_importing_loads_no_runtime() -> None:
    code = (
        "import sys, edgetrack_runtimes; "
        "print([name for name in ('onnxruntime', 'openvino', 'onnx', 'torch', 'cv2') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout.strip() == "[]"
