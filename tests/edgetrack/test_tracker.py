"""The tracker: what it answers, what it refuses, and that nothing it refuses changes what it answers."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import threading

import cv2
import numpy as np
import pytest
from synthetic_bundle import PRESENCE_ALONE, ColourNet, write_colour_bundle

from edgetrack import (
    BoxError,
    EdgeTrackError,
    FrameError,
    GraphError,
    NotInitialisedError,
    OptionError,
    SessionClosedError,
    Tracker,
    load,
)
from edgetrack.imaging import overlap

UPDATING = {"update_interval": 1, "update_threshold": 0.0}

BAD_FRAMES = [
    None,
    np.zeros((120, 160, 3), np.float32),
    np.zeros((120, 160), np.uint8),
    np.zeros((120, 160, 4), np.uint8),
    np.zeros((0, 160, 3), np.uint8),
]
BAD_BOXES = [
    (1, 2, 3),
    (math.nan, 0, 10, 10),
    (0, 0, math.inf, 10),
    (0, 0, -10, 10),
    (0, 0, 10, 0),
    (200, 0, 10, 10),
    (0, 0, 1e9, 1e9),
    None,
]


def answers(tracker: Tracker, frames: list[np.ndarray]) -> list[tuple]:
    return [(t.box, t.score, t.ok) for t in map(tracker.update, frames)]


@pytest.fixture
def alone(colour_model, scene) -> list[tuple]:
    """What a tracker answers that is left in peace."""
    frames, truth = scene
    tracker = Tracker(colour_model, **UPDATING)
    tracker.init(frames[0], truth[0])
    return answers(tracker, frames[1:])


def test_answer(colour_model, scene) -> None:
    frames, truth = scene
    tracker = Tracker(colour_model)
    assert tracker.init(frames[0], tuple(truth[0])) is None
    track = tracker.update(frames[1])
    assert [type(v) for v in track.box] == [float] * 4
    assert type(track.score) is float
    assert track.ok is True
    assert set(track.timings) == {"crop", "graph", "postprocess", "template"}
    assert all(ms >= 0 for ms in track.timings.values())
    assert sum(track.timings.values()) <= track.latency_ms
    with pytest.raises(dataclasses.FrozenInstanceError):
        track.ok = False


def test_update_before_init(colour_model, scene) -> None:
    with pytest.raises(NotInitialisedError, match=r"call init\(frame, box\)"):
        Tracker(colour_model).update(scene[0][0])


@pytest.mark.parametrize("bad", range(len(BAD_FRAMES)))
def test_a_bad_frame_changes_nothing(colour_model, scene, alone, bad) -> None:
    frames, truth = scene
    tracker = Tracker(colour_model, **UPDATING)
    tracker.init(frames[0], truth[0])
    seen = []
    for frame in frames[1:]:
        with pytest.raises(FrameError):
            tracker.update(BAD_FRAMES[bad])
        with pytest.raises(FrameError):
            tracker.init(BAD_FRAMES[bad], truth[0])
        seen += answers(tracker, [frame])
    assert seen == alone


@pytest.mark.parametrize("bad", range(len(BAD_BOXES)))
def test_a_bad_box_changes_nothing(colour_model, scene, alone, bad) -> None:
    frames, truth = scene
    tracker = Tracker(colour_model, **UPDATING)
    tracker.init(frames[0], truth[0])
    seen = answers(tracker, frames[1:5])
    with pytest.raises(BoxError):
        tracker.init(frames[5], BAD_BOXES[bad])
    assert seen + answers(tracker, frames[5:]) == alone


def test_a_failed_first_init_leaves_no_target(colour_model, scene) -> None:
    frames, _ = scene
    tracker = Tracker(colour_model)
    with pytest.raises(BoxError):
        tracker.init(frames[0], (0, 0, 0, 0))
    with pytest.raises(NotInitialisedError):
        tracker.update(frames[1])


@pytest.mark.parametrize("graph", ["track", "template"])
def test_a_graph_that_fails_changes_nothing(colour_bundle, scene, alone, graph, monkeypatch) -> None:
    frames, truth = scene
    model = load(colour_bundle.root, "onnxruntime-cpu", threads=1)
    tracker = Tracker(model, **UPDATING)
    tracker.init(frames[0], truth[0])

    def fail(feeds: object) -> None:
        raise GraphError("the device is gone")

    seen = []
    for frame in frames[1:]:
        with monkeypatch.context() as patch:
            patch.setattr(model.session(graph), "run", fail)
            with pytest.raises(GraphError):
                tracker.update(frame)
        seen += answers(tracker, [frame])
    assert seen == alone


def test_init_again_restarts(colour_model, scene) -> None:
    frames, truth = scene
    fresh, used = Tracker(colour_model, **UPDATING), Tracker(colour_model, **UPDATING)
    used.init(frames[0], truth[0])
    answers(used, frames[1:8])
    for tracker in (fresh, used):
        tracker.init(frames[8], truth[8])
    assert answers(used, frames[9:]) == answers(fresh, frames[9:])


@pytest.mark.parametrize("decode", ["fused", "cached"])
def test_strides_do_not_matter(colour_model, scene, decode) -> None:
    frames, truth = scene
    plain, strided = Tracker(colour_model, decode=decode), Tracker(colour_model, decode=decode)
    views = [np.repeat(frame, 2, axis=1)[:, ::2] for frame in frames]
    assert not views[0].flags.c_contiguous
    plain.init(frames[0], truth[0])
    strided.init(views[0], truth[0])
    assert answers(plain, frames[1:]) == answers(strided, views[1:])


def test_a_caller_may_reuse_the_frame_and_the_box(colour_model, scene, alone) -> None:
    frames, truth = scene
    tracker = Tracker(colour_model, **UPDATING)
    buffer, box = frames[0].copy(), truth[0].copy()
    tracker.init(buffer, box)
    box[:] = 0
    seen = []
    for frame in frames[1:]:
        buffer[:] = frame
        seen += answers(tracker, [buffer])
        buffer[:] = 0
    assert seen == alone


def test_a_larger_frame_is_accepted(colour_model, scene) -> None:
    """Room added to the right and below leaves pixel coordinates, and so the answers, as they are."""
    frames, truth = scene
    middle = slice(0, 10)  # where no crop reaches the right or bottom border of the smaller frame
    tracker, other = Tracker(colour_model), Tracker(colour_model)
    tracker.init(frames[0], truth[0])
    other.init(frames[0], truth[0])
    changed = 0
    for i, frame in enumerate(frames[middle][1:], start=1):
        wide = np.pad(frame, ((0, 40 * (i % 2)), (0, 30 * (i % 3)), (0, 0)))
        changed += wide.shape != frame.shape
        assert other.update(wide).box == pytest.approx(tracker.update(frame).box, abs=1.0)
    assert changed > 5


@pytest.mark.parametrize("size", [(1, 1), (5, 200), (60, 80)])
def test_a_frame_that_no_longer_holds_the_box_is_accepted(colour_model, scene, size) -> None:
    frames, truth = scene
    tracker = Tracker(colour_model, **UPDATING)
    tracker.init(frames[20], truth[20])
    for _ in range(3):
        x, y, w, h = tracker.update(np.zeros((*size, 3), np.uint8)).box
        assert all(map(math.isfinite, (x, y, w, h)))
        assert w >= 10
        assert h >= 10
        assert x < size[1]
        assert y < size[0]


def test_trackers_in_two_threads_share_a_model(colour_bundle, scene) -> None:
    frames, truth = scene
    model = load(colour_bundle.root, "onnxruntime-cpu", threads=1)
    jobs = [(frames, truth[0], "fused"), (frames[::-1], truth[-1], "fused"), (frames[::-1], truth[-1], "cached")]

    def run(job: tuple) -> list[tuple]:
        clip, box, decode = job
        tracker = Tracker(model, decode=decode, **UPDATING)
        tracker.init(clip[0], box)
        return answers(tracker, clip[1:])

    expected = [run(job) for job in jobs]
    assert expected[0] != expected[1]
    found: dict[int, list[tuple]] = {}
    start = threading.Barrier(len(jobs))

    def worker(i: int) -> None:
        start.wait()
        found[i] = run(jobs[i]) + run(jobs[i])

    threads = [threading.Thread(target=worker, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: answer * 2 for i, answer in enumerate(expected)}


BAD_OPTIONS = [
    ({"decode": "beam"}, "decode='beam'; expected one of fused, cached"),
    ({"window": 1.1}, r"window=1.1; expected a number from 0 to 1"),
    ({"window": -0.1}, "window=-0.1"),
    ({"window": math.nan}, "window=nan"),
    ({"window": "yes"}, "window='yes'"),
    ({"window": True}, "window=True"),
    ({"update_threshold": -1}, "update_threshold=-1; expected a number of at least 0"),
    ({"update_threshold": math.inf}, "update_threshold=inf"),
    ({"window": 10**400}, "; expected a number from 0 to 1"),
    ({"update_threshold": 10**400}, "; expected a number of at least 0"),
    ({"update_interval": -1}, "update_interval=-1; expected a whole number"),
    ({"update_interval": 2.5}, "update_interval=2.5"),
    ({"update_interval": True}, "update_interval=True"),
    ({"look_around": 1}, "look_around=1; expected True, False"),
    ({"threads": 0}, "threads=0; expected a whole number of at least 1"),
    ({"threads": 1.5}, "threads=1.5"),
    ({"update_interval": np.float32(2)}, "update_interval=2.0; expected a whole number"),
    ({"update_interval": np.bool_(True)}, "update_interval=True"),
    ({"redetect_interval": np.int64(0)}, "redetect_interval=0; expected a whole number of at least 1"),
    ({"redetect_interval": np.int64(1)}, "redetect_interval=1 without redetect"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=[str(options) for options, _ in BAD_OPTIONS])
def test_an_option_out_of_range_is_said_before_a_model_is_looked_for(options, message) -> None:
    with pytest.raises(OptionError) as caught:
        Tracker("no-such-model", "onnxruntime-cpu", **options)
    assert message in str(caught.value)


def test_options_may_be_numpys_scalars(colour_bundle, scene) -> None:
    frames, truth = scene
    options = {"threads": 1, "window": 0.5, "update_interval": 3, "update_threshold": 0.25}
    kinds = (np.uint8, np.float32, np.int64, np.float16)
    given = {name: kind(value) for (name, value), kind in zip(options.items(), kinds, strict=True)}
    trackers = [Tracker(colour_bundle.root, "onnxruntime-cpu", **each) for each in (options, given)]
    for tracker in trackers:
        tracker.init(frames[0], truth[0])
    assert answers(trackers[0], frames[1:]) == answers(trackers[1], frames[1:])
    assert trackers[0].model.options == trackers[1].model.options


def test_one_template_cannot_be_updated(tmp_path, monkeypatch) -> None:
    bundle = write_colour_bundle(tmp_path / "bundle", ColourNet(templates=1))
    model = load(bundle.root, "onnxruntime-cpu", threads=1)
    Tracker(model, update_interval=0)
    monkeypatch.setattr("edgetrack.model.open_session", lambda *_: pytest.fail("was loaded"))
    for given in (model, bundle.root):
        with pytest.raises(OptionError, match="update_interval=5, but 'colour' has one template"):
            Tracker(given, "onnxruntime-cpu", update_interval=5)


@pytest.mark.parametrize(
    ("box", "asked"),
    [
        ((100, 40, 140, 90), "give 100,40,40,50"),  # in a frame of 160 x 120
        ((20, 70, 60, 110), "give 20,70,40,40"),
        ((20, 30, 60, 70), ""),  # inside either way
        ((140, 100, 30, 30), ""),  # at the border, and no corner
        ((-10, 20, 300, 90), ""),
    ],
)
def test_a_box_that_could_be_corners_is_asked_about(colour_model, caplog, box, asked: str) -> None:
    Tracker(colour_model).init(np.zeros((120, 160, 3), np.uint8), box)
    assert bool(asked) == ("if its last two numbers are a corner" in caplog.text)
    assert asked in caplog.text


def test_after_the_model_is_closed(colour_bundle, scene) -> None:
    frames, truth = scene
    tracker = Tracker(colour_bundle.root, "onnxruntime-cpu", threads=1)
    tracker.init(frames[0], truth[0])
    tracker.model.close()
    with pytest.raises(SessionClosedError):
        tracker.update(frames[1])
    with pytest.raises(EdgeTrackError):
        tracker.init(frames[1], truth[1])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_what_cannot_be_copied_says_what_to_do_instead(colour_model, copied) -> None:
    with pytest.raises(TypeError, match=r"'colour' .* load the model in each process"):
        copied(colour_model)
    with pytest.raises(TypeError, match=r"<Tracker .* make a tracker there, and call init\(\)"):
        copied(Tracker(colour_model))


def test_repr(colour_model, scene) -> None:
    frames, truth = scene
    tracker = Tracker(colour_model)
    assert repr(tracker) == "<Tracker <Model 'colour' (seqtrack) fp32 on onnxruntime-cpu>, no target>"
    tracker.init(frames[0], truth[0])
    assert "target at [20.0, 50.0, 24.0, 24.0]" in repr(tracker)


def test_compiled_engines_are_kept_where_asked(tmp_path) -> None:
    bundle = write_colour_bundle(tmp_path / "bundle", ColourNet()).root
    Tracker(bundle, "openvino-cpu", cache_dir=tmp_path / "engines")
    folders = sorted(path.name for path in (tmp_path / "engines").iterdir())
    assert len(folders) == 2  # the graphs of a frame and of the templates
    assert all("openvino" in name for name in folders)


def test_a_lost_target_is_looked_for_elsewhere_from_the_sixteenth_frame_on(tmp_path, scene, monkeypatch) -> None:
    frames, truth = scene
    bundle = write_colour_bundle(tmp_path / "bundle", score=PRESENCE_ALONE)
    tracker = Tracker(bundle.root, "onnxruntime-cpu", threads=1, look_around=True)
    tracker.init(frames[0], truth[0])
    session, runs = tracker.model.session("track"), []
    run = session.run
    monkeypatch.setattr(session, "run", lambda feeds: runs.append(feeds) or run(feeds))
    looks = []
    for _ in range(18):
        assert not tracker.update(np.full_like(frames[0], 60)).ok
        looks.append(len(runs) - sum(looks))
    assert looks == [1] * 15 + [2] * 3


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
@pytest.mark.parametrize("look_around", [False, True])
def test_a_stream_that_switches_its_resolution_is_followed_on(tmp_path, scene, factor, look_around) -> None:
    """There and back again, in the middle of the film."""
    frames, truth = scene
    bundle = write_colour_bundle(tmp_path / "bundle", score=PRESENCE_ALONE)
    tracker = Tracker(bundle.root, "onnxruntime-cpu", threads=1, look_around=look_around)
    tracker.init(frames[0], truth[0])
    for i, frame in enumerate(frames[1:], start=1):
        scale = factor if 10 <= i < 20 else 1.0
        track = tracker.update(cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        assert overlap(np.asarray(track.box), truth[i] * scale) > 0.5, i


def test_a_failed_update_forgets_no_resolution(colour_model, scene) -> None:
    frames, truth = scene
    tracker = Tracker(colour_model)
    tracker.init(frames[0], truth[0])
    double = [cv2.resize(frame, None, fx=2, fy=2) for frame in frames[:3]]
    with pytest.raises(FrameError):
        tracker.update(double[1].astype(np.float32))
    assert overlap(np.asarray(tracker.update(double[1]).box), truth[1] * 2) > 0.5
    assert overlap(np.asarray(tracker.update(double[2]).box), truth[2] * 2) > 0.5


def test_a_frame_of_another_aspect_is_another_view(colour_model, scene) -> None:
    """Pixel coordinates hold, as of a picture that is cut: the target stands where it stood."""
    frames, truth = scene
    tracker = Tracker(colour_model)
    tracker.init(frames[0], truth[0])
    cut = frames[1][:, : 3 * frames[1].shape[1] // 4]
    assert overlap(np.asarray(tracker.update(cut).box), truth[1]) > 0.5
