"""Which frames, pictures and datasets examples come from, and that a coarser decoding leaves them right."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from train.data.images import ImageCache, reduction
from train.data.labels import DatasetError, Still, Track
from train.data.mixture import datasets, ratios_of, reserved
from train.data.pairs import OFFICIAL, PairDataset, clipped
from train.data.scenes import Sprites
from train.data.sources import PlainStillSource, VideoSource, View, causal_frames, frames_around
from train.data.throughput import measure
from train.losses import box_tokens
from train.models.seqtrack import SeqTrackConfig
from train.recipes import RECIPES, Mixture, Recipe

SMALL = replace(
    RECIPES["seqtrack-nano"], steps=4, batch=4, model=replace(RECIPES["seqtrack-nano"].model, search_size=64)
)
RED = np.asarray((20, 20, 230), np.uint8)


def with_ratios(recipe: Recipe, ratios: dict[str, float]) -> Recipe:
    """The recipe drawing from datasets by these shares."""
    return replace(recipe, mixture=Mixture(ratios=ratios))


def red_extent(image: np.ndarray) -> np.ndarray:
    """x, y, w, h of what is red."""
    x, y, w, h = cv2.boundingRect((image[..., 2].astype(int) - image[..., 0] > 60).astype(np.uint8))
    return np.asarray([x, y, w, h], float)


def film(folder: Path, frames: int, size: tuple[int, int] = (640, 360), side: int = 160) -> Track:
    """A red square on a textured ground, that moves to the right."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    boxes, paths = [], []
    for i in range(frames):
        ground = cv2.resize(rng.integers(0, 120, (18, 32, 1), np.uint8), size).repeat(3).reshape(size[1], size[0], 3)
        x, y = 101 + 7 * i, 83
        ground[y : y + side, x : x + side] = RED
        paths.append(folder / f"{i}.jpg")
        full_colour = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
        cv2.imwrite(str(paths[-1]), ground, [cv2.IMWRITE_JPEG_QUALITY, 98, *full_colour])
        boxes.append([x, y, side, side])
    return Track(folder.name, folder.name, paths, np.asarray(boxes, float), np.arange(frames), frames)


def test_the_gap_counts_frames_of_the_video_and_both_ends() -> None:
    times = np.asarray([0, 10, 410, 811, 1211, 1300])
    rng = np.random.default_rng(0)
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(400):
        *templates, search = frames_around(rng, times, 400, 2)
        seen.update((int(times[t]), int(times[search])) for t in templates)
    expected = {(int(a), int(b)) for a in times for b in times if abs(a - b) <= 400}
    assert set(seen) == expected


def official_causal(visible: list[bool], max_gap: int, templates: int) -> list[int]:
    """The published sampler's "causal" mode for one search frame, as it is written there: frame by frame."""

    def pick(n: int, low: int, high: int) -> list[int] | None:
        valid = [i for i in range(max(low, 0), min(high, len(visible))) if visible[i]]
        return random.choices(valid, k=n) if n and valid else ([] if not n else None)

    gap, search = 0, None
    while search is None:
        (base,) = pick(1, templates - 1, len(visible) - 1) or [-1]
        before = pick(templates - 1, base - max_gap - gap, base)
        if before is None:
            gap += 5
            continue
        search = pick(1, base + 1, base + max_gap + gap)
        gap += 5
    return [base, *before, *search]


