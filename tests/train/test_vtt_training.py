"""Training of VTT: its loss against loops, search images whose boxes are where the target is, and what is frozen."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import TINY_VTT as TINY
from small_runs import VTT as RECIPE
from small_runs import run
from typer.testing import CliRunner

from edgetrack.bundle import LogisticScore
from edgetrack.imaging import letterbox
from edgetrack.vtt import calibrated_score
from train.assignment import assignment_loss, box_loss
from train.calibration import _decode
from train.checkpoints import OfficialWeightsError, load_model, read_tensors, save_model, with_backbone
from train.cli import SECOND_LOOK, app
from train.data.frames import FrameDataset, Window
from train.data.mixture import datasets
from train.data.pairs import WHOLE_FRAMES, Pair, PairConfig
from train.data.scenes import Sprites
from train.data.sources import View
from train.losses import matching_loss
from train.models.resnet import RESNETS, ResNet
from train.models.vtt import PRESETS, VTT, VTTConfig
from train.objective import VTTObjective, normalised, objective
from train.optimiser import build, learning_rate
from train.recipes import RECIPES, Assignment, Recipe, override

BOXES = torch.tensor([[0.5, 0.25, 0.3, 0.2], [0.2, 0.8, 0.3, 0.5], [0.7, 0.4, 0.5, 0.3]])


def giou(a: list[float], b: list[float]) -> float:
    """Of boxes in cx, cy, w, h, by counting the cells of a fine raster."""
    ticks = (np.arange(1000) + 0.5) / 500 - 0.5
    inside = [(abs(ticks[:, None] - cy) < h / 2) & (abs(ticks[None] - cx) < w / 2) for cx, cy, w, h in (a, b)]
    union = (inside[0] | inside[1]).sum()
    rows, columns = (np.flatnonzero((inside[0] | inside[1]).any(axis)) for axis in (1, 0))
    hull = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    return (inside[0] & inside[1]).sum() / union - (hull - union) / hull


def test_box_loss_is_giou_and_distance() -> None:
    boxes = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    found = box_loss(boxes, BOXES[:1], giou=2.0, l1=5.0)
    for box, loss in zip(boxes.tolist(), found.tolist(), strict=True):
        target = BOXES[0].tolist()
        distance = sum(abs(x - y) for x, y in zip(box, target, strict=True))
        assert loss == pytest.approx(2 * (1 - giou(box, target)) + 5 * distance, abs=0.03)


def test_assignment_loss_is_what_a_loop_computes() -> None:
    generator = torch.Generator().manual_seed(3)
    boxes = torch.rand(2, 3, 5, 4, generator=generator) * 0.5 + 0.2
    logits = torch.randn(2, 3, 5, 2, generator=generator)
    present = torch.tensor([True, False, True])
    found = assignment_loss(boxes, logits, BOXES, present, giou=1.0, l1=5.0)
    expected, chosen = [0.0, 0.0, 0.0], set()
    for layer in range(2):
        for b in range(3):
            p = [math.exp(l1) / (math.exp(l0) + math.exp(l1)) for l0, l1 in logits[layer, b].tolist()]
            if not present[b]:
                expected[2] += sum(-math.log(1 - q) for q in p)
                continue
            losses = box_loss(boxes[layer, b], BOXES[b], giou=1.0, l1=5.0).tolist()
            costs = [loss - q for loss, q in zip(losses, p, strict=True)]
            best = costs.index(min(costs))
            chosen.add(best)
            expected[0] += losses[best]
            expected[1] += sum(-math.log(q if i == best else 1 - q) for i, q in enumerate(p))
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-5)
    assert len(chosen) > 1


def test_the_score_takes_part_in_the_assignment() -> None:
    boxes = BOXES[:1, None].expand(1, 2, 4)[None].clone()  # both queries are right
    logits = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]], requires_grad=True)
    _, score, _ = assignment_loss(boxes, logits, BOXES[:1], torch.tensor([True]), giou=1.0, l1=5.0)
    score.backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 1, 1] < 0 < logits.grad[0, 0, 0, 1]  # the surer one is taught yes, the other no


def test_absent_targets_teach_no_box_and_every_query_no() -> None:
    boxes = torch.rand(1, 1, 3, 4, requires_grad=True)
    logits = torch.randn(1, 1, 3, 2, requires_grad=True)
    sum(assignment_loss(boxes, logits, torch.zeros(1, 4), torch.tensor([False]), giou=1.0, l1=5.0)).backward()  # type: ignore[union-attr]
    assert boxes.grad is not None
    assert not boxes.grad.any()
    assert logits.grad is not None
    assert (logits.grad[..., 1] > 0).all()


def test_the_objective_weighs_and_counts_its_terms() -> None:
    recipe = replace(RECIPE, absent=0.5, dense=2.0, matching=3.0, assignment=Assignment(giou=1.0, l1=5.0, score=0.1))
    trained = objective(recipe).eval()
    assert isinstance(trained, VTTObjective)
    batch = [datasets(recipe, [])[0][i] for i in range(12)]
    pair = Pair(*(torch.stack(tensors) for tensors in zip(*batch, strict=True)))
    assert 0 < pair.present.sum() < 12
    total, terms = trained(pair, trained.counts(pair))
    box, score, absent, on_target, edges, match = terms.tolist()
    assert total.item() == pytest.approx(
        box + 0.1 * score + 0.05 * absent + 2 * on_target + 2 * edges + 3 * match, rel=1e-5
    )
    count = pair.present.sum().item()
    assert trained.counts(pair).tolist()[:4] == [count, count, 12 - count, 12 * 24]
    outputs = trained.model(*inputs(pair))
    assert trained.match is not None
    tokens = [trained.model.correlate(outputs.features, folded) for folded in trained.model.fold(outputs.kernel)]
    likeness = torch.stack([trained.match(each - trained.model.reduce.bias)[..., 0] for each in tokens])
    visible = trained.model.visible(pair.extent)[:, 0, 0]
    expected = matching_loss(likeness, visible, pair.box, pair.present, trained.model.config.grid)
    assert match == pytest.approx(expected.item() / count, rel=1e-4)
    last = trained.model.answer(outputs.states[-1:])
    sums = assignment_loss(last.boxes, last.logits, pair.box, pair.present, giou=1.0, l1=5.0)
    assert box == pytest.approx(sums[0].item() / count, rel=1e-4)
    every = objective(replace(recipe, assignment=replace(recipe.assignment, every_layer=True))).eval()
    every.load_state_dict(trained.state_dict())
    assert every(pair, every.counts(pair))[1][0] > terms[0]


def test_every_target_is_told_from_its_own_image_and_from_all() -> None:
    generator = torch.Generator().manual_seed(0)
    likeness = torch.randn(3, 3, 6, generator=generator)
    visible = torch.tensor([[True] * 6, [True] * 6, [True] * 4 + [False] * 2])
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])  # on a raster of 2 x 3
    present = torch.tensor([True, False, True])
    shares = {0: [1 / 3, 1 / 6, 0, 1 / 3, 1 / 6, 0], 2: [1.0, 0, 0, 0, 0, 0]}
    total = 0.0
    for j, wanted in shares.items():
        cells = {(i, m): math.exp(likeness[j, i, m]) for i in range(3) for m in range(6) if visible[i, m]}
        own = sum(value for (i, _), value in cells.items() if i == j)
        for m, share in enumerate(wanted):
            if share:
                total -= (
                    share * math.log(cells[j, m] / own) / 2 + share * math.log(cells[j, m] / sum(cells.values())) / 2
                )
    found = matching_loss(likeness, visible, boxes, present, (2, 3))
    assert found.item() == pytest.approx(total, rel=1e-5)


def inputs(pair: Pair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return normalised(pair.templates[:, 0]), normalised(pair.search), pair.extent


class SquareSource:
    """A red box on a blue field, of another size in every view: what is seen can be read off the pixels."""

    def views(self, rng: np.random.Generator, templates: int) -> list[View]:
        views = []
        for _ in range(templates + 1):
            height, width = rng.integers((200, 200), (400, 500))
            image = np.full((height, width, 3), (200, 0, 0), np.uint8)
            w, h = (int(v) for v in rng.integers(30, 90, 2))
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            image[y : y + h, x : x + w] = (0, 0, 255)
            views.append(View(image, np.asarray([x, y, w, h], np.float64)))
        return views


def frames(pairs: PairConfig, length: int = 80, config: VTTConfig = TINY) -> list[Pair]:
    dataset = FrameDataset([(SquareSource(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=length)
    return [dataset[i] for i in range(length)]


def test_boxes_are_where_the_target_is_and_extents_where_the_picture_is() -> None:
    config = replace(TINY, search_width=192, search_height=128)
    flips = replace(WHOLE_FRAMES, flip=0.5)
    shares = []
    for pair in frames(flips, 80, config):
        image = pair.search.numpy().astype(int)
        shown = np.flatnonzero(image.sum(2).max(0) > 60)[-1] + 1, np.flatnonzero(image.sum(2).max(1) > 60)[-1] + 1
        np.testing.assert_allclose(shown, pair.extent.numpy() * (192, 128), atol=1.01)
        shares.append(pair.extent.max().item())
        red = image[..., 2] - image[..., 0]
        columns, rows = np.flatnonzero(red.max(0) > 0), np.flatnonzero(red.max(1) > 0)
        cx, cy, w, h = pair.box.numpy() * (192, 128, 192, 128)
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(found, [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], atol=1.6)
    assert min(shares) < 0.7  # some are shrunk
    assert sum(share > 0.99 for share in shares) > 20  # others fill the canvas


def test_a_whole_frame_is_on_the_canvas_as_the_device_puts_it() -> None:
    as_is = replace(WHOLE_FRAMES, flip=0.0, window=0.0, shrink=0.0)
    for index, pair in enumerate(frames(as_is, 5)):
        rng = np.random.default_rng((0, index))
        rng.choice(1, p=[1.0])  # the source is drawn first
        view = SquareSource().views(rng, 1)[-1]
        canvas = letterbox(view.image, TINY.search_width, TINY.search_height)
        np.testing.assert_array_equal(pair.search.numpy(), canvas.image)
        np.testing.assert_allclose(pair.extent.numpy(), canvas.extent)


def test_templates_are_squares_of_the_longer_side() -> None:
    for pair in frames(WHOLE_FRAMES, 20, replace(TINY, template_size=64)):
        red = (pair.templates[0, ..., 2].int() - pair.templates[0, ..., 0].int()).numpy()
        columns, rows = np.flatnonzero(red.max(0) > 60), np.flatnonzero(red.max(1) > 60)
        sides = np.ptp(columns) + 1, np.ptp(rows) + 1
        assert max(sides) >= 62


def test_absent_targets_are_not_to_be_seen() -> None:
    pairs = frames(PairConfig(absent=0.5, window=0.5, distract=0, occlude=0, degrade=False, grey=0, dim=0), 80)
    absent = [pair for pair in pairs if not pair.present]
    assert 25 <= len(absent) <= 55
    assert all(not pair.box.any() for pair in absent)
    # Another scene of this source shows a target, too; of the other two kinds none may be left but a sliver.
    reds = [(pair.search[..., 2].int() - pair.search[..., 0].int() > 60).float().mean().item() for pair in absent]
    assert sum(red < 0.01 for red in reds) > 0.4 * len(absent)


def test_a_window_clips_the_box_to_what_it_shows() -> None:
    window = Window(10, 20, 40, 50)
    assert window.to_units(np.asarray([0.0, 30.0, 20.0, 10.0])).tolist() == pytest.approx([0.125, 0.3, 0.25, 0.2])
    assert window.to_units(np.asarray([60.0, 30.0, 20.0, 10.0]))[2] == 0


def test_a_frozen_backbone_is_not_trained(tmp_path: Path) -> None:
    recipe = replace(RECIPE, encoder_lr=0.0, steps=2, decay=0)
    torch.manual_seed(recipe.seed)
    start = objective(recipe)
    save_model(tmp_path / "start.safetensors", start.model)
    held = sum(len(group["params"]) for group in build(start, recipe).param_groups)
    assert held == len(list(start.parameters())) - len(list(start.model.backbone.parameters()))
    run(recipe, tmp_path, start=tmp_path / "start.safetensors")
    state, _ = read_tensors(tmp_path / "state.safetensors")
    before = start.model.state_dict()
    changed = {name for name in before if not torch.equal(state[f"objective.model.{name}"], before[name])}
    assert changed
    assert not any(name.startswith("backbone.") for name in changed)


def test_recipes_survive_json_and_name_their_kind() -> None:
    for name in ("vtt-nano", "vtt-r50", "vtt-r50-coco", "seqtrack-nano"):
        assert Recipe.from_dict(json.loads(json.dumps(RECIPES[name].to_dict()))) == RECIPES[name]
    old = RECIPES["seqtrack-nano"].to_dict()
    del old["assignment"], old["model"]["kind"]  # as files from before VTT have it
    assert Recipe.from_dict(old) == RECIPES["seqtrack-nano"]
    changed = override(RECIPES["vtt-nano"], ["model.queries=8", "assignment.score=0.5"])
    assert (changed.model.queries, changed.assignment.score) == (8, 0.5)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="kind 'siamese'; expected one of seqtrack, vtt"):
        override(RECIPES["vtt-nano"], ["model.kind=siamese"])


def test_the_papers_two_stages() -> None:
    first, second = RECIPES["vtt-r50-coco"], RECIPES["vtt-r50"]
    assert first.steps * 5 == second.steps  # 20 epochs and 100
    assert second.decay * 5 == second.steps  # a tenth from epoch 80 on
    assert learning_rate(first, first.steps - 1) == learning_rate(second, 79 * second.steps // 100) == 1e-4
    assert learning_rate(second, 81 * second.steps // 100) == pytest.approx(1e-5)
    assert second.mixture.ratios == {"coco": 0.4, "got10k": 0.4, "lasot": 0.2}
    assert (second.assignment, second.encoder_lr) == (Assignment(1.0, 5.0, 0.01, False), 0.0)
    assert (second.lr, second.weight_decay, second.absent, second.dense) == (1e-4, 1e-4, 0.0, 0.0)


def test_the_calibrated_score_is_what_the_device_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An untrained model finds none, and there is nothing to fit: say that it finds those that are not at the left.
    monkeypatch.setattr("train.calibration.iou", lambda boxes, true: (true[:, 0] > 0.25).float())
    recipe = replace(RECIPE, steps=1, decay=0)
    save_model(tmp_path / "model.safetensors", VTT(TINY), recipe=recipe.to_dict())
    result = CliRunner().invoke(app, ["calibrate", str(tmp_path / "model.safetensors"), "--pairs", "32"])
    assert result.exit_code == 0, result.output
    model, metadata = load_model(tmp_path / "model.safetensors")
    assert metadata["online"] == {"second_look": SECOND_LOOK, "match_illumination": True}
    score = LogisticScore.model_validate(metadata["score"])
    _, held_out = datasets(recipe, [], validation_pairs=32)
    features, _ = _decode(model, held_out, 1.0, 0.0, 8)
    probability = 1 / (1 + np.exp(-features[3, 0]))
    expected = 1 / (1 + np.exp(-(score.slope * features[3, 0] + score.intercept)))
    assert calibrated_score(score, probability) == pytest.approx(expected)


SMALL_R50 = VTTConfig(
    search_width=64, search_height=64, template_size=32, dim=16, heads=2, ffn=16, encoder_layers=0, decoder_layers=1
)


@pytest.mark.parametrize("prefix", ["", "backbone.0.body."])
def test_a_backbone_is_taken_from_torchvision_or_detr(prefix: str, tmp_path: Path) -> None:
    given = {name: torch.rand_like(tensor) for name, tensor in ResNet(RESNETS["resnet50"]).state_dict().items()}
    file = {prefix + name: tensor for name, tensor in given.items()}
    if prefix:
        file |= {"transformer.encoder.weight": torch.zeros(3)}
    else:
        file |= {"fc.weight": torch.zeros(3, 3), "fc.bias": torch.zeros(3), "bn1.num_batches_tracked": torch.tensor(1)}
    model = with_backbone(file, SMALL_R50)
    assert all(torch.equal(tensor, given[name]) for name, tensor in model.backbone.state_dict().items())
    del file[f"{prefix}layer1.0.conv1.weight"]
    with pytest.raises(OfficialWeightsError, match=r"not the weights of a resnet50: missing: layer1\.0\.conv1\.weight"):
        with_backbone(file, SMALL_R50)


def test_import_writes_weights_to_begin_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "vtt-r50", SMALL_R50)
    monkeypatch.setattr("train.models.registry.PRESETS", PRESETS)
    given = ResNet(RESNETS["resnet50"]).state_dict()
    torch.save({"model": {f"backbone.0.body.{name}": tensor for name, tensor in given.items()}}, tmp_path / "detr.pth")
    arguments = ["import", str(tmp_path / "detr.pth"), "--as", "vtt-r50", "--out", str(tmp_path / "start.safetensors")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    model, metadata = load_model(tmp_path / "start.safetensors")
    assert torch.equal(model.backbone.conv1.weight, given["conv1.weight"])  # type: ignore[union-attr]
    assert metadata["source"] == "backbone of detr.pth, else random"
    torch.save({"encoder.weight": torch.zeros(1)}, tmp_path / "other.pth")
    result = CliRunner().invoke(app, ["import", str(tmp_path / "other.pth"), *arguments[2:]])
    assert result.exit_code == 1
    assert "not the weights of a resnet50" in result.stderr
    torch.save([1, 2], tmp_path / "list.pth")
    result = CliRunner().invoke(app, ["import", str(tmp_path / "list.pth"), *arguments[2:]])
    assert result.exit_code == 1
    assert "holds no state dict; expected a checkpoint of" in result.stderr
