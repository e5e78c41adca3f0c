"""Imports go one way, wherever in a file they stand."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "edgetrack_runtimes": ROOT / "runtimes" / "edgetrack_runtimes",
    "edgetrack": ROOT / "edgetrack",
    "train": ROOT / "train",
    "quantize": ROOT / "quantize",
    "benchmarks": ROOT / "benchmarks",
}
ORDER = tuple(FOLDERS)
"""From the lowest layer up: a layer may import those before it."""
TRAINING = {"torch", "onnx", "onnxscript", "safetensors"}
"""What the two layers that a device gets never import, not even inside a function."""
EXCEPTIONS = {"runtimes/edgetrack_runtimes/half.py": {"onnx"}}
"""Half precision on CUDA alone, which says so where onnx is missing."""


def imported(path: Path) -> set[str]:
    """Top-level names of all that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("layer", ORDER)
def test_a_layer_imports_only_those_below(layer: str) -> None:
    above = set(ORDER[ORDER.index(layer) + 1 :])
    forbidden = above | (TRAINING if ORDER.index(layer) < 2 else set())
    files = sorted(FOLDERS[layer].rglob("*.py"))
    assert files
    wrong = {str(path.relative_to(ROOT)): found for path in files if (found := imported(path) & forbidden)}
    assert wrong == {name: found for name, found in EXCEPTIONS.items() if ROOT / name in files}


def test_imports_inside_functions_are_seen(tmp_path: Path) -> None:
    (tmp_path / "hidden.py").write_text("def f():\n    from torch.nn import functional\n    import train.loop\n")
    assert imported(tmp_path / "hidden.py") == {"torch", "train"}
