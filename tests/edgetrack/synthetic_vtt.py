"""A VTT bundle small enough to check by hand: every cell of the canvas is a query, and scores by its colour's distance.

The kernel is the template's mean colour, (3, 1). A cell outside the frame's extent scores nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from synthetic_bundle import _Nodes

from edgetrack.bundle import SCHEMA_VERSION, Bundle, VTTManifest, write_bundle

WIDTH, HEIGHT, CELL, TEMPLATE = 80, 48, 8, 16
ROWS, COLUMNS = HEIGHT // CELL, WIDTH // CELL
QUERIES = ROWS * COLUMNS
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SHARPNESS = 2.0


def centres() -> np.ndarray:
    """(N, 2) x and y of the cells, in units of the canvas."""
    y, x = np.mgrid[:ROWS, :COLUMNS]
    return np.stack([(x + 0.5) / COLUMNS, (y + 0.5) / ROWS], -1).reshape(-1, 2)


def tensors() -> dict[str, dict]:
    def tensor(name: str, *shape: int) -> dict:
        return {"name": name, "shape": list(shape), "dtype": "float32"}

    kernel = tensor("kernel", 3, 1)
    return {
        "template": {"inputs": [tensor("template", 1, TEMPLATE, TEMPLATE, 3)], "outputs": [kernel]},
        "search": {
            "inputs": [tensor("search", 1, HEIGHT, WIDTH, 3), tensor("extent", 1, 2), kernel],
            "outputs": [tensor("boxes", 1, QUERIES, 4), tensor("scores", 1, QUERIES)],
        },
    }


def vtt_manifest(**changes: object) -> VTTManifest:
    """A manifest for the graphs; `changes` replace its top-level entries."""
    values = {
        "schema_version": SCHEMA_VERSION,
        "kind": "vtt",
        "name": "cells",
        "description": "",
        "preprocessing": {
            "color": "rgb",
            "mean": MEAN,
            "std": STD,
            "search": {"width": WIDTH, "height": HEIGHT},
            "template": {"size": TEMPLATE, "factor": 1.0},
        },
        "queries": QUERIES,
        "score": {"source": "top", "ok_threshold": 0.5},
        "variants": {"fp32": {"graphs": {n: {"file": f"{n}.onnx", **spec} for n, spec in tensors().items()}}},
    }
    return VTTManifest.model_validate({**values, **changes})


def write_cells_bundle(root: Path, side: float = 2.0, **changes: object) -> Bundle:
    """Write the bundle into the new directory `root`; boxes are `side` cells wide and high."""
    root.mkdir(parents=True)
    n = _Nodes()
    n("Reshape", n("ReduceMean", "template", axes=[1, 2]), n.constant([3, 1], "int64"), out="kernel")
    n.write(root / "template.onnx", **tensors()["template"])
    n = _Nodes()
    cells = n("AveragePool", n("Transpose", "search", perm=[0, 3, 1, 2]), kernel_shape=[CELL] * 2, strides=[CELL] * 2)
    difference = n("Sub", n("Reshape", cells, n.constant([3, QUERIES], "int64")), "kernel")
    distance = n("ReduceSum", n("Mul", difference, difference), n.constant([0], "int64"), keepdims=1)
    inside = n("Less", n.constant(centres()[None]), "extent")  # (1, N, 2)
    inside = n("ReduceMin", n("Cast", inside, to=1), axes=[2], keepdims=0)
    n("Mul", n("Exp", n("Mul", distance, n.constant(-SHARPNESS))), inside, out="scores")
    boxes = np.concatenate([centres(), np.broadcast_to([side / COLUMNS, side / ROWS], (QUERIES, 2))], 1)
    n("Identity", n.constant(boxes[None]), out="boxes")
    n.write(root / "search.onnx", **tensors()["search"])
    return write_bundle(root, vtt_manifest(**changes))