@pytest.mark.parametrize("templates", [1, 2, 3])
def test_causal_sampling_is_the_official_one(templates: int) -> None:
    visible = [i % 7 not in (2, 3) and not 30 <= i < 48 for i in range(80)]
    times = np.flatnonzero(visible)
    random.seed(0)
    rng = np.random.default_rng(0)
    n = 6000
    theirs = np.asarray([official_causal(visible, 12, templates) for _ in range(n)])
    ours = times[np.asarray([causal_frames(rng, times, 12, templates) for _ in range(n)])]
    for a, b in zip(theirs.T, ours.T, strict=True):
        assert set(b) <= set(times)
        # Total variation between two samples of the same distribution over 60 frames is about 0.05.
        assert 0.5 * np.abs(np.bincount(a, minlength=80) - np.bincount(b, minlength=80)).sum() / n < 0.09
    gaps_a, gaps_b = theirs[:, -1] - theirs[:, 0], ours[:, -1] - ours[:, 0]
    assert 0.5 * np.abs(np.bincount(gaps_a, minlength=80) - np.bincount(gaps_b, minlength=80)).sum() / n < 0.05


def test_tracks_with_too_few_visible_frames_are_not_drawn(tmp_path: Path) -> None:
    long, short = film(tmp_path / "long", 22), film(tmp_path / "short", 22)
    short = replace(short, frames=short.frames[:4], boxes=short.boxes[:4] + 500, times=short.times[:4])
    cache, rng = ImageCache(), np.random.default_rng(0)
    official = VideoSource([short, long], cache, causal=True)
    assert all(view.box[1] == 83 for _ in range(20) for view in official.views(rng, 2))
    either = VideoSource([short, long], cache)
    assert {view.box[1] for _ in range(20) for view in either.views(rng, 2)} == {83, 583}
    with pytest.raises(DatasetError, match="short the last, show their target in too few frames"):
        VideoSource([short], cache, causal=True).views(rng, 2)


@pytest.mark.parametrize(("pixels", "factor"), [(1, 1), (63, 1), (64, 2), (127, 2), (130, 4), (255, 4), (4000, 8)])
def test_a_reduction_leaves_what_is_needed(pixels: float, factor: int) -> None:
    assert reduction(pixels, 32) == factor


