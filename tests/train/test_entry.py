"""A checkout in which only edgetrack is installed says what its other commands need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from train.entry import run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("torch", ["train", "presets"]),
        ("typer", ["train", "--help"]),
        ("torch", ["quantize", "export", "weights.safetensors", "--out", "bundle"]),
        ("typer", ["benchmarks", "--help"]),
    ],
)
def test_a_package_that_is_not_installed_is_said_in_one_line(missing: str, arguments: list[str]) -> None:
    script = f"import runpy, sys; sys.modules[{missing!r}] = None; sys.argv = {arguments!r}; "
    script += f"runpy.run_module({arguments[0]!r}, run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"error: {missing} is not installed; ")
    assert "make lint" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_module_of_ours_that_is_not_there_is_a_bug() -> None:
    def command() -> None:
        import train.nowhere  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match=r"train\.nowhere"):
        run(command)


def test_what_a_command_raises_otherwise_is_raised() -> None:
    with pytest.raises(SystemExit) as ended:
        run(lambda: sys.exit(7))
    assert ended.value.code == 7
