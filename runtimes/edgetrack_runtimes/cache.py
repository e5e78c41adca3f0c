"""Where a compiled engine is kept: one folder per graph, precision, runtime version and device."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from edgetrack_runtimes.errors import BackendError
from edgetrack_runtimes.onnx_file import external_locations


def user_cache() -> Path:
    """Where a user's engines are kept if no other place is named; see the XDG Base Directory Specification.

    Raises:
        BackendError: the user has no home, as in some containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgetrack"
    except RuntimeError as error:
        raise BackendError(f"no place for the engine cache: {error}") from error


def engine_folder(
    cache_dir: Path, graph: Path, *, backend: str, precision: str, runtime_version: str, device: str
) -> Path:
    """The folder for this graph's engine, made if need be; raises `BackendError` if it cannot be."""
    parts = (backend, graph_hash(graph)[:16], precision, runtime_version, device)
    folder = cache_dir / "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("_") for part in parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(f"cannot make the engine cache folder {folder}: {error.strerror}") from error
    return folder


def graph_hash(graph: Path) -> str:
    """SHA-256 over the graph and its external weights: two trainings of one model differ in nothing else."""
    digest = hashlib.sha256()
    sidecars = (graph.parent / location for location in sorted(external_locations(graph)))
    for path in (graph, *filter(os.path.isfile, sidecars)):  # a missing one is the runtime's to name
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
