"""Every reader on a folder made in its layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from shared import shared

from benchmarks import records
from benchmarks.datasets import READERS, read_dataset
from benchmarks.protocols import PROTOCOLS
from benchmarks.results import ResultsError


def frames(folder: Path, numbers: range, pattern: str = "{:08d}.jpg", size: tuple[int, int] = (20, 10)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        cv2.imwrite(str(folder / pattern.format(number)), np.zeros((size[1], size[0], 3), np.uint8))


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def test_every_reader_has_a_protocol_there_is() -> None:
    assert {reader.protocol for reader in READERS.values()} <= set(PROTOCOLS)


def test_folder(dataset_folder: Path) -> None:
    data = read_dataset(str(dataset_folder))
    assert (data.name, data.protocol) == ("drawn", "ope")
    plain, hides = data.sequences
    assert (plain.name, len(plain.frames), plain.absent.any()) == ("plain", 12, np.False_)
    assert np.flatnonzero(hides.absent).tolist() == [8, 9, 10]
    assert np.isnan(hides.truth[8]).all()
    assert hides.attributes == ("OCC", "SV")
    assert [s.name for s in read_dataset(str(dataset_folder), ("hides",)).sequences] == ["hides"]
    with pytest.raises(ResultsError, match="no sequence nowhere; there are hides, plain"):
        read_dataset(str(dataset_folder), ("nowhere",))


def test_a_sequences_name_may_hold_a_space(dataset_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "to the left").symlink_to(dataset_folder / "plain")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfto the left\r\n")
    assert [sequence.name for sequence in read_dataset(str(tmp_path)).sequences] == ["to the left"]


def test_a_datasets_digest_is_of_what_is_scored_by(dataset_folder: Path) -> None:
    data = read_dataset(str(dataset_folder))
    plain, hides = data.sequences
    described = data.describe()
    assert {**described, "digest": ""} == {"name": "drawn", "sequences": 2, "frames": 28, "digest": ""}
    assert read_dataset(str(dataset_folder)).describe() == described
    elsewhere, unknown, gone = plain.truth.copy(), hides.absent & False, plain.absent | (np.arange(12) == 5)
    elsewhere[5, 0] += 1
    others = [
        (replace(plain, truth=elsewhere), hides),
        (plain, replace(hides, absent=unknown)),  # without a box, and not known to be absent
        (replace(plain, absent=gone), hides),
        (replace(plain, name="renamed"), hides),
        (plain,),
    ]
    digests = {replace(data, sequences=sequences).describe()["digest"] for sequences in others}
    assert len(digests - {described["digest"]}) == len(others)


def test_got10k_test_split_has_the_first_box_alone(tmp_path: Path) -> None:
    frames(tmp_path / "a", range(1, 4))
    write(tmp_path / "a" / "groundtruth.txt", "1,2,3,4")
    write(tmp_path / "list.txt", "a")
    (sequence,) = read_dataset(f"got10k:{tmp_path}").sequences
    assert sequence.truth[0].tolist() == [1, 2, 3, 4]
    assert np.isnan(sequence.truth[1:]).all()
    assert not sequence.absent.any()  # unknown is not absent


def test_got10k_takes_nothing_in_sight_for_absent(tmp_path: Path) -> None:
    frames(tmp_path / "a", range(1, 4))
    write(tmp_path / "a" / "groundtruth.txt", *["1,2,3,4"] * 3)
    write(tmp_path / "a" / "cover.label", "8", "0", "1")
    write(tmp_path / "list.txt", "a")
    (sequence,) = read_dataset(f"got10k:{tmp_path}").sequences
    assert sequence.absent.tolist() == [False, True, False]


@pytest.mark.parametrize("reader", ["got10k", "trackingnet"])
def test_an_empty_line_is_a_frame_without_a_box(reader: str, tmp_path: Path) -> None:
    """As in the truth of a target that is absent in the second frame: the third box stays the third frame's."""
    one_sequence(reader, tmp_path, 4, "1,2,3,4", "", "5,6,7,8", "9,9,9,9", "", "")
    (sequence,) = read_dataset(f"{reader}:{tmp_path}").sequences
    np.testing.assert_equal(sequence.truth, [[1, 2, 3, 4], [np.nan] * 4, [5, 6, 7, 8], [9, 9, 9, 9]])
    assert sequence.absent.tolist() == [False, reader == "got10k", False, False]


