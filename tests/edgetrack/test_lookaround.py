"""Looking around for a lost target: where, in which order, what is believed, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripted import FRAME, ScriptedLocal, ScriptedSearch, follow
from synthetic_bundle import PRESENCE_ALONE, ColourNet, write_colour_bundle

from edgetrack import Tracker, TrackState
from edgetrack.imaging import clip_box
from edgetrack.longterm import LongTerm
from edgetrack.lookaround import places, remembered
from edgetrack.online import Estimate
from edgetrack.seqtrack import State

REACH = 2.0
pytestmark = pytest.mark.usefixtures("impatient")


@pytest.mark.parametrize("seed", range(20))
def test_places_are_a_grid_about_the_box_in_the_frame_nearest_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = rng.integers(40, 400, 2).tolist()
    box = np.concatenate([rng.uniform(-10, (width, height)), rng.uniform(5, 60, 2)])
    step = REACH * float(np.sqrt(box[2] * box[3]))
    expected = []
    for i in range(-2, 3):
        for j in range(-2, 3):
            x, y = box[0] + box[2] / 2 + i * step, box[1] + box[3] / 2 + j * step
            inside = -step / 2 < x < width + step / 2 and -step / 2 < y < height + step / 2
            if inside or (i, j) == (0, 0):  # the box's own place comes last
                expected.append((i * i + j * j or 9, min(max(x, 0), width), min(max(y, 0), height)))
    found = places(box, (width, height), REACH)
    centres = found[:, :2] + found[:, 2:] / 2
    assert len(found) == len(expected)
    assert sorted(map(tuple, centres.round(6).tolist())) == sorted((round(x, 6), round(y, 6)) for _, x, y in expected)
    ranks = {(round(x, 6), round(y, 6), distance) for distance, x, y in expected}
    order = sorted(distance for distance, _, _ in expected)
    assert {(*centre, rank) for centre, rank in zip(centres.round(6).tolist(), order, strict=True)} == ranks
    assert (found[:, 2:] == box[2:]).all()


def test_every_point_between_places_lies_well_inside_some_crop() -> None:
    box = np.asarray([300.0, 300.0, 20.0, 20.0])
    around = places(box, (640, 640), REACH)
    centres = around[:, :2] + around[:, 2:] / 2
    assert len(centres) == 25
    points = np.random.default_rng(0).uniform(310 - 5 * 20, 310 + 5 * 20, (500, 2))
    # Half a step off at most: with a reach of half the crop's side, a quarter of it.
    assert np.abs(points[:, None] - centres).max(2).min(1).max() <= REACH * 20 / 2


def test_a_frame_no_larger_than_the_crop_is_looked_at_as_it_is() -> None:
    box = np.asarray([20.0, 20.0, 40.0, 40.0])
    assert places(box, (70, 70), REACH).tolist() == [box.tolist()]


def test_a_long_box_that_is_mostly_outside_is_still_looked_for_where_it_was() -> None:
    """Its centre lies outside by more than half a step, which places beside it may not."""
    around = places(np.asarray([-75.0, 20.0, 80.0, 4.0]), (70, 70), REACH)
    assert (around[-1, :2] + around[-1, 2:] / 2).tolist() == [0, 22]


def alone(local: ScriptedLocal) -> list[str]:
    return follow(LongTerm(local, 5.0, reach=REACH), local)  # type: ignore[arg-type]


def test_nothing_else_is_looked_at_while_the_target_is_seen() -> None:
    local = ScriptedLocal([0, 5, 15, 30])
    assert alone(local) == ["T5", "T15", "T30"]
    assert [number for number, _ in local.looks] == [1, 2, 3]


@pytest.mark.parametrize("lost", [3, 4, 6])
def test_a_target_that_was_seen_a_moment_ago_is_looked_for_nowhere_else(
    lost: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgetrack.lookaround.PATIENCE", 3)
    local, search = ScriptedLocal([90, 90, *[None] * lost, 90, *[None] * 3]), ScriptedSearch([20.0] * 10)
    said = follow(LongTerm(local, 5.0, reach=REACH, search=search), local)  # type: ignore[arg-type]
    assert said == ["T90", *["L"] * lost, "T90", *["L"] * 3]  # the second time of being lost begins anew
    assert len(search.frames) == lost - 3
    assert len(local.looks) == len(said) + 2 * (lost - 3)  # a place and the candidate
    alone_local = ScriptedLocal(local.targets)
    assert alone(alone_local) == said
    assert len(alone_local.looks) == len(said) + lost - 3
    assert alone_local.looks[-1][0] == len(said)


def test_a_target_that_disappears_bit_by_bit_is_looked_for_with_its_size() -> None:
    class Covered(ScriptedLocal):
        """Sees less and less of the target from frame 30 on, a third of its sides at last, and nothing from 44 on."""

        def step(self, state: State, frame: np.ndarray) -> tuple[State, Estimate]:
            after, estimate = super().step(state, frame)
            shown = 3 ** (-max(0, after.frame - 29) / 14)
            box = np.concatenate([after.box[:2] + 5 * (1 - shown), after.box[2:] * shown])
            return (replace(after, box=box, region=box) if estimate.ok else after), estimate

    targets = [*[90.0] * 44, None]
    local, search = Covered(targets), ScriptedSearch([160.0])
    follow(LongTerm(local, 5.0, reach=REACH, search=search), local)  # type: ignore[arg-type]
    own, beside, candidate = np.asarray(local.regions[-3:])
    assert own[2:].max() < 4
    for looked in (beside, candidate):
        assert looked[2] == looked[3] > 6
    np.testing.assert_allclose(candidate[:2] + candidate[2:] / 2, (165, 5))
    local_alone = Covered(targets)
    alone(local_alone)
    assert local_alone.regions[-2:] == local.regions[-3:-1]


def test_a_size_that_is_seen_where_the_target_was_found_again_is_remembered_in_time() -> None:
    class Grown(ScriptedLocal):
        """Sees the target three times as large in frame 2."""

        def step(self, state: State, frame: np.ndarray) -> tuple[State, Estimate]:
            after, estimate = super().step(state, frame)
            if not estimate.ok or after.frame != 2:
                return after, estimate
            box = np.concatenate([after.box[:2], 3 * after.box[2:]])
            return replace(after, box=box, region=box), estimate

    size = 10 * 3**0.05
    beside = Grown([90, 90, 55, None])  # near the first place, at 70
    assert alone(beside) == ["T90", "R55", "L"]
    np.testing.assert_allclose(beside.regions[-1][2], size)  # the frame's edge cuts its height off
    far, search = Grown([20, 20, 160, None]), ScriptedSearch([160.0] * 2)
    assert follow(LongTerm(far, 5.0, search=search), far) == ["T20", "R160", "L"]  # type: ignore[arg-type]
    np.testing.assert_allclose(far.regions[-1][2], size)


def test_a_target_that_was_found_again_a_moment_ago_is_looked_for_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgetrack.lookaround.PATIENCE", 2)
    targets = [90, 90, None, None, *[125] * 30]
    found = alone(ScriptedLocal(targets)).index("R125") + 1  # the frame's number
    local = ScriptedLocal([*targets[: found + 1], None, None, None])
    assert alone(local)[-4:] == ["R125", "L", "L", "L"]
    assert [number - found for number, _ in local.looks if number > found] == [1, 2, 3, 3]
    local, search = ScriptedLocal([0, 0, None, None, 150, *[None] * 3]), ScriptedSearch([150.0] * 3)
    said = follow(LongTerm(local, 5.0, search=search), local)  # type: ignore[arg-type]
    assert said == ["T0", "L", "L", "R150", "L", "L", "L"]
    assert [number for number, _ in local.looks] == [1, 2, 3, 4, 4, 5, 6, 7, 7]


def test_places_are_taken_from_the_nearest_on_once_the_target_may_be_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgetrack.lookaround.PATIENCE", 3)
    seen = np.asarray([90.0, 0.0, 10.0, 10.0])
    expected = [clip_box(place, (200, 100), 5.0).tolist() for place in places(seen, (200, 100), REACH)]
    local = ScriptedLocal([90, 90, *[None] * (3 + len(expected) + 1)])
    alone(local)
    looked = [region for before, region in zip(local.before, local.regions, strict=True) if before == 1 / 25]
    assert looked == [*expected, expected[0]]  # and then again


def test_a_size_that_stays_is_remembered_and_another_one_in_time() -> None:
    box = np.asarray([10.0, 20.0, 30.0, 40.0])
    np.testing.assert_allclose(remembered(box, box), box)
    seen = box
    for _ in range(100):
        seen = remembered(seen, np.asarray([5.0, 5.0, 60.0, 20.0]))
    np.testing.assert_allclose(seen[2:], (60, 20), rtol=0.01)
    np.testing.assert_allclose(seen[:2] + seen[2:] / 2, (35, 15))
    for _ in range(200):
        seen = remembered(seen, np.asarray([5.0, 5.0, 0.0, 20.0]))
    assert 0 < seen[2] < 1.1
    seen = np.zeros(4)
    for _ in range(100):
        seen = remembered(seen, np.asarray([5.0, 5.0, 60.0, 20.0]))
    np.testing.assert_allclose(seen[2:], (60, 20), rtol=0.05)
    assert np.isfinite(remembered(np.zeros(4), box)).all()


def test_places_are_taken_in_turn_until_the_target_is_there() -> None:
    # Two rings of places, 20 px apart, lie about x = 95; at 140 the target is not seen from 90, but from the second.
    local = ScriptedLocal([90, 90, *[None] * 4, *[140] * 30])
    said = alone(local)
    assert said[0] == "T90"
    assert said[1:5] == ["L"] * 4
    found = said.index("R140")
    assert set(said[5:found]) <= {"L"}
    assert set(said[found + 1 :]) == {"T140"}
    # Where it was and one place, in every frame that it is lost in; no place twice.
    beside = [region for number, region in zip((n for n, _ in local.looks), local.regions, strict=True) if number > 1]
    beside = [tuple(region) for region in beside[: 2 * found]][1::2]
    assert len(set(beside)) == len(beside)


def test_a_look_at_a_place_begins_with_the_prior_of_one_among_many() -> None:
    local = ScriptedLocal([90, 90, *[None] * 3, *[125] * 30])  # at 125 it is seen from the places at 110 and 130
    found = alone(local).index("R125")
    assert local.before[:2] == [1.0, 0.9]
    lost = local.before[1 : 2 * found + 1]
    assert lost[1::2] == [1 / 25] * found
    assert lost[::2] == [0.9, *[0.1] * (found - 1)]
    assert set(local.before[2 * found + 1 :]) == {0.9}


def test_a_lost_frame_costs_two_steps_and_says_how_long() -> None:
    local = ScriptedLocal([90, *[None] * 30])
    algorithm = LongTerm(local, 5.0, reach=REACH)  # type: ignore[arg-type]
    state = algorithm.init(FRAME, np.asarray([90.0, 0.0, 10.0, 10.0]))
    for number in range(1, 31):
        state, found = algorithm.step(state, FRAME)
        assert len(local.looks) == 2 * number
        assert not found.ok
        assert found.timings["redetect"] > 0


def test_with_a_search_places_are_looked_at_first_and_then_a_candidate() -> None:
    local, search = ScriptedLocal([90, *[None] * 4]), ScriptedSearch([(20.0, 160.0)] * 4)
    follow(LongTerm(local, 5.0, reach=REACH, search=search), local)  # type: ignore[arg-type]
    assert [number for number, _ in local.looks] == [n for n in range(1, 5) for _ in range(3)]
    assert [x for _, x in local.looks[2::3]] == [20, 160, 20, 160]
    alone_local = ScriptedLocal([90, *[None] * 4])
    alone(alone_local)
    assert [look for i, look in enumerate(local.looks) if i % 3 < 2] == alone_local.looks


def test_a_target_that_is_at_a_place_is_not_searched_for() -> None:
    local, search = ScriptedLocal([90, 90, *[None] * 3, *[125] * 30]), ScriptedSearch([20.0] * 20)
    said = follow(LongTerm(local, 5.0, reach=REACH, search=search), local)  # type: ignore[arg-type]
    assert said == alone(ScriptedLocal(local.targets))
    assert len(search.frames) == said.count("L")


def test_between_searches_the_tracker_looks_around() -> None:
    local, search = ScriptedLocal([90, *[None] * 9]), ScriptedSearch([20.0] * 3)
    follow(LongTerm(local, 5.0, reach=REACH, search=search, interval=4), local)  # type: ignore[arg-type]
    assert len(search.frames) == 3
    assert len(local.looks) == 2 * 9 + 3


def test_so_does_a_look_at_a_candidate() -> None:
    local, search = ScriptedLocal([20, 160, 160]), ScriptedSearch([160.0])
    assert follow(LongTerm(local, 5.0, search=search), local) == ["R160", "T160"]  # type: ignore[arg-type]
    assert local.before == [1.0, 1 / 25, 0.9]


# On a bundle: an orange square that vanishes and comes back outside of the search crop, away from where the net drifts.

ONLINE = {"window": 0.0, "update_interval": None, "update_threshold": 0.0, "clip_margin": 10.0}
ONLINE |= {"hold_size": True, "look_around": True}


@pytest.mark.parametrize("asked", [None, False])
def test_the_manifest_says_whether_and_the_user_may_say_no(tmp_path: Path, asked: bool | None) -> None:
    bundle = write_colour_bundle(tmp_path / "colour", ColourNet(), score=PRESENCE_ALONE, online=ONLINE)
    tracker = Tracker(bundle.root, "onnxruntime-cpu", threads=1, look_around=asked)
    tracker.init(frame_with(160, 120), (160, 120, 32, 32))
    tracks = [tracker.update(frame_with(160, 120))]
    tracks += [tracker.update(frame_with(None, None)) for _ in range(3)]
    tracks += [tracker.update(frame_with(20, 120)) for _ in range(30)]
    states = [track.state for track in tracks]
    assert states[:4] == [TrackState.TRACKED, *[TrackState.LOST] * 3]
    if asked is None:
        assert states.count(TrackState.REDETECTED) == 1
        assert states[-1] == TrackState.TRACKED
        assert np.abs(np.asarray(tracks[-1].box[:2]) - (20, 120)).max() < 12
    else:
        assert set(states[4:]) == {TrackState.LOST}
        assert all("redetect" not in track.timings for track in tracks)


def test_a_template_is_taken_only_of_a_frame_that_is_surely_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = ONLINE | {"update_interval": 1}
    bundle = write_colour_bundle(tmp_path / "colour", ColourNet(), score=PRESENCE_ALONE, online=online)
    scores = [0.95, 0.6, 0.89, 0.9, 1.0, 0.2, 0.95]
    given = iter(scores)
    monkeypatch.setattr("edgetrack.seqtrack.calibrated_score", lambda *_: next(given))
    tracker = Tracker(bundle.root, "onnxruntime-cpu", threads=1)
    tracker.init(frame_with(160, 120), (160, 120, 32, 32))
    monkeypatch.setattr("edgetrack.longterm.look_around", lambda *_: None)
    session, runs = tracker.model.session("template"), []
    run = session.run
    monkeypatch.setattr(session, "run", lambda feeds: (runs.append(len(tracks)), run(feeds))[1])
    tracks = []
    for _ in scores:
        tracks.append(tracker.update(frame_with(160, 120)))
    assert [track.ok for track in tracks] == [score >= 0.5 for score in scores]
    assert runs == [i for i, score in enumerate(scores) if score >= 0.9]


def frame_with(x: int | None, y: int | None) -> np.ndarray:
    frame = np.full((192, 320, 3), 60, np.uint8)
    if x is not None and y is not None:
        frame[y : y + 32, x : x + 32] = (30, 120, 230)
    return frame
