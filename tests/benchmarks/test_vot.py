"""The TraX server, driven by the toolkit's own client."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import edgetrack
from benchmarks.cli import app
from benchmarks.datasets import read_dataset
from edgetrack.sources import read_image

ROOT = Path(__file__).parents[2]


def test_the_toolkits_client_gets_the_trackers_boxes(bundle: Path, dataset_folder: Path) -> None:
    trax = pytest.importorskip("trax")
    from trax.client import Client
    from trax.image import FileImage

    sequence = read_dataset(str(dataset_folder), ("plain",)).sequences[0]
    command = [sys.executable, "-m", "benchmarks", "vot", str(bundle), "--backend", "onnxruntime-cpu", "--threads", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        client = Client((process.stdin.fileno(), process.stdout.fileno()), log=lambda text: None)
        first, second = sequence.truth[0], sequence.truth[0] + [3, 2, 0, 0]
        images = [{"color": FileImage.create(str(path))} for path in sequence.frames]
        objects = [(trax.Rectangle.create(*box), {}) for box in (first, second)]
        client.initialize(images[0], objects, {})
        replies = [client.frame(image, {}, [])[0] for image in images[1:5]]
        client.quit()
        assert process.wait(30) == 0
    for number, box in enumerate((first, second)):
        tracker = edgetrack.Tracker(bundle, "onnxruntime-cpu", threads=1)
        tracker.init(read_image(sequence.frames[0]), box)
        for path, reply in zip(sequence.frames[1:5], replies, strict=True):
            expected = tracker.update(read_image(path))
            region, properties = reply[number]
            np.testing.assert_allclose(region.bounds(), expected.box, atol=1e-2)
            assert float(properties["confidence"]) == pytest.approx(expected.score, abs=1e-4)


def test_a_missing_trax_is_named(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    monkeypatch.setitem(sys.modules, "trax", None)
    result = CliRunner().invoke(app, ["vot", str(bundle), "--backend", "onnxruntime-cpu"])
    assert result.exit_code == 1
    assert "pip install --group toolkits" in result.stderr
