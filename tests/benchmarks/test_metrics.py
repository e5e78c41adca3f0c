"""The measures against hand counts, dense searches and, where it is installed, the got10k package."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import shared

from benchmarks import metrics
from benchmarks.protocols import PROTOCOLS, score
from benchmarks.results import Result, ResultsError, read_npz, reports
from train.success import overlaps, success_curve


def made(name: str, truth: list, predicted: list, absent: list | None = None, **options: object) -> Result:
    truth, predicted = np.asarray(truth, float), np.asarray(predicted, float)
    flags = np.zeros(len(truth), bool) if absent is None else np.asarray(absent, bool)
    return Result(name, truth, flags, predicted, reports(predicted), **options)


def boxes_of_overlap(values: list[float]) -> tuple[list, list]:
    """Truth and predictions, 10 px high, whose overlap is exactly the values: the prediction is a part of the truth."""
    return [(0, 0, 100, 10)] * len(values), [(0, 0, 100 * v, 10) for v in values]


@pytest.mark.parametrize(
    ("tpr", "tnr", "expected"),
    # Rows of VTT's Table II.
    [(61.7, 61.5, 61.6), (74.0, 0, 43.0), (20.8, 89.5, 43.1), (68.9, 0, 41.5)],
)
def test_max_gm_gives_published_rows(tpr: float, tnr: float, expected: float) -> None:
    assert round(100 * metrics.max_gm(tpr / 100, tnr / 100), 1) == expected


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_max_gm_is_the_maximum_over_p(tpr: float, tnr: float) -> None:
    p = np.linspace(0, 1, 20001)
    dense = np.sqrt((1 - p) * tpr * ((1 - p) * tnr + p)).max()
    assert metrics.max_gm(tpr, tnr) == pytest.approx(dense, abs=2e-4)
    assert metrics.max_gm(tpr, tnr) >= dense - 1e-9


def test_presence_counts_by_hand() -> None:
    areas = np.asarray([0.9, 0.5, 0.4, 0.9, 0.0, 0.0, 0.0])
    present = np.asarray([1, 1, 1, 1, 0, 0, 0], bool)
    reported = np.asarray([1, 1, 1, 0, 0, 1, 0], bool)
    found = metrics.presence(areas, present, reported)
    assert found.tpr == 2 / 4  # 0.5 counts, 0.4 is elsewhere, the last was not reported
    assert found.tnr == 2 / 3


def test_rates_of_what_is_not_there_are_not_numbers() -> None:
    areas, flags = np.ones(2), np.ones(2, bool)
    always, never = metrics.presence(areas, flags, flags), metrics.presence(areas, ~flags, ~flags)
    assert always == pytest.approx((1.0, np.nan, np.nan), nan_ok=True)
    assert never == pytest.approx((np.nan, 1.0, np.nan), nan_ok=True)


def test_thresholds_of_success_are_strict_and_of_precision_are_not() -> None:
    truth, predicted = boxes_of_overlap([1.0, 0.5, 0.25])
    areas = overlaps(np.asarray(predicted, float), np.asarray(truth, float))
    curve = success_curve(areas)
    assert curve[0] == 1  # all above 0
    assert curve[10] == pytest.approx(1 / 3)  # 0.5 is not above 0.5
    assert curve[20] == 0  # nothing is above 1
    assert metrics.precision_curve(np.asarray([20.0, 20.1]))[20] == 0.5


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.floats(-500, 500)] * 2, *[st.floats(0.5, 500)] * 2), min_size=1, max_size=20),
)
def test_a_perfect_box_never_passes_the_threshold_1(boxes: list) -> None:
    box = np.asarray(boxes, float)
    assert success_curve(overlaps(box, box))[-1] == 0
    assert (metrics.centre_error(box, box) == 0).all()
    assert (metrics.normalised_centre_error(box, box) == 0).all()


def test_normalised_error_is_in_units_of_the_true_box() -> None:
    truth, predicted = np.asarray([[0, 0, 100, 50.0]]), np.asarray([[30, 20, 100, 50.0]])
    assert metrics.centre_error(predicted, truth)[0] == pytest.approx(np.hypot(30, 20))
    assert metrics.normalised_centre_error(predicted, truth)[0] == pytest.approx(np.hypot(0.3, 0.4))


def test_summary_names_both_conventions_of_normalised_precision() -> None:
    errors = np.asarray([0.0, 0.1, 0.3, 0.6])
    found = metrics.summary(metrics.curves(np.zeros(4), np.full(4, np.inf), errors))
    assert found["normalised_precision_020"] == 0.5
    # Shares of the 51 thresholds 0, 0.01, ..., 0.5 that each error meets.
    assert found["normalised_precision_mean"] == pytest.approx((51 + 41 + 21 + 0) / 51 / 4)


def test_success_rates_are_strict_and_the_precision_given_is_at_20_pixels() -> None:
    areas, errors = np.asarray([0.5, 0.72, 0.75, 0.9]), np.asarray([20.0, 20.5, 21.0, np.inf])
    found = metrics.summary(metrics.curves(areas, errors, errors))
    assert (found["sr_50"], found["sr_75"], found["precision_20"]) == (3 / 4, 1 / 4, 1 / 4)


def test_figures_are_read_off_the_curves_that_are_given() -> None:
    scores = score([random_results(0)], "otb")
    for curve, threshold, figure in (
        ("success", 0.5, "sr_50"),
        ("precision", 20.0, "precision_20"),
        ("normalised", 0.2, "normalised_precision_020"),
    ):
        values = dict(zip(*(scores.curves[curve][key] for key in ("thresholds", "values")), strict=True))
        assert 0 < scores.metrics[figure] < 1
        assert values[threshold] == pytest.approx(scores.metrics[figure], abs=1e-6)


def test_protocols_differ_in_what_they_count() -> None:
    truth = [(0, 0, 100, 10), (0, 0, 100, 10), (np.nan,) * 4, (0, 0, 100, 10)]
    predicted = [(0, 0, 50, 10), (0, 0, 80, 10), (0, 0, 80, 10), (0, 0, 30, 10)]
    result = made("a", truth, predicted, [0, 0, 1, 0])
    expected = {
        "ope": (0.8 + 0.3) / 2,
        "otb": (0.5 + 0.8 + 0.3) / 3,
        "lasot": (1.0 + 0.8 + 0.0 + 0.3) / 4,
        **dict.fromkeys(("lasot-ext", "nfs", "tnl2k", "uav123"), (1.0 + 0.8 + 0.0 + 0.3) / 4),
        "trackingnet": (1.0 + 0.8 + 0.3) / 3,
        "got10k": (0.5 + 0.8 + 0.3) / 3,
        "got10k-toolkit": (0.8 + 0.3) / 2,
        "tlp": (0.5 + 0.8 + 0.3) / 3,
    }
    assert {*expected, "oxuva"} == PROTOCOLS.keys()
    for protocol, overlap in expected.items():
        assert score([result], protocol).metrics["ao"] == pytest.approx(overlap), protocol
    (sequence,) = score([result], "ope").sequences
    assert (sequence["frames"], sequence["absent"]) == (4, 1)  # all there are, whatever counts
    for protocol in ("lasot", "lasot-ext", "nfs", "tnl2k"):  # an absent frame is a miss at any distance
        assert score([result], protocol).curves["precision"]["values"][50] == 0.75, protocol


def test_a_box_without_a_target_is_no_truth() -> None:
    """Some datasets keep one where the target is absent, some write an empty one where they know none."""
    box, elsewhere, nothing, empty = (0, 0, 10, 10), (50, 0, 10, 10), (np.nan,) * 4, (0, 0, 0, 0)
    predicted = [box, box, elsewhere, box]
    kept = made("a", [box, box, box, empty], predicted, [0, 0, 1, 0])
    plain = made("a", [box, box, nothing, nothing], predicted, [0, 0, 1, 0])
    assert score([kept], "otb").metrics["ao"] == 1
    assert score([kept], "oxuva").metrics == {"tpr": 1.0, "tnr": 0.0, "max_gm": 0.5}
    for protocol in PROTOCOLS:
        assert score([kept], protocol).metrics == score([plain], protocol).metrics, protocol


@pytest.mark.parametrize("protocol", sorted(PROTOCOLS.keys() - {"oxuva"}))
def test_got10k_alone_pools_the_frames_of_all_sequences(protocol: str) -> None:
    one, three = made("one", *boxes_of_overlap([1.0] * 2)), made("three", *boxes_of_overlap([1.0, *[0.2] * 3]))
    alone = [score([result], protocol).metrics["ao"] for result in (one, three)]
    found = score([one, three], protocol).metrics["ao"]
    assert (found == pytest.approx(np.mean(alone))) == (not protocol.startswith("got10k"))


def test_mean_over_sequences_and_over_frames() -> None:
    short = made("short", *boxes_of_overlap([1.0, 0.9]))
    long = made("long", *boxes_of_overlap([0.2] * 8))
    assert score([short, long], "otb").metrics["ao"] == pytest.approx((0.95 + 0.2) / 2)
    assert score([short, long], "got10k").metrics["ao"] == pytest.approx((1.9 + 1.6) / 10)
    by_sequence = {s["name"]: s["metrics"]["ao"] for s in score([short, long], "otb").sequences}
    assert by_sequence == pytest.approx({"short": 0.95, "long": 0.2})


def test_attributes_are_means_over_their_sequences() -> None:
    one = made("one", *boxes_of_overlap([0.8] * 3), attributes=("OCC",))
    two = made("two", *boxes_of_overlap([0.4] * 3), attributes=("OCC", "SV"))
    groups = score([one, two], "otb").attributes
    assert {name: group["sequences"] for name, group in groups.items()} == {"OCC": 2, "SV": 1}
    assert groups["OCC"]["metrics"]["ao"] == pytest.approx(0.6)
    assert groups["SV"]["metrics"]["ao"] == pytest.approx(0.4)


def test_oxuva_judges_annotated_frames_alone() -> None:
    nothing = (np.nan,) * 4
    truth = [(0, 0, 10, 10), nothing, (0, 0, 10, 10), nothing, nothing]
    predicted = [(0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 9, 10), nothing, (0, 0, 5, 5)]
    found = score([made("a", truth, predicted, [0, 0, 0, 1, 1])], "oxuva").metrics
    assert found == pytest.approx({"tpr": 1.0, "tnr": 0.5, "max_gm": np.sqrt(0.5)})


def test_a_nan_prediction_is_a_failure_and_not_an_error() -> None:
    truth, predicted = boxes_of_overlap([1.0, 1.0])
    found = score([made("a", truth, [predicted[0], (np.nan,) * 4])], "otb").metrics
    assert found["ao"] == 0.5
    assert found["precision_20"] == 0.5


def test_refusals_name_what_is_wrong() -> None:
    with pytest.raises(ResultsError, match="no protocol 'vot'"):
        score([made("a", *boxes_of_overlap([1.0]))], "vot")
    with pytest.raises(ResultsError, match="a: 1 results for 2 frames"):
        made("a", [(0, 0, 1, 1)] * 2, [(0, 0, 1, 1)])
    with pytest.raises(ResultsError, match="a: no frame counts"):
        score([made("a", [(0, 0, 1, 1)], [(0, 0, 1, 1)])], "ope")
    with pytest.raises(ResultsError, match="no sequences"):
        score([], "ope")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_given_box_alone_is_no_truth_to_score_by(protocol: str) -> None:
    """As in the test splits of GOT-10k and TrackingNet: a tracker that answers the given box is not perfect."""
    box, nothing = (0, 0, 10, 10), (np.nan,) * 4
    with pytest.raises(ResultsError, match=r"a: no frame counts but the given one.* see `submission`"):
        score([made("a", [box, nothing, nothing], [box] * 3)], protocol)


def test_a_target_that_is_known_to_be_gone_is_truth() -> None:
    box, nothing = (0, 0, 10, 10), (np.nan,) * 4
    gone = made("a", [box, nothing], [box] * 2, [0, 1])
    assert score([gone], "lasot").metrics["ao"] == 0.5
    assert score([gone], "oxuva").metrics["tnr"] == 0
    with pytest.raises(ResultsError, match="no frame counts"):
        score([gone], "otb")


def test_got10k_validation_gives_the_published_figures() -> None:
    found = score(read_npz(shared("verify", "got10k_val_nanotrackv3.npz")), "got10k").metrics
    assert round(found["ao"], 4) == 0.7196
    assert round(found["sr_50"], 4) == 0.8477


def test_a_perfect_tracker_on_lasot_gives_the_official_figure() -> None:
    results = read_npz(shared("verify", "lasot_test_groundtruth.npz"), perfect=True)
    assert (len(results), sum(len(r.truth) for r in results)) == (280, 685_360)
    assert round(100 * score(results, "lasot").metrics["auc"], 2) == 92.74


def random_results(seed: int, count: int = 200) -> Result:
    rng = np.random.default_rng(seed)
    truth = rng.uniform((0, 0, 20, 20), (300, 200, 120, 120), (count, 4))
    predicted = truth + rng.normal(0, 8, (count, 4)) * rng.uniform(0, 2, (count, 1))
    return made("random", truth.tolist(), predicted.tolist())


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_and_errors_agree_with_the_got10k_package(seed: int) -> None:
    toolkit = pytest.importorskip("got10k.utils.metrics")
    result = random_results(seed)
    areas = toolkit.rect_iou(result.predicted, result.truth)
    errors = toolkit.center_error(result.predicted, result.truth)
    np.testing.assert_allclose(overlaps(result.predicted, result.truth), areas, atol=1e-12)
    np.testing.assert_allclose(metrics.centre_error(result.predicted, result.truth), errors, atol=1e-9)


def test_scores_agree_with_the_got10k_package() -> None:
    toolkit = pytest.importorskip("got10k.utils.metrics")
    results = [random_results(seed, count) for seed, count in ((0, 50), (1, 120))]
    areas = np.concatenate([toolkit.rect_iou(r.predicted[1:], r.truth[1:]) for r in results])
    found = score(results, "got10k-toolkit").metrics
    assert found["ao"] == pytest.approx(areas.mean())
    assert found["sr_50"] == pytest.approx((areas > 0.5).mean())
    experiment = pytest.importorskip("got10k.experiments.otb").ExperimentOTB
    curves = [
        experiment._calc_curves(
            type("Bins", (), {"nbins_iou": 21, "nbins_ce": 51}),
            toolkit.rect_iou(r.predicted, r.truth),
            toolkit.center_error(r.predicted, r.truth),
        )
        for r in results
    ]
    scores = score(results, "otb")
    np.testing.assert_allclose(scores.curves["success"]["values"], np.mean([c[0] for c in curves], 0), atol=1e-6)
    np.testing.assert_allclose(scores.curves["precision"]["values"], np.mean([c[1] for c in curves], 0), atol=1e-6)


def test_every_protocol_has_its_headline() -> None:
    result = random_results(0)
    for name, rules in PROTOCOLS.items():
        assert rules.headline in score([result], name).metrics
