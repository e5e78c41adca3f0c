"""What a kind of model decides, held to what a tracker of it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_bundle import PRESENCE_ALONE, ColourNet, write_colour_bundle
from synthetic_vtt import write_cells_bundle

import edgetrack
from edgetrack.kinds import FRAME_GRAPHS, Options, algorithm
from edgetrack.lookaround import places


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


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.usefixtures("impatient")
def test_what_is_looked_for_is_looked_for_with_its_size_and_half_a_crop_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, search: bool
) -> None:
    net = ColourNet(search_factor=3.2)  # answers boxes that are smaller than the last one
    colour = write_colour_bundle(tmp_path / "colour", net, score=PRESENCE_ALONE)
    assert not colour.manifest.online.hold_size  # the manifest need not say so
    local, options = edgetrack.load(colour.root, "onnxruntime-cpu", threads=1), Options(look_around=True)
    if search:
        cells = write_cells_bundle(tmp_path / "cells", online={"second_look": 0.5})
        whole = edgetrack.load(cells.root, "onnxruntime-cpu", threads=1)
        tracker = algorithm(local, options, whole)
        session, searches = whole.session("search"), []
        run = session.run
        monkeypatch.setattr(session, "run", lambda feeds: searches.append(feeds) or run(feeds))
    else:
        tracker = algorithm(local, options)
    frame = np.full((120, 160, 3), 60, np.uint8)
    frame[50:74, 60:84] = (30, 120, 230)
    state = tracker.init(frame, np.asarray([60.0, 50.0, 24.0, 24.0]))
    reaches: list[float] = []

    def watched(box: np.ndarray, size: tuple[int, int], reach: float) -> np.ndarray:
        reaches.append(reach)
        return places(box, size, reach)

    monkeypatch.setattr("edgetrack.lookaround.places", watched)
    if search:
        searches.clear()
    for number in range(1, 4):
        state, found = tracker.step(state, np.full_like(frame, 60))
        assert not found.ok
        assert state.local.region[2:].tolist() == [24, 24]
        assert reaches == [1.6] * number
        if search:
            assert len(searches) == number  # none of them twice
