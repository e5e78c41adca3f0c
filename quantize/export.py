"""From trained weights to a bundle: ONNX graphs, checked against PyTorch, with their weights stored once."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx.external_data_helper import set_external_data
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import edgetrack
from edgetrack.bundle import MANIFEST, SCHEMA_VERSION, KnownAnswer, Manifest, pack, validate_manifest, write_bundle
from edgetrack.imaging import overlap
from edgetrack.known_answer import MOVED, agree, ask
from edgetrack_runtimes import SessionOptions, discover, open_session
from edgetrack_runtimes.onnxruntime_session import SCALE_AFTER_CLIP, ZERO_POINT_AFTER_RELU
from quantize import kinds
from quantize.fake import QuantEmbedding
from quantize.folding import fold_transposes
from quantize.graphs import GraphSpec, named
from quantize.opset import EXPORTED, OPSET, lower
from quantize.placement import float_products
from quantize.proof import prove
from quantize.qdq import check_found, check_qdq, check_tensorrt, fold
from quantize.tracking import Truth, tracking
from train.data.pairs import Pair
from train.models.registry import Model
from train.settings import with_settings

WEIGHTS = "weights.bin"
TOLERANCE = 1e-3
"""Largest difference allowed between a graph and PyTorch, relative to the tensor's largest value."""
INT8_TOLERANCE = 1.5
"""Largest distance allowed between an INT8 graph's output and the fake-quant model's, in units of what rounding does.

A sum in another order differs in the last bit, and now and then that makes one value round the other way. The layers
behind it round the difference again, which makes it larger until it is as large as rounding itself: two such results
are as far apart as two independent errors of that size, sqrt(2) times one of them."""
ROUNDING = 0.5
"""Largest distance allowed between the fake-quant model and FP32, in units of FP32's size. Rounding makes a tenth of
that; two models that have nothing to do with each other are sqrt(2) apart."""
OVERLAP_LOST = 0.05
"""How much less, on the average, the boxes of an INT8 graph may overlap FP32's than those of the fake-quant model."""
SETTABLE = ("name", "description", "online", "score", "accuracy")
"""What settings may change of a manifest."""
FOUND = 0.5
"""Overlap with the target from which on the answer to the known question is one."""
_SHARED_BYTES = 256
_ALIGNMENT = 64


class ExportError(Exception):
    """The exported graphs do not compute what the model does, or there is nowhere to put them."""


class Difference(NamedTuple):
    """The largest difference of one output between a runtime and PyTorch, relative to the tensor's largest value."""

    backend: str
    graph: str
    tensor: str
    relative: float


class Int8(NamedTuple):
    """What the INT8 variant is made of.

    Attributes:
        model: with frozen rounding layers; see `quantize.fake.freeze`.
        facts: how it came about, for the manifest's provenance.
        examples: to prove the graphs on.
    """

    model: Model
    facts: Mapping[str, Any]
    examples: Sequence[Pair]


