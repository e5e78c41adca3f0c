"""Raw results to disk and back, and what servers are sent."""

from __future__ import annotations

import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.results import ResultsError, Track, read_npz, read_track, write_submission, write_track


def track() -> Track:
    boxes = np.asarray([[1, 2, 3, 4], [1.5, 2.25, 3, 4], [0, 0, 0, 0]])
    return Track(
        boxes, np.asarray([np.nan, 0.01, 0.02]), np.asarray([np.nan, 0.9, 0.1]), np.asarray([True, True, False])
    )


def test_a_track_comes_back(tmp_path: Path) -> None:
    write_track(tmp_path, "a", track())
    found = read_track(tmp_path, "a")
    for name in ("boxes", "seconds", "scores", "reported"):
        np.testing.assert_allclose(getattr(found, name), getattr(track(), name), err_msg=name)


def test_several_may_write_the_same_track(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for written in [pool.submit(write_track, tmp_path, "a", track()) for _ in range(200)]:
            written.result()
    np.testing.assert_allclose(read_track(tmp_path, "a").boxes, track().boxes)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["a_001.txt", "a_present.txt", "a_score.txt", "a_time.txt"]


def test_a_track_that_cannot_be_written_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    write_track(tmp_path, "a", track())
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with pytest.raises(TypeError):
        write_track(tmp_path, "a", replace(track(), seconds=np.asarray(["a while"] * 3)))
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


@pytest.mark.parametrize("separator", [",", "\t", " ", ", "])
@pytest.mark.parametrize("place", ["a.txt", "a_001.txt", "a/a_001.txt"])
def test_boxes_of_the_toolkits_are_read(tmp_path: Path, separator: str, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text(separator.join("1234") + "\n" + separator.join(("nan",) * 4) + "\n")
    found = read_track(tmp_path, "a")
    assert found.boxes[0].tolist() == [1, 2, 3, 4]
    assert found.reported.tolist() == [True, False]


def test_an_empty_line_is_a_frame_without_a_box(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1,2,3,4\n\n5,6,7,8\n\n \n")
    found = read_track(tmp_path, "a")
    np.testing.assert_equal(found.boxes, [[1, 2, 3, 4], [np.nan] * 4, [5, 6, 7, 8]])
    assert found.reported.tolist() == [True, False, True]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1,2,3\n")
    with pytest.raises(ResultsError, match=r"a\.txt: line 1 has 3 numbers; expected 4"):
        read_track(tmp_path, "a")
    (tmp_path / "a.txt").write_text("1,2,3,x\n")
    with pytest.raises(ResultsError, match=r"a\.txt: line 1: could not convert .*'x'; expected 4"):
        read_track(tmp_path, "a")
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(ResultsError, match=r"a\.txt holds no numbers; expected 4"):
        read_track(tmp_path, "a")
    with pytest.raises(ResultsError, match="no results for b"):
        read_track(tmp_path, "b")


def test_npz_needs_predictions_unless_perfect(tmp_path: Path) -> None:
    truth = np.asarray([[0, 0, 4, 4], [0, 0, 0, 0]])
    np.savez(tmp_path / "x.npz", **{"gt/a": truth, "absent/a": np.asarray([0, 1])})
    with pytest.raises(ResultsError, match="gt/a has no pred/a"):
        read_npz(tmp_path / "x.npz")
    (perfect,) = read_npz(tmp_path / "x.npz", perfect=True)
    assert perfect.absent.tolist() == [False, True]
    assert perfect.reported.tolist() == [True, False]
    (tmp_path / "y.npz").write_bytes(b"not a zip")
    with pytest.raises(ResultsError, match=r"y\.npz: not an \.npz"):
        read_npz(tmp_path / "y.npz")


def test_submissions_have_the_servers_layout(tmp_path: Path) -> None:
    write_track(tmp_path / "raw", "a", track())
    write_submission(tmp_path / "raw", ["a"], "got10k", tmp_path / "got.zip")
    write_submission(tmp_path / "raw", ["a"], "trackingnet", tmp_path / "tn.zip")
    assert sorted(zipfile.ZipFile(tmp_path / "got.zip").namelist()) == ["a/a_001.txt", "a/a_time.txt"]
    with zipfile.ZipFile(tmp_path / "tn.zip") as archive:
        assert archive.namelist() == ["a.txt"]
        assert archive.read("a.txt").decode().splitlines()[1] == "1.500,2.250,3.000,4.000"
    with pytest.raises(ResultsError, match="no results for b"):
        write_submission(tmp_path / "raw", ["a", "b"], "got10k", tmp_path / "no.zip")
    assert not (tmp_path / "no.zip").exists()


def test_a_submission_times_the_given_frame_with_0(tmp_path: Path) -> None:
    write_track(tmp_path / "raw", "a", track())
    write_submission(tmp_path / "raw", ["a"], "got10k", tmp_path / "new" / "got.zip")
    with zipfile.ZipFile(tmp_path / "new" / "got.zip") as archive:
        assert archive.read("a/a_time.txt").decode().split() == ["0.00000000", "0.01000000", "0.02000000"]


def test_a_submission_that_cannot_be_packed_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    write_track(tmp_path / "raw", "a", track())
    out = tmp_path / "got.zip"
    write_submission(tmp_path / "raw", ["a"], "got10k", out)
    before = out.read_bytes()
    with pytest.raises(ResultsError, match="no results for b"):
        write_submission(tmp_path / "raw", ["a", "b"], "got10k", out)
    assert out.read_bytes() == before
    for place in (tmp_path / "raw", out / "x.zip"):
        with pytest.raises(ResultsError, match=rf"{place}: cannot be written \(.*\); give another --out"):
            write_submission(tmp_path / "raw", ["a"], "got10k", place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got.zip", "raw"]
