"""The trained PyTorch model as an `edgetrack.Model`: what every backend and precision is compared with.

Its sessions run the very modules that are exported, in float32, so that `edgetrack.Tracker` with its crops, decoding
and template updates is the same code on both sides of a comparison.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray

from benchmarks.results import ResultsError
from edgetrack import Model
from edgetrack.bundle import Bundle, FileEntry, Manifest, validate_manifest
from edgetrack_runtimes import Session, SessionOptions, TensorSpec
from quantize import kinds
from quantize.export import describe
from quantize.graphs import GraphSpec
from train.checkpoints import CheckpointError, load_model
from train.models.registry import Model as TrainedModel

Array = NDArray[Any]


class TorchTensor:
    """A value on the reference's device."""

    def __init__(self, spec: TensorSpec, tensor: torch.Tensor) -> None:
        self.spec = spec
        self.tensor = tensor

    def numpy(self) -> Array:
        return self.tensor.cpu().numpy()


class TorchSession:
    """A module of named tensors as a `Session`."""

    def __init__(self, graph: GraphSpec, device: str) -> None:
        self.backend = f"pytorch-{device}"
        self.runtime_version = str(torch.__version__)
        self.placement: Mapping[str, int] = {device: 1}
        self._module = graph.module.eval().to(device)
        self._device = device
        with torch.inference_mode():
            outputs = self._run([value.to(device) for value in graph.inputs.values()])
        self.inputs = _specs(graph.inputs)
        self.outputs = _specs(dict(zip(graph.outputs, outputs, strict=True)))

    def upload(self, name: str, value: Array) -> TorchTensor:
        return TorchTensor(self.inputs[name], torch.tensor(value, device=self._device))

    def run(self, feeds: Mapping[str, Array | TorchTensor]) -> dict[str, Array]:
        with torch.inference_mode():
            values = [feeds[name] for name in self.inputs]
            outputs = self._run(
                [v.tensor if isinstance(v, TorchTensor) else torch.tensor(v, device=self._device) for v in values]
            )
        return {name: tensor.cpu().numpy() for name, tensor in zip(self.outputs, outputs, strict=True)}

    def close(self) -> None:
        """Nothing is held that Python does not release."""

    def _run(self, values: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        found = self._module(*values)
        return (found,) if isinstance(found, torch.Tensor) else tuple(found)


class ReferenceModel(Model):
    """A trained model with the manifest that its bundle would have."""

    def __init__(self, model: TrainedModel, manifest: Manifest, source: Path, device: str, threads: int | None) -> None:
        super().__init__(
            Bundle(manifest, source, source.parent),
            f"pytorch-{device}",
            "fp32",
            "fp32",
            SessionOptions(threads=threads, precision="fp32"),
        )
        graphs = kinds.graphs(model, torch.Generator().manual_seed(0))
        self._graphs = {name: TorchSession(graph, device) for name, graph in graphs.items()}

    def session(self, graph: str) -> Session:
        return self._graphs[graph]  # type: ignore[return-value]  # DeviceTensor is a protocol, and feeds are invariant

    def close(self) -> None:
        self._graphs.clear()


def reference_model(
    checkpoint: Path, backend: str = "auto", threads: int | None = None, manifest: Manifest | None = None
) -> ReferenceModel:
    """Load a checkpoint of `train` for cpu or cuda; "auto" takes cuda where there is one. TF32 is off.

    manifest: of a bundle whose online settings and score are to be used; by default the checkpoint's own.

    Raises:
        ResultsError: not a checkpoint, or no such device.
    """
    device = backend.removeprefix("pytorch-")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ResultsError(f"a checkpoint cannot run on {backend!r} here; expected cpu or cuda")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        model, metadata = load_model(checkpoint)
    except CheckpointError as error:
        raise ResultsError(str(error)) from None
    if manifest is None:
        name = checkpoint.parent.name if checkpoint.stem == "model" else checkpoint.stem
        described = {**describe(model, name, metadata), "variants": {"fp32": {"graphs": {}}}}
        manifest = validate_manifest(json.dumps(described))
    content = checkpoint.read_bytes()
    entry = FileEntry(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    manifest = manifest.model_copy(update={"files": {checkpoint.name: entry}})
    return ReferenceModel(model, manifest, checkpoint, device, threads)


def _specs(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, TensorSpec]:
    return MappingProxyType(
        {
            name: TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in tensors.items()
        }
    )
