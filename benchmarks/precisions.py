"""What a precision saves: a bundle's graph of a frame in each of them, in turns, and the bytes of its variants.

Medians from separate runs would compare what else the machine did then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

import edgetrack
from benchmarks.contenders import manifest_digest
from benchmarks.results import ResultsError
from benchmarks.turns import in_turns
from edgetrack.errors import BackendError, OptionError
from edgetrack.kinds import FRAME_GRAPHS

PRECISIONS = ("fp32", "int8", "int8+bf16", "int8+fp16", "bf16", "fp16")


def measure(
    model: str,
    backends: Iterable[str],
    threads: int | None = 1,
    runs: int = 300,
    advance: Callable[[str], object] = lambda what: None,
) -> list[dict[str, Any]]:
    """Time the graph that answers a frame on each backend, on noise.

    Returns, for each backend, what ran on it, of which `manifest` is a digest, and:
        milliseconds: medians by precision.
        of_fp32: the same as shares of FP32's.
        refused: by precision, why the backend does not compute in it, or that the bundle has no such variant.
        bytes: of the variants' files, by precision.

    Raises:
        ResultsError: the bundle has no FP32, or a backend cannot run it.
    """
    entries = []
    for backend in backends:
        advance(f"{model} on {backend}")
        with ExitStack() as stack:
            loaded, refused = {}, {}
            for precision in PRECISIONS:
                try:
                    loaded[precision] = edgetrack.load(model, backend, precision, threads=threads)
                except (BackendError, OptionError) as error:
                    refused[precision] = str(error)
                    continue
                stack.callback(loaded[precision].close)
            if "fp32" not in loaded:
                raise ResultsError(f"{model} has no FP32 on {backend} to compare with: {refused['fp32']}")
            milliseconds = _time(loaded, runs)
            manifest = loaded["fp32"].manifest
            runtime = loaded["fp32"].session(FRAME_GRAPHS[manifest.kind]).runtime_version
        sizes = {
            variant: sum(file.bytes for name, file in manifest.files.items() if name.startswith(f"{variant}/"))
            for variant in manifest.variants
        }
        entries.append(
            {
                "model": manifest.name,
                "manifest": manifest_digest(manifest),
                "backend": backend,
                "runtime": runtime,
                "threads": threads,
                "runs": runs,
                "milliseconds": milliseconds,
                "of_fp32": {name: value / milliseconds["fp32"] for name, value in milliseconds.items()},
                "refused": refused,
                "bytes": sizes,
            }
        )
    return entries


def _time(models: dict[str, edgetrack.Model], runs: int) -> dict[str, float]:
    """Median milliseconds of a run of each model's graph."""
    sessions = {name: model.session(FRAME_GRAPHS[model.manifest.kind]) for name, model in models.items()}
    generator = np.random.default_rng(0)
    inputs = next(iter(sessions.values())).inputs
    feeds = {name: generator.random(spec.shape).astype(spec.dtype) for name, spec in inputs.items()}
    seconds = in_turns({name: partial(session.run, feeds) for name, session in sessions.items()}, runs)
    return {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}
