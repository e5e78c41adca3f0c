"""What a kind of model decides, held to what a tracker of it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_bundle import write_colour_bundle
from synthetic_vtt import write_cells_bundle

import edgetrack
from edgetrack.kinds import FRAME_GRAPHS


@pytest.mark.parametrize("write", [write_colour_bundle, write_cells_bundle])
def test_a_frame_is_answered_by_one_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write) -> None:
    model = edgetrack.load(write(tmp_path / "model").root, "onnxruntime-cpu", threads=1)
    ran: list[str] = []

    def watch(graph: str) -> None:
        session = model.session(graph)
        run = session.run

        def noted(feeds):
            ran.append(graph)
            return run(feeds)

        monkeypatch.setattr(session, "run", noted)

    for graph in model.manifest.variants["fp32"].graphs:
        watch(graph)
    tracker = edgetrack.Tracker(model, update_interval=None)
    frame = np.full((48, 80, 3), 90, np.uint8)
    tracker.init(frame, (30, 20, 10, 10))
    ran.clear()
    tracker.update(frame)
    assert ran == [FRAME_GRAPHS[model.manifest.kind]]