def export_bundle(
    model: Model,
    out: Path,
    *,
    name: str,
    metadata: Mapping[str, Any],
    settings: Iterable[str] = (),
    int8: Int8 | None = None,
    sequences: Sequence[Truth] = (),
) -> list[Difference]:
    """Write the bundle of a model, a directory or, where `out` ends in .zip, an archive of one.

    Each variant lies in a folder of its own, which can be left out of what is shipped; within it, weights that graphs
    share are stored once.

    Nothing appears at `out`, and what was there does not go, unless every graph loads and agrees with PyTorch on every
    CPU runtime that is installed.

    Args:
        model: in eval mode.
        out: replaced if it is a bundle and nothing else; any other existing file or non-empty folder is refused.
        name: of the model, in the manifest.
        metadata: of the checkpoint; what it says of training goes into the manifest's provenance.
        settings: KEY=VALUE on the manifest's name, description, online, score and accuracy.
        int8: adds the variant "int8"; what `quantize.proof` finds of it goes into the manifest's accuracy.
        sequences: to track with every variant; what `quantize.tracking` finds goes there too.

    Returns:
        The largest difference per runtime, graph and output of the FP32 graphs.

    Raises:
        ExportError: a graph differs from PyTorch, `out` holds something else than a bundle or cannot be there, the disk
            is full, or a setting does not fit.
        QdqError: an INT8 graph breaks a rule of `quantize.qdq`.
    """
    _check_target(out)
    manifest = describe(model, name, metadata)
    # The rest says what the graphs compute, or what they are of: another value would make it false.
    manifest |= with_settings({key: manifest[key] for key in SETTABLE}, settings)
    models = {"fp32": model} | ({"int8": int8.model} if int8 else {})
    specs = {variant: kinds.graphs(each, torch.Generator().manual_seed(0)) for variant, each in models.items()}
    manifest["variants"] = {
        variant: {"graphs": {graph: _tensors(f"{variant}/{graph}.onnx", spec) for graph, spec in each.items()}}
        for variant, each in specs.items()
    }
    _validated(manifest)  # a wrong setting is said before the minutes that the export takes
    facts = {key: manifest[key] for key in ("kind", "name", "preprocessing", "decoder", "queries") if key in manifest}
    with (
        _writing(out),
        tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as scratch,
        Progress(console=Console(stderr=True)) as progress,
    ):
        root = Path(scratch) / "bundle"
        paths = {variant: {graph: root / variant / f"{graph}.onnx" for graph in specs[variant]} for variant in models}
        task = progress.add_task("export", total=sum(len(each) + 1 for each in specs.values()))
        for variant, source in models.items():
            protos = {}
            for graph, spec in specs[variant].items():
                progress.update(task, description=f"export {graph}, {variant}")
                protos[graph] = _to_onnx(spec)
                progress.advance(task)
            if variant == "int8":
                _to_integers(protos.values(), source)
            write_sharing_weights(protos, root / variant, facts)
        progress.update(task, description="compare with PyTorch")
        differences = compare(model, paths["fp32"])
        progress.advance(task)
        if int8:
            progress.update(task, description="prove INT8")
            manifest["provenance"]["int8"] = dict(int8.facts)
            manifest["accuracy"]["int8"] = _proof(model, int8, paths["int8"])
            progress.advance(task)
        write_bundle(root, _validated(manifest))
        manifest["known_answers"] = known_answers(root, tuple(models))
        write_bundle(root, _validated(manifest))
        if sequences:
            manifest["accuracy"]["tracking"] = tracking(root, tuple(models), sequences, progress)
            write_bundle(root, _validated(manifest))
        if out.suffix == ".zip":
            pack(root, out)
        else:
            _replace(root, out, Path(scratch) / "before")
    return differences


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Make the folder that `out` goes into, and say so where the disk is full or does not take what is written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ExportError(f"{out}: cannot be written: {error.strerror or error}") from error


def _replace(folder: Path, out: Path, aside: Path) -> None:
    """Move `folder` to `out`, and what is there to `aside`, or back where that fails."""
    if out.exists():
        out.rename(aside)
    try:
        folder.rename(out)
    except BaseException:
        if aside.exists():
            aside.rename(out)
        raise


def _validated(manifest: Mapping[str, Any]) -> Manifest:
    try:
        return validate_manifest(json.dumps(manifest))
    except ValidationError as error:
        found = error.errors(include_url=False)
        # The first part of a place is the manifest's kind.
        problems = "; ".join(f"{'.'.join(map(str, e['loc'][1:]))} is {e['input']!r}: {e['msg']}" for e in found)
        raise ExportError(f"the manifest does not fit its schema, by --set or by the checkpoint: {problems}") from None


def _to_integers(protos: Iterable[onnx.ModelProto], model: Model) -> None:
    allowed = float_products(model)
    layers, absent = [], {name for name in allowed if isinstance(model.get_submodule(name), QuantEmbedding)}
    for proto in protos:
        absent |= fold(proto)
        layers.append(check_qdq(proto, allowed))
        check_tensorrt(proto)
    check_found(layers, [name for name in allowed if name not in absent])


def _proof(model: Model, int8: Int8, graphs: Mapping[str, Path]) -> dict[str, Any]:
    proof = prove(model, int8.model, graphs, int8.examples)
    rounding, rounded = proof["fake-quant"]["difference_from_fp32"], _mean_overlap(proof["fake-quant"])
    for tensor, most in rounding.items():
        if not most <= ROUNDING:
            raise ExportError(
                f"int8: the fake-quant model's {tensor} is {most:.2g} of its size away from FP32's; at most "
                f"{ROUNDING:g} is allowed. Quantise these very weights, on data like the training's"
            )
    for backend, found in proof["runtimes"].items():
        for tensor, difference in found["difference"].items():
            allowed = max(TOLERANCE, INT8_TOLERANCE * rounding[tensor])
            if not difference <= allowed:
                raise ExportError(
                    f"int8 on {backend}: {tensor} is {difference:.2g} of its size away from the fake-quant model; at "
                    f"most {allowed:.2g} is allowed, {INT8_TOLERANCE:g} times what rounding changes"
                )
        if not (overlap_there := _mean_overlap(found)) >= rounded - OVERLAP_LOST:
            raise ExportError(
                f"int8 on {backend}: boxes overlap FP32's by {overlap_there:.2f}, the fake-quant model's by "
                f"{rounded:.2f}; expected no more than {OVERLAP_LOST:g} less"
            )
    return proof


