"""One-pass evaluation: a tracker is given the first frame's box and answers every frame after it, once.

Raw results are kept, one folder for each contender and dataset, with what they are results of beside them
(``NAME_run.json``); a sequence that is there is not run again. Images are decoded outside of what is timed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import records
from benchmarks.contenders import Contender, Spec, digest
from benchmarks.datasets import Dataset, Sequence
from benchmarks.protocols import Scores, score
from benchmarks.results import ResultsError, Track, read_track, replacing, track_path, write_track
from edgetrack.errors import EdgeTrackError

IDENTITY = "contender.json"
VERSIONS = ("edgetrack", "opencv")
"""What decides boxes beside the contender's identity: who cuts the crops."""


def run_sequence(contender: Contender, sequence: Sequence) -> Track:
    """Give the first box, ask for every other; the first of the boxes is the one given."""
    count = len(sequence.frames)
    boxes, seconds = np.empty((count, 4)), np.full(count, np.nan)
    scores, reported = np.full(count, np.nan), np.ones(count, bool)
    try:
        contender.init(sequence.read(0), sequence.truth[0].tolist())
        boxes[0] = sequence.truth[0]
        for index in range(1, count):
            answer = contender.update(sequence.read(index))
            boxes[index], scores[index] = answer.box, answer.score
            reported[index], seconds[index] = answer.ok, answer.seconds
    except EdgeTrackError as error:
        raise ResultsError(f"{sequence.name}: {contender.label} failed: {error}") from error
    return Track(boxes, seconds, scores, reported)


def run_dataset(
    spec: Spec,
    dataset: Dataset,
    out: Path,
    *,
    processes: int = 1,
    cluster: bool = False,
    contender: Contender | None = None,
    advance: Callable[[str], object] = lambda name: None,
) -> tuple[Path, dict[str, Any]]:
    """Run what is missing of a dataset under `out`.

    Args:
        processes: each loads the contender and takes whole sequences.
        cluster: the processes are Ray's, on whichever machines it has.
        contender: what `spec` makes, if it is loaded already; used where `processes` is 1.
        advance: called with the name of each sequence once its results are there.

    Returns:
        The folder of results, and the contender's identity with its label.

    Raises:
        ResultsError: the folder has results of other frames, such as those of another dataset of this name.
    """
    contender = contender or spec.make()
    identity = {"label": contender.label, **contender.identity}
    versions = {name: version for name, version in records.versions().items() if name in VERSIONS}
    folder = out / dataset.name / f"{_slug(contender.label)}-{digest([contender.identity, versions])}"
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / IDENTITY, {**identity, "versions": versions})
    kept = [sequence.name for sequence in dataset.sequences if _is_kept(folder, sequence)]
    for name in kept:
        advance(name)
    missing = [sequence for sequence in dataset.sequences if sequence.name not in kept]
    if cluster:
        from benchmarks import cluster as machines

        by_name = {sequence.name: sequence for sequence in missing}
        for name, track in machines.run(spec, missing, processes):
            _keep(folder, by_name[name], track)
            advance(name)
        return folder, identity
    if processes == 1 or len(missing) < 2:
        for sequence in missing:
            _keep(folder, sequence, run_sequence(contender, sequence))
            advance(sequence.name)
        return folder, identity
    del contender  # its memory is the workers' to use
    # Spawned, because the runtimes' threads do not survive a fork.
    with ProcessPoolExecutor(processes, get_context("spawn"), _load, (spec,)) as pool:
        waiting = {pool.submit(_run_in_worker, sequence, folder): sequence.name for sequence in missing}
        for done in as_completed(waiting):
            done.result()
            advance(waiting[done])
    return folder, identity


_loaded: dict[str, Contender] = {}


def _load(spec: Spec) -> None:
    _loaded["contender"] = spec.make()


def _run_in_worker(sequence: Sequence, folder: Path) -> None:
    _keep(folder, sequence, run_sequence(_loaded["contender"], sequence))


def _keep(folder: Path, sequence: Sequence, track: Track) -> None:
    path = _run_path(folder, sequence.name)
    path.parent.mkdir(exist_ok=True)
    _write_json(path, {"shown": sequence.shown})
    write_track(folder, sequence.name, track)


def _is_kept(folder: Path, sequence: Sequence) -> bool:
    """Whether the results of a sequence are there; those of another one of its name are refused."""
    found = track_path(folder, sequence.name)
    if found is None:
        return False
    run = _run_path(folder, sequence.name)
    if not run.is_file() or json.loads(run.read_text())["shown"] != sequence.shown:
        raise ResultsError(
            f"{found}: results of other frames or another first box than {sequence.name} has now, as of another "
            f"dataset of this name; choose another --out, or remove {folder} to track again"
        )
    return True


def _run_path(folder: Path, name: str) -> Path:
    return folder / name / f"{name}_run.json"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def evaluate(
    spec: Spec, dataset: Dataset, out: Path, protocol: str | None = None, **options: Any
) -> tuple[Scores, dict[str, Any]]:
    """Run a dataset (`options` as for `run_dataset`) and score it.

    Returns:
        The scores, and the content of a record: contender, dataset, scores, times and where the raw results are.
    """
    folder, identity = run_dataset(spec, dataset, out, **options)
    tracks = {sequence.name: read_track(folder, sequence.name) for sequence in dataset.sequences}
    results = [sequence.result(tracks[sequence.name]) for sequence in dataset.sequences]
    try:
        scores = score(results, protocol or dataset.protocol)
    except ResultsError as error:
        raise ResultsError(f"{error}; raw results are in {folder}") from None
    content = asdict(scores)
    for sequence in content["sequences"]:
        sequence["update_ms"] = percentiles(tracks[sequence["name"]].seconds)
    return scores, {
        "contender": identity,
        "threads": spec.threads,
        "dataset": {
            "name": dataset.name,
            "sequences": len(dataset.sequences),
            "frames": sum(len(sequence.frames) for sequence in dataset.sequences),
            "digest": digest([[s.name, np.nan_to_num(s.truth, nan=-1.0).round(3).tolist()] for s in dataset.sequences]),
        },
        **content,
        "update_ms": percentiles(np.concatenate([track.seconds for track in tracks.values()])),
        "results": str(folder),
    }


def percentiles(seconds: np.ndarray[Any, Any]) -> dict[str, float]:
    """Milliseconds: mean, median, 95th and 99th percentile, longest; NaNs are left out."""
    known = 1e3 * seconds[np.isfinite(seconds)]
    if not len(known):
        return {}
    p50, p95, p99 = np.percentile(known, (50, 95, 99))
    values = {"mean": known.mean(), "p50": p50, "p95": p95, "p99": p99, "max": known.max()}
    return {name: round(float(value), 4) for name, value in values.items()}


def _slug(label: str) -> str:
    return "".join(c if c.isalnum() or c in "._" else "-" for c in label.lower()).replace("--", "-").strip("-")
