"""Whether what runs on the device is what was trained: every backend and precision against the PyTorch reference.

Three comparisons, from the inside out. Graph by graph, on crops of real frames: each graph is fed what the reference
computed before it, so that a difference is its own. Box by box, on the same crops. And over whole sequences, where
each tracker goes its own way and a difference may grow: the success AUC.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import edgetrack
import edgetrack.bundle
from benchmarks.accuracy import evaluate
from benchmarks.contenders import EdgetrackContender, Spec
from benchmarks.datasets import Dataset
from benchmarks.datasets import Sequence as Video
from benchmarks.protocols import require_auc
from benchmarks.reference import ReferenceModel, reference_model
from benchmarks.results import ResultsError
from edgetrack import Model, kinds
from edgetrack.decoding import tokens_to_box
from edgetrack.errors import BackendError, OptionError
from edgetrack.seqtrack import GRAPHS
from edgetrack_runtimes import Session

Array = NDArray[Any]
Example: TypeAlias = dict[str, list[dict[str, Any]]]


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
        # Asked the other way round, NaN would pass.
        drop, error = entry.get("auc_drop"), entry["box_error"]["p95"]
        if self.auc_drop is not None and drop is not None and not drop <= self.auc_drop:
            found.append(f"AUC drops by {drop:.4f}; at most {self.auc_drop:g} is allowed")
        if self.box_error is not None and not error <= self.box_error:
            found.append(f"box error {error:.5f}; at most {self.box_error:g} is allowed")
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

    Raises:
        ResultsError: whole sequences of this dataset have no AUC, or the bundle is another model's.
    """
    limits = limits or Limits()
    if closed_loop:
        require_auc(dataset.name, dataset.protocol)
    manifest = edgetrack.bundle.read_bundle(edgetrack.bundle.find_model(model)).manifest
    reference = reference_model(checkpoint, threads=threads, manifest=manifest)
    examples = list(feeds(reference, dataset.sequences, per_sequence))
    spec = Spec(str(checkpoint), reference.backend, threads=threads)
    trained = EdgetrackContender(spec, reference)
    reference_auc = None
    if closed_loop:
        advance(reference.backend)
        scores, _ = evaluate(spec, dataset, out, contender=trained)
        reference_auc = scores.metrics["auc"]
    entries = []
    for backend in backends:
        for precision in precisions or tuple(manifest.variants):
            advance(f"{precision} on {backend}")
            entry: dict[str, Any] = {"backend": backend, "precision": precision}
            try:
                # fp32 asks the runtime for float32 arithmetic: some take bfloat16 where the processor has it.
                loaded = edgetrack.load(model, backend, precision, threads=threads)
            except (BackendError, OptionError) as error:
                entries.append({**entry, "refused": str(error)})
                continue
            spec = Spec(model, backend, precision, threads)
            contender = EdgetrackContender(spec, loaded)
            entry |= {"contender": {"label": contender.label, **contender.identity}}
            entry |= {"runtime": loaded.session("template").runtime_version}
            entry |= compare_graphs(reference, loaded, examples)
            if closed_loop:
                scores, _ = evaluate(spec, dataset, out, contender=contender)
                entry |= {"auc": scores.metrics["auc"], "auc_drop": reference_auc - scores.metrics["auc"]}
            loaded.close()
            entries.append({**entry, "broken": limits.broken(entry)})
    return {
        "model": manifest.name,
        "checkpoint": {"label": trained.label, **trained.identity},
        "threads": threads,
        "reference": {
            "backend": reference.backend,
            "torch": reference.session("template").runtime_version,
            "tf32": False,
            "auc": reference_auc,
        },
        "dataset": {**dataset.describe(), "crops": len(examples)},
        "limits": {"auc_drop": limits.auc_drop, "box_error": limits.box_error},
        "entries": entries,
    }


