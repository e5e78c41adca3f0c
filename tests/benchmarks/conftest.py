"""A dataset of two short drawn sequences, a synthetic bundle that can follow them, and a small trained model."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

# Bundles are made by modules beside other tests, which pytest finds by itself only when it collects those.
sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("edgetrack", "quantize")]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from synthetic_bundle import write_colour_bundle

    return write_colour_bundle(tmp_path_factory.mktemp("bundles") / "colour").root


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of a small model with random weights, and the bundle exported from it."""
    from small_models import random_model

    from quantize.export import export_bundle
    from train.checkpoints import save_model

    root = tmp_path_factory.mktemp("trained")
    model = random_model("isolated")
    save_model(root / "small.safetensors", model)
    export_bundle(model, root / "small", name="small", metadata={})
    return root / "small.safetensors", root / "small"


def draw_sequence(folder: Path, count: int, absent: range, step: int = 4, noise: int = 50) -> np.ndarray:
    """Write `count` frames of an orange square over grey noise of that strength, going right by `step` pixels a frame
    and hidden in `absent`; its boxes, NaN where hidden."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(count)
    background = rng.integers(40, 40 + noise, (120, 160, 1), np.uint8).repeat(3, axis=2)
    boxes = np.full((count, 4), np.nan)
    for i in range(count):
        x, y, side = 20 + step * i, 50 + round(10 * np.sin(i / 2)), 24
        frame = background.copy()
        if i not in absent:
            frame[y : y + side, x : x + side] = (30, 120, 230)
            boxes[i] = (x, y, side, side)
        cv2.imwrite(str(folder / f"{i + 1:08d}.png"), frame)
    lines = [",".join("nan" if np.isnan(v) else f"{v:.2f}" for v in box) for box in boxes]
    (folder / "groundtruth.txt").write_text("\n".join(lines) + "\n")
    (folder / "absence.label").write_text("\n".join(str(int(i in absent)) for i in range(count)) + "\n")
    return boxes


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in GOT-10k's layout: "plain" of 12 frames, "hides" of 16 with the target out of sight in 8 to 10."""
    root = tmp_path_factory.mktemp("data") / "drawn"
    draw_sequence(root / "plain", 12, range(0))
    draw_sequence(root / "hides", 16, range(8, 11))
    (root / "hides" / "meta.json").write_text('{"attributes": "drawn: square; OCC SV"}')
    (root / "list.txt").write_text("plain\nhides\n")
    return root


@pytest.fixture(scope="session")
def slow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one sequence, "slow", whose target leaves room for it far away, and nothing to drift to."""
    root = tmp_path_factory.mktemp("data") / "slow"
    draw_sequence(root / "slow", 12, range(0), step=1, noise=1)
    (root / "list.txt").write_text("slow\n")
    return root