def _mean_overlap(found: Mapping[str, Any]) -> float:
    return float(found["overlap_with_fp32"]["mean"])


def known_answers(bundle: Path, variants: Iterable[str]) -> dict[str, Any]:
    """What each variant answers to the question of `edgetrack.known_answer`, for the manifest.

    A model that does not find the target there, such as one without training, or finds it on one CPU runtime and not on
    another says nothing by which a wrong backend could be told from a right one: that variant has no known answer.

    Raises:
        ExportError: an answer is not finite.
    """
    answers = {}
    for variant in variants:
        said = {backend: _asked(bundle, backend, variant) for backend in _cpu_backends()}
        for backend, (box, score) in said.items():
            if not np.isfinite([*box, score]).all():
                raise ExportError(
                    f"{variant} on {backend}: the answer to the known question is not finite, the box {box.tolist()} "
                    f"with a score of {score}; expected numbers. Check the weights, or try another runtime"
                )
        (box, score), *others = said.values()
        known = KnownAnswer(box=tuple(box.tolist()), score=score)
        if overlap(box, np.asarray(MOVED)) >= FOUND and all(agree(*other, known) for other in others):
            answers[variant] = known.model_dump(mode="json")
    return answers


def _asked(bundle: Path, backend: str, variant: str) -> tuple[np.ndarray[Any, Any], float]:
    model = edgetrack.load(bundle, backend, variant, threads=1)
    try:
        return ask(model)
    finally:
        model.close()


def _cpu_backends() -> list[str]:
    return [status.backend for status in discover() if status.available and status.backend.endswith("-cpu")]


def _check_target(out: Path) -> None:
    above = next((path for path in out.absolute().parents if os.path.lexists(path)), out)
    if not above.is_dir():
        raise ExportError(f"{out} cannot be written: {above} is no folder; choose another --out")
    if os.path.lexists(out) and (problem := _foreign(out)):
        raise ExportError(f"{out} exists and is not a bundle: {problem}; remove it or choose another --out")


def _foreign(path: Path) -> str | None:
    """Why what is at `path` may not be replaced, in words; None where it is an empty folder, or a bundle and no more.

    Many things hold a file called manifest.json, and a bundle's folder may hold somebody's own files.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                files = {info.filename for info in archive.infolist() if not info.is_dir()}
                manifest = archive.read(MANIFEST) if MANIFEST in files else None
        elif path.is_dir():
            inside = [each for each in path.rglob("*") if each.is_symlink() or not each.is_dir()]
            files = {each.relative_to(path).as_posix() for each in inside}
            if not files:
                return None
            manifest = (path / MANIFEST).read_bytes() if MANIFEST in files else None
        else:
            return "it is no folder" if path.exists() else "it is a link to nothing"
    except Exception as error:  # zipfile lets its parsers' errors through
        return f"it cannot be read ({error})"
    if manifest is None:
        return f"it has no {MANIFEST}"
    try:
        facts = json.loads(manifest)
    except (ValueError, RecursionError):
        return f"its {MANIFEST} is no JSON"
    # Of whatever version: a bundle of an older edgetrack is there to be made anew.
    kinds_of = {"schema_version": int, "kind": str, "variants": dict, "files": dict}
    if not isinstance(facts, dict) or not all(isinstance(facts.get(key), kind) for key, kind in kinds_of.items()):
        return f"its {MANIFEST} is not a bundle's"
    others = sorted(files - facts["files"].keys() - {MANIFEST})
    return f"it also holds {', '.join(others[:5])}" if others else None


def describe(model: Model, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest but for its graphs and files."""
    config = model.config
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": config.kind,
        "name": name,
        "description": "",
        **kinds.described(model, metadata),
        "provenance": {
            "edgetrack": edgetrack.__version__,
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "opset": OPSET,
            "config": config.to_dict(),
            **{key: metadata[key] for key in ("training", "recipe", "source") if key in metadata},
        },
        "accuracy": metadata.get("accuracy") or {},
    }


