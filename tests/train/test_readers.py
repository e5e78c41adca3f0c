"""The datasets' readers, on small trees in the datasets' own formats."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from train.data.labels import DatasetError, Pick, Tracks
from train.data.mixture import datasets
from train.data.readers import READERS, Spec, coco, got10k, lasot, read, trackingnet
from train.data.readers.content import Lists
from train.recipes import RECIPES

SMALL = replace(
    RECIPES["seqtrack-nano"], steps=4, batch=4, model=replace(RECIPES["seqtrack-nano"].model, search_size=64)
)
FRAMES = 6


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(path.name)).integers(0, 255, (60, 80, 3), np.uint8)
    assert cv2.imwrite(str(path), pixels)


def boxes(n: int = FRAMES) -> list[str]:
    """x counts the frames."""
    return [f"{i},12,20,18" for i in range(n)]


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lasot_video(root: Path, name: str, occluded: tuple[int, ...] = (), outside: tuple[int, ...] = ()) -> Path:
    folder = root / name.rpartition("-")[0] / name
    for i in range(FRAMES):
        picture(folder / "img" / f"{i + 1:08d}.jpg")
    write(folder / "groundtruth.txt", boxes())
    write(folder / "full_occlusion.txt", [",".join(str(int(i in occluded)) for i in range(FRAMES))])
    write(folder / "out_of_view.txt", [",".join(str(int(i in outside)) for i in range(FRAMES))])
    return folder


@pytest.fixture
def lasot_root(tmp_path: Path) -> Path:
    root = tmp_path / "LaSOT"
    lasot_video(root, "airplane-1")
    lasot_video(root, "airplane-2", occluded=(1,), outside=(2, 3))
    lasot_video(root, "airplane-10")
    lasot_video(root, "zebra-3")
    return root


@pytest.fixture
def got_root(tmp_path: Path) -> Path:
    root = tmp_path / "GOT-10k" / "train"
    names = [f"GOT-10k_Train_{i:06d}" for i in (1, 2, 3)]
    for name in names:
        for i in range(FRAMES):
            picture(root / name / f"{i + 1:08d}.jpg")
        write(root / name / "groundtruth.txt", [f"{i}.0000,12.0000,20.0000,18.0000" for i in range(FRAMES)])
        write(root / name / "absence.label", [str(int(i == 4)) for i in range(FRAMES)])
        write(root / name / "cover.label", ["8", "0", "8", "3", "8", "8"])
    write(root / "list.txt", names)
    return root


@pytest.fixture
def trackingnet_root(tmp_path: Path) -> Path:
    root = tmp_path / "TrackingNet"
    for part, video in ((0, "-abc_0"), (0, "-abc_1"), (11, "x_y_2")):
        for i in range(FRAMES):
            picture(root / f"TRAIN_{part}" / "frames" / video / f"{i}.jpg")
        write(root / f"TRAIN_{part}" / "anno" / f"{video}.txt", boxes())
    write(root / "TEST" / "anno" / "secret_0.txt", ["1,2,30,40"])
    return root


@pytest.fixture
def coco_root(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    annotations = []
    for i in range(1, 13):
        picture(root / "train2017" / f"{i:012d}.jpg")
        for width in (20, 30) if i % 3 else ():
            annotations.append({"id": len(annotations), "image_id": i, "bbox": [5, 6, width, 24], "iscrowd": 0})
    annotations[0].update(segmentation=[[1, 2, 3, 4, 5, 6]])
    annotations.append({"id": 100, "image_id": 1, "bbox": [0, 0, 50, 50], "iscrowd": 1})
    annotations.append({"id": 101, "image_id": 1, "bbox": [0, 0, 50, 9], "iscrowd": 0})
    images = [{"id": i, "file_name": f"{i:012d}.jpg", "width": 80, "height": 60} for i in range(1, 13)]
    labels = root / "annotations" / "instances_train2017.json"
    labels.parent.mkdir()
    labels.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return root


def test_lasot_leaves_out_testing_videos_and_hidden_frames(lasot_root: Path) -> None:
    tracks = read(lasot_root).tracks
    assert tracks.names == ["airplane-2", "airplane-10", "zebra-3"]
    track = tracks[0]
    assert track.times.tolist() == [0, 4, 5]
    assert track.boxes[:, 0].tolist() == [0, 4, 5]
    assert [path.name for path in track.frames] == ["00000001.jpg", "00000005.jpg", "00000006.jpg"]
    assert all(path.is_file() for path in track.frames)
    assert track.length == FRAMES


def test_lasots_testing_split_is_as_large_as_published() -> None:
    assert len(lasot.TESTING) == 70
    assert sum(len(set(numbers)) for numbers in lasot.TESTING.values()) == 280
    assert all(1 <= number <= 20 for numbers in lasot.TESTING.values() for number in numbers)


def test_lasot_takes_the_videos_of_a_list_and_none_for_testing(lasot_root: Path, tmp_path: Path) -> None:
    write(tmp_path / "training_set.txt", ["zebra-3", "airplane-2"])
    assert read(f"lasot:{lasot_root},only={tmp_path / 'training_set.txt'}").tracks.names == ["airplane-2", "zebra-3"]
    write(tmp_path / "wrong.txt", ["zebra-3", "airplane-1"])
    with pytest.raises(DatasetError, match=r"testing split, such as airplane-1: never train on it"):
        read(f"{lasot_root},only={tmp_path / 'wrong.txt'}")


def test_lasots_extension_and_testing_folders_are_refused(lasot_root: Path, tmp_path: Path) -> None:
    lasot_video(tmp_path / "testing_only", "airplane-9")
    with pytest.raises(DatasetError, match="only videos of LaSOT's testing split"):
        read(tmp_path / "testing_only")
    lasot_video(lasot_root, "atv-1")
    with pytest.raises(
        DatasetError, match=r"for measuring only.*of your own go in .* as list\.txt and NAME/\{groundtr"
    ):
        read(lasot_root)


def test_got10k_leaves_out_absent_and_covered_frames(got_root: Path) -> None:
    for root in (got_root, got_root.parent):
        content = read(root)
        assert content.name == "got10k"
        assert content.tracks[2].times.tolist() == [0, 2, 3, 5]
        assert all(path.is_file() for path in content.tracks[2].frames)


def test_got10k_is_narrowed_by_names_and_by_numbers(got_root: Path, tmp_path: Path) -> None:
    names = [f"GOT-10k_Train_{i:06d}" for i in (1, 2, 3)]
    write(tmp_path / "forbidden.txt", [names[0], "GOT-10k_Train_009999"])
    write(tmp_path / "ids.txt", ["0", "2"])
    assert read(f"{got_root},exclude={tmp_path / 'forbidden.txt'}").tracks.names == names[1:]
    assert read(f"{got_root},only={tmp_path / 'ids.txt'}").tracks.names == [names[0], names[2]]
    both = f"got10k:{got_root},only={tmp_path / 'ids.txt'},exclude={tmp_path / 'forbidden.txt'}"
    assert read(both).tracks.names == [names[2]]


@pytest.mark.parametrize(
    ("entries", "option", "message"),
    [
        ([], "only", "is empty"),
        (["7"], "only", r"number 7, but the dataset has 3 tracks"),
        (["GOT-10k_Train_000001", "airplane-2"], "only", r"1 of 2 listed tracks are not in the dataset.*airplane-2"),
        (["airplane-2"], "exclude", r"excludes nothing.*such as GOT-10k_Train_000001"),
        (["0", "1", "2"], "exclude", "no track is left of 3"),
    ],
)
def test_a_list_that_does_not_fit_is_named(
    got_root: Path, tmp_path: Path, entries: list[str], option: str, message: str
) -> None:
    (tmp_path / "list.txt").write_text("\n".join(entries))
    with pytest.raises(DatasetError, match=message):
        read(f"{got_root},{option}={tmp_path / 'list.txt'}")
    with pytest.raises(DatasetError, match=r"nowhere\.txt"):
        read(f"{got_root},{option}={tmp_path / 'nowhere.txt'}")


@pytest.mark.parametrize("split", ["Val", "Test"])
def test_got10ks_other_splits_are_refused_under_any_name(got_root: Path, split: str) -> None:
    text = (got_root / "list.txt").read_text()
    (got_root / "list.txt").write_text(text.replace("_Train_", f"_{split}_"))
    for root in (got_root, f"got10k:{got_root}"):
        with pytest.raises(DatasetError, match="never train on it"):
            read(root)


def test_trackingnet_reads_its_training_parts_alone(trackingnet_root: Path) -> None:
    tracks = read(trackingnet_root).tracks
    assert tracks.names == ["TRAIN_0/-abc_0", "TRAIN_0/-abc_1", "TRAIN_11/x_y_2"]
    assert tracks.groups == ["-abc", "-abc", "x_y"]
    assert [path.name for path in tracks[2].frames] == [f"{i}.jpg" for i in range(FRAMES)]
    assert all(path.is_file() for path in tracks[2].frames)
    with pytest.raises(DatasetError, match="never train on it"):
        read(trackingnet_root / "TEST")


def test_boxes_without_area_are_not_used(trackingnet_root: Path) -> None:
    lines = boxes()
    lines[2] = "0,0,0,0"
    write(trackingnet_root / "TRAIN_0" / "anno" / "-abc_0.txt", lines)
    assert read(trackingnet_root).tracks[0].times.tolist() == [0, 1, 3, 4, 5]


@pytest.mark.parametrize("separator", [",", ", ", "\t", ";", " "])
def test_an_empty_line_is_a_frame_without_a_box_whatever_stands_between_numbers(got_root: Path, separator: str) -> None:
    lines = [line.replace(",", separator) for line in boxes()]
    lines[2] = ""
    (got_root / "GOT-10k_Train_000001" / "groundtruth.txt").write_text("\ufeff" + "\n".join([*lines, "", "  ", ""]))
    track = read(got_root).tracks[0]
    assert track.times.tolist() == [0, 3, 5]  # 1 is covered, 4 absent
    assert track.boxes.tolist() == [[i, 12, 20, 18] for i in (0, 3, 5)]
    assert track.length == FRAMES


def test_coco_reads_boxes_without_crowds(coco_root: Path, cache_home: Path) -> None:
    content = read(coco_root)
    assert content.name == "coco"
    assert [path.name for path in content.backgrounds] == [f"{i:012d}.jpg" for i in (3, 6, 9, 12)]
    assert len(content.stills) == 8
    assert content.stills[0].boxes.tolist() == [[5, 6, 20, 24], [5, 6, 30, 24]]
    assert content.stills[-1].path == coco_root / "train2017" / f"{11:012d}.jpg"
    assert all(still.path.is_file() for still in content.stills)


def test_an_image_of_a_crowd_or_of_what_is_small_is_no_background(coco_root: Path, cache_home: Path) -> None:
    labels = coco_root / "annotations" / "instances_train2017.json"
    content = json.loads(labels.read_text())
    for image, crowd, width in ((3, 1, 60), (6, 0, 9)):
        content["annotations"].append({"image_id": image, "bbox": [0, 0, width, 50], "iscrowd": crowd})
    labels.write_text(json.dumps(content))
    for _ in range(2):  # read, and from the cache
        assert [path.name for path in read(coco_root).backgrounds] == [f"{i:012d}.jpg" for i in (9, 12)]


def test_cocos_index_is_kept_until_the_labels_change(
    coco_root: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = coco_root / "annotations" / "instances_train2017.json"
    first = read(coco_root).stills
    with monkeypatch.context() as patch:
        patch.setattr(coco, "build_index", lambda labels: pytest.fail("read again"))
        again = read(coco_root).stills
    assert [still.path for still in again] == [still.path for still in first]
    assert all((a.boxes == b.boxes).all() for a, b in zip(again, first, strict=True))

    content = json.loads(labels.read_text())
    labels.write_text(json.dumps({**content, "annotations": content["annotations"][:2]}))
    assert len(read(coco_root).stills) == 1

    for kept in (cache_home / "edgetrack" / "indices").iterdir():
        kept.write_bytes(b"PK damaged")
    assert len(read(coco_root).stills) == 1


def test_a_cache_that_cannot_be_written_is_done_without(coco_root: Path, cache_home: Path) -> None:
    cache_home.write_text("a file, where a folder should be")
    assert len(read(coco_root).stills) == 8


@pytest.mark.parametrize("name", ["val2017", "test2017", "test-dev2017", "dev", "Testing"])
def test_evaluation_folders_are_refused(coco_root: Path, name: str, tmp_path: Path) -> None:
    coco_root.rename(tmp_path / name)
    for root in (tmp_path / name, f"coco:{tmp_path / name}"):
        with pytest.raises(DatasetError, match="never train on it"):
            read(root)


def test_coco_without_its_pictures_says_what_was_found(coco_root: Path) -> None:
    (coco_root / "train2017").rename(coco_root / "pictures")
    with pytest.raises(DatasetError, match=r"it holds annotations/, pictures/; expected .*train2017/0000"):
        read(coco_root)
    (coco_root / "train2017").mkdir()
    with pytest.raises(DatasetError, match=r"000000000001\.jpg, which is missing"):
        read(coco_root)


@pytest.mark.parametrize("text", ["[", "{}", '{"images": [], "annotations": [{"bbox": 3}]}', "[1, 2]"])
def test_a_file_that_is_not_cocos_is_named(coco_root: Path, text: str) -> None:
    (coco_root / "annotations" / "instances_train2017.json").write_text(text)
    with pytest.raises(DatasetError, match=r"instances_train2017\.json is not in COCO's format"):
        read(coco_root)


@pytest.mark.parametrize("name", READERS)
def test_a_wrong_root_says_what_was_found_and_what_is_expected(name: str, tmp_path: Path) -> None:
    wrong = tmp_path / "photos"
    picture(wrong / "holiday.jpg")
    expected = READERS[name].LAYOUT.partition(" ")[0]
    for root in (wrong, f"{name}:{wrong}"):
        with pytest.raises(DatasetError) as caught:
            read(root)
        assert "it holds holiday.jpg" in str(caught.value)
        assert expected in str(caught.value)
    with pytest.raises(DatasetError, match="it does not exist") as caught:
        read(f"{name}:{tmp_path / 'nowhere'}")
    assert expected in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "tracks:"])
def test_clips_without_their_list_are_told_that_it_is_missing(prefix: str, tmp_path: Path) -> None:
    root = tmp_path / "clips"
    write(root / "ride" / "groundtruth.txt", boxes())
    picture(root / "ride" / "00000001.jpg")
    picture(root / "cover.jpg")
    with pytest.raises(DatasetError) as caught:
        read(f"{prefix}{root}")
    assert str(caught.value).startswith(f"{root} has no list.txt, which names its clips' folders, one a line, such")
    assert "such as ride: it holds cover.jpg, ride/; expected list.txt and NAME/{groundtruth.txt" in str(caught.value)
    assert "lasot" not in str(caught.value)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'lassot'; expected one of lasot, got10k"):
        read(f"lassot:{tmp_path}")


def test_a_dataset_is_written_with_its_lists() -> None:
    spec = Spec.parse("got10k:/data/a,b:c,exclude=/lists/x.txt,only=/lists/y,z.txt")
    assert spec == Spec(Path("/data/a,b:c"), "got10k", Lists(Path("/lists/y,z.txt"), Path("/lists/x.txt")))
    assert Spec.parse("/data/LaSOT") == Spec(Path("/data/LaSOT"))
    # A command line's paths arrive as such.
    assert Spec.parse(str(Path("lasot:/data/LaSOT"))) == Spec(Path("/data/LaSOT"), "lasot")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("groundtruth.txt", lambda lines: lines[:-1], "5 boxes but 6 entries of full_occlusion"),
        ("groundtruth.txt", lambda lines: [*lines[:2], "1,2,3", *lines[3:]], r"truth\.txt: line 3 has 3 .*expected 4"),
        ("groundtruth.txt", lambda lines: [*lines[:2], "", *lines[2:]], "7 boxes but 6 entries"),
        ("groundtruth.txt", lambda lines: ["", *lines[1:4], "x,2,3,4", ""], r"truth\.txt: line 5: .*'x'; expected 4"),
        ("groundtruth.txt", lambda lines: [], r"groundtruth\.txt holds no numbers"),
        ("full_occlusion.txt", lambda lines: [lines[0][:-2]], "6 boxes but 5 entries of full_occlusion"),
        ("out_of_view.txt", lambda lines: ["0,x,0,0,0,0"], r"out_of_view\.txt"),
        ("out_of_view.txt", None, r"out_of_view\.txt: No such file"),
        ("img/00000006.jpg", None, r"6 boxes but no frame .*00000006\.jpg"),
    ],
)
def test_broken_labels_are_named(
    lasot_root: Path, file: str, change: Callable[[list[str]], list[str]] | None, message: str
) -> None:
    path = lasot_root / "zebra" / "zebra-3" / file
    if change is None:
        path.unlink()
    else:
        write(path, change(path.read_text().split()))
    tracks = read(lasot_root).tracks
    assert len(tracks[0].frames) == 3
    with pytest.raises(DatasetError, match=message):
        tracks[2]


def test_a_frame_without_a_box_is_named(got_root: Path, trackingnet_root: Path) -> None:
    picture(got_root / "GOT-10k_Train_000001" / f"{FRAMES + 1:08d}.jpg")
    with pytest.raises(DatasetError, match=r"6 boxes but there is a frame .*00000007\.jpg"):
        read(got_root).tracks[0]
    picture(trackingnet_root / "TRAIN_0" / "frames" / "-abc_0" / f"{FRAMES}.jpg")
    with pytest.raises(DatasetError, match=r"6 boxes but there is a frame .*6\.jpg"):
        read(trackingnet_root).tracks[0]


def test_opening_reads_no_labels(
    lasot_root: Path, got_root: Path, trackingnet_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for reader in (lasot, got10k, trackingnet):
        monkeypatch.setattr(reader, "read_table", lambda *args: pytest.fail("labels were read"))
    datasets(SMALL, [lasot_root, got_root, trackingnet_root])


def test_tracks_are_read_once_and_survive_pickling(lasot_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = read(lasot_root).tracks
    assert tracks[0] is tracks[0]
    # Loading processes that are spawned, not forked, get the datasets pickled.
    assert pickle.loads(pickle.dumps(tracks))[2].name == "zebra-3"
    monkeypatch.setattr("train.data.labels.TRACKS_KEPT", 1)
    first = tracks[0]
    tracks[1]
    assert tracks[0] is not first


def test_picks_look_through_to_their_parts() -> None:
    letters = Pick([["a", "b"], [], ["c"], ["d", "e"]], np.asarray([4, 0, 2, 3]))
    assert list(letters) == ["e", "a", "c", "d"]
    assert list(Pick([letters, ["f"]])[1:5]) == ["a", "c", "d", "f"]
    assert list(Pick([])) == []
    assert len(Tracks.of([])) == 0


def test_broken_tracks_are_passed_over_in_training_and_named_once(
    lasot_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Of the three videos zebra-3 is held out.
    (lasot_root / "airplane" / "airplane-2" / "groundtruth.txt").unlink()
    (lasot_root / "airplane" / "airplane-10" / "img" / "00000002.jpg").write_bytes(b"cut off")
    recipe = replace(SMALL, steps=10, mixture=replace(SMALL.mixture, scenes=0.0))
    train, _ = datasets(recipe, [lasot_root])
    shown = [train[i].search.shape for i in range(30)]
    assert shown == [(64, 64, 3)] * 30
    messages = [record.getMessage() for record in caplog.records]
    assert sum("airplane-2" in message for message in messages) == 1
    assert sum("00000002.jpg" in message for message in messages) == 1


def test_a_picture_that_is_cut_off_is_passed_over(lasot_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    # A decoder gives it all the same, what it lacks filled with grey.
    half = lasot_root / "airplane" / "airplane-10" / "img" / "00000004.jpg"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    assert cv2.imread(str(half)) is not None
    train, _ = datasets(replace(SMALL, steps=10, mixture=replace(SMALL.mixture, scenes=0.0)), [lasot_root])
    assert all(train[i].search.shape == (64, 64, 3) for i in range(30))
    (message,) = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(rf"passed over: {half}: a JPEG that is cut off \(\d+ bytes, no end marker\)", message)


def test_a_dataset_that_is_broken_altogether_stops_training(lasot_root: Path) -> None:
    for path in lasot_root.rglob("groundtruth.txt"):
        path.unlink()
    recipe = replace(SMALL, mixture=replace(SMALL.mixture, scenes=0.0))
    train, _ = datasets(recipe, [lasot_root])
    with pytest.raises(DatasetError, match=r"groundtruth\.txt"):
        train[0]


def test_cutouts_are_transparent_and_not_those_of_a_dataset_below(tmp_path: Path) -> None:
    root = tmp_path / "cutouts"
    (root / "birds").mkdir(parents=True)
    assert cv2.imwrite(str(root / "birds" / "1.png"), np.zeros((9, 9, 4), np.uint8))
    content = read(root)
    assert (content.name, content.cutouts) == ("cutouts", [root / "birds" / "1.png"])
    with pytest.raises(DatasetError, match=r"it holds cutouts/; expected one of"):
        read(tmp_path)
    assert cv2.imwrite(str(root / "birds" / "1.png"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(DatasetError, match="with an alpha channel"):
        read(root)


@pytest.mark.parametrize("spec", ["{root}", "cutouts:{root}"])
def test_transparent_frames_with_labels_are_not_pasted_as_cutouts(spec: str, tmp_path: Path) -> None:
    root = tmp_path / "clips"
    (root / "ride").mkdir(parents=True)
    for i in (1, 2):
        assert cv2.imwrite(str(root / "ride" / f"{i:08d}.png"), np.full((60, 80, 4), 255, np.uint8))
    write(root / "ride" / "groundtruth.txt", ["10,12,20,20"] * 2)
    with pytest.raises(DatasetError, match=r"ride/groundtruth\.txt labels the pictures .*in a list\.txt"):
        read(spec.format(root=root))
    write(root / "list.txt", ["ride"])
    assert read(root).tracks.names == ["ride"]
