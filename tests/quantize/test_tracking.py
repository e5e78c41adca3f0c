"""Tracking scores against hand counts and the benchmarks' protocol, on made sequences and a tracker of known boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from threading import Barrier, Event
from time import sleep
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from benchmarks.datasets import read_dataset
from benchmarks.protocols import score
from benchmarks.results import Track
from edgetrack.errors import BackendError
from quantize import tracking
from quantize.tracking import moved, read_sequences
from train.data.labels import DatasetError
from train.data.readers.tracks import read_tracks

BOX = (10.0, 10.0, 20.0, 20.0)
GONE = (float("nan"),) * 4


def write_sequence(root: Path, name: str, boxes: Sequence[Sequence[float]], **labels: Sequence[int]) -> None:
    """Frames, each of one grey that is its number in the sequence, and their labels."""
    folder = root / name
    folder.mkdir(parents=True)
    for index in range(len(boxes)):
        cv2.imwrite(str(folder / f"{index + 1:08d}.png"), np.full((60, 80, 3), index, np.uint8))
    (folder / "groundtruth.txt").write_text("".join(",".join(map(str, box)) + "\n" for box in boxes))
    for label, values in labels.items():
        (folder / f"{label}.label").write_text("".join(f"{value}\n" for value in values))
    with (root / "list.txt").open("a") as file:
        file.write(f"{name}\n")


def part(share: float) -> tuple[float, ...]:
    """A box whose overlap with `BOX` is `share`: a part of it."""
    return (*BOX[:2], BOX[2] * share, BOX[3])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sequence of six frames, absent in the fourth by a box of nan, in the fifth and sixth by labels; one of two."""
    write_sequence(
        tmp_path, "long", [BOX, BOX, BOX, GONE, BOX, BOX], absence=[0, 0, 0, 0, 1, 0], cover=[8, 8, 4, 8, 8, 0]
    )
    write_sequence(tmp_path, "short", [BOX, BOX])
    return tmp_path


ANSWERS = {
    "fp32": [[BOX, part(0.5), BOX, BOX, BOX], [(50.0, 40.0, 9.0, 9.0)]],
    "int8": [[part(0.5), part(0.5), BOX, BOX, BOX], [BOX]],
}
"""By precision, to the frames after the first of both sequences."""


