"""Training data: readers on small trees in the datasets' own formats, and pairs whose boxes are where the target is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from shared import shared

from train.data.images import ImageCache
from train.data.labels import DatasetError
from train.data.mixture import datasets
from train.data.pairs import PairConfig, PairDataset
from train.data.readers import read
from train.data.readers.stills import read_stills
from train.data.readers.tracks import read_tracks
from train.data.scenes import Sprites, paste, shape_sprite, transform
from train.data.sources import View
from train.models.seqtrack import SeqTrackConfig
from train.recipes import RECIPES, override

SMALL = replace(
    RECIPES["seqtrack-nano"], steps=4, batch=4, model=replace(RECIPES["seqtrack-nano"].model, search_size=64)
)


@pytest.fixture
def tracks(tmp_path: Path) -> Path:
    root = tmp_path / "tracks"
    rng = np.random.default_rng(0)
    for name, absent in (("Car", [2]), ("Dog", []), ("Speck", [])):
        folder = root / name
        folder.mkdir(parents=True)
        rows = []
        for i in range(5):
            cv2.imwrite(str(folder / f"{i + 1:08d}.jpg"), rng.integers(0, 255, (60, 80, 3), np.uint8))
            side = 2 if name == "Speck" else 20
            rows.append("nan,nan,nan,nan" if i in absent else f"{10 + i},12,{side},{side}")
        (folder / "groundtruth.txt").write_text("\n".join(rows) + "\n")
        (folder / "absence.label").write_text("\n".join(str(int(i in absent)) for i in range(5)) + "\n")
        (folder / "meta.json").write_text(json.dumps({"video_group": f"group-{name}"}))
    (root / "list.txt").write_text("Car\nDog\nSpeck\n")
    return root


@pytest.fixture
def stills(tmp_path: Path) -> Path:
    root = tmp_path / "stills"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for i in range(20):
        cv2.imwrite(str(root / "images" / f"{i}.jpg"), rng.integers(0, 255, (90, 120, 3), np.uint8))
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 120, "height": 90})
        if i:
            annotations.append({"id": i, "image_id": i, "category_id": 1, "bbox": [20, 20, 30, 24], "iscrowd": 0})
    (root / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return root


def test_tracks_keep_only_frames_that_show_the_target(tracks: Path) -> None:
    car, dog = read_tracks(tracks)
    assert [path.name for path in car.frames] == [f"{i:08d}.jpg" for i in (1, 2, 4, 5)]
    assert car.boxes[:, 0].tolist() == [10, 11, 13, 14]
    assert (car.group, dog.group) == ("group-Car", "group-Dog")


def test_an_empty_line_is_a_frame_without_a_box(tracks: Path) -> None:
    (tracks / "Dog" / "groundtruth.txt").write_text("10,12,20,20\n\n12,12,20,20\n13,12,20,20\n14,12,20,20\n\n\n")
    _, dog = read_tracks(tracks)
    assert [path.name for path in dog.frames] == [f"{i:08d}.jpg" for i in (1, 3, 4, 5)]
    assert dog.boxes[:, 0].tolist() == [10, 12, 13, 14]


@pytest.mark.parametrize("absence", [True, False])
def test_a_covered_target_is_not_seen(tracks: Path, absence: bool) -> None:
    # GOT-10k's cover counts eighths that are visible.
    (tracks / "Dog" / "cover.label").write_text("8\n0\n1\n8\n8\n")
    if absence:
        (tracks / "Dog" / "absence.label").write_text("0\n0\n0\n1\n0\n")
    else:
        (tracks / "Dog" / "absence.label").unlink()
    _, dog = read_tracks(tracks)
    assert dog.times.tolist() == ([0, 2, 4] if absence else [0, 2, 3, 4])


def test_clips_that_are_left_out_are_named(tracks: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tracks / "Dog" / "absence.label").write_text("1\n1\n0\n1\n1\n")
    assert [track.name for track in read_tracks(tracks)] == ["Car"]
    (message,) = (record.getMessage() for record in caplog.records)
    assert "left out Dog, Speck: fewer than two frames show the target" in message


def test_frames_without_leading_zeros_keep_their_own_boxes(tracks: Path) -> None:
    for i in range(5):
        (tracks / "Dog" / f"{i + 1:08d}.jpg").rename(tracks / "Dog" / f"{8 + i}.jpg")  # 8 to 12
    _, dog = read_tracks(tracks)
    assert [(path.name, box[0]) for path, box in zip(dog.frames, dog.boxes, strict=True)] == [
        (f"{8 + i}.jpg", 10 + i) for i in range(5)
    ]


@pytest.mark.parametrize("suffix", [".bmp", ".PNG", ".tif", ".webp"])
def test_frames_are_what_a_tracker_reads_as_images(tracks: Path, suffix: str) -> None:
    for i in range(1, 6):
        path = tracks / "Dog" / f"{i:08d}.jpg"
        assert cv2.imwrite(str(path.with_suffix(suffix)), cv2.imread(str(path)))
        path.unlink()
    (tracks / "Dog" / "._00000001.jpg").write_bytes(b"what a Mac leaves beside a picture")
    _, dog = read_tracks(tracks)
    assert [path.name for path in dog.frames] == [f"{i:08d}{suffix}" for i in range(1, 6)]
    assert ImageCache().read(dog.frames[0]).shape == (60, 80, 3)


def test_a_box_beside_the_picture_is_no_target_and_is_told_once(tracks: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Pictures are 80 x 60. Half outside counts as seen; to touch the border from outside does not.
    rows = ["70,12,20,20", "80,12,20,20", "-20,12,20,20", "10,60,20,20", "-10,-10,20,20"]
    (tracks / "Dog" / "groundtruth.txt").write_text("\n".join(rows))
    _, dog = read_tracks(tracks)
    assert dog.times.tolist() == [0, 4]
    assert dog.boxes.tolist() == [[70, 12, 20, 20], [-10, -10, 20, 20]]
    assert [path.name for path in dog.frames] == ["00000001.jpg", "00000005.jpg"]
    (message,) = (record.getMessage() for record in caplog.records if "Dog" in record.getMessage())
    assert message.startswith("Dog: 3 boxes, the first of frame 2, lie outside the picture of 80x60 pixels")


def corner_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "look like x1, y1, x2, y2" in record.getMessage()]


def test_boxes_that_look_like_corners_are_told(tracks: Path, caplog: pytest.LogCaptureFixture) -> None:
    # x, y, width and height of 45, 12, 20, 20 and so on, in pictures of 80 x 60, and a target that is absent once.
    rows = ["45,12,65,32", "46,12,66,32", "nan,nan,nan,nan", "5,12,25,32", "6,12,26,32"]
    (tracks / "Dog" / "groundtruth.txt").write_text("\n".join(rows))
    read_tracks(tracks)
    (message,) = corner_warnings(caplog)
    assert message.startswith("Dog: 2 of 4 boxes reach over the right or lower border of the picture of 80x60 pixels")
    assert "boxes are x, y, width, height" in message


@pytest.mark.parametrize(
    "rows",
    [
        ["45,12,20,60"] * 5,  # as corners the right would be left of the left
        ["30,12,90,40"] * 5,  # as corners the right would be outside the picture
        ["45,12,65,32"] + ["5,12,25,32"] * 4,  # only a fifth is over the border
    ],
)
def test_a_target_that_leaves_the_picture_has_no_corners(
    tracks: Path, caplog: pytest.LogCaptureFixture, rows: list[str]
) -> None:
    (tracks / "Dog" / "groundtruth.txt").write_text("\n".join(rows))
    read_tracks(tracks)
    assert not corner_warnings(caplog)


def test_real_boxes_look_like_corners_only_when_they_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = shared("data", "sequences", "train")
    names = [track.name for track in read_tracks(root)]
    assert not corner_warnings(caplog)
    for name in names:
        (tmp_path / name).mkdir()
        for image in (root / name).glob("*.jpg"):
            (tmp_path / name / image.name).symlink_to(image)
        x, y, w, h = np.genfromtxt(root / name / "groundtruth.txt", delimiter=",").T
        np.savetxt(tmp_path / name / "groundtruth.txt", np.stack([x, y, x + w, y + h], 1), delimiter=",")
    (tmp_path / "list.txt").write_text("\n".join(names))
    read_tracks(tmp_path)
    assert len(corner_warnings(caplog)) > 0.8 * len(names)


def test_stills_are_split_from_backgrounds(stills: Path) -> None:
    labelled, backgrounds = read_stills(stills)
    assert len(labelled) == 19
    assert [path.name for path in backgrounds] == ["0.jpg"]
    assert labelled[0].boxes.tolist() == [[20, 20, 30, 24]]


def test_it_is_said_when_boxes_of_stills_are_too_small(stills: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = json.loads((stills / "instances.json").read_text())
    for annotation in labels["annotations"][:5]:
        annotation["bbox"] = [20, 20, 15, 60]
    (stills / "instances.json").write_text(json.dumps(labels))
    labelled, backgrounds = read_stills(stills)
    assert len(labelled) == 14
    assert [path.name for path in backgrounds] == ["0.jpg"]
    assert "5 of 19 boxes are less than 16 pixels wide or high and are left out" in caplog.text
    for annotation in labels["annotations"]:
        annotation["bbox"] = [20, 20, 60, 15]
    (stills / "instances.json").write_text(json.dumps(labels))
    with pytest.raises(DatasetError, match="19 of 19 boxes are less than 16 pixels wide or high; expected some"):
        read_stills(stills)


@pytest.mark.parametrize("labelled", [True, False])
def test_stills_without_their_images_are_refused(stills: Path, labelled: bool) -> None:
    (stills / "images").rename(stills / "pictures")
    if not labelled:
        labels = json.loads((stills / "instances.json").read_text())
        (stills / "instances.json").write_text(json.dumps({**labels, "annotations": []}))
    with pytest.raises(DatasetError, match=r"which is missing: .*images: it does not exist; expected instances\.json"):
        datasets(SMALL, [stills])


@pytest.mark.parametrize("split", ["dev", "val", "test"])
def test_an_evaluation_split_is_never_trained_on(tracks: Path, stills: Path, split: str, tmp_path: Path) -> None:
    message = f"the folder's name, '{split}', says .*: never train on it; if it is not, rename the folder"
    for source in (tracks, stills):
        target = tmp_path / source.name / split
        source.rename(tmp_path / "moved")
        target.parent.mkdir()
        (tmp_path / "moved").rename(target)
        with pytest.raises(DatasetError, match=message):
            datasets(SMALL, [target])
        with pytest.raises(DatasetError, match=message):
            (read_tracks if source is tracks else read_stills)(target)


@pytest.mark.parametrize("split", ["dev", "val", "test"])
def test_a_folder_above_may_have_any_name(tracks: Path, stills: Path, split: str, tmp_path: Path) -> None:
    (tmp_path / split).mkdir()
    for source in (tracks, stills):
        source.rename(tmp_path / split / source.name)
    datasets(SMALL, [tmp_path / split / source.name for source in (tracks, stills)])


def test_a_link_to_an_evaluation_split_is_seen_through(tracks: Path, tmp_path: Path) -> None:
    tracks.rename(tmp_path / "dev")
    (tmp_path / "train").symlink_to(tmp_path / "dev")
    with pytest.raises(DatasetError, match="never train on it"):
        datasets(SMALL, [tmp_path / "train"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda root: (root / "Car" / "00000001.jpg").unlink(),
            r"Car/groundtruth\.txt has 5 lines but .*Car holds 4 images \(4 \.jpg\), from 00000002\.jpg to "
            r"00000005\.jpg; expected one for each image",
        ),
        (
            lambda root: [(root / "Car" / f"{number:08d}.jpg").unlink() for number in (3, 4)],
            r"3 images \(3 \.jpg\), from 00000001\.jpg to 00000005\.jpg, of whose numbers 00000003 is the first that",
        ),
        (
            lambda root: (root / "Car" / "sheet.png").write_bytes(b""),
            r"5 lines but .*Car holds 6 images \(5 \.jpg, 1 \.png\), from 00000001\.jpg to sheet\.png; expected",
        ),
        (
            lambda root: [path.unlink() for path in (root / "Car").glob("*.jpg")],
            r"5 lines but .*Car holds no image \(of \.bmp, \.jpeg, .*\.webp\); expected",
        ),
        (
            lambda root: (root / "Car" / "absence.label").write_text("0\n" * 4),
            r"Car/absence\.label has 4 entries but .*Car holds 5 images",
        ),
        (
            lambda root: (root / "Car" / "cover.label").write_text("8 8 8 8 8 8"),
            r"Car/cover\.label has 6 entries but .*Car holds 5 images",
        ),
        (lambda root: (root / "Car" / "groundtruth.txt").unlink(), "groundtruth.txt"),
        (lambda root: (root / "Car" / "groundtruth.txt").write_text("a,b,c,d\n"), "groundtruth.txt"),
        (lambda root: (root / "list.txt").unlink(), "list.txt"),
        (lambda root: (root / "list.txt").write_bytes(b"Car\n\xff\n"), r"list\.txt.*in UTF-8, one a line"),
        (lambda root: (root / "Car" / "meta.json").write_text("{"), r"Car/meta\.json cannot be read.*video_group"),
        (
            lambda root: (root / "Car" / "meta.json").write_text("[1]"),
            r"Car/meta\.json holds \[1\]; expected an object",
        ),
    ],
)
def test_broken_tracks_are_named(tracks: Path, damage: object, message: str) -> None:
    damage(tracks)  # type: ignore[operator]
    with pytest.raises(DatasetError, match=message):
        datasets(SMALL, [tracks])


def test_clips_are_named_a_line_each_whatever_wrote_the_list(tracks: Path) -> None:
    (tracks / "Car").rename(tracks / "my car")
    (tracks / "list.txt").write_bytes("\ufeffmy car\r\n\r\nDog\r\n".encode())
    assert [track.name for track in read_tracks(tracks)] == ["my car", "Dog"]
    (tracks.parent / "only.txt").write_bytes("\ufeffmy car\r\n".encode())
    assert read(f"{tracks},only={tracks.parent / 'only.txt'}").tracks.names == ["my car"]


def test_a_group_may_be_a_number_or_none(tracks: Path) -> None:
    (tracks / "Car" / "meta.json").write_text('{"video_group": 3}')
    assert [track.group for track in read_tracks(tracks)] == ["3", "group-Dog"]
    datasets(SMALL, [tracks])
    (tracks / "Car" / "meta.json").write_text('{"video_group": null}')
    assert [track.group for track in read_tracks(tracks)] == ["Car", "group-Dog"]


def test_an_example_depends_on_seed_and_index_alone(tracks: Path, stills: Path) -> None:
    one, validation = datasets(SMALL, [tracks, stills])
    again, _ = datasets(SMALL, [tracks, stills])
    [again[i] for i in (5, 3)]
    for a, b in zip(one[9], again[9], strict=True):
        assert (a == b).all()
    assert not (one[9].search == one[10].search).all()
    assert not (one[0].search == validation[0].search).all()


def test_what_is_held_out_is_the_same_whatever_the_seed(tracks: Path, stills: Path) -> None:
    # Weights that a run goes on from were trained with another seed, perhaps on what this one would hold out.
    train, held_out = datasets(SMALL, [tracks, stills])
    other_train, other_held_out = datasets(replace(SMALL, seed=7), [tracks, stills])
    for i in range(6):
        assert all(torch.equal(a, b) for a, b in zip(held_out[i], other_held_out[i], strict=True))
    assert not torch.equal(train[0].search, other_train[0].search)


@pytest.mark.parametrize("seed", range(4))
def test_no_seed_trains_on_the_held_out_pairs(seed: int) -> None:
    pairs = replace(SMALL.pairs, absent=0.25)  # as often as among the held-out ones
    train, held_out = datasets(replace(SMALL, seed=seed, pairs=pairs), [], validation_absent=0.25)
    searches = [train[i].search for i in range(6)]
    assert not any(torch.equal(held_out[i].search, search) for i in range(4) for search in searches)


class SquareSource:
    """A red square on a blue field: the box can be read off the pixels."""

    def __len__(self) -> int:
        return 1

    def views(self, rng: np.random.Generator, templates: int) -> list[View]:
        views = []
        for _ in range(templates + 1):
            image = np.full((400, 500, 3), (200, 0, 0), np.uint8)
            x, y, w, h = (int(v) for v in rng.integers((150, 150, 30, 30), (280, 200, 80, 80)))
            image[y : y + h, x : x + w] = (0, 0, 255)
            views.append(View(image, np.asarray([x, y, w, h], np.float64)))
        return views


def test_boxes_are_where_the_target_is() -> None:
    config = SeqTrackConfig(search_size=128, template_size=64, templates=1)
    pairs = PairConfig(grey=0, occlude=0, distract=0, paint=0, absent=0, centre_jitter=2.0)
    dataset = PairDataset([(SquareSource(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=60)
    seen = 0
    for i in range(60):
        pair = dataset[i]
        image = pair.search.numpy().astype(int)
        columns = np.flatnonzero((image[..., 2] - image[..., 0]).max(0) > 40)
        rows = np.flatnonzero((image[..., 2] - image[..., 0]).max(1) > 40)
        if not len(columns) or columns[0] < 4 or rows[0] < 4 or columns[-1] > 123 or rows[-1] > 123:
            continue  # cut off at the crop's border
        seen += 1
        found = np.asarray([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 128
        cx, cy, w, h = pair.box.numpy()
        expected = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        # Blur widens what is seen by a few pixels.
        np.testing.assert_allclose(found, expected, atol=7 / 128)
    assert seen > 25


def middle_is_red(template: np.ndarray) -> bool:
    """Whether a template shows the target of `SquareSource` where it should."""
    blue, _, red = template[24:40, 24:40].reshape(-1, 3).mean(0)
    return bool(red > blue)


@pytest.mark.parametrize("stray", [0.0, 1.0])
def test_the_first_template_is_given_and_the_others_are_a_trackers_own(stray: float) -> None:
    config = SeqTrackConfig(search_size=128, template_size=64, template_factor=2.0, templates=3)
    pairs = PairConfig(grey=0, dim=0, flip=0, absent=0.3, stray=stray)
    dataset = PairDataset([(SquareSource(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=100)
    shown, fresh = [], 0
    for pair in (dataset[i] for i in range(100)):
        first, *own = pair.templates.numpy()
        assert middle_is_red(first)
        # Before the first update, all slots hold what was given.
        if all(np.array_equal(first, template) for template in own):
            fresh += 1
        else:
            shown += [middle_is_red(template) for template in own]
    assert 10 <= fresh <= 32
    # What strays to another target of this source shows a red square, too.
    assert np.mean(shown) == 1 if stray == 0 else 0.1 < np.mean(shown) < 0.5


def test_a_trackers_own_templates_are_off_by_as_much_as_asked() -> None:
    config = SeqTrackConfig(search_size=128, template_size=128, template_factor=4.0, templates=2)
    pairs = PairConfig(grey=0, dim=0, flip=0, degrade=False, template_jitter=0, drift=0.1, stray=0)
    dataset = PairDataset([(SquareSource(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=200)
    off = []
    for pair in (dataset[i] for i in range(200)):
        first, own = (cv2.boundingRect((t[..., 2] > t[..., 0]).astype(np.uint8)) for t in pair.templates.numpy())
        assert np.abs(np.asarray(first[:2]) + np.asarray(first[2:]) / 2 - 64).max() <= 1
        if first != own:
            # A target's side is a quarter of the crop's.
            off.append([*((own[i] + own[i + 2] / 2 - 64) / 32 for i in (0, 1)), np.log(own[2] * own[3] / 32**2) / 2])
    assert len(off) > 120
    np.testing.assert_allclose(np.std(off, axis=0), 0.1, atol=0.02)
    np.testing.assert_allclose(np.mean(off, axis=0), 0, atol=0.03)


class Plain:
    """A target that looks like all around it."""

    def views(self, rng: np.random.Generator, templates: int) -> list[View]:
        return [View(np.full((600, 600, 3), 200, np.uint8), np.asarray([280.0, 280, 40, 40]))] * (templates + 1)


def test_every_crop_lies_in_the_shade_for_itself() -> None:
    config = SeqTrackConfig(search_size=64, template_size=32, templates=1)
    pairs = PairConfig(grey=0, dim=0, absent=0, occlude=0, distract=0, paint=0, degrade=False, shade=0.4)
    dataset = PairDataset([(Plain(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=200)
    drawn = (dataset[i] for i in range(200))
    shaded = np.asarray([[(crop < 200).any() for crop in (pair.templates[0], pair.search)] for pair in drawn])
    np.testing.assert_allclose(shaded.mean(0), 0.4, atol=0.1)
    assert abs(np.corrcoef(shaded.T)[0, 1]) < 0.2


def test_absent_pairs_have_no_box_and_come_as_often_as_asked() -> None:
    config = SeqTrackConfig(search_size=64, template_size=32, templates=1)
    dataset = PairDataset([(SquareSource(), 1.0)], config, PairConfig(absent=0.5), Sprites([], 1.0), seed=0, length=100)
    absent = [pair for pair in (dataset[i] for i in range(100)) if not pair.present]
    assert 35 <= len(absent) <= 65
    assert all(not pair.box.any() for pair in absent)


def test_pasting_blends_by_alpha_and_cuts_at_the_border() -> None:
    image = np.full((10, 10, 3), 100, np.uint8)
    sprite = np.dstack([np.full((6, 6, 3), 200, np.uint8), np.full((6, 6), 51, np.uint8)])
    paste(image, sprite, 7, -2)
    assert (image[:4, 7:] == 120).all()
    assert (image[4:] == 100).all()
    assert (image[:, :7] == 100).all()
    paste(image, sprite, 20, 20)


def test_a_cutout_of_sixteen_bits_looks_as_one_of_eight(tmp_path: Path) -> None:
    pixels = shape_sprite(np.random.default_rng(3))
    cv2.imwrite(str(tmp_path / "8.png"), pixels)
    cv2.imwrite(str(tmp_path / "16.png"), pixels.astype(np.uint16) * 257)
    eight, sixteen = (Sprites([tmp_path / f"{bits}.png"], 0.0).pick(np.random.default_rng(0)) for bits in (8, 16))
    assert sixteen.dtype == np.uint8
    np.testing.assert_array_equal(sixteen, eight)


def test_cutouts_are_kept_no_finer_than_they_are_pasted_and_not_beyond_the_budget(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        pixels = np.zeros((700, 1100, 4), np.uint8)
        pixels[20:670, 30 : 30 + (1040, 200)[i % 2]] = (10, 20, 30 + i, 255)
        cv2.imwrite(str(path), pixels)
    cache = ImageCache(budget=1_000_000)
    picked = [Sprites([path], 0.0, cache).pick(np.random.default_rng(0)) for path in paths * 2]
    assert [sprite.shape for sprite in picked[:2]] == [(320, 512, 4), (512, 158, 4)]
    assert all((sprite == (10, 20, 30 + i % 4, 255)).all() for i, sprite in enumerate(picked))
    kept = [sprite if sprite.base is None else sprite.base for sprite in cache._images.values()]
    assert 0 < sum(sprite.nbytes for sprite in kept) <= 1_000_000


def test_a_cutout_that_is_nowhere_opaque_is_no_target(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "faint.png"), np.full((40, 40, 4), 127, np.uint8))
    sprite = Sprites([tmp_path / "faint.png"], 0.0).pick(np.random.default_rng(0))
    assert (sprite[..., 3] > 127).any()


def test_a_transformed_sprite_has_the_size_asked_for() -> None:
    sprite = shape_sprite(np.random.default_rng(3))
    grown = transform(sprite, 2.0 * sprite.shape[1], 0.0, 1.0)
    assert grown.shape[1] == pytest.approx(2 * sprite.shape[1], abs=3)
    assert grown.shape[0] == pytest.approx(2 * sprite.shape[0], abs=3)


@pytest.mark.parametrize("width", [20, 57, 130])
def test_a_sprite_that_shrinks_is_averaged_over_what_is_seen_of_it(width: int) -> None:
    """A disc of fine black and white squares turns grey, and nowhere as magenta as what lies hidden around it."""
    sprite = np.full((401, 403, 4), (255, 0, 255, 0), np.uint8)
    y, x = np.mgrid[:401, :403]
    disc = np.hypot(x - 201, y - 200) < 199
    sprite[disc] = np.where((x + y)[disc, None] % 2, (255, 255, 255, 255), (0, 0, 0, 255))
    shrunk = transform(sprite, width, 17.0, 1.1).astype(int)
    opaque, seen = (shrunk[shrunk[..., 3] > alpha][:, :3] for alpha in (250, 30))
    assert len(opaque) > 0.6 * shrunk.shape[0] * shrunk.shape[1]
    assert np.abs(opaque - 127.5).max() < 20
    assert np.ptp(seen, 1).max() < 10


def test_the_image_cache_forgets_the_oldest(tmp_path: Path) -> None:
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(paths[-1]), np.full((10, 10, 3), i, np.uint8))
    cache = ImageCache(budget=700)
    first = cache.read(paths[0])
    assert cache.read(paths[0]) is first
    cache.read(paths[1])
    cache.read(paths[2])
    assert cache.read(paths[0]) is not first
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"bad\.png"):
        cache.read(tmp_path / "bad.png")


@pytest.mark.parametrize("setting", ["steps=0", "batch=x", "precision=int4", "schedule=cosine", "accumulate=1.5"])
def test_settings_out_of_range_are_named(setting: str) -> None:
    with pytest.raises(ValueError, match=setting.partition("=")[0]):
        override(SMALL, [setting])


def test_settings_reach_nested_parts_and_name_what_they_do_not_know() -> None:
    changed = override(SMALL, ["lr=0.01", "pairs.flip=0", "model.template_attention=joint"])
    assert (changed.lr, changed.pairs.flip, changed.model.template_attention) == (0.01, 0, "joint")
    with pytest.raises(ValueError, match=r"KEY one of .*centre_jitter"):
        override(SMALL, ["pairs.jitter=1"])
    with pytest.raises(ValueError, match="KEY=VALUE"):
        override(SMALL, ["lr"])
