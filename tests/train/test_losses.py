"""Losses against slow, plain versions of themselves."""

from __future__ import annotations

import math

import pytest
import torch

from train.losses import (
    box_tokens,
    coverage,
    dense_loss,
    from_order,
    generalised_iou,
    in_order,
    sequence_loss,
    soft_targets,
    terms,
)

BOXES = torch.tensor([[0.5, 0.25, 0.3, 0.1], [0.0, 1.0, 0.999, 0.5], [-0.2, 1.4, 0.5, 2.0]])


def test_tokens_are_floored_and_clamped() -> None:
    expected = [[int(min(max(v, 0.0), 1.0) * 99) for v in box] for box in BOXES.tolist()]
    assert box_tokens(BOXES, 100).tolist() == expected


def test_orders_are_permutations_that_undo_themselves() -> None:
    assert in_order(BOXES, "whxy")[0].tolist() == pytest.approx([0.3, 0.1, 0.5, 0.25])
    assert torch.equal(in_order(in_order(BOXES, "whxy"), "whxy"), BOXES)


@pytest.mark.parametrize("order", ["xywh", "whxy", "corner"])
def test_an_order_is_undone(order: str) -> None:
    torch.testing.assert_close(from_order(in_order(BOXES, order), order), BOXES)


def test_corners_are_left_top_right_bottom_and_span_the_same_box_either_way() -> None:
    corners = in_order(torch.tensor([[0.5, 0.4, 0.2, 0.6]]), "corner")
    torch.testing.assert_close(corners, torch.tensor([[0.4, 0.1, 0.6, 0.7]]))
    torch.testing.assert_close(from_order(corners[:, [2, 1, 0, 3]], "corner"), from_order(corners, "corner"))


def test_soft_targets_are_distributions_centred_on_the_value() -> None:
    targets = soft_targets(BOXES[:1], 400, 0.01)
    torch.testing.assert_close(targets.sum(-1), torch.ones(1, 4))
    mean = (targets * torch.arange(400)).sum(-1) / 399
    torch.testing.assert_close(mean, BOXES[:1], rtol=0, atol=1e-4)
    spread = ((targets * (torch.arange(400) / 399 - mean[..., None]) ** 2).sum(-1)).sqrt()
    torch.testing.assert_close(spread, torch.full((1, 4), 0.01), rtol=0.02, atol=0)


@pytest.mark.parametrize("sigma", [0.0, 0.02])
@pytest.mark.parametrize("end_weight", [0.0, 0.01])
def test_sequence_loss_is_what_a_loop_computes(sigma: float, end_weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 52, generator=generator, dtype=torch.float64)
    present = torch.tensor([True, False, True])
    coordinate, absent = sequence_loss(logits, BOXES, present, sigma=sigma, end_weight=end_weight)

    def surprise(b: int, position: int, target: dict[int, float]) -> float:
        log_z = math.log(sum(math.exp(v) for v in logits[b, position].tolist()))
        weight = sum(target.values())
        return sum(w * (log_z - logits[b, position, i].item()) for i, w in target.items()) / weight

    total = 0.0
    for b in (0, 2):
        of_box = end_weight * surprise(b, 4, {50: 1.0})
        for position in range(4):
            centre = min(max(BOXES[b, position].item(), 0.0), 1.0) * 49
            if sigma:
                target = {i: math.exp(-0.5 * ((i - centre) / (sigma * 49)) ** 2) for i in range(50)}
            else:
                target = {int(centre): 1.0}
            of_box += surprise(b, position, target)
        total += of_box / (4 + end_weight)
    assert coordinate.item() == pytest.approx(total, rel=1e-5)
    assert absent.item() == pytest.approx(surprise(1, 0, {50: 1.0}), rel=1e-5)


def test_absent_targets_teach_no_coordinates() -> None:
    logits = torch.randn(1, 5, 52, requires_grad=True)
    coordinate, absent = sequence_loss(logits, BOXES[:1], torch.tensor([False]), sigma=0.02, end_weight=0.01)
    (coordinate + absent).backward()
    assert logits.grad is not None
    assert not logits.grad[0, 1:].any()
    assert logits.grad[0, 0, 50] < 0


def test_terms_count_what_the_sums_are_over() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.1, 0.1, 0.05, 0.05]])
    counts = terms(boxes, torch.tensor([True, False, True]), (4, 4))
    assert counts.tolist() == [2, 1, 48, 4]


