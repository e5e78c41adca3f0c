"""One-pass evaluation: a tracker is given the first frame's box and answers every frame after it, once.

Raw results are kept, one folder for each contender and dataset, with what they are results of beside them
(``NAME_run.json``); a sequence that is there is not run again. Images are decoded outside of what is timed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
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
CONDITIONS = ("threads", "processes", "cluster", "hardware")
"""What decides times, and not boxes: kept ones are given only where all of these are the same."""


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
        ResultsError: results cannot be kept there, or the folder has those of other frames, such as another dataset's
            of this name.
    """
    contender = contender or spec.make()
    identity = {"label": contender.label, **contender.identity}
    versions = {name: version for name, version in records.versions().items() if name in VERSIONS}
    folder = out / dataset.name / f"{_slug(contender.label)}-{digest([contender.identity, versions])}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{folder}: no results can be kept there ({error.strerror}); give another --out") from None
    _write_json(folder / IDENTITY, {**identity, "versions": versions})
    run = conditions(spec, processes, cluster)
    kept = [sequence.name for sequence in dataset.sequences if _is_kept(folder, sequence)]
    for name in kept:
        advance(name)
    missing = [sequence for sequence in dataset.sequences if sequence.name not in kept]
    if cluster:
        from benchmarks import cluster as machines

        by_name = {sequence.name: sequence for sequence in missing}
        for name, track in machines.run(spec, missing, processes):
            _keep(folder, by_name[name], track, run)
            advance(name)
        return folder, identity
    if processes == 1 or len(missing) < 2:
        for sequence in missing:
            _keep(folder, sequence, run_sequence(contender, sequence), run)
            advance(sequence.name)
        return folder, identity
    del contender  # its memory is the workers' to use
    # Spawned, because the runtimes' threads do not survive a fork.
    with ProcessPoolExecutor(processes, get_context("spawn"), _load, (spec,)) as pool:
        waiting = {pool.submit(_run_in_worker, sequence, folder, run): sequence.name for sequence in missing}
        for done in as_completed(waiting):
            done.result()
            advance(waiting[done])
    return folder, identity


_loaded: dict[str, Contender] = {}


def _load(spec: Spec) -> None:
    _loaded["contender"] = spec.make()


def _run_in_worker(sequence: Sequence, folder: Path, run: dict[str, Any]) -> None:
    _keep(folder, sequence, run_sequence(_loaded["contender"], sequence), run)


def conditions(spec: Spec, processes: int, cluster: bool) -> dict[str, Any]:
    """What is said of a run beside its raw results: `CONDITIONS`, when it began, and the load then."""
    return {
        "threads": spec.threads,
        "processes": processes,
        "cluster": cluster,
        "hardware": records.hardware(),
        "date": records.now(),
        "load_average": records.load_average(),
    }


def _keep(folder: Path, sequence: Sequence, track: Track, run: dict[str, Any]) -> None:
    path = _run_path(folder, sequence.name)
    path.parent.mkdir(exist_ok=True)
    _write_json(path, {"shown": sequence.shown, **run})
    write_track(folder, sequence.name, track)


def _is_kept(folder: Path, sequence: Sequence) -> bool:
    """Whether the results of a sequence are there; those of another one of its name are refused."""
    found = track_path(folder, sequence.name)
    if found is None:
        return False
    if not _run_path(folder, sequence.name).is_file() or _run(folder, sequence.name)["shown"] != sequence.shown:
        raise ResultsError(
            f"{found}: results of other frames or another first box than {sequence.name} has now, as of another "
            f"dataset of this name; choose another --out, or remove {folder} to track again"
        )
    return True


def _run_path(folder: Path, name: str) -> Path:
    return folder / name / f"{name}_run.json"


def _run(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_run_path(folder, name).read_text())
    return found


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n")


def timed(folder: Path, dataset: Dataset, now: dict[str, Any]) -> dict[str, Any] | None:
    """What the kept times of a dataset rest on; None where not all were taken under the conditions of now."""
    runs = [_run(folder, sequence.name) for sequence in dataset.sequences]
    if any(run[name] != now[name] for run in runs for name in CONDITIONS):
        return None
    dates = sorted(run["date"] for run in runs)
    return {
        "first": dates[0],
        "last": dates[-1],
        "load_average": max(run["load_average"] for run in runs),
        "processes": now["processes"],
        "cluster": now["cluster"],
    }


def read_tracks(folder: Path, dataset: Dataset, times: bool) -> dict[str, Track]:
    """The kept tracks of a dataset by sequence, with times or with NaN for them."""
    tracks = {sequence.name: read_track(folder, sequence.name) for sequence in dataset.sequences}
    if times:
        return tracks
    return {name: replace(track, seconds=np.full_like(track.seconds, np.nan)) for name, track in tracks.items()}


def evaluate(
    spec: Spec,
    dataset: Dataset,
    out: Path,
    protocol: str | None = None,
    *,
    processes: int = 1,
    cluster: bool = False,
    **options: Any,
) -> tuple[Scores, dict[str, Any]]:
    """Run a dataset (arguments as for `run_dataset`) and score it.

    Returns:
        The scores, and the content of a record: contender, dataset, scores, times with what they rest on, and where
        the raw results are. There are no times where some were kept from other `CONDITIONS`.
    """
    folder, identity = run_dataset(spec, dataset, out, processes=processes, cluster=cluster, **options)
    basis = timed(folder, dataset, conditions(spec, processes, cluster))
    tracks = read_tracks(folder, dataset, times=basis is not None)
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
        "dataset": dataset.describe(),
        **content,
        "update_ms": percentiles(np.concatenate([track.seconds for track in tracks.values()])),
        "timed": basis,
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