@pytest.mark.parametrize("reader", ["got10k", "trackingnet"])
@pytest.mark.parametrize("lines", [2, 3, 5])
def test_truth_out_of_step_with_the_frames_is_refused(reader: str, lines: int, tmp_path: Path) -> None:
    one_sequence(reader, tmp_path, 4, *["1,2,3,4"] * lines)
    with pytest.raises(ResultsError, match=rf"\.txt: {lines} lines for 4 frames; expected a line for each frame"):
        read_dataset(f"{reader}:{tmp_path}")


@pytest.mark.parametrize("label", ["absence.label", "cover.label"])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_labels_out_of_step_with_the_frames_are_refused(label: str, count: int, tmp_path: Path) -> None:
    one_sequence("got10k", tmp_path, 3, *["1,2,3,4"] * 3)
    write(tmp_path / "a" / label, *["0"] * count)
    with pytest.raises(ResultsError, match=rf"{label}: {count} values for 3 frames; expected one for each"):
        read_dataset(f"got10k:{tmp_path}")


@pytest.mark.parametrize("count", [1, 3, 5])
def test_flags_of_lasot_out_of_step_are_refused(count: int, tmp_path: Path) -> None:
    folder = tmp_path / "bird" / "bird-2"
    frames(folder / "img", range(1, 5))
    write(folder / "groundtruth.txt", *["1,2,3,4"] * 4)
    write(folder / "full_occlusion.txt", "0,0,1,0")
    write(folder / "out_of_view.txt", ",".join("0" * count))
    with pytest.raises(ResultsError, match=rf"out_of_view\.txt: {count} values for 4 frames; expected one for each"):
        read_dataset(f"lasot:{tmp_path}")


def one_sequence(reader: str, root: Path, count: int, *lines: str) -> None:
    """A sequence "a" of so many frames, with these lines of truth."""
    if reader == "trackingnet":
        frames(root / "frames" / "a", range(count), "{}.jpg")
        write(root / "anno" / "a.txt", *lines)
    else:
        frames(root / "a", range(1, count + 1))
        write(root / "a" / "groundtruth.txt", *lines)
        write(root / "list.txt", "a")


def test_lasot(tmp_path: Path) -> None:
    for name in ("bird-2", "bird-10"):
        folder = tmp_path / "bird" / name
        frames(folder / "img", range(1, 5))
        write(folder / "groundtruth.txt", *["1,2,3,4"] * 4)
        write(folder / "full_occlusion.txt", "0,0,1,0")
        write(folder / "out_of_view.txt", "0,0,0,1")
    data = read_dataset(f"lasot:{tmp_path}")
    assert [s.name for s in data.sequences] == ["bird-2", "bird-10"]
    assert data.sequences[0].absent.tolist() == [False, False, True, True]
    write(tmp_path / "testing_set.txt", "bird-10")
    assert [s.name for s in read_dataset(f"lasot:{tmp_path}").sequences] == ["bird-10"]


def test_trackingnet_orders_frames_by_number(tmp_path: Path) -> None:
    frames(tmp_path / "TEST" / "frames" / "v", range(12), "{}.jpg")
    write(tmp_path / "TEST" / "anno" / "v.txt", "1,2,3,4")
    (sequence,) = read_dataset(f"trackingnet:{tmp_path}").sequences
    assert [p.stem for p in sequence.frames] == [str(i) for i in range(12)]
    assert np.isfinite(sequence.truth).all(axis=1).tolist() == [True] + [False] * 11


