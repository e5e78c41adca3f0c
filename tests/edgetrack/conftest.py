"""The synthetic bundle, a model of it, and a scene that its "network" can follow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from synthetic_bundle import ColourNet, write_colour_bundle

from edgetrack import Model, load
from edgetrack.bundle import Bundle


@pytest.fixture(scope="session")
def colour_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A sound bundle on disk; tests that damage it copy it first."""
    return write_colour_bundle(tmp_path_factory.mktemp("bundles") / "colour")


@pytest.fixture(scope="session")
def colour_net() -> ColourNet:
    return ColourNet()


@pytest.fixture(scope="session")
def colour_model(colour_bundle: Bundle) -> Iterator[Model]:
    model = load(colour_bundle.root, "onnxruntime-cpu", threads=1)
    yield model
    model.close()


@pytest.fixture
def damaged(colour_bundle: Bundle, tmp_path: Path) -> Path:
    """A fresh copy of the bundle's directory, to be damaged."""
    root = tmp_path / "damaged"
    root.mkdir()
    for file in colour_bundle.root.iterdir():
        (root / file.name).write_bytes(file.read_bytes())
    return root


@pytest.fixture(scope="session")
def scene() -> tuple[list[np.ndarray], np.ndarray]:
    """25 BGR frames (120, 160, 3) of an orange square over grey noise, and its boxes (25, 4)."""
    rng = np.random.default_rng(7)
    background = rng.integers(40, 90, (120, 160, 1), np.uint8).repeat(3, axis=2)
    frames, boxes = [], []
    for i in range(25):
        x, y, side = 20 + 4 * i, 50 + round(25 * np.sin(i / 4)), 24
        frame = background.copy()
        frame[y : y + side, x : x + side] = (30 + 2 * i, 120, 230)  # the colour drifts, so that updates matter
        frames.append(frame)
        boxes.append((x, y, side, side))
    return frames, np.asarray(boxes, np.float64)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost target is looked for elsewhere from its first frame on."""
    monkeypatch.setattr("edgetrack.lookaround.PATIENCE", 0)
