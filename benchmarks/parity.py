"""Whether what runs on the device is what was trained: every backend and precision against the PyTorch reference.

Three comparisons, from the inside out. Graph by graph, on crops of real frames: each graph is fed what the reference
computed before it, so that a difference is its own. Box by box, on the same crops. And over whole sequences, where
each tracker goes its own way and a difference may grow: the success AUC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgetrack
import edgetrack.bundle
from benchmarks.accuracy import evaluate
from benchmarks.contenders import EdgetrackContender, Spec
from benchmarks.datasets import Dataset
from benchmarks.datasets import Sequence as Video
from benchmarks.reference import ReferenceModel, reference_model
from benchmarks.results import ResultsError
from edgetrack.bundle import CropSettings, Manifest
from edgetrack.decoding import STEPS, hanning_window
from edgetrack.errors import BackendError, OptionError
from edgetrack.imaging import crop_square, normalise
from edgetrack.sources import read_image

Array = NDArray[Any]


@dataclass(frozen=True)
class Limits:
    """What fails a comparison; None lets anything pass.

    auc_drop: of the success AUC, as a fraction. box_error: of the 95th percentile over crops, see `compare_graphs`.
    """

    auc_drop: float | None = None
    box_error: float | None = None

    def broken(self, entry: dict[str, Any]) -> list[str]:
        """Which limits an entry of `compare` breaks, in words."""
        found = []
        if self.auc_drop is not None and entry.get("auc_drop") is not None and entry["auc_drop"] > self.auc_drop:
            found.append(f"AUC drops by {entry['auc_drop']:.4f}, more than {self.auc_drop:g}")
        if self.box_error is not None and entry["box_error"]["p95"] > self.box_error:
            found.append(f"box error {entry['box_error']['p95']:.5f}, more than {self.box_error:g}")
        return found


def compare(
    model: str,
    checkpoint: Path,
    dataset: Dataset,
    out: Path,
    *,
    backends: Sequence[str],
    precisions: Sequence[str] = (),
    threads: int | None = 1,
    per_sequence: int = 4,
    closed_loop: bool = True,
    limits: Limits | None = None,
    advance: Callable[[str], object] = lambda name: None,
) -> dict[str, Any]:
    """Compare a bundle with the checkpoint it was made of; the content of a record.

    Args:
        precisions: variants of the bundle; all of them by default.
        per_sequence: crops taken from each sequence.
        closed_loop: whether to run whole sequences, too.
    """
    limits = limits or Limits()
    manifest = edgetrack.bundle.read_bundle(edgetrack.bundle.find_model(model)).manifest
    reference = reference_model(checkpoint, threads=threads, manifest=manifest)
    examples = list(feeds(reference, dataset.sequences, per_sequence))
    reference_auc = None
    if closed_loop:
        advance(reference.backend)
        spec = Spec(str(checkpoint), reference.backend, threads=threads)
        scores, _ = evaluate(spec, dataset, out, contender=EdgetrackContender(spec, reference))
        reference_auc = scores.metrics["auc"]
    entries = []
    for backend in backends:
        for precision in precisions or tuple(manifest.variants):
            advance(f"{precision} on {backend}")
            entry = {"backend": backend, "precision": precision}
            try:
                # fp32 asks the runtime for float32 arithmetic: some take bfloat16 where the processor has it.
                loaded = edgetrack.load(model, backend, precision, threads)
            except (BackendError, OptionError) as error:
                entries.append({**entry, "refused": str(error)})
                continue
            entry |= {"runtime": loaded.session("template").runtime_version}
            entry |= compare_graphs(reference, loaded, examples)
            if closed_loop:
                spec = Spec(model, backend, precision, threads)
                scores, _ = evaluate(spec, dataset, out, contender=EdgetrackContender(spec, loaded))
                entry |= {"auc": scores.metrics["auc"], "auc_drop": reference_auc - scores.metrics["auc"]}
            loaded.close()
            entries.append({**entry, "broken": limits.broken(entry)})
    return {
        "model": manifest.name,
        "reference": {
            "backend": reference.backend,
            "torch": reference.session("track").runtime_version,
            "tf32": False,
            "auc": reference_auc,
        },
        "dataset": {"name": dataset.name, "sequences": len(dataset.sequences), "crops": len(examples)},
        "limits": {"auc_drop": limits.auc_drop, "box_error": limits.box_error},
        "entries": entries,
    }


def feeds(reference: ReferenceModel, videos: Sequence[Video], per_sequence: int) -> Iterator[dict[str, list[Any]]]:
    """For each crop: graph -> the feeds it is run on, one or, for `decode_step`, four.

    The search crop is cut around the target's place in the frame before, as in tracking that goes well.
    """
    manifest = reference.manifest
    window = hanning_window(manifest.online.window, manifest.decoder.bins)
    for video in videos:
        seen = np.flatnonzero(~video.absent & np.isfinite(video.truth).all(axis=1))
        later = [int(i) for i in seen[1:] if i - 1 in seen]
        if not later:
            continue
        template = _crop(manifest, read_image(video.frames[0]), video.truth[0], manifest.preprocessing.template)
        templates = {"templates": np.stack([template] * manifest.templates)}
        state = reference.session("template").run(templates)
        for index in dict.fromkeys(later[i] for i in np.linspace(0, len(later) - 1, per_sequence).round().astype(int)):
            frame = read_image(video.frames[index])
            search = _crop(manifest, frame, video.truth[index - 1], manifest.preprocessing.search)[None]
            encode = {"search": search, **state}
            cross = reference.session("encode").run(encode)
            yield {
                "template": [templates],
                "encode": [encode],
                "decode_step": list(_steps(reference, cross)),
                "track": [{**encode, "window": window}],
            }


def _steps(reference: ReferenceModel, cross: dict[str, Array]) -> Iterator[dict[str, Array]]:
    session = reference.session("decode_step")
    past = {name: np.zeros(session.inputs[name].shape, np.float32) for name in ("past_keys", "past_values")}
    token = reference.manifest.decoder.bins + 1
    for position in range(STEPS):
        step = {"token": np.asarray([token]), "position": np.asarray([position]), **past, **cross}
        yield step
        answer = session.run(step)
        past = {"past_keys": answer["present_keys"], "past_values": answer["present_values"]}
        token = int(answer["logits"][0, : reference.manifest.decoder.bins].argmax())


def _crop(manifest: Manifest, frame: Array, box: Array, settings: CropSettings) -> Array:
    crop = crop_square(frame, box, settings.factor, settings.size)
    return normalise(crop.image, manifest.preprocessing.mean, manifest.preprocessing.std)


def compare_graphs(
    reference: ReferenceModel, candidate: edgetrack.Model, examples: Sequence[dict[str, list[Any]]]
) -> dict[str, Any]:
    """Run every graph of both on the same inputs.

    Returns:
        tensors: graph -> output -> the worst absolute difference in units of the reference's largest value.
        box_error: over crops, the largest difference among cx, cy, w and h in units of the search crop's side: mean,
            p95 and worst.
        equal_boxes: share of crops on which all four tokens are the same.
    """
    tensors: dict[str, dict[str, float]] = {}
    errors = []
    for example in examples:
        for graph, inputs in example.items():
            worst = tensors.setdefault(graph, {})
            for each in inputs:
                expected, found = reference.session(graph).run(each), candidate.session(graph).run(each)
                if expected.keys() != found.keys():
                    raise ResultsError(
                        f"{graph}: the bundle gives {', '.join(found)}, the checkpoint {', '.join(expected)}: "
                        "they are not of the same model"
                    )
                for name, value in expected.items():
                    if name == "tokens":
                        errors.append(np.abs(found[name] - value).max() / (reference.manifest.decoder.bins - 1))
                    else:
                        worst[name] = max(worst.get(name, 0.0), relative(found[name], value))
    boxes = np.asarray(errors)
    return {
        "tensors": tensors,
        "box_error": {
            "mean": float(boxes.mean()),
            "p95": float(np.percentile(boxes, 95)),
            "worst": float(boxes.max()),
        },
        "equal_boxes": float((boxes == 0).mean()),
    }


def relative(found: Array, expected: Array) -> float:
    """The largest absolute difference in units of the largest expected value; infinite for NaN."""
    difference = np.abs(found.astype(np.float64) - expected).max()
    return float(difference / max(np.abs(expected).max(), 1e-12)) if np.isfinite(difference) else float("inf")