def _to_onnx(spec: GraphSpec) -> onnx.ModelProto:
    # These warn of every optional package that is not installed, and of each node that stays as it is.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                spec.module.eval(),
                tuple(spec.inputs.values()),
                dynamo=True,
                opset_version=EXPORTED,
                input_names=list(spec.inputs),
                output_names=list(spec.outputs),
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    assert program is not None
    proto = program.model_proto
    fold_transposes(proto)
    return proto


def write_sharing_weights(protos: Mapping[str, onnx.ModelProto], folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the graphs with their larger weights in one file, equal ones once.

    The key facts of the manifest go into each graph's own metadata, so that a graph met alone says what it is.
    """
    places: dict[str, int] = {}
    folder.mkdir(parents=True)
    with (folder / WEIGHTS).open("wb") as file:
        for proto in protos.values():
            for tensor in proto.graph.initializer:
                # numpy gives the same bytes for equal weights whichever of its fields the exporter filled.
                data = onnx.numpy_helper.to_array(tensor).tobytes()
                replaceable = tensor.name.startswith((ZERO_POINT_AFTER_RELU, SCALE_AFTER_CLIP))
                if len(data) < _SHARED_BYTES and not replaceable:
                    continue
                digest = hashlib.sha256(data).hexdigest()
                if digest not in places:
                    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
                    places[digest] = file.tell()
                    file.write(data)
                tensor.raw_data = data
                set_external_data(tensor, WEIGHTS, places[digest], len(data))
                tensor.ClearField("raw_data")
    for graph, proto in protos.items():
        _strip_traces(proto)
        lower(proto)
        onnx.helper.set_model_props(proto, {"graph": graph, **{key: json.dumps(value) for key, value in facts.items()}})
        path = folder / f"{graph}.onnx"
        path.write_bytes(proto.SerializeToString(deterministic=True))
        onnx.checker.check_model(path, full_check=True)


def _strip_traces(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes on nodes and values: source lines of whoever exported, most of the file's bytes."""
    for part in (
        proto,
        proto.graph,
        *proto.graph.node,
        *proto.graph.value_info,
        *proto.graph.input,
        *proto.graph.output,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _tensors(file: str, spec: GraphSpec) -> dict[str, Any]:
    def described(name: str, tensor: Tensor) -> dict[str, Any]:
        return {"name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}

    with torch.no_grad():
        outputs = named(spec, spec.module(*spec.inputs.values()))
    return {
        "file": file,
        "inputs": [described(name, tensor) for name, tensor in spec.inputs.items()],
        "outputs": [described(name, tensor) for name, tensor in outputs.items()],
    }


@torch.no_grad()
def compare(model: Model, paths: Mapping[str, Path], seeds: Iterable[int] = (1, 2, 3)) -> list[Difference]:
    """Run graphs on every CPU runtime there is, on random inputs, next to PyTorch.

    Raises:
        ExportError: an output differs by more than `TOLERANCE`, is not finite, or no CPU runtime is installed.
    """
    backends = _cpu_backends()
    if not backends:
        raise ExportError("no CPU runtime to check the graphs with; install onnxruntime or openvino")
    worst: dict[tuple[str, str, str], float] = {}
    references = [kinds.graphs(model, torch.Generator().manual_seed(seed)) for seed in seeds]
    for backend in backends:
        for graph, path in paths.items():
            with open_session(backend, path, SessionOptions(threads=1)) as session:
                for specs in references:
                    spec = specs[graph]
                    found = session.run({name: tensor.numpy() for name, tensor in spec.inputs.items()})
                    for name, expected in named(spec, spec.module(*spec.inputs.values())).items():
                        key = (backend, graph, name)
                        # What is not a number stays: max would drop it.
                        worst[key] = float(np.maximum(worst.get(key, 0.0), _relative(found[name], expected.numpy())))
    for (backend, graph, name), relative in worst.items():
        if math.isnan(relative):
            raise ExportError(
                f"{graph} on {backend}: {name} is not finite, here or in PyTorch; expected numbers. Check the weights, "
                "or try another runtime"
            )
        if not relative <= TOLERANCE:
            raise ExportError(
                f"{graph} on {backend}: {name} differs from PyTorch by {relative:.2g} "
                f"of its largest value; at most {TOLERANCE:g} is allowed"
            )
    return [Difference(*key, relative) for key, relative in worst.items()]


def _relative(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    return float(np.abs(found.astype(np.float64) - expected).max() / max(np.abs(expected).max(), 1e-12))