def test_tnl2k(tmp_path: Path) -> None:
    frames(tmp_path / "a" / "imgs", range(1, 3))
    write(tmp_path / "a" / "groundtruth.txt", "1,2,3,4", "0,0,0,0")
    (sequence,) = read_dataset(f"tnl2k:{tmp_path}").sequences
    assert sequence.absent.tolist() == [False, True]


def test_nfs_takes_every_eighth_box_and_turns_corners_into_sizes(tmp_path: Path) -> None:
    frames(tmp_path / "a" / "30" / "a", range(1, 4), "{:05d}.jpg")
    lines = [f'0 {i} 2 {i + 10} 22 {i} {int(i == 8)} 0 0 "a"' for i in range(24)]
    write(tmp_path / "a" / "30" / "a.txt", *lines)
    (sequence,) = read_dataset(f"nfs:{tmp_path}").sequences
    assert sequence.truth.tolist() == [[0, 2, 10, 20], [8, 2, 10, 20], [16, 2, 10, 20]]
    assert not sequence.absent.any()  # the second is marked as lost and has its box


def test_nfs_keeps_its_boxes_at_their_frames(tmp_path: Path) -> None:
    frames(tmp_path / "a" / "30" / "a", range(1, 4), "{:05d}.jpg")
    lines = ["" if i == 3 else f'0 {i} 2 {i + 10} 22 {i} 0 0 0 "a"' for i in range(24)]
    write(tmp_path / "a" / "30" / "a.txt", *lines)
    (sequence,) = read_dataset(f"nfs:{tmp_path}").sequences
    assert sequence.truth[:, 0].tolist() == [0, 8, 16]


def test_uav123_takes_its_frames_out_of_longer_videos(tmp_path: Path) -> None:
    frames(tmp_path / "data_seq" / "UAV123" / "bird1", range(1, 9), "{:06d}.jpg")
    write(tmp_path / "anno" / "UAV123" / "bird1_2.txt", "1,2,3,4", "NaN,NaN,NaN,NaN", "1,2,3,4")
    write(
        tmp_path / "configSeqs.m",
        r"seqs={struct('name','bird1_2','path','F:\UAV123\data_seq\UAV123\bird1\','startFrame',5,'endFrame',7,"
        "'nz',6,'ext','jpg','init_rect', [0,0,0,0]),",
        r"struct('name','bird1_9','path','F:\UAV123\data_seq\UAV123\bird1\','startFrame',1,'endFrame',2,'nz',6)};",
    )
    (sequence,) = read_dataset(f"uav123:{tmp_path}").sequences
    assert [p.stem for p in sequence.frames] == ["000005", "000006", "000007"]
    assert sequence.absent.tolist() == [False, True, False]


def test_otb_has_several_targets_and_partly_annotated_videos(tmp_path: Path) -> None:
    frames(tmp_path / "Jogging" / "img", range(1, 3), "{:04d}.jpg")
    write(tmp_path / "Jogging" / "groundtruth_rect.1.txt", "1,2,3,4", "1,2,3,4")
    write(tmp_path / "Jogging" / "groundtruth_rect.2.txt", "5\t6\t7\t8", "5\t6\t7\t8")
    frames(tmp_path / "Freeman4" / "img", range(1, 290), "{:04d}.jpg")
    write(tmp_path / "Freeman4" / "groundtruth_rect.txt", *["1,2,3,4"] * 283)
    found = {s.name: s for s in read_dataset(f"otb:{tmp_path}").sequences}
    assert sorted(found) == ["Freeman4", "Jogging.1", "Jogging.2"]
    assert found["Jogging.2"].truth[0].tolist() == [5, 6, 7, 8]
    assert len(found["Freeman4"].frames) == 283


