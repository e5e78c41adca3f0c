"""Global search: where it looks, what it reports, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic_bundle import write_colour_bundle
from synthetic_vtt import MEAN, QUERIES, SHARPNESS, STD, vtt_manifest, write_cells_bundle
from typer.testing import CliRunner

from edgetrack import (
    BoxError,
    Candidate,
    FrameError,
    ManifestError,
    NotInitialisedError,
    OptionError,
    Track,
    Tracker,
    load,
)
from edgetrack.bundle import Bundle, read_bundle
from edgetrack.cli import app
from edgetrack.errors import EdgeTrackError
from edgetrack.illumination import gains, illumination, relit
from edgetrack.imaging import Canvas, canvas_to_boxes, enclosing_square, letterbox
from edgetrack.views import views
from edgetrack.vtt import VTT, calibrated_score

BACKENDS = ("onnxruntime-cpu", "openvino-cpu")
COLOUR = (30, 120, 230)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_cells_bundle(tmp_path_factory.mktemp("vtt") / "cells")


def frame_with(x: int, y: int, size: tuple[int, int] = (160, 96), side: int = 32) -> np.ndarray:
    frame = np.full((size[1], size[0], 3), 60, np.uint8)
    frame[y : y + side, x : x + side] = COLOUR
    return frame


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_target_is_found_wherever_it_is(cells: Bundle, backend: str) -> None:
    tracker = Tracker(cells.root, backend, threads=1)
    tracker.init(frame_with(0, 0), (0, 0, 32, 32))
    for x, y in ((112, 48), (16, 16), (128, 64), (0, 0)):  # from one corner to another, at once
        track = tracker.update(frame_with(x, y))
        # A cell shows 16 x 16 pixels of the frame, and its box 32 x 32 about the middle of it.
        assert track.ok
        assert track.score == pytest.approx(1.0, abs=1e-3)
        bx, by, bw, bh = track.box
        assert (bw, bh) == pytest.approx((32, 32))
        assert x <= bx + 16 <= x + 32
        assert y <= by + 16 <= y + 32
        assert set(track.timings) == {"crop", "graph", "postprocess", "template"}


@pytest.mark.parametrize(
    ("box", "size"),
    [
        # Boxes of 32 x 32 in the first frame, too: half of the error is expected again, as a factor.
        ((0, 0, 24, 16), (32 * (24 / 32) ** 0.5, 32 * (16 / 32) ** 0.5)),
        ((0, 0, 32, 32), (32, 32)),
        ((0, 0, 8, 8), (32, 32)),  # overlaps the answer by too little to be told from another thing
    ],
)
def test_sizes_err_as_in_the_first_frame(cells: Bundle, box: tuple[float, ...], size: tuple[float, float]) -> None:
    tracker = Tracker(cells.root, "onnxruntime-cpu", threads=1)
    tracker.init(frame_with(0, 0), box)
    track = tracker.update(frame_with(112, 48))
    assert track.box[2:] == pytest.approx(size)
    assert np.asarray(track.box[:2]) + np.asarray(track.box[2:]) / 2 == pytest.approx((120, 56))
    assert tracker.candidates()[1].box[2:] == pytest.approx(size)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_frames_are_brought_to_the_light_of_the_first(tmp_path: Path, share: float) -> None:
    first = frame_with(16, 16)
    blue = cv2.multiply(frame_with(64, 32), (1.3, 1.0, 0.7, 0.0))
    as_first = relit(blue, gains(illumination(first), illumination(blue)))
    found = []
    for matched, seen in ((True, blue), (False, as_first), (False, blue)):
        name = f"{matched} {len(found)}"
        online = {"second_look": share, "match_illumination": matched}
        tracker = Tracker(write_cells_bundle(tmp_path / name, online=online).root, "onnxruntime-cpu", threads=1)
        tracker.init(first, (16, 16, 32, 32))
        found.append(tracker.update(seen))
    assert found[0].box == found[1].box
    assert found[0].score == pytest.approx(found[1].score, abs=0.01)  # the canvas is multiplied, and not the frame
    assert found[0].score > 0.7
    assert found[2].score < 0.4  # of a colour that the template has not


def looking_twice(root: Path, share: float = 0.5, side: float = 2.0) -> Tracker:
    return Tracker(write_cells_bundle(root, side, online={"second_look": share}).root, "onnxruntime-cpu", threads=1)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (300, 200), (480, 288), (608, 352)])
def test_a_second_look_is_a_look_at_the_part_about_the_best_candidate(
    cells: Bundle, tmp_path: Path, x: int, y: int
) -> None:
    """A target of 32 px is half a cell of the canvas: an answer is known to a cell, which looking again halves."""
    twice, once = looking_twice(tmp_path / "twice"), Tracker(cells.root, "onnxruntime-cpu", threads=1)
    size = (640, 384)
    first, frame = frame_with(96, 64, size), frame_with(x, y, size)
    for tracker in (twice, once):
        tracker.init(first, (96, 64, 32, 32))
    seen = np.asarray(once.update(frame).box)
    rest = once.candidates()[1:]
    # Boxes are 128 px in the frame and 16 on the canvas, and are to be 24 there: the part is two thirds of the frame.
    width, height = round(640 * 2 / 3), round(384 * 2 / 3)
    left = round(min(max(seen[0] + 64 - width / 2, 0), 640 - width))
    top = round(min(max(seen[1] + 64 - height / 2, 0), 384 - height))
    again = once.update(frame[top : top + height, left : left + width])
    found = twice.update(frame)
    assert found.score == pytest.approx(again.score, abs=1e-6)
    assert np.asarray(found.box) == pytest.approx(np.add(again.box, (left, top, 0, 0)), abs=1e-6)
    assert twice.candidates()[0] == Candidate(found.box, found.score)
    assert twice.candidates()[1:] == rest  # the others are as they were seen


@pytest.mark.parametrize(
    ("share", "side", "part"),
    [
        # 16 px of the canvas are to be `share` of its 48.
        (0.5, 2.0, 2 / 3),
        (0.39, 2.0, 1 / (3 * 0.39)),
        (0.37, 2.0, None),  # more than seven eighths of the frame are no gain
        (0.3, 2.0, None),
        (0.0, 2.0, None),
        (1.0, 0.1, 0.25),  # the smallest
    ],
)
def test_a_second_look_is_taken_where_it_shows_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, side: float, part: float | None
) -> None:
    tracker = looking_twice(tmp_path / "twice", share, side)
    tracker.init(frame_with(0, 0), (0, 0, 32, 32))
    session, fed = tracker.model.session("search"), []
    run = session.run
    monkeypatch.setattr(session, "run", lambda feeds: fed.append(feeds["extent"]) or run(feeds))
    seen: list[tuple[int, ...]] = []

    def boxed(image: np.ndarray, width: int, height: int) -> Canvas:
        seen.append(image.shape[:2])
        return letterbox(image, width, height)

    monkeypatch.setattr("edgetrack.vtt.letterbox", boxed)
    tracker.update(frame_with(64, 32))
    assert seen == [(96, 160)] + ([(round(96 * part), round(160 * part))] if part else [])
    assert len(fed) == len(seen)
    assert all((extent > 0.9).all() for extent in fed)  # as wide for its height as the canvas, however small


def test_a_second_look_at_a_high_frame_is_as_wide_as_the_frame(tmp_path: Path) -> None:
    tracker = looking_twice(tmp_path / "twice")
    size = (96, 160)
    tracker.init(frame_with(0, 0, size), (0, 0, 32, 32))
    for x, y in ((0, 0), (64, 0), (32, 64), (64, 128), (0, 128)):
        left, top, width, height = tracker.update(frame_with(x, y, size)).box
        assert x <= left + width / 2 <= x + 32
        assert y <= top + height / 2 <= y + 32


@pytest.mark.parametrize("box", [(math.nan,) * 4, (math.inf, 0.5, 0.1, 0.1), (0.5, 0.5, 0.0, 0.1)])
@pytest.mark.parametrize("score", [math.nan, 0.9])
def test_what_is_no_box_is_not_found_and_is_no_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box: tuple[float, ...], score: float
) -> None:
    """As a device may answer once."""
    tracker = looking_twice(tmp_path / "twice")
    tracker.init(frame_with(0, 0), (0, 0, 32, 32))
    session, fed = tracker.model.session("search"), []
    run = session.run

    def answered(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed.append(feeds)
        out = run(feeds)
        boxes = np.broadcast_to(np.float32(box), out["boxes"].shape)
        return {"boxes": boxes, "scores": np.full_like(out["scores"], score)}

    with monkeypatch.context() as patch:
        patch.setattr(session, "run", answered)
        track = tracker.update(frame_with(64, 32))
    assert np.isfinite(track.box).all()
    assert all(np.isfinite(each.box).all() for each in tracker.candidates())
    if not math.isfinite(box[0]):
        assert (track.score, track.ok) == (0, False)
        centre = np.asarray(track.box[:2]) + np.asarray(track.box[2:]) / 2
        np.testing.assert_allclose(centre, (16, 16), atol=2)  # where it was seen
    else:
        assert len(fed) == 1  # a flat box is not looked at again
    assert tracker.update(frame_with(64, 32)).ok


def looks(tracker: Tracker, frame: np.ndarray) -> tuple[Track, list[tuple[int, ...]]]:
    """What a tracker finds, and the parts of the frame, (x, y, w, h), that it looks at for that."""
    parts = []

    def noted(image: np.ndarray, width: int, height: int) -> Canvas:
        start = image.__array_interface__["data"][0] - frame.__array_interface__["data"][0]
        y, x = divmod(start // 3, frame.shape[1])
        parts.append((x, y, image.shape[1], image.shape[0]))
        return letterbox(image, width, height)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgetrack.vtt.letterbox", noted)
        return tracker.update(frame), parts


def test_a_small_target_is_followed_in_the_part_about_it_and_else_looked_for_in_one_view_after_the_other(
    tmp_path: Path,
) -> None:
    """A square of 30 px is 3.75 of the canvas in a frame of 640 x 384, where 3.84 are wanted; in a quarter it is 15."""
    size = (640, 384)
    tracker = looking_twice(tmp_path / "twice", side=1.0)
    tracker.init(frame_with(300, 200, size, 30), (300, 200, 30, 30))
    seen = np.asarray([300.0, 200, 30, 30])
    for x, y in ((310, 210), (330, 200), (350, 190)):
        track, parts = looks(tracker, frame_with(x, y, size, 30))
        assert track.ok
        corner = np.rint(seen[:2] + seen[2:] / 2 - (80, 48)).astype(int).tolist()
        assert parts == [(*corner, 160, 96)]  # once, and the smallest part that training shows
        seen = np.asarray(track.box)
        assert np.abs(seen[:2] + seen[2:] / 2 - (x + 15, y + 15)).max() <= 16
    empty, wanted = frame_with(0, 0, size, 0), views(seen, size, (80, 48), 0.25)
    near = looks(tracker, empty)
    assert not near[0].ok
    assert len(near[1]) == 1
    for view in [*wanted, wanted[0]]:
        track, parts = looks(tracker, empty)
        assert not track.ok
        assert parts[0] == view
        assert len(parts) == 2
    # It is back where the second of the views shows it, which was the first of the parts.
    there = frame_with(wanted[1][0] + 160, wanted[1][1] + 90, size, 30)
    track, parts = looks(tracker, there)
    assert track.ok
    assert parts[0] == wanted[1]
    assert len(looks(tracker, there)[1]) == 1


@pytest.mark.parametrize(("share", "side"), [(0.5, 40), (0.0, 12)])
def test_the_whole_frame_is_searched_for_what_is_large_or_by_a_model_that_looks_at_nothing_closer(
    tmp_path: Path, share: float, side: int
) -> None:
    size = (640, 384)
    tracker = looking_twice(tmp_path / "once", share)
    tracker.init(frame_with(300, 200, size, side), (300, 200, side, side))
    for frame in [frame_with(10, 10, size, side), *[frame_with(0, 0, size, 0)] * 3]:
        assert looks(tracker, frame)[1][0] == (0, 0, 640, 384)


@pytest.mark.parametrize("matched", [False, True])
def test_a_search_of_a_view_is_one_look_at_what_is_there(tmp_path: Path, matched: bool) -> None:
    """What is found is what a tracker finds that is given that part as its frame, only that it lies elsewhere."""
    online = {"second_look": 0.5, "match_illumination": matched}
    model = load(write_cells_bundle(tmp_path / "twice", online=online).root, "onnxruntime-cpu")
    search, once = VTT(model), VTT(load(write_cells_bundle(tmp_path / "once").root, "onnxruntime-cpu"))
    size, target = (320, 192), np.asarray([16.0, 16, 32, 32])
    first, frame = frame_with(16, 16, size), frame_with(200, 96, size)
    if matched:
        frame = (frame * 0.8).astype(np.uint8)  # its light is told by the whole of it
    state, by_hand = search.init(first, target), once.init(first, target)
    session, fed = model.session("search"), []
    run = session.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "run", lambda feeds: fed.append(feeds) or run(feeds))
        found, estimate = search.search(state, frame, (160, 64, 120, 72))
    assert len(fed) == 1
    light = gains(illumination(first), illumination(frame)) if matched else np.ones(3)
    by_hand = dataclasses.replace(by_hand, stretch=state.stretch)
    there, wanted = once.step(by_hand, relit(frame, light)[64:136, 160:280])
    np.testing.assert_allclose(found.boxes, there.boxes + np.asarray([160, 64, 0, 0]), atol=0.6 if matched else 1e-9)
    assert estimate.score == pytest.approx(wanted.score, abs=0.02 if matched else 1e-9)
    assert search.views(target, size) == views(target, size, (80, 48), 0.25)


def test_absence_is_reported_and_does_not_last(cells: Bundle) -> None:
    tracker = Tracker(cells.root, "onnxruntime-cpu", threads=1)
    tracker.init(frame_with(0, 0), (0, 0, 32, 32))
    empty = np.full((96, 160, 3), 60, np.uint8)
    assert [tracker.update(f).ok for f in (frame_with(0, 0), empty, empty, frame_with(96, 48))] == [
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize("size", [(160, 96), (200, 80), (96, 160), (80, 48)])
def test_boxes_are_in_pixels_of_any_frame(cells: Bundle, size: tuple[int, int]) -> None:
    side = min(size) // 3
    tracker = Tracker(cells.root, "onnxruntime-cpu", threads=1)
    tracker.init(frame_with(0, 0), (0, 0, 32, 32))
    x, y = size[0] - 2 * side, size[1] - 2 * side
    track = tracker.update(frame_with(x, y, size, side))
    centre = np.asarray(track.box[:2]) + np.asarray(track.box[2:]) / 2
    assert x <= centre[0] <= x + side
    assert y <= centre[1] <= y + side


def test_padding_is_never_an_answer(cells: Bundle) -> None:
    """The target is black, as the padding is, and not in the frame."""
    tracker = Tracker(cells.root, "onnxruntime-cpu", threads=1)
    black = frame_with(0, 0)
    black[:32, :32] = 0
    tracker.init(black, (0, 0, 32, 32))
    high = np.full((200, 100, 3), 200, np.uint8)
    assert not tracker.update(high).ok
    assert max(c.score for c in tracker.candidates()) < 0.5


def test_all_candidates_are_to_be_had(cells: Bundle) -> None:
    tracker = Tracker(cells.root, "onnxruntime-cpu", threads=1)
    tracker.init(frame_with(0, 0), (0, 0, 32, 32))
    assert tracker.candidates() == ()
    frame = frame_with(16, 32)
    frame[64:96, 128:160] = (60, 120, 200)  # a second best
    track = tracker.update(frame)
    found = tracker.candidates()
    assert len(found) == QUERIES
    assert found[0] == Candidate(track.box, track.score)
    scores = [c.score for c in found]
    assert scores == sorted(scores, reverse=True)

    def colour(bgr: tuple[int, ...]) -> np.ndarray:
        return (np.asarray(bgr[::-1]) / 255 - MEAN) / STD

    second = math.exp(-SHARPNESS * ((colour((60, 120, 200)) - colour(COLOUR)) ** 2).sum())
    assert found[4].score == pytest.approx(second, abs=1e-3)  # the first four cells are the target's
    assert found[4].box[0] >= 112
    tracker.init(frame, (16, 32, 32, 32))
    assert tracker.candidates() == ()


def test_an_init_anew_takes_another_target(cells: Bundle) -> None:
    tracker = Tracker(cells.root, "onnxruntime-cpu", threads=1)
    frame = frame_with(0, 0)
    frame[64:96, 128:160] = (230, 40, 40)
    tracker.init(frame, (0, 0, 32, 32))
    assert tracker.update(frame).box[0] < 32
    tracker.init(frame, (128, 64, 32, 32))
    assert tracker.update(frame).box[0] >= 112


def test_what_is_refused_changes_nothing(cells: Bundle) -> None:
    tracker = Tracker(cells.root, "onnxruntime-cpu", threads=1)
    with pytest.raises(NotInitialisedError):
        tracker.update(frame_with(0, 0))
    tracker.init(frame_with(0, 0), (0, 0, 32, 32))
    before = tracker.update(frame_with(64, 32))
    with pytest.raises(FrameError):
        tracker.update(np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(BoxError):
        tracker.init(frame_with(0, 0), (0, 0, -1, 5))
    after = tracker.update(frame_with(64, 32))
    assert (after.box, after.score) == (before.box, before.score)


@pytest.mark.parametrize(
    ("option", "name"),
    [({"decode": "cached"}, "decode"), ({"window": 0.5}, "window"), ({"update_interval": 5}, "update_interval")],
)
def test_options_of_the_other_kind_are_refused(cells: Bundle, option: dict[str, object], name: str) -> None:
    with pytest.raises(OptionError, match=rf"got {name}=.*'cells' is of kind 'vtt', which has no such option"):
        Tracker(cells.root, "onnxruntime-cpu", **option)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=name):
        Tracker(load(cells.root, "onnxruntime-cpu"), **option)  # type: ignore[arg-type]


def test_candidates_of_a_model_without_any(tmp_path: Path) -> None:
    colour = write_colour_bundle(tmp_path / "colour")
    with pytest.raises(OptionError, match="'colour' answers with one box; expected a model of kind 'vtt'"):
        Tracker(colour.root, "onnxruntime-cpu").candidates()
    with pytest.raises(OptionError, match="kind 'seqtrack'; expected a model of kind 'vtt'"):
        VTT(load(colour.root, "onnxruntime-cpu"))


def test_a_model_is_shared_between_threads(cells: Bundle) -> None:
    model = load(cells.root, "onnxruntime-cpu", threads=1)
    places = [(16 * i, 8 * i) for i in range(6)]
    answers: dict[int, list[tuple[float, ...]]] = {}

    def follow(number: int) -> None:
        tracker = Tracker(model)
        tracker.init(frame_with(0, 0), (0, 0, 32, 32))
        answers[number] = [tracker.update(frame_with(x, y)).box for x, y in places[number:] + places[:number]]

    threads = [threading.Thread(target=follow, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(answers[i] == answers[0][i:] + answers[0][:i] for i in range(3))


def test_scores_are_calibrated() -> None:
    score = vtt_manifest(score={"source": "logistic", "slope": 2.0, "intercept": -1.0, "ok_threshold": 0.5}).score
    assert calibrated_score(score, 0.8) == pytest.approx(1 / (1 + math.exp(1 - 2 * math.log(0.8 / 0.2))))
    probabilities = [0.0, 1e-5, 1e-4, 0.5, 1 - 1e-4, 1 - 1e-5, 1.0]
    scores = [calibrated_score(score, probability) for probability in probabilities]
    assert scores == sorted(set(scores))
    assert 0 <= scores[0] < scores[-1] <= 1


def test_a_score_at_the_threshold_reaches_it(cells: Bundle, tmp_path: Path) -> None:
    frame = frame_with(64, 32)
    frame[frame == COLOUR[2]] = 150  # in another red

    def answer(root: Path) -> tuple[float, bool]:
        tracker = Tracker(root, "onnxruntime-cpu", threads=1)
        tracker.init(frame_with(0, 0), (0, 0, 32, 32))
        track = tracker.update(frame)
        return track.score, track.ok

    found, _ = answer(cells.root)
    assert 0 < found < 1
    for threshold, ok in ((found, True), (float(np.nextafter(found, 1)), False)):
        score = {"source": "top", "ok_threshold": threshold}
        assert answer(write_cells_bundle(tmp_path / str(ok), score=score).root) == (found, ok)


def test_a_calibrated_bundle_ranks_and_thresholds_by_its_calibration(tmp_path: Path) -> None:
    score = {"source": "logistic", "slope": 1.0, "intercept": -50.0, "ok_threshold": 0.5}
    bundle = write_cells_bundle(tmp_path / "doubtful", score=score)
    tracker = Tracker(bundle.root, "onnxruntime-cpu", threads=1)
    tracker.init(frame_with(0, 0), (0, 0, 32, 32))
    track = tracker.update(frame_with(64, 32))
    assert not track.ok
    assert track.score < 1e-10
    assert 48 <= track.box[0] <= 80


def damage(bundle: Bundle, root: Path, change: object) -> Path:
    root.mkdir()
    for file in bundle.root.iterdir():
        (root / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((root / "manifest.json").read_text())
    change(manifest)  # type: ignore[operator]
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def graphs(manifest: dict) -> dict:
    return manifest["variants"]["fp32"]["graphs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(queries=3), r"outputs of 'search': found boxes .*60, 4.*expected boxes .*3, 4"),
        (lambda m: m["preprocessing"]["search"].update(width=96), r"inputs of 'search'.*expected search .*48, 96, 3"),
        (lambda m: m["preprocessing"]["template"].update(size=8), r"inputs of 'template'.*expected template .*8, 8"),
        (lambda m: graphs(m).pop("template"), r"has the graphs search; expected search, template"),
        (lambda m: graphs(m)["template"]["outputs"][0].update(name="z"), r"expected kernel of shape \(C, D\)"),
        (lambda m: graphs(m)["search"]["inputs"][2].update(shape=[4, 1]), r"inputs of 'search'.*expected kernel"),
        (lambda m: m.update(decoder={"bins": 4, "order": "xywh"}), "decoder: Extra inputs"),
        (lambda m: m.update(score={"source": "likelihood", "ok_threshold": 0.1}), "score: .*'top', 'logistic'"),
        (lambda m: m.update(kind="seqtrack"), "decoder: Field required"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(cells: Bundle, tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_bundle(damage(cells, tmp_path / "damaged", change))


def test_a_graph_that_fails_changes_nothing(cells: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Tracker(cells.root, "onnxruntime-cpu", threads=1)
    tracker.init(frame_with(0, 0), (0, 0, 32, 32))
    before = tracker.update(frame_with(64, 32))
    candidates = tracker.candidates()
    session = tracker.model.session("search")

    def fails(feeds: object) -> dict[str, np.ndarray]:
        raise EdgeTrackError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(session, "run", fails)
        with pytest.raises(EdgeTrackError, match="broken"):
            tracker.update(frame_with(0, 0))
    assert tracker.candidates() == candidates
    assert tracker.update(frame_with(64, 32)).box == before.box


def test_info_says_what_kind_it_is(cells: Bundle) -> None:
    result = CliRunner().invoke(app, ["info", str(cells.root)])
    assert result.exit_code == 0, result.output
    for text in ("vtt", "the whole frame, on 80 x 48 px", "16 px, 1 x the target's longer side", "ok from 0.5"):
        assert text in result.output


def test_letterbox_keeps_aspect_and_pads_with_black() -> None:
    frame = np.full((50, 200, 3), 255, np.uint8)
    canvas = letterbox(frame, 80, 48)
    assert canvas.image.shape == (48, 80, 3)
    assert canvas.extent.tolist() == [1.0, 20 / 48]
    assert (canvas.image[:20] == 255).all()
    assert not canvas.image[20:].any()
    larger = letterbox(np.full((10, 4, 3), 9, np.uint8), 80, 48)
    assert larger.extent == pytest.approx([19 / 80, 1.0])
    assert letterbox(np.zeros((1, 4000, 3), np.uint8), 80, 48).extent.tolist() == [1.0, 1 / 48]
    assert letterbox(np.zeros((4000, 1, 3), np.uint8), 80, 48).extent.tolist() == [1 / 80, 1.0]


def test_canvas_boxes_go_back_to_the_frame() -> None:
    frame_size, extent = (200, 50), np.asarray([1.0, 0.4])
    boxes = np.asarray([[0.5, 0.2, 0.1, 0.4], [1.0, 0.4, 0.2, 0.08]])
    expected = [[90, 0, 20, 50], [180, 45, 40, 10]]
    np.testing.assert_allclose(canvas_to_boxes(boxes, extent, frame_size), expected)


def test_the_square_has_the_longer_side_and_the_centre() -> None:
    assert enclosing_square(np.asarray([10.0, 20.0, 30.0, 10.0])).tolist() == [10.0, 10.0, 30.0, 30.0]


def test_a_candidate_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Candidate((0, 0, 1, 1), 0.5).score = 1.0  # type: ignore[misc]
