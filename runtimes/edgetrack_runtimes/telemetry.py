"""Importing the runtimes without the telemetry that their packages bring.

ONNX Runtime's packages report to Microsoft what is run, and keep an identifier in the user's cache folder, unless
`ORT_DISABLE_TELEMETRY` is set before it begins (its Privacy.md). OpenVINO reports to Google Analytics that it was
imported, and keeps an identifier in `~/intel`, where its package `openvino_telemetry` is installed, and does without
where it is not. What runs on a device reports to nobody unless its owner wants that: by importing the runtime first, or
with `ORT_DISABLE_TELEMETRY=0`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType


def import_onnxruntime() -> ModuleType:
    """Return the module; raises what importing it raises."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    module: ModuleType = onnxruntime
    return module


def import_openvino() -> ModuleType:
    """Return the module; raises what importing it raises."""
    modules: dict[str, Any] = sys.modules
    is_hidden = "openvino_telemetry" not in modules
    if is_hidden:
        modules["openvino_telemetry"] = None  # importing it now is an ImportError, which OpenVINO provides for
    try:
        import openvino
    finally:
        if is_hidden:
            del modules["openvino_telemetry"]
    module: ModuleType = openvino
    return module