def test_tlp(tmp_path: Path) -> None:
    frames(tmp_path / "Bike" / "img", range(1, 3), "{:05d}.jpg")
    write(tmp_path / "Bike" / "groundtruth_rect.txt", "1,1,2,3,4,0", "2,5,6,7,8,1")
    (sequence,) = read_dataset(f"tlp:{tmp_path}").sequences
    assert sequence.truth.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert sequence.absent.tolist() == [False, True]


def test_oxuva_boxes_are_relative_and_sparse(tmp_path: Path) -> None:
    frames(tmp_path / "images" / "dev" / "vid0001", range(30, 34), "{:06d}.jpeg", size=(200, 100))
    write(tmp_path / "tasks" / "dev.csv", "vid0001,obj0000,30,33,0.1,0.2,0.3,0.5")
    write(
        tmp_path / "annotations" / "dev.csv",
        "vid0001,obj0000,1,bird,false,false,30,present,0.1,0.2,0.3,0.5",
        "vid0001,obj0000,1,bird,false,false,33,absent,-1,-1,-1,-1",
        "vid0001,obj0000,1,bird,false,false,60,present,0.1,0.2,0.3,0.5",
    )
    (sequence,) = read_dataset(f"oxuva:{tmp_path}").sequences
    np.testing.assert_allclose(sequence.truth[0], [20, 30, 20, 20])
    assert np.isnan(sequence.truth[1:]).all()
    assert sequence.absent.tolist() == [False, False, False, True]


def test_oxuva_refuses_what_is_not_its_layout(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"annotations/dev\.csv: no such file; oxuva expects tasks/dev\.csv"):
        read_dataset(f"oxuva:{tmp_path}")
    frames(tmp_path / "images" / "dev" / "vid0001", range(30, 34), "{:06d}.jpeg")
    write(tmp_path / "tasks" / "dev.csv", "vid0001,obj0000,30,33,0.1,0.2,0.3,0.5")
    write(tmp_path / "annotations" / "dev.csv", "vid0001,obj0001,1,bird,false,false,30,present,0.1,0.2,0.3,0.5")
    with pytest.raises(ResultsError, match="vid0001_obj0000: its first frame has no box to begin with"):
        read_dataset(f"oxuva:{tmp_path}")


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="no folder"):
        read_dataset(str(tmp_path / "missing"))
    with pytest.raises(ResultsError, match=r"no list\.txt"):
        read_dataset(str(tmp_path))
    with pytest.raises(ResultsError, match="no sequences; tlp expects NAME/img"):
        read_dataset(f"tlp:{tmp_path}")
    (tmp_path / "list.txt").write_bytes(b"\xff\n")
    with pytest.raises(ResultsError, match=r"list\.txt: .* expected a list of names in UTF-8"):
        read_dataset(str(tmp_path))
    write(tmp_path / "a" / "groundtruth.txt", "1,2,3,4")
    write(tmp_path / "list.txt", "a")
    with pytest.raises(ResultsError, match=r"a: no frames in it; expected images \("):
        read_dataset(str(tmp_path))
    frames(tmp_path / "a", range(1, 3))
    write(tmp_path / "a" / "groundtruth.txt", "nan,nan,nan,nan", "1,2,3,4")
    write(tmp_path / "list.txt", "a")
    with pytest.raises(ResultsError, match="a: its first frame has no box"):
        read_dataset(str(tmp_path))


def test_dev_sequences_are_read_as_they_are_described() -> None:
    data = read_dataset(str(shared("data", "sequences", "dev")))
    assert len(data.sequences) == 18
    absent = {s.name: int(s.absent.sum()) for s in data.sequences if s.absent.any()}
    assert absent == {"tld_motocross_first100": 17, "tld_pedestrian3": 28}
    assert {s.name: s.attributes for s in data.sequences}["Car4"] == ("IV", "SV")
    (record,) = records.read(
        [Path(__file__).parents[2] / "benchmarks/results/accuracy-vtt-nano-fp32-openvino-cpu.json"]
    )
    assert data.describe() == record["dataset"]  # what is measured now stands beside it