@pytest.fixture
def known_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers, on one runtime, who insist on getting the frames in order. Their answers are `ANSWERS` from the true
    first box; from any other they answer the truth in INT8, and a half of it in FP32."""

    turns: dict[str, int] = {}

    class Tracker:
        def __init__(self, precision: str) -> None:
            self.precision = precision

        def init(self, frame: np.ndarray, box: np.ndarray) -> None:
            self.frame = int(frame.max())
            assert self.frame == 0
            self.answers: Iterator[tuple[float, ...]] = repeat(BOX if self.precision == "int8" else part(0.5))
            if tuple(box) == BOX:
                turn = turns.get(self.precision, 0)
                turns[self.precision] = turn + 1
                self.answers = iter(ANSWERS[self.precision][turn])

        def update(self, frame: np.ndarray) -> SimpleNamespace:
            self.frame += 1
            assert frame.max() == self.frame
            return SimpleNamespace(box=next(self.answers))

    runtimes = [SimpleNamespace(backend=name, available=name == "a-cpu") for name in ("a-cpu", "b-cpu")]
    monkeypatch.setattr(tracking, "discover", lambda: [*runtimes, SimpleNamespace(backend="a-gpu", available=True)])
    monkeypatch.setattr("edgetrack.load", lambda bundle, backend, precision, threads: precision)
    monkeypatch.setattr("edgetrack.Tracker", Tracker)


@pytest.mark.usefixtures("known_boxes")
def test_scores_are_those_counted_by_hand(root: Path) -> None:
    report = tracking.tracking(root / "no bundle", ("fp32", "int8"), read_sequences(root))
    assert (report["sequences"], report["frames"]) == (2, 8)
    # Of the 21 thresholds an overlap of 1 passes 20 and one of 0.5 ten; two frames of the first sequence count.
    half, whole = 10 / 21, 20 / 21
    assert report["runtimes"] == {
        "a-cpu": {
            "fp32": {
                "auc": pytest.approx(((whole + half) / 2 + 0) / 2, abs=1e-4),
                "sre": pytest.approx(half, abs=1e-4),
            },
            "int8": {
                "auc": pytest.approx((half + whole) / 2, abs=1e-4),
                "sre": pytest.approx(whole, abs=1e-4),
                "overlap_with_fp32": pytest.approx(((0.5 + 1) / 2 + 0) / 2, abs=1e-4),
            },
        }
    }


def test_first_boxes_are_moved_and_scaled_as_sre_has_it() -> None:
    box = np.asarray([10.0, 20.0, 30.0, 50.0])
    starts = moved(box)
    assert len({tuple(start) for start in starts} - {tuple(box)}) == 12
    centres = (starts[:, :2] + starts[:, 2:] / 2 - [25.0, 45.0]) / box[2:]
    sizes = starts[:, 2:] / box[2:]
    np.testing.assert_allclose(np.abs(centres[:8]).max(axis=1), 0.1)
    np.testing.assert_allclose(sizes[:8], 1)
    np.testing.assert_allclose(centres[8:], 0, atol=1e-12)
    np.testing.assert_allclose(sizes[8:], np.repeat([[0.8], [0.9], [1.1], [1.2]], 2, axis=1))
    np.testing.assert_allclose(centres.sum(axis=0), 0, atol=1e-12)


@pytest.mark.usefixtures("known_boxes")
def test_the_area_is_what_the_benchmarks_give(root: Path) -> None:
    report = tracking.tracking(root / "no bundle", ("fp32", "int8"), read_sequences(root))
    for precision, answers in ANSWERS.items():
        results = []
        for sequence, boxes in zip(read_dataset(str(root)).sequences, answers, strict=True):
            count = len(sequence.frames)
            track = Track(np.asarray([BOX, *boxes]), np.zeros(count), np.zeros(count), np.ones(count, bool))
            results.append(sequence.result(track))
        expected = score(results, "ope").metrics["auc"]
        assert report["runtimes"]["a-cpu"][precision]["auc"] == pytest.approx(expected, abs=1e-4)


@pytest.fixture
def two_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    runtimes = [SimpleNamespace(backend=name, available=True) for name in ("a-cpu", "b-cpu")]
    monkeypatch.setattr(tracking, "discover", lambda: runtimes)
    monkeypatch.setattr("edgetrack.load", lambda bundle, backend, precision, threads: backend)


@pytest.mark.usefixtures("two_runtimes")
def test_runtimes_track_side_by_side(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = Barrier(2, timeout=20)
    answers = {"a-cpu": BOX, "b-cpu": part(0.5)}

    class Tracker:
        def __init__(self, backend: str) -> None:
            self.backend = backend

        def init(self, frame: np.ndarray, box: np.ndarray) -> None:
            pass

        def update(self, frame: np.ndarray) -> SimpleNamespace:
            together.wait()
            return SimpleNamespace(box=answers[self.backend])

    monkeypatch.setattr("edgetrack.Tracker", Tracker)
    report = tracking.tracking(root / "no bundle", ("fp32",), read_sequences(root))
    areas = {backend: found["fp32"]["auc"] for backend, found in report["runtimes"].items()}
    assert areas == {"a-cpu": pytest.approx(20 / 21, abs=1e-4), "b-cpu": pytest.approx(10 / 21, abs=1e-4)}


@pytest.mark.usefixtures("two_runtimes")
def test_an_error_on_one_runtime_ends_the_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = Event()
    seen: list[str] = []

    class Tracker:
        def __init__(self, backend: str) -> None:
            self.backend = backend

        def init(self, frame: np.ndarray, box: np.ndarray) -> None:
            if self.backend == "b-cpu":
                failed.set()
                raise BackendError("no such operator")

        def update(self, frame: np.ndarray) -> SimpleNamespace:
            assert failed.wait(20)
            sleep(0.05)  # what the caller needs to hear of it
            seen.append(self.backend)
            return SimpleNamespace(box=BOX)

    monkeypatch.setattr("edgetrack.Tracker", Tracker)
    with pytest.raises(BackendError, match="no such operator"):
        tracking.tracking(root / "no bundle", ("fp32",), read_sequences(root))
    frames = sum(len(sequence.boxes) - 1 for sequence in read_sequences(root))
    assert len(seen) < 13 * frames


def test_a_folder_shows_its_target_in_the_same_frames_wherever_it_is_read(tmp_path: Path) -> None:
    """To the right of, above and at the corner of pictures of 80 x 60, flat, and flagged; half outside is seen."""
    boxes = [BOX, (80, 10, 20, 20), (10, -20, 20, 20), (0, 0, 0, 0), (30, 30, 0, 20), GONE, (-10, 50, 20, 20), BOX, BOX]
    write_sequence(tmp_path, "leaves", boxes, absence=[0] * 7 + [1, 0], cover=[8] * 8 + [0])
    expected = [0, 6]
    (sequence,), (track,) = read_dataset(str(tmp_path)).sequences, read_tracks(tmp_path)
    (truth,) = read_sequences(tmp_path)
    assert np.flatnonzero(~sequence.absent).tolist() == expected
    assert np.flatnonzero(np.isfinite(truth.boxes).all(1)).tolist() == expected
    assert track.times.tolist() == expected


def test_a_box_without_a_frame_is_named(root: Path) -> None:
    (root / "short" / "00000002.png").unlink()
    with pytest.raises(DatasetError, match=r"short: 1 frames but 2 boxes"):
        read_sequences(root)


def test_a_name_may_hold_a_space_and_the_list_a_mark(tmp_path: Path) -> None:
    write_sequence(tmp_path, "to the left", [BOX, BOX])
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfto the left\r\n")
    assert [sequence.folder.name for sequence in read_sequences(tmp_path)] == ["to the left"]


def test_what_cannot_be_begun_or_scored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no list\.txt: it is empty"):
        read_sequences(tmp_path)
    for name, boxes, labels, problem in (
        ("begin", [GONE, BOX], {}, "a box for the first frame"),
        ("score", [BOX, BOX], {"absence": [0, 1]}, "another to score"),
        ("labels", [BOX, BOX], {"absence": [0]}, r"2 boxes but 1 entries of absence\.label"),
        ("flat", [(10, 10, 0, 20), BOX], {}, r"flat: .*got \[10\.0, 10\.0, 0\.0, 20\.0\]"),
        # In a frame of 80 x 60 pixels, and no more where it is moved by a tenth of its width.
        ("edge", [(79, 10, 20, 20), BOX], {}, r"edge: .*got \[81\.0, .* outside the 80x60 frame"),
    ):
        write_sequence(tmp_path / name, name, boxes, **labels)
        with pytest.raises(DatasetError, match=problem):
            read_sequences(tmp_path / name)
