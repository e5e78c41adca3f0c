"""What the runtimes do on the side when edgetrack imports them: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_graphs import CASES

LOAD = """
import sys
from pathlib import Path
from edgetrack_runtimes import SessionOptions, open_session

for backend in sys.argv[2:]:
    open_session(backend, Path(sys.argv[1]), SessionOptions()).close()
"""


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino-cpu"])
def test_a_runtime_keeps_no_identifier_of_the_user(tmp_path: Path, backend: str) -> None:
    pytest.importorskip(backend.partition("-")[0])
    home = tmp_path / "home"
    home.mkdir()
    # Both keep still where they believe that they are tested.
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH")}
    graph = CASES[0].save(tmp_path)
    subprocess.run([sys.executable, "-c", LOAD, str(graph), backend], env={**kept, "HOME": str(home)}, check=True)
    assert not [str(path) for path in home.rglob("*")]


@pytest.mark.parametrize("imported_before", [False, True])
def test_what_openvino_is_not_shown_others_may_import(tmp_path: Path, imported_before: bool) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "openvino_telemetry.py").write_text("")
    before, after = ["import openvino_telemetry", ""][:: 1 if imported_before else -1]
    code = f"{before}\nfrom edgetrack_runtimes.telemetry import import_openvino\nimport_openvino()\n{after}"
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=True)
