"""What a user installs: the wheel, alone, in an environment that has never seen the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a clean environment that holds the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    return python


def run(python: Path, code: str) -> str:
    """Run code from the environment's own folder, so that the checkout is not on the path.

    The libraries that the SDK depends on come from the environment of the tests; its editable install of the project
    does not, since .pth files are not read from PYTHONPATH.
    """
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    command = [str(python), "-c", code]
    result = subprocess.run(command, cwd=python.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_wheel_brings_two_names(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"edgetrack", "edgetrack_runtimes"}
    assert any(name.endswith("py.typed") for name in names)


def test_importing_the_sdk_loads_neither_torch_nor_a_runtime(installed: Path) -> None:
    code = "import edgetrack, json, sys; print(json.dumps([edgetrack.__file__, sorted(sys.modules)]))"
    path, modules = json.loads(run(installed, code))
    assert Path(path).is_relative_to(installed.parents[1])
    heavy = {"torch", "onnx", "onnxruntime", "openvino", "cv2", "train", "quantize", "benchmarks"}
    assert heavy.isdisjoint(modules)


def test_the_shipped_model_tracks_from_the_wheel(installed: Path) -> None:
    code = """
import numpy as np, sys, edgetrack
tracker = edgetrack.Tracker("seqtrack-nano", "onnxruntime-cpu", threads=1)
frame = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
tracker.init(frame, (60, 40, 30, 30))
print(tracker.update(frame))
assert "torch" not in sys.modules
"""
    assert "Track(box=" in run(installed, code)


def test_extras_keep_the_two_onnxruntimes_apart(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
    by_extra: dict[str, set[str]] = {}
    for name, extra in re.findall(r"^Requires-Dist: ([\w-]+).*extra == '(\w+)'", metadata, re.MULTILINE):
        by_extra.setdefault(extra, set()).add(name)
    assert by_extra
    assert not any({"onnxruntime", "onnxruntime-gpu"} <= names for names in by_extra.values())
    always = re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra)", metadata, re.MULTILINE)
    assert {"torch", "opencv-python-headless", "onnxruntime", "openvino"}.isdisjoint(always)
