"""Local tracking with global re-detection: when the frame is searched, what is believed, and what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scripted
from scripted import ScriptedLocal, ScriptedSearch
from synthetic_bundle import PRESENCE_ALONE, write_colour_bundle
from synthetic_vtt import QUERIES, write_cells_bundle

from edgetrack import BundleError, OptionError, Tracker, TrackState, bundle, load, vtt
from edgetrack.longterm import LongTerm
from edgetrack.online import Estimate

pytestmark = pytest.mark.usefixtures("impatient")


def follow(local: ScriptedLocal, search: ScriptedSearch, interval: int = 1) -> list[str]:
    """What the two together say of each frame."""
    return scripted.follow(LongTerm(local, 5.0, search=search, interval=interval), local)  # type: ignore[arg-type]


def test_no_frame_is_searched_while_the_target_is_seen() -> None:
    search = ScriptedSearch([])
    assert follow(ScriptedLocal([0, 5, 15, 30]), search) == ["T5", "T15", "T30"]
    assert search.frames == []


def test_a_target_that_comes_back_elsewhere_is_found_and_followed() -> None:
    local, search = ScriptedLocal([0, 5, None, None, 150, 160]), ScriptedSearch([100, 100, 145])
    assert follow(local, search) == ["T5", "L", "L", "R150", "T160"]


def test_a_candidate_that_the_local_tracker_does_not_confirm_is_not_believed() -> None:
    local, search = ScriptedLocal([0, 5, None, None, None]), ScriptedSearch([100, 100, 100])
    assert follow(local, search) == ["T5", "L", "L", "L"]
    # Each lost frame: one look where it was, which goes on from its own answer, and one at the candidate.
    assert local.looks == [(1, 0), (2, 5), (2, 100), (3, 6), (3, 100), (4, 7), (4, 100)]


def test_a_candidate_that_the_search_is_sure_of_is_looked_at_every_time() -> None:
    local, search = ScriptedLocal([0, 5, *[None] * 3]), ScriptedSearch([(100.0, 60.0)] * 3, sure=True)
    follow(local, search)
    assert [x for _, x in local.looks if x >= 60] == [100, 100, 100]


def test_other_candidates_are_looked_at_in_turn_where_they_lie_apart() -> None:
    # 100 and 103 overlap by more than half; four lie apart, and the fifth is never looked at.
    candidates = (100.0, 103.0, 20.0, 60.0, 140.0, 180.0)
    local, search = ScriptedLocal([0, 5, *[None] * 6, 185]), ScriptedSearch([candidates] * 7)
    assert follow(local, search)[-1] == "L"
    assert [x for number, x in local.looks[2:] if x in candidates] == [100, 20, 60, 140, 100, 20, 60]


def test_views_are_searched_in_turn_and_of_each_the_best_candidate_is_looked_at_first() -> None:
    local = ScriptedLocal([0, 5, *[None] * 7])
    search = ScriptedSearch([(100.0, 60.0), (140.0, 20.0), (180.0, 70.0)] * 3, number_of_views=3)
    follow(local, search)
    assert search.searched == [0, 1, 2, 0, 1, 2, 0]
    assert [x for _, x in local.looks[2:] if x >= 20] == [100, 140, 180, 60, 20, 70, 100]


def test_of_a_view_in_which_the_search_is_sure_the_best_is_looked_at_every_time() -> None:
    local = ScriptedLocal([0, 5, *[None] * 4])
    search = ScriptedSearch([(100.0, 60.0), (140.0, 20.0)] * 2, sure=True, number_of_views=2)
    follow(local, search)
    assert [x for _, x in local.looks[2:] if x >= 20] == [100, 140, 100, 140]


def test_a_target_that_was_seen_in_between_is_looked_for_in_the_first_view_again() -> None:
    local = ScriptedLocal([0, *[None] * 3, 0, None])
    search = ScriptedSearch([100.0] * 4, number_of_views=2)
    assert follow(local, search) == ["L", "L", "L", "T0", "L"]
    assert search.searched == [0, 1, 0, 0]


def test_a_target_that_was_seen_in_between_is_looked_for_at_the_best_candidate_again() -> None:
    local, search = ScriptedLocal([0, 5, None, 5, None]), ScriptedSearch([(100.0, 60.0)] * 2)
    assert follow(local, search) == ["T5", "L", "T5", "L"]
    assert [x for _, x in local.looks if x >= 60] == [100, 100]


def test_candidates_are_taken_in_turn_also_where_not_every_frame_is_searched() -> None:
    local, search = ScriptedLocal([0, *[None] * 5]), ScriptedSearch([(100.0, 60.0)] * 3)
    follow(local, search, interval=2)
    assert [(number, x) for number, x in local.looks if x >= 60] == [(1, 100), (3, 60), (5, 100)]


def test_a_target_that_was_found_again_is_looked_for_at_the_best_candidate_again() -> None:
    local, search = ScriptedLocal([0, 5, None, 60, None]), ScriptedSearch([(100.0, 60.0)] * 3)
    assert follow(local, search) == ["T5", "L", "R60", "L"]
    assert [(number, x) for number, x in local.looks if x >= 60] == [(2, 100), (3, 60), (4, 60), (4, 100)]


def test_a_target_that_comes_back_nearby_needs_no_search() -> None:
    local, search = ScriptedLocal([0, None, 10, 20]), ScriptedSearch([100])
    assert follow(local, search) == ["L", "T10", "T20"]


def test_only_every_kth_lost_frame_is_searched() -> None:
    targets = [0, None, None, None, 150, 150, 150, 155]
    local, search = ScriptedLocal(targets), ScriptedSearch([100, 100, 150])
    # Lost in frames 1 to 6; searched in 1, 3 and 5.
    assert follow(local, search, interval=2) == ["L", "L", "L", "L", "R150", "T150", "T155"]
    assert len(search.frames) == 3


def test_a_target_that_is_seen_and_lost_in_turns_is_searched_for_no_more_often() -> None:
    local = ScriptedLocal([0, *[None, 0] * 6])
    search = ScriptedSearch([100] * 6)
    # Lost in frames 1, 3, 5, 7, 9, 11; one search in any four frames: in 1, 5 and 9.
    assert follow(local, search, interval=4) == ["L", "T0"] * 6
    assert len(search.frames) == 3


def test_a_target_that_is_lost_right_after_it_was_found_again_is_searched_for_after_the_interval() -> None:
    local, search = ScriptedLocal([0, 150, None, None, 100]), ScriptedSearch([150, 100])
    assert follow(local, search, interval=3) == ["R150", "L", "L", "R100"]


def test_a_frame_costs_two_local_steps_and_one_search_at_most() -> None:
    local, search = ScriptedLocal([0, *[None] * 30]), ScriptedSearch([100] * 30)
    follow(local, search)
    assert len(local.looks) == 60
    assert len(search.frames) == 30


def test_a_model_that_is_told_of_earlier_boxes_is_told_of_the_candidate() -> None:
    local, search = ScriptedLocal([0, 5, None, 150, 160], history=2), ScriptedSearch([100, 145])
    assert follow(local, search) == ["T5", "L", "R150", "T160"]
    assert local.told[-2:] == [[145, 145], [145, 150]]


def test_a_candidate_is_looked_at_with_the_size_that_was_seen() -> None:
    class Wide(ScriptedSearch):
        def search(self, state: vtt.State, *rest: object) -> tuple[vtt.State, Estimate]:
            found, estimate = super().search(state, *rest)
            box = np.asarray([130.0, 0.0, 40.0, 20.0])  # about the centre (150, 10)
            return replace(found, box=box, boxes=box[None]), estimate

    local = ScriptedLocal([0, 5, None])
    follow(local, Wide([0]))
    assert local.regions[-1] == [145, 5, 10, 10]


def test_candidates_outside_the_frame_are_brought_inside() -> None:
    local, search = ScriptedLocal([0, 190]), ScriptedSearch([500])
    assert follow(local, search) == ["R190"]
    assert local.looks[-1] == (1, 192.5)  # 5 px wide are in view, from 195 on


# On bundles: an orange square that leaves and comes back in the other corner.


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("longterm")
    online = {"window": 0.0, "update_interval": 1, "update_threshold": 0.0, "clip_margin": 10.0}
    local = write_colour_bundle(root / "colour", score=PRESENCE_ALONE, online=online)
    return local.root, write_cells_bundle(root / "cells", side=1.0).root


def film() -> tuple[list[np.ndarray], list[tuple[int, int] | None]]:
    places: list[tuple[int, int] | None] = [(16 + 4 * i, 16) for i in range(6)]
    places += [None] * 5
    places += [(256 - 4 * i, 128) for i in range(6)]
    frames = []
    for place in places:
        frame = np.full((192, 320, 3), 60, np.uint8)
        if place is not None:
            frame[place[1] : place[1] + 32, place[0] : place[0] + 32] = (30, 120, 230)
        frames.append(frame)
    return frames, places


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino-cpu"])
def test_the_target_is_found_again_far_away(bundles: tuple[Path, Path], backend: str) -> None:
    local, search = bundles
    frames, places = film()
    together = Tracker(local, backend, threads=1, redetect=search)
    together.init(frames[0], (16, 16, 32, 32))
    tracks = []
    for frame, place in zip(frames[1:], places[1:], strict=True):
        track = together.update(frame)
        tracks.append(track)
        assert track.ok == (place is not None)
        if place is not None:
            centre = np.asarray(track.box[:2]) + np.asarray(track.box[2:]) / 2
            assert np.abs(centre - np.asarray(place) - 16).max() < 12
        searched = track.state is not TrackState.TRACKED
        assert len(together.candidates()) == (QUERIES if searched else 0)
        assert (track.timings["redetect"] > 0) == searched
    states = [track.state.value for track in tracks]
    assert states == ["tracked"] * 5 + ["lost"] * 5 + ["redetected"] + ["tracked"] * 5


def test_a_target_that_is_small_in_the_frame_is_found_again_in_a_part_of_it(
    bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A square of 16 px is a little of each of four cells of 40 px; five that are wholly a little like it are more."""
    local, search = bundles[0], write_cells_bundle(tmp_path / "cells", side=1.0, online={"second_look": 0.5}).root
    frames = [np.full((240, 400, 3), 60, np.uint8) for _ in range(30)]
    for frame in frames:
        for cell in range(5):
            frame[0:40, 80 + 40 * cell : 120 + 40 * cell] = (54, 72, 94)
    for frame in frames[:3]:
        frame[152:168, 32:48] = (30, 120, 230)
    for frame in frames[6:]:
        frame[192:208, 352:368] = (30, 120, 230)
    found = {}
    for shown in (1e-9, 0.5):
        monkeypatch.setattr("edgetrack.views.SHOWN", shown)
        together = Tracker(local, "onnxruntime-cpu", threads=1, redetect=search)
        together.init(frames[0], (32, 152, 16, 16))
        tracks = [together.update(frame) for frame in frames[1:]]
        assert [track.state for track in tracks[:5]] == [TrackState.TRACKED] * 2 + [TrackState.LOST] * 3
        found[shown] = next((track.box for track in tracks if track.redetected), None)
    assert found[1e-9] is None
    assert np.abs(np.asarray(found[0.5][:2]) + np.asarray(found[0.5][2:]) / 2 - (360, 200)).max() < 4