@pytest.mark.parametrize(("needed", "factor"), [(None, 1), (100, 1), (80, 2), (30, 4), (20, 8)])
def test_boxes_follow_a_coarser_decoding(tmp_path: Path, needed: float | None, factor: int) -> None:
    track = film(tmp_path / "film", 3, size=(641, 363))
    for view in VideoSource([track], ImageCache(), needed=needed).views(np.random.default_rng(1), 3):
        assert view.image.shape == (-(-363 // factor), -(-641 // factor), 3)
        np.testing.assert_allclose(red_extent(view.image), view.box, atol=1.0)


def test_crops_of_a_coarser_decoding_show_the_same(tmp_path: Path) -> None:
    track = film(tmp_path / "film", 25)
    config = SeqTrackConfig(search_size=64, template_size=64)
    cache, sprites = ImageCache(), Sprites([], 1.0)
    # A target of 160 pixels, 16 in the crop: the picture is read at a quarter.
    crops = [
        [
            PairDataset(
                [(VideoSource([track], cache, causal=True, needed=needed), 1.0)],
                config,
                OFFICIAL,
                sprites,
                seed=0,
                length=10,
            )[i]
            for i in range(10)
        ]
        for needed in (None, 24.0)
    ]
    for full, reduced in zip(*crops, strict=True):
        # A crop's side is a whole number of pixels: of larger ones, here, of which it has some ninety.
        np.testing.assert_allclose(full.box, reduced.box, rtol=1 / 80)
        for a, b in zip((*full.templates, full.search), (*reduced.templates, reduced.search), strict=True):
            assert np.abs(a.numpy().astype(int) - b.numpy()).mean() < 5
            np.testing.assert_allclose(red_extent(a.numpy()), red_extent(b.numpy()), atol=1.5)


class SquareSource:
    """A red square on a blue field."""

    def views(self, rng: np.random.Generator, templates: int) -> list[View]:
        views = []
        for _ in range(templates + 1):
            image = np.full((400, 500, 3), (180, 0, 0), np.uint8)
            x, y, w, h = (int(v) for v in rng.integers((150, 150, 30, 30), (280, 200, 80, 80)))
            image[y : y + h, x : x + w] = (0, 0, 180)
            views.append(View(image, np.asarray([x, y, w, h], np.float64)))
        return views


def test_the_official_processing_keeps_boxes_right_and_changes_light_alone() -> None:
    config = SeqTrackConfig(search_size=128, template_size=64, templates=2)
    pairs = replace(OFFICIAL, grey=0.0, centre_jitter=2.0, scale_jitter=0.2)
    dataset = PairDataset([(SquareSource(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=80)
    checked, light, apart = 0, [], []
    for i in range(80):
        pair = dataset[i]
        cx, cy, w, h = pair.box.numpy() * 128
        light.append(pair.search.numpy().max())
        for template in pair.templates.numpy():
            x, y, tw, th = red_extent(template)
            np.testing.assert_allclose((x + tw / 2, y + th / 2), (32, 32), atol=1.5)
        first, second, search = (int(crop.max()) for crop in (*pair.templates.numpy(), pair.search.numpy()))
        apart.append((abs(first - second), abs(first - search)))
        found = red_extent(pair.search.numpy())
        if found[0] > 0 and found[1] > 0 and (found[:2] + found[2:] < 128).all():
            np.testing.assert_allclose(found, (cx - w / 2, cy - h / 2, w, h), atol=2.5)
            checked += 1
    assert checked > 40
    assert min(light) >= 143
    assert max(light) <= 217
    assert max(light) - min(light) > 50
    # Each crop has a light of its own: two of up to a fifth more or less, of 180, differ by 24 in the mean.
    assert np.mean(apart, axis=0) == pytest.approx((24, 24), abs=6)


class HalvesSource:
    """A target red on the left and blue on the right."""

    def views(self, rng: np.random.Generator, templates: int) -> list[View]:
        image = np.zeros((200, 200, 3), np.uint8)
        image[80:120, 80:100, 2] = image[80:120, 100:120, 0] = 180
        return [View(image, np.asarray([80, 80, 40, 40], np.float64))] * (templates + 1)


def test_the_official_processing_flips_each_crop_for_itself() -> None:
    config = SeqTrackConfig(search_size=64, template_size=64, templates=2)
    pairs = replace(OFFICIAL, grey=0.0, centre_jitter=0.0, scale_jitter=0.0)
    dataset = PairDataset([(HalvesSource(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=160)

    def flipped(crop: torch.Tensor) -> bool:
        return bool(crop[:, :32, 0].sum() > crop[:, :32, 2].sum())

    seen = Counter(tuple(map(flipped, (*pair.templates, pair.search))) for pair in (dataset[i] for i in range(160)))
    assert len(seen) == 8
    assert min(seen.values()) >= 8  # of the 20 expected of each


def test_the_papers_recipes_label_what_the_crop_shows_of_a_target() -> None:
    config = SeqTrackConfig(search_size=128, template_size=64, templates=1)
    pairs = replace(RECIPES["seqtrack-b256"].pairs, grey=0.0, centre_jitter=5.0)
    dataset = PairDataset([(SquareSource(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=80)
    cut_off = 0
    for pair in (dataset[i] for i in range(80)):
        x, y, w, h = found = red_extent(pair.search.numpy())
        if min(w, h) > 4:
            cx, cy, bw, bh = pair.box.numpy() * 128
            np.testing.assert_allclose((cx - bw / 2, cy - bh / 2, bw, bh), found, atol=2.5)
            cut_off += min(x, y) == 0 or max(x + w, y + h) == 128
    assert cut_off > 20


def official_tokens(box: torch.Tensor, bins: int) -> list[int]:
    """The published actor's sequence of a box (x, y, w, h), in units of the crop, as it is written there."""
    x, y, w, h = box.unbind(-1)
    x0, y0, x1, y1 = torch.stack([x, y, x + w, y + h]).clamp(0.0, 1.0)
    return [int(value * (bins - 1)) for value in ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)]


@pytest.mark.parametrize("cx", [0.95, 0.5, 0.02])
def test_the_tokens_of_a_target_that_leaves_the_crop_are_the_official_ones(cx: float) -> None:
    box = np.asarray([cx, 0.5, 0.3, 0.2])
    theirs = official_tokens(torch.tensor([cx - 0.15, 0.4, 0.3, 0.2], dtype=torch.float64), 4000)
    assert box_tokens(torch.from_numpy(clipped(box)), 4000).tolist() == theirs


def official_jitter(box: torch.Tensor, centre: float, scale: float) -> torch.Tensor:
    """The published processing's box (x, y, w, h) that the search crop is cut around, as it is written there."""
    jittered_size = box[2:4] * torch.exp(torch.randn(2) * scale)
    max_offset = jittered_size.prod().sqrt() * centre
    jittered_center = box[0:2] + 0.5 * box[2:4] + max_offset * (torch.rand(2) - 0.5)
    return torch.cat((jittered_center - 0.5 * jittered_size, jittered_size), dim=0)


def test_the_papers_recipes_jitter_as_the_official_code_does() -> None:
    recipe = RECIPES["seqtrack-b256"]
    source = SquareSource()
    dataset = PairDataset([(source, 1.0)], recipe.model, recipe.pairs, Sprites([], 1.0), seed=0, length=1)
    rng, n = np.random.default_rng(0), 8000
    torch.manual_seed(0)
    view = source.views(rng, 0)[0]
    ours = np.asarray([dataset._jitter(rng, view) for _ in range(n)])
    theirs = np.asarray([official_jitter(torch.from_numpy(view.box), 3.5, 0.5).numpy() for _ in range(n)])

    def moments(boxes: np.ndarray) -> list[float]:
        """Of the sizes' logarithms mean, spread and correlation; of the centre's offset, in sides, mean and spread."""
        sizes = np.log(boxes[:, 2:] / view.box[2:])
        sides = np.sqrt(boxes[:, 2:].prod(1, keepdims=True))
        offsets = (boxes[:, :2] + boxes[:, 2:] / 2 - view.box[:2] - view.box[2:] / 2) / sides
        correlation = np.corrcoef(sizes.T)[0, 1]
        return [*sizes.mean(0), *sizes.std(0), correlation, *offsets.mean(0), *offsets.std(0), np.abs(offsets).max()]

    np.testing.assert_allclose(moments(ours), moments(theirs), atol=0.06)  # of 8,000 draws, some four deviations


def test_plain_stills_are_drawn_box_by_box(tmp_path: Path) -> None:
    stills = []
    for name, n in (("one", 1), ("three", 3)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((60, 80, 3), n, np.uint8))
        stills.append(Still(tmp_path / f"{name}.png", np.asarray([[n, i, 20, 20] for i in range(n)], float)))
    source, rng = PlainStillSource(stills, ImageCache()), np.random.default_rng(0)
    drawn: Counter[tuple[float, float]] = Counter()
    for _ in range(400):
        template, search = source.views(rng, 1)
        assert template.image is search.image
        assert template.image[0, 0, 0] == template.box[0]
        drawn[template.box[0], template.box[1]] += 1
    assert set(drawn) == {(1, 0), (3, 0), (3, 1), (3, 2)}
    assert all(70 < count < 130 for count in drawn.values())


def tree(root: Path, colour: int, videos: int = 12) -> Path:
    """Videos in the plain layout, of one grey."""
    for v in range(videos):
        folder = root / f"v{v}"
        folder.mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(str(folder / f"{i:08d}.png"), np.full((60, 80, 3), colour, np.uint8))
        (folder / "groundtruth.txt").write_text("30,20,20,20\n" * 3)
    (root / "list.txt").write_text("\n".join(f"v{v}" for v in range(videos)))
    return root


def lasot_tree(root: Path, colour: int) -> Path:
    for number in (2, 3):
        folder = root / "airplane" / f"airplane-{number}"
        (folder / "img").mkdir(parents=True)
        for i in range(1, 4):
            cv2.imwrite(str(folder / "img" / f"{i:08d}.jpg"), np.full((60, 80, 3), colour, np.uint8))
        (folder / "groundtruth.txt").write_text("30,20,20,20\n" * 3)
        for name in ("full_occlusion", "out_of_view"):
            (folder / f"{name}.txt").write_text("0,0,0\n")
    return root


def test_ratios_are_of_datasets_however_large(tmp_path: Path) -> None:
    roots = [tree(tmp_path / "own", 50), lasot_tree(tmp_path / "LaSOT", 200)]
    recipe = replace(SMALL, pairs=replace(OFFICIAL, official=False))
    train, validation = datasets(with_ratios(recipe, {"lasot": 3, "tracks": 1}), roots)
    rng = np.random.default_rng(0)
    greys = Counter(int(train._views(rng)[0].image[0, 0, 0]) for _ in range(400))
    assert set(greys) == {50, 200}
    assert 265 < greys[200] < 335
    # Of LaSOT's two videos none is held out.
    assert {int(validation._views(rng)[0].image[0, 0, 0]) for _ in range(20)} == {50}

    pooled, _ = datasets(replace(recipe, mixture=replace(SMALL.mixture, scenes=0.0)), roots)
    greys = Counter(int(pooled._views(rng)[0].image[0, 0, 0]) for _ in range(400))
    assert 20 < greys[200] < 110  # two of eleven tracks


def grey_clips(root: Path, greys: dict[str, int]) -> Path:
    """Clips by name, each of a grey of its own."""
    for name, grey in greys.items():
        tree(root / "made" / name, grey, 1)
        (root / "made" / name / "v0").rename(root / name)
    (root / "list.txt").write_text("\n".join(greys))
    return root


def grey_stills(root: Path, greys: dict[str, int]) -> Path:
    """Pictures by name, each of a grey of its own."""
    (root / "images").mkdir(parents=True)
    for name, grey in greys.items():
        cv2.imwrite(str(root / "images" / f"{name}.png"), np.full((60, 80, 3), grey, np.uint8))
    images = [{"id": grey, "file_name": f"{name}.png"} for name, grey in greys.items()]
    boxes = [{"image_id": grey, "bbox": [30, 20, 20, 20]} for grey in greys.values()]
    (root / "instances.json").write_text(json.dumps({"images": images, "annotations": boxes}))
    return root


def greys_of(dataset: PairDataset) -> set[int]:
    """Of the clips or pictures that a dataset draws its examples from."""
    rng = np.random.default_rng(0)
    return {int(dataset._views(rng)[0].image[25, 35, 0]) for _ in range(150)}


FILES_ALONE = replace(SMALL, mixture=Mixture(scenes=0.0))


@pytest.mark.parametrize("write", [grey_clips, grey_stills])
@pytest.mark.parametrize("count", [2, 5, 9])
def test_of_two_or_more_some_are_held_out_and_some_are_not(
    write: Callable[[Path, dict[str, int]], Path], count: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {f"number{i}": 10 + 20 * i for i in range(count)}
    train, validation = datasets(FILES_ALONE, [write(tmp_path / "own", given)])
    trained, held_out = greys_of(train), greys_of(validation)
    assert trained
    assert held_out
    assert not trained & held_out
    assert trained | held_out == set(given.values())
    assert not caplog.records


def test_it_is_said_when_nothing_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    datasets(SMALL, [])
    assert not caplog.records
    datasets(SMALL, [grey_clips(tmp_path / "one", {"only": 50})])
    assert "nothing is held out: validation and calibration measure composed scenes" in caplog.text


@pytest.mark.parametrize("write", [grey_clips, grey_stills])
def test_what_is_held_out_is_the_same_in_any_order(
    write: Callable[[Path, dict[str, int]], Path], tmp_path: Path
) -> None:
    roots = [
        write(tmp_path / folder, {f"{folder}{i}": start + 15 * i for i in range(8)})
        for folder, start in (("morning", 5), ("evening", 130))
    ]
    one, other = (greys_of(datasets(FILES_ALONE, order)[1]) for order in (roots, roots[::-1]))
    assert one == other


def test_more_data_holds_out_nothing_that_was_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.data.mixture.MOST_HELD_OUT", 15)
    names = [f"ride-{i}" for i in range(300)]
    before = dict(zip(names[:3], reserved(names[:3]), strict=True))
    for count in range(4, 301):
        now = dict(zip(names[:count], reserved(names[:count]), strict=True))
        assert not any(now[name] and not was for name, was in before.items())
        before = now
    assert sum(before.values()) == 15


def test_ratios_and_folders_must_fit(tmp_path: Path) -> None:
    root = tree(tmp_path / "own", 50)
    with pytest.raises(DatasetError, match="a ratio for coco, lasot but no such dataset; given are tracks"):
        datasets(with_ratios(SMALL, {"tracks": 1, "lasot": 1, "coco": 1}), [root])
    with pytest.raises(DatasetError, match=r"tracks has no ratio"):
        datasets(with_ratios(SMALL, {"scenes": 1}), [root])


def test_of_a_recipes_ratios_those_of_what_is_given_are_left(tmp_path: Path) -> None:
    root, ratios = tree(tmp_path / "own", 50), {"tracks": 2, "coco": 1, "clips": 1}
    assert ratios_of(ratios, [root]) == {"tracks": 2, "clips": 1}
    assert ratios_of(ratios, []) == {"clips": 1}
    for left, roots in ((None, [root]), ({"coco": 1}, []), ({"coco": 1, "clips": 1}, [root])):
        assert ratios_of(left, roots) is None
    for roots in ([root], []):
        datasets(with_ratios(SMALL, ratios_of(ratios, roots)), roots)


def test_clips_need_no_files() -> None:
    train, validation = datasets(with_ratios(SMALL, {"clips": 1}), [])
    again, _ = datasets(with_ratios(SMALL, {"clips": 1}), [])
    assert all((a == b).all() for a, b in zip(train[3], again[3], strict=True))
    assert not (train[3].search == validation[3].search).all()


def test_a_sprite_that_cannot_be_read_changes_no_later_draw(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    sprites = Sprites([tmp_path / "bad.png"], 0.0)
    draws = []
    for _ in range(2):
        rng = np.random.default_rng(0)
        sprites.pick(rng)
        draws.append(rng.random())
    assert draws[0] == draws[1]


def test_loading_processes_share_the_cache_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        cv2.imwrite(str(path), np.zeros((10, 10, 3), np.uint8))

    def kept() -> int:
        cache = ImageCache(budget=1200)
        first = [cache.read(path) for path in paths]
        return sum(cache._images.get((path, 1)) is image for path, image in zip(paths, first, strict=True))

    assert kept() == 4
    monkeypatch.setattr("train.data.images.get_worker_info", lambda: SimpleNamespace(num_workers=2))
    assert kept() == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_alone_is_measured(workers: int) -> None:
    train, _ = datasets(replace(SMALL, steps=1000), [])
    result = measure(train, workers, 0.05)
    assert result.pairs > 0
    assert result.pairs % 16 == 0
    assert result.seconds >= 0.05
    assert result.pairs_per_second == pytest.approx(result.pairs / result.seconds)


def test_the_loader_is_measured_beyond_the_end_of_a_short_run() -> None:
    train, _ = datasets(replace(SMALL, steps=1, batch=2), [])
    assert measure(train, 0, 0.05).seconds >= 0.05
