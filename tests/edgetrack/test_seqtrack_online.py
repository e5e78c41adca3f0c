"""The online loop against one written out by hand on the network's plain numpy form."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from synthetic_bundle import PRESENCE_ALONE, ColourNet, write_colour_bundle

from edgetrack import Tracker, load
from edgetrack.bundle import LikelihoodScore, OverlapScore
from edgetrack.illumination import gains, illumination, relit
from edgetrack.imaging import crop_square, overlap
from edgetrack.kinds import Options, algorithm
from edgetrack.seqtrack import least_score

MEAN, STD = np.asarray([0.5, 0.4, 0.3]), np.asarray([0.2, 0.25, 0.3])


def look(frame: np.ndarray, box: np.ndarray, factor: float, size: int) -> tuple[np.ndarray, float]:
    """The normalised RGB crop, in double precision, and frame pixels per crop pixel."""
    image, scale = crop_square(frame, box, factor, size)
    return (image[:, :, ::-1] / 255 - MEAN) / STD, 1 / scale


def follow(net, frames, box, *, window=0.5, interval=None, threshold=0.0, margin=10.0, within=0.0, change=0.0):
    """Return the boxes, mean likelihoods and updated frame numbers of the official online loop."""
    hanning = 1 - window + window * np.hanning(net.bins)
    first, _ = look(frames[0], box, net.template_factor, net.template)
    templates = [first] * net.templates
    boxes, likelihoods, updated = [], [], []
    for number, frame in enumerate(frames[1:], start=1):
        height, width = frame.shape[:2]
        search, pixel = look(frame, box, net.search_factor, net.search)
        tokens, odds, _, every = net.answer(search, np.stack(templates), hanning)
        if change:
            tokens, every = list(tokens), every.copy()
            for step, side in ((net.order.index("w"), box[2]), (net.order.index("h"), box[3])):
                steps = (np.arange(net.bins) + 0.5) / (net.bins - 1) * net.search * pixel / side
                every[step] *= np.exp(-0.5 * (np.log(steps) / change) ** 2)
                tokens[step] = int(every[step].argmax())
        if within:
            near = [range(max(t - round(within * 40), 0), min(t + round(within * 40), 40) + 1) for t in tokens]
            tokens = [np.average(span, weights=row[list(span)]) for span, row in zip(near, every, strict=True)]
        said = {
            letter: token / (net.bins - 1) * net.search * pixel for letter, token in zip(net.order, tokens, strict=True)
        }
        half = net.search * pixel / 2  # the crop's centre is the centre of the last box
        left = box[0] + box[2] / 2 - half + said["x"] - said["w"] / 2
        top = box[1] + box[3] / 2 - half + said["y"] - said["h"] / 2
        right, bottom = left + said["w"], top + said["h"]
        left, right = min(max(0, left), width - margin), min(max(margin, right), width)
        top, bottom = min(max(0, top), height - margin), min(max(margin, bottom), height)
        box = np.asarray([left, top, max(margin, right - left), max(margin, bottom - top)])
        boxes.append(box)
        likelihoods.append(odds.mean())
        if interval and number % interval == 0 and odds.mean() > threshold:
            updated.append(number)
            templates.append(look(frame, box, net.template_factor, net.template)[0])
            templates.pop(1)
    return np.asarray(boxes), np.asarray(likelihoods), updated


def track(bundle, frames, box, **options):
    tracker = Tracker(bundle.root, "onnxruntime-cpu", threads=1, **options)
    tracker.init(frames[0], box)
    tracks = [tracker.update(frame) for frame in frames[1:]]
    return np.asarray([t.box for t in tracks]), np.asarray([t.score for t in tracks])


@pytest.mark.parametrize("decode", ["fused", "cached"])
@pytest.mark.parametrize("order", ["xywh", "whxy"])
@pytest.mark.parametrize("templates", [1, 2, 3])
def test_follows_as_the_loop_by_hand(scene, tmp_path, order, templates, decode) -> None:
    frames, truth = scene
    net = ColourNet(order=order, templates=templates)
    bundle = write_colour_bundle(tmp_path / "bundle", net)
    options = {} if templates == 1 else {"update_interval": 2, "update_threshold": 0.0}
    boxes, scores = track(bundle, frames, truth[0], decode=decode, window=0.5, **options)
    expected, likelihoods, _ = follow(net, frames, truth[0], interval=options.get("update_interval"))
    assert boxes == pytest.approx(expected, abs=1e-3)
    assert scores == pytest.approx(likelihoods, abs=1e-4)
    assert overlap(boxes, truth[1:]).min() > 0.75  # it does follow the target


@pytest.mark.parametrize("window", [0.0, 0.3, 1.0])
def test_window(scene, colour_bundle, colour_net, window) -> None:
    frames, truth = scene
    boxes, scores = track(colour_bundle, frames, truth[0], window=window)
    expected, likelihoods, _ = follow(colour_net, frames, truth[0], window=window)
    assert boxes == pytest.approx(expected, abs=1e-3)
    assert scores == pytest.approx(likelihoods, abs=1e-4)


def test_updates_are_gated_by_the_likelihood(scene, colour_bundle, colour_net) -> None:
    frames, truth = scene
    _, likelihoods, every = follow(colour_net, frames, truth[0], interval=3)
    assert every == list(range(3, 25, 3))
    threshold = float(np.median(likelihoods[2::3]))
    expected, gated_likelihoods, some = follow(colour_net, frames, truth[0], interval=3, threshold=threshold)
    assert 0 < len(some) < len(every)
    assert np.abs(gated_likelihoods - likelihoods).max() > 1e-3  # a missed or a stray update would show
    boxes, scores = track(colour_bundle, frames, truth[0], update_interval=3, update_threshold=threshold)
    assert boxes == pytest.approx(expected, abs=1e-3)
    assert scores == pytest.approx(gated_likelihoods, abs=1e-4)


def test_no_update_above_every_likelihood(scene, colour_bundle) -> None:
    frames, truth = scene
    _, never = track(colour_bundle, frames, truth[0], update_interval=0)
    _, gated = track(colour_bundle, frames, truth[0], update_interval=1, update_threshold=1.0)
    _, naive = track(colour_bundle, frames, truth[0], update_interval=1, update_threshold=0.0)
    assert gated.tolist() == never.tolist()
    assert np.abs(naive - never).max() > 1e-3


def test_a_likelihood_at_the_threshold_is_not_above_it(scene, colour_bundle) -> None:
    frames, truth = scene
    _, never = track(colour_bundle, frames, truth[0], update_interval=0)
    _, at = track(colour_bundle, frames, truth[0], update_interval=1, update_threshold=float(never[0]))
    below = float(np.nextafter(np.float32(never[0]), np.float32(0)))
    _, above = track(colour_bundle, frames, truth[0], update_interval=1, update_threshold=below)
    assert at[1] == never[1]
    assert above[1] != never[1]


@pytest.mark.parametrize("decode", ["fused", "cached"])
@pytest.mark.parametrize(("within", "change"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.3)])
def test_settings_come_from_the_manifest(scene, tmp_path, within, change, decode) -> None:
    frames, truth = scene
    net = ColourNet()
    online = {"window": 0.2, "update_interval": 4, "update_threshold": 0.01, "clip_margin": 40.0}
    online |= {"mean_within": within, "size_change": change}
    bundle = write_colour_bundle(tmp_path / "bundle", net, online=online)
    boxes, scores = track(bundle, frames, truth[0], decode=decode)
    expected, likelihoods, updated = follow(
        net, frames, truth[0], window=0.2, interval=4, threshold=0.01, margin=40.0, within=within, change=change
    )
    assert updated
    assert boxes == pytest.approx(expected, abs=1e-3)
    assert scores == pytest.approx(likelihoods, abs=1e-4)
    assert boxes[:, 2:].min() == 40


@pytest.mark.parametrize("decode", ["fused", "cached"])
def test_crops_and_templates_are_brought_to_the_light_of_the_first_frame(scene, tmp_path, decode) -> None:
    frames, truth = scene
    blue = [frames[0], *(cv2.multiply(frame, (1.3, 1.0, 0.7, 0.0)) for frame in frames[1:])]
    net = ColourNet()
    online = {"window": 0.5, "update_interval": 3, "update_threshold": 0.0, "clip_margin": 10.0}
    as_it_is = write_colour_bundle(tmp_path / "as it is", net, online=online)
    matching = write_colour_bundle(tmp_path / "matching", net, online=online | {"match_illumination": True})
    as_first = [frames[0], *(relit(frame, gains(illumination(frames[0]), illumination(frame))) for frame in blue[1:])]
    expected, likelihoods, _ = follow(net, as_first, truth[0], interval=3)
    boxes, scores = track(matching, blue, truth[0], decode=decode)
    assert boxes == pytest.approx(expected, abs=0.01)  # the crop is multiplied here, and the frame there
    assert scores == pytest.approx(likelihoods, abs=2e-3)
    _, unlit, _ = follow(net, frames, truth[0], interval=3)
    assert scores == pytest.approx(unlit, abs=0.02)
    _, changed, _ = follow(net, blue, truth[0], interval=3)
    _, scores = track(as_it_is, blue, truth[0], decode=decode)
    assert scores == pytest.approx(changed, abs=1e-4)
    assert np.abs(changed - unlit).max() > 0.05


def test_a_light_that_cannot_be_told_changes_nothing(scene, tmp_path) -> None:
    frames, truth = scene
    flat = np.full_like(frames[0], 60)
    x, y, w, h = truth[0].astype(int)
    flat[y + h // 2, x + w // 2] = (255, 255, 255)
    boxes = []
    for matched in (True, False):
        online = {"window": 0.5, "update_interval": None, "update_threshold": 0.0, "clip_margin": 10.0}
        online |= {"match_illumination": matched}
        bundle = write_colour_bundle(tmp_path / str(matched), ColourNet(), online=online)
        boxes.append(track(bundle, [flat, *frames[1:]], truth[0])[0].tolist())
    assert boxes[0] == boxes[1]


def test_presence_reaches_the_score(scene, tmp_path) -> None:
    frames, truth = scene
    net = ColourNet()
    bundle = write_colour_bundle(tmp_path / "bundle", net, score=PRESENCE_ALONE)
    model = load(bundle.root, "onnxruntime-cpu", threads=1)
    gone = np.full_like(frames[0], 60)
    for decode in ("fused", "cached"):
        tracker = Tracker(model, decode=decode)
        tracker.init(frames[0], truth[0])
        here, absent = tracker.update(frames[1]), tracker.update(gone)
        first, _ = look(frames[0], truth[0], net.template_factor, net.template)
        search, _ = look(frames[1], truth[0], net.search_factor, net.search)
        assert here.score == pytest.approx(net.answer(search, np.stack([first] * 2), np.ones(net.bins))[2], abs=1e-4)
        assert here.ok
        assert absent.score < 0.5
        assert not absent.ok


@pytest.mark.parametrize("hold", [True, False])
def test_in_doubt_the_region_keeps_its_size_and_its_centre_stays_in_the_frame(scene, tmp_path, hold) -> None:
    frames, truth = scene
    online = {"window": 0.0, "update_interval": None, "update_threshold": 0.0, "clip_margin": 10.0, "hold_size": hold}
    shrinking = ColourNet(search_factor=3.2)  # answers 12 of 40 steps, of a region of 3.2 sides
    bundle = write_colour_bundle(tmp_path / "bundle", shrinking, score=PRESENCE_ALONE, online=online)
    model = load(bundle.root, "onnxruntime-cpu", threads=1)
    tracker = algorithm(model, Options())
    state = tracker.init(frames[0], np.asarray(truth[0], float))
    state, seen = tracker.step(state, frames[1])
    assert seen.ok
    assert state.region.tolist() == state.box.tolist()
    size, (height, width) = state.box[2:], frames[0].shape[:2]
    for _ in range(8):
        state, lost = tracker.step(state, np.full_like(frames[0], 60))
        assert not lost.ok
        centre = np.clip(state.box[:2] + state.box[2:] / 2, 0, (width, height))
        expected = np.concatenate([centre - size / 2, size]) if hold else state.box
        assert state.region == pytest.approx(expected)
    least, most = (0.95, 0.97) if hold else (0, 0.96**7)  # the frame's edge may cut some off
    assert (least * size < state.box[2:]).all()
    assert (state.box[2:] < most * size).all()


@pytest.mark.parametrize(("intercept", "ok"), [(3.0, True), (-3.0, False)])
def test_the_score_goes_on_from_the_last_one_and_weighs_how_the_size_has_changed(
    scene, tmp_path, intercept, ok
) -> None:
    frames, truth = scene
    net, change = ColourNet(search_factor=3.2, ripple=0.0), 0.4  # answers 12 of 40 steps, of a region of 3.2 sides
    score = PRESENCE_ALONE | {"presence": 0.0, "intercept": intercept, "memory": 0.5, "change": 0.1}
    online = {"window": 0.0, "update_interval": None, "update_threshold": 0.0, "clip_margin": 10.0}
    online |= {"hold_size": True, "size_change": change}
    bundle = write_colour_bundle(tmp_path / "bundle", net, score=score, online=online)
    tracker = Tracker(bundle.root, "onnxruntime-cpu", threads=1)
    tracker.init(frames[0], truth[0])
    odds = np.exp(net.size_row().astype(float))
    steps = (np.arange(net.bins) + 0.5) / (net.bins - 1)
    sides, before = truth[0][2:], 1.0
    for frame in frames[1:6]:
        track = tracker.update(frame)
        crop = math.ceil(math.sqrt(sides.prod()) * net.search_factor)
        evidence = intercept
        for side in sides:
            evidence += math.log(np.average(np.exp(-0.5 * (np.log(steps * crop / side) / change) ** 2), weights=odds))
        prior = 0.9 * before + 0.1 * (1 - before)
        expected = math.exp(evidence) * (prior / (1 - prior)) ** 0.5
        assert track.score == pytest.approx(expected / (1 + expected), rel=1e-4)
        assert track.ok == ok
        before = track.score
        if ok:  # in doubt the region is as large as it was
            sides = np.asarray(track.box[2:])


def test_a_score_at_the_threshold_reaches_it(scene, tmp_path, colour_bundle) -> None:
    frames, truth = scene
    _, scores = track(colour_bundle, frames[:2], truth[0])
    for threshold, ok in ((scores[0], True), (np.nextafter(scores[0], 1), False)):
        score = {"source": "likelihood", "ok_threshold": float(threshold)}
        bundle = write_colour_bundle(tmp_path / str(ok), score=score)
        tracker = Tracker(bundle.root, "onnxruntime-cpu", threads=1)
        tracker.init(frames[0], truth[0])
        assert tracker.update(frames[1]).ok == ok


def test_a_template_is_taken_from_no_lower_a_score_than_the_manifests_threshold() -> None:
    for threshold, least in ((0.5, 0.9), (0.95, 0.95)):
        assert least_score(OverlapScore.model_validate(PRESENCE_ALONE | {"ok_threshold": threshold})) == least
    assert least_score(LikelihoodScore(source="likelihood", ok_threshold=0.3)) == 0.3  # no probability