def feeds(reference: ReferenceModel, videos: Sequence[Video], per_sequence: int) -> Iterator[Example]:
    """For each of some frames of each video: graph -> the feeds that one step of the online algorithm runs it on, by
    every way of decoding that the model has; one or, for `decode_step`, as many as there are tokens to read and write.

    The step starts from the truth of the frames before, as in tracking that goes well: the last box is where a search
    crop is cut, and where the model has a prompt the last ones are what it is told.
    """
    steps = []
    for options in map(kinds.Options, GRAPHS):
        try:
            watched = _Watched(reference, kinds.graphs(reference.manifest, options))
        except OptionError:  # a way that this model does not have
            continue
        steps.append((watched, kinds.algorithm(watched, options)))
    for video in videos:
        seen = np.flatnonzero(~video.absent & np.isfinite(video.truth).all(axis=1))
        later = [int(i) for i in seen[1:] if i - 1 in seen]
        if not later:
            continue
        first = video.read(0)
        for index in dict.fromkeys(later[i] for i in np.linspace(0, len(later) - 1, per_sequence).round().astype(int)):
            frame, before = video.read(index), video.truth[seen[seen < index]]
            example: Example = {}
            for watched, algorithm in steps:
                watched.fed.clear()
                algorithm.step(_moved(algorithm.init(first, video.truth[0]), before), frame)
                example |= {graph: list(fed) for graph, fed in watched.fed.items()}
            yield example


def _moved(state: Any, boxes: Array) -> Any:
    """The state of a target that has since been seen at `boxes` (N, 4), the last one being the frame before."""
    told = len(getattr(state, "history", ()))
    changes = {"box": boxes[-1], "region": boxes[-1], "history": (*state.history, *boxes)[-told:] if told else ()}
    # VTT, which searches the whole frame, keeps neither a region nor a history.
    return replace(state, **{each.name: changes[each.name] for each in fields(state) if each.name in changes})


class _Watched(Model):
    """The reference as an online algorithm sees it; `fed` holds what its graphs are run on, by graph."""

    def __init__(self, reference: ReferenceModel, graphs: Sequence[str]) -> None:
        super().__init__(reference.bundle, reference.backend, "fp32", "fp32", reference.options)
        self.fed: dict[str, list[dict[str, Any]]] = {}
        self._noting = {graph: _Noting(reference.session(graph), graph, self.fed) for graph in graphs}

    def session(self, graph: str) -> Any:
        return self._noting[graph]


class _Noting:
    """A session that notes what it is fed."""

    def __init__(self, session: Session, graph: str, fed: dict[str, list[dict[str, Any]]]) -> None:
        self.inputs, self.upload = session.inputs, session.upload
        self._session, self._graph, self._fed = session, graph, fed

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        arrays = {name: v if isinstance(v, np.ndarray) else v.numpy() for name, v in feeds.items()}
        self._fed.setdefault(self._graph, []).append(arrays)
        return self._session.run(feeds)


def compare_graphs(
    reference: ReferenceModel, candidate: edgetrack.Model, examples: Sequence[Example]
) -> dict[str, Any]:
    """Run every graph of both on the same inputs.

    Returns:
        tensors: graph -> output -> the worst absolute difference in units of the reference's largest value.
        box_error: over examples, the largest difference among cx, cy, w and h in units of the search image's side:
            mean, p95 and worst.
        equal_boxes: share of examples on which all four tokens are the same, or the same query is the best.
    """
    tensors: dict[str, dict[str, float]] = {}
    errors, equal = [], []
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
                    if name != "tokens":
                        worst[name] = max(worst.get(name, 0.0), relative(found[name], value))
                if graph == kinds.FRAME_GRAPHS[reference.manifest.kind]:
                    (box, choice), (other, another) = _answer(reference, expected), _answer(reference, found)
                    errors.append(np.abs(box - other).max())
                    equal.append(choice == another)
    boxes = np.asarray(errors)
    return {
        "tensors": tensors,
        "box_error": {
            "mean": float(boxes.mean()),
            "p95": float(np.percentile(boxes, 95)),
            "worst": float(boxes.max()),
        },
        "equal_boxes": float(np.mean(equal)),
    }


def _answer(reference: ReferenceModel, outputs: dict[str, Array]) -> tuple[Array, tuple[int, ...]]:
    """The box (4,) that a frame's graph stands for, cx, cy, w, h in units of the search image's side, and the choice
    that it made."""
    manifest: Any = reference.manifest
    if manifest.kind == "vtt":
        best = int(outputs["scores"][0].argmax())
        return outputs["boxes"][0, best], (best,)
    tokens = outputs["tokens"][0]
    return tokens_to_box(tokens, manifest.decoder.bins, manifest.decoder.order), tuple(tokens.tolist())


def relative(found: Array, expected: Array) -> float:
    """The largest absolute difference in units of the largest expected value; infinite for NaN."""
    difference = np.abs(found.astype(np.float64) - expected).max()
    return float(difference / max(np.abs(expected).max(), 1e-12)) if np.isfinite(difference) else float("inf")
