"""Raw results on disk: the text files that the toolkits exchange, and the .npz of boxes with their truth.

A folder of results holds, for a sequence NAME, either ``NAME.txt`` (OTB, LaSOT, pytracking) or ``NAME/NAME_001.txt``
(GOT-10k): one line x,y,w,h a frame, separated by commas, tabs or blanks. Beside it may lie ``NAME_time.txt`` (seconds
per frame), ``NAME_score.txt`` and ``NAME_present.txt`` (0 or 1: whether the tracker reports the target). Without the
last, a box that is NaN or empty reports the target as absent.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np

from benchmarks.metrics import Flags, Floats
from train.data.labels import DatasetError, read_table


class ResultsError(Exception):
    """Results or a dataset that are missing, malformed, or do not fit each other."""


@dataclass(frozen=True)
class Result:
    """A tracker's boxes on one sequence, with what is known of the target.

    Attributes:
        truth: (N, 4); NaN where there is no annotation.
        absent: (N,), True where the target is known to be out of sight.
        predicted: (N, 4).
        reported: (N,), whether the tracker says that the target is there.
        attributes: what makes the sequence hard, such as "OCC"; for tables by attribute.
    """

    name: str
    truth: Floats
    absent: Flags
    predicted: Floats
    reported: Flags
    attributes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.truth)
        if count == 0 or self.truth.shape != (count, 4) or self.absent.shape != (count,):
            raise ResultsError(
                f"{self.name}: truth {self.truth.shape} with absence {self.absent.shape}; expected (N, 4) and (N,)"
            )
        if self.predicted.shape != (count, 4) or self.reported.shape != (count,):
            raise ResultsError(
                f"{self.name}: {len(self.predicted)} results for {count} frames; expected one line x,y,w,h per frame"
            )


@dataclass(frozen=True)
class Track:
    """What a tracker said of a sequence, frame by frame; the first frame is the one it was given."""

    boxes: Floats  # (N, 4)
    seconds: Floats  # (N,)
    scores: Floats  # (N,), NaN where the tracker has none
    reported: Flags  # (N,)


def reports(boxes: Floats) -> Flags:
    """Whether boxes (N, 4) stand for a target that was found: finite, with an area."""
    return np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)


def read_numbers(path: Path, columns: int | None = None) -> Floats:
    """As `train.data.labels.read_table`: truth and results are read alike wherever they are read.

    Raises:
        ResultsError: the file is missing, empty, or not what is expected.
    """
    try:
        return read_table(path, columns)
    except DatasetError as error:
        raise ResultsError(str(error)) from error


def track_path(folder: Path, name: str) -> Path | None:
    """Where the boxes of sequence `name` lie in a folder of results, or None."""
    candidates = (folder / name / f"{name}_001.txt", folder / f"{name}.txt", folder / f"{name}_001.txt")
    return next((path for path in candidates if path.is_file()), None)


def truth_as_track(truth: Floats, absent: Flags) -> Track:
    """What a perfect tracker would say."""
    unknown = np.full(len(truth), np.nan)
    return Track(truth, unknown, unknown, ~absent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what shall stand at `path`: it appears there whole and at once, or not at all.

    The name is nobody else's, since other processes may be writing the same file.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_track(folder: Path, name: str, track: Track) -> None:
    """Write a track in GOT-10k's layout. The boxes appear last: where they are, the track is whole."""
    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    for what, values, form in (
        ("time", track.seconds, "%.8f"),
        ("score", track.scores, "%.6f"),
        ("present", track.reported, "%d"),
        ("001", track.boxes, "%.3f"),
    ):
        with replacing(target / f"{name}_{what}.txt") as partial:
            np.savetxt(partial, values, fmt=form, delimiter=",")


def read_track(folder: Path, name: str) -> Track:
    """Read what `write_track` wrote, or any toolkit's boxes.

    Raises:
        ResultsError: there are none for this sequence, or they are malformed.
    """
    path = track_path(folder, name)
    if path is None:
        raise ResultsError(f"{folder}: no results for {name}; expected {name}/{name}_001.txt or {name}.txt")
    boxes = read_numbers(path, 4)

    def beside(what: str) -> Floats | None:
        extra = path.parent / f"{name}_{what}.txt"
        if not extra.is_file():
            return None
        values = read_numbers(extra)[:, 0]
        if len(values) != len(boxes):
            raise ResultsError(f"{extra}: {len(values)} lines beside {len(boxes)} boxes")
        return values

    unknown = np.full(len(boxes), np.nan)
    seconds, scores, present = beside("time"), beside("score"), beside("present")
    return Track(
        boxes,
        unknown if seconds is None else seconds,
        unknown if scores is None else scores,
        reports(boxes) if present is None else present > 0,
    )


def read_npz(path: Path, perfect: bool = False) -> list[Result]:
    """Read ``gt/NAME``, ``pred/NAME`` and, where they are, ``absent/NAME`` and ``present/NAME`` (what was reported).

    perfect: take the truth for the prediction.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ResultsError(f"{path}: not an .npz of arrays ({error})") from None
    names = [key.removeprefix("gt/") for key in arrays if key.startswith("gt/")]
    if not names:
        raise ResultsError(f"{path}: no gt/NAME; expected gt/NAME, pred/NAME and, if known, absent/NAME")
    results = []
    for name in names:
        truth = arrays[f"gt/{name}"].astype(np.float64)
        if not perfect and f"pred/{name}" not in arrays:
            raise ResultsError(f"{path}: gt/{name} has no pred/{name}; give --perfect to score the truth itself")
        absent = arrays.get(f"absent/{name}", np.zeros(len(truth))) > 0
        predicted = truth if perfect else arrays[f"pred/{name}"].astype(np.float64)
        reported = arrays.get(f"present/{name}", reports(predicted)) > 0
        results.append(Result(name, truth, absent, predicted, ~absent if perfect else reported))
    return results


def write_submission(folder: Path, names: Iterable[str], server: str, out: Path) -> None:
    """Pack results for an evaluation server.

    got10k: ``NAME/NAME_001.txt`` and ``NAME/NAME_time.txt``. trackingnet: ``NAME.txt``, at the top.

    Raises:
        ResultsError: a sequence has no results, or the archive cannot be written.
    """
    files: dict[str, str] = {}
    for name in names:
        files |= _packed(folder, name, server)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, text in files.items():
                archive.writestr(path, text)
    except OSError as error:
        raise ResultsError(f"{out}: cannot be written ({error.strerror}); give another --out") from None


def _packed(folder: Path, name: str, server: str) -> dict[str, str]:
    """What a server is sent of a sequence: the text of each file, by its path."""
    boxes = track_path(folder, name)
    if boxes is None:
        raise ResultsError(f"{folder}: no results for {name}; a submission holds every sequence")
    if server == "trackingnet":
        return {f"{name}.txt": boxes.read_text()}
    files = {f"{name}/{name}_001.txt": boxes.read_text()}
    times = boxes.parent / f"{name}_time.txt"
    if times.is_file():
        # The frame that was given took no time, and servers know no NaN.
        seconds = np.nan_to_num(read_numbers(times)[:, 0])
        files[f"{name}/{name}_time.txt"] = "".join(f"{each:.8f}\n" for each in seconds)
    return files