def test_alone_it_is_not(bundles: tuple[Path, Path]) -> None:
    frames, _ = film()
    alone = Tracker(bundles[0], "onnxruntime-cpu", threads=1, update_interval=0)
    alone.init(frames[0], (16, 16, 32, 32))
    tracks = [alone.update(frame) for frame in frames[1:]]
    assert [track.state for track in tracks[-6:]] == [TrackState.LOST] * 6
    assert str(tracks[-1].state) == f"{tracks[-1].state}" == "lost"
    assert all(not track.redetected for track in tracks)


def test_no_template_is_taken_while_the_target_is_lost(bundles: tuple[Path, Path]) -> None:
    local, search = bundles
    frames, _ = film()
    with_search = Tracker(local, "onnxruntime-cpu", threads=1, redetect=search)
    without = Tracker(local, "onnxruntime-cpu", threads=1)
    updated = []
    for tracker in (with_search, without):
        tracker.init(frames[0], (16, 16, 32, 32))
        session, runs = tracker.model.session("template"), []

        def counted(feeds: object, run: object = session.run, runs: list[int] = runs) -> object:
            runs.append(1)
            return run(feeds)  # type: ignore[operator]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(session, "run", counted)
            for frame in frames[6:11]:
                tracker.update(frame)
        updated.append(len(runs))
    assert updated == [0, 5]


