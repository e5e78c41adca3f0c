"""Where a compiled engine is kept: one folder per graph, runtime version and device."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from edgetrack_runtimes.errors import BackendError

# ONNX stores where external weights lie as the map entry {"location": path}: field 1 the key, field 2 the value.
_LOCATION_KEY = b"\x0a\x08location\x12"


def engine_folder(cache_dir: Path, graph: Path, *, backend: str, runtime_version: str, device: str) -> Path:
    """The folder for this graph's engine, made if need be; raises `BackendError` if it cannot be."""
    parts = (backend, graph_hash(graph)[:16], runtime_version, device)
    folder = cache_dir / "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", part).strip("_") for part in parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BackendError(f"cannot make the engine cache folder {folder}: {error.strerror}") from error
    return folder


def graph_hash(graph: Path) -> str:
    """SHA-256 over the graph and its external weights: two trainings of one model differ in nothing else."""
    content = graph.read_bytes()
    digest = hashlib.sha256(content)
    for location in sorted(set(_external_locations(content))):
        sidecar = graph.parent / location
        if sidecar.is_file():
            with sidecar.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def _external_locations(content: bytes) -> Iterator[str]:
    """Relative paths of external weight files, read off the protobuf bytes (the SDK does not depend on onnx)."""
    start = content.find(_LOCATION_KEY)
    while start >= 0:
        at = start + len(_LOCATION_KEY)
        length = shift = 0
        for byte in content[at : at + 5]:  # a varint: seven bits a byte, lowest first
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        # By chance the key may occur inside weights; what follows is then no path of a file, and is_file says so.
        path = content[at : at + length] if length < 4096 else b""
        if path and b"\x00" not in path:
            yield path.decode("utf-8", "replace")
        start = content.find(_LOCATION_KEY, at)