def test_coverage_is_the_share_of_samples_inside() -> None:
    boxes = torch.tensor([[0.4, 0.6, 0.5, 0.3], [0.9, 0.1, 0.4, 0.4]])
    points = (torch.arange(400) + 0.5) / 400
    for box, found in zip(boxes, coverage(boxes, (4, 4)), strict=True):
        inside_x = ((points - box[0]).abs() < box[2] / 2).float()
        inside_y = ((points - box[1]).abs() < box[3] / 2).float()
        sampled = (inside_y[:, None] * inside_x).view(4, 100, 4, 100).mean((1, 3)).flatten()
        torch.testing.assert_close(found, sampled, rtol=0, atol=0.01)


def test_coverage_of_a_raster_that_is_not_square() -> None:
    # The left half of the picture, on 2 rows and 4 columns; and the middle third of the lower row's height.
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.75, 1.0, 1 / 6]])
    found = coverage(boxes, (2, 4)).view(2, 2, 4)
    torch.testing.assert_close(found[0], torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2))
    torch.testing.assert_close(found[1], torch.tensor([[0.0] * 4, [1 / 3] * 4]))


def test_dense_loss_prefers_scores_that_mark_the_target() -> None:
    box, present = torch.tensor([[0.5, 0.5, 0.5, 0.5]]), torch.tensor([True])
    right, empty = torch.zeros(1, 16, 5), torch.zeros(1, 16, 5)
    right[..., 0] = coverage(box, (4, 4)) * 8 - 4
    empty[..., 0] = -4
    assert dense_loss(right, box, present, (4, 4))[0] < dense_loss(-right, box, present, (4, 4))[0]
    assert dense_loss(right, box, ~present, (4, 4))[0] > dense_loss(empty, box, ~present, (4, 4))[0]
    assert dense_loss(right, box, ~present, (4, 4))[1] == 0


def test_distances_to_the_true_edges_cost_nothing() -> None:
    box, present = torch.tensor([[0.4, 0.5, 0.5, 0.75]]), torch.tensor([True])
    predictions = torch.zeros(1, 16, 5)
    for index in range(16):
        x, y = (index % 4 + 0.5) / 4, (index // 4 + 0.5) / 4
        edges = torch.tensor([x - 0.15, y - 0.125, 0.65 - x, 0.875 - y]).clamp(min=1e-4)
        predictions[0, index, 1:] = torch.log(torch.expm1(edges * 4))
    assert dense_loss(predictions, box, present, (4, 4))[1].item() == pytest.approx(0.0, abs=1e-3)
    predictions[0, 5, 1] += 1.0
    assert dense_loss(predictions, box, present, (4, 4))[1].item() > 0.05


def test_edges_on_a_raster_that_is_not_square() -> None:
    box, present = torch.tensor([[0.5, 0.5, 1.0, 1.0]]), torch.tensor([True])
    predictions = torch.zeros(1, 8, 5)
    for index in range(8):
        x, y = (index % 4 + 0.5) / 4, (index // 4 + 0.5) / 2
        predictions[0, index, 1:] = torch.log(torch.expm1(torch.tensor([x, y, 1 - x, 1 - y]) * 4))
    assert dense_loss(predictions, box, present, (2, 4))[1].item() == pytest.approx(0.0, abs=1e-3)


def test_generalised_iou_is_what_counting_pixels_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 40, (20, 2, 2, 2), generator=generator).sort(2).values
    for (a_low, a_high), (b_low, b_high) in corners.tolist():
        a, b = torch.zeros(40, 40, dtype=torch.bool), torch.zeros(40, 40, dtype=torch.bool)
        a[a_low[1] : a_high[1], a_low[0] : a_high[0]] = True
        b[b_low[1] : b_high[1], b_low[0] : b_high[0]] = True
        if not a.any() or not b.any():
            continue
        (x0, y0), (x1, y1) = (map(min, zip(a_low, b_low)), map(max, zip(a_high, b_high)))  # noqa: B905
        hull, union = (x1 - x0) * (y1 - y0), (a | b).sum().item()
        expected = (a & b).sum().item() / union - (hull - union) / hull
        points = [torch.tensor(p, dtype=torch.float32) for p in (a_low, a_high, b_low, b_high)]
        assert generalised_iou(*points).item() == pytest.approx(expected, abs=1e-5)