def test_models_of_other_kinds_are_refused_before_one_is_loaded(
    bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    local, search = bundles
    monkeypatch.setattr("edgetrack.model.open_session", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(OptionError, match=r"got redetect='colour', of kind 'seqtrack', .* such as vtt-nano"):
        Tracker(local, "onnxruntime-cpu", redetect=local)
    for redetect in (local, search):
        with pytest.raises(OptionError, match=r"of kind 'vtt', .* leave redetect out, .* such as seqtrack-nano"):
            Tracker(search, "onnxruntime-cpu", redetect=redetect)
    with pytest.raises(BundleError):
        Tracker(local, "onnxruntime-cpu", redetect="no-such-model")


def test_either_bundle_is_read_once(bundles: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    kept = bundle.read_bundle
    monkeypatch.setattr(bundle, "read_bundle", lambda path: read.append(path) or kept(path))
    Tracker(bundles[0], "onnxruntime-cpu", redetect=bundles[1])
    Tracker(load(bundles[0], "onnxruntime-cpu"), redetect=bundles[1])
    assert read == [*bundles, *bundles]


def test_a_model_that_never_loses_its_target_is_refused(
    bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as imported weights, whose score is not calibrated: nothing would ever be looked for."""
    never = write_colour_bundle(tmp_path / "never", score={"source": "likelihood", "ok_threshold": 0.0}).root
    loaded = load(never, "onnxruntime-cpu")
    with pytest.raises(OptionError, match=r"got redetect with 'colour', .* ok stays true.* calibrate the model"):
        Tracker(never, "onnxruntime-cpu", redetect=bundles[1])
    with pytest.raises(OptionError, match=r"got look_around with 'colour', .* leave look_around out"):
        Tracker(loaded, look_around=True)
    monkeypatch.setattr("edgetrack.model.open_session", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(OptionError, match=r"got look_around with 'colour'"):
        Tracker(never, "onnxruntime-cpu", look_around=True)
    monkeypatch.undo()
    assert Tracker(never, "onnxruntime-cpu", look_around=False).search is None


def test_redetecting_takes_a_loaded_search_and_whole_intervals(bundles: tuple[Path, Path]) -> None:
    local, search = bundles
    for interval in (0, True, 1.5):
        with pytest.raises(OptionError, match="redetect_interval="):
            Tracker(local, "onnxruntime-cpu", redetect=search, redetect_interval=interval)  # type: ignore[arg-type]
    shared = load(search, "onnxruntime-cpu")
    tracker = Tracker(local, "onnxruntime-cpu", redetect=shared)
    assert tracker.model.manifest.name == "colour"
    assert tracker.search is shared


@pytest.mark.parametrize(
    ("asked", "chosen", "hint"),
    [
        ("auto", "fp32", "auto"),
        ("fp32", "fp32", "fp32"),
        ("int8", "fp32", "auto"),  # the search has none
    ],
)
def test_a_search_is_loaded_as_the_loaded_model_was(
    bundles: tuple[Path, Path], tmp_path: Path, asked: str, chosen: str, hint: str
) -> None:
    local = load(bundles[0], "openvino-cpu", threads=1, allow_fallback=True, cache_dir=tmp_path)
    local.precision, local.options = asked.replace("auto", "fp32"), replace(local.options, precision=hint)
    search = Tracker(local, redetect=bundles[1]).search
    assert search is not None
    assert (search.backend, search.precision, search.options) == ("openvino-cpu", chosen, local.options)


def test_precision_asked_for_a_search_is_not_changed(bundles: tuple[Path, Path]) -> None:
    local = load(bundles[0], "onnxruntime-cpu", threads=1)
    local.precision = "int8"
    with pytest.raises(OptionError, match="got precision='int8'; the bundle 'cells' has fp32"):
        Tracker(local, precision="int8", redetect=bundles[1])
