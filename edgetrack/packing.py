"""A bundle with some of its precisions, for devices that have no room for all of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from edgetrack.bundle import find_model, pack, read_bundle, write_bundle
from edgetrack.errors import OptionError, OutputError
from edgetrack_runtimes.onnx_file import external_locations

if TYPE_CHECKING:
    from collections.abc import Sequence


def repack(model: str | os.PathLike[str], out: Path, precisions: Sequence[str] = ()) -> Path:
    """Write a model's bundle with these precisions alone, or all where none is named, as a folder or a .zip.

    The graphs and their weights stay as they are, byte for byte. It is written whole or not at all.

    Args:
        model: a shipped name, or the path of a bundle.
        precisions: variants of it, such as "int8".

    Raises:
        BundleError: as `edgetrack.bundle.read_bundle`.
        OptionError: a precision that it does not have.
        OutputError: `out` is there already, or cannot be written.
    """
    bundle = read_bundle(find_model(model))
    variants = bundle.manifest.variants
    kept = tuple(dict.fromkeys(precisions)) or tuple(variants)
    if unknown := [name for name in kept if name not in variants]:
        raise OptionError(f"got the precision {unknown[0]!r}; {bundle.manifest.name!r} has {', '.join(variants)}")
    if os.path.lexists(out):
        raise OutputError(f"{out}: is there already; expected a new name")
    known = {name: answer for name, answer in bundle.manifest.known_answers.items() if name in kept}
    manifest = bundle.manifest.model_copy(
        update={"variants": {name: variants[name] for name in kept}, "known_answers": known}
    )
    files = [graph.file for name in kept for graph in variants[name].graphs.values()]
    try:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
            root = Path(folder) / "bundle"
            for file in files:
                beside = PurePosixPath(file).parent
                for name in (file, *(str(beside / each) for each in external_locations(bundle.root / file))):
                    (root / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(bundle.root / name, root / name)
            write_bundle(root, manifest)
            if out.suffix == ".zip":
                pack(root, out)
            else:
                root.rename(out)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    return out
