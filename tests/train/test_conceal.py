"""Targets painted over in training examples."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from train.data import conceal
from train.data.pairs import ABSENCES, FRESH, PairConfig, PairDataset
from train.data.scenes import Sprites, noise_texture
from train.data.sources import View
from train.models.seqtrack import SeqTrackConfig

BLUE, RED, GREEN = (200, 30, 30), (30, 30, 200), (30, 200, 30)


def picture(*boxes: tuple[tuple[float, float, float, float], tuple[int, int, int]]) -> NDArray[np.uint8]:
    """Blue, 100 x 120 pixels, with boxes cx, cy, w, h in units of it filled with a colour."""
    image = np.full((100, 120, 3), BLUE, np.uint8)
    for (cx, cy, w, h), colour in boxes:
        top, left = round((cy - h / 2) * 100), round((cx - w / 2) * 120)
        image[max(0, top) : max(0, top + round(h * 100)), max(0, left) : max(0, left + round(w * 120))] = colour
    return image


def share(image: NDArray[np.uint8], channel: int) -> float:
    """Of the pixels in which a channel, BGR, stands out."""
    others = np.delete(image.astype(int), channel, axis=2)
    return float((image[..., channel].astype(int) - others.max(2) > 25).mean())


BOXES = [
    (0.5, 0.5, 0.25, 0.2),
    (0.05, 0.9, 0.2, 0.3),
    (0.5, 0.5, 0.9, 0.2),
    (1.3, 0.5, 0.2, 0.2),
    (-0.6, -0.6, 0.2, 0.2),
]


@pytest.mark.parametrize("box", BOXES)
def test_an_erased_target_leaves_what_surrounds_it(box: tuple[float, float, float, float]) -> None:
    for seed in range(20):
        image = picture((box, RED))
        conceal.erase(np.random.default_rng(seed), image, np.asarray(box))
        assert share(image, 2) == 0
        assert np.abs(image.astype(int) - BLUE).max() < 40


def test_what_is_far_from_the_target_stays_as_it_is() -> None:
    image = noise_texture(np.random.default_rng(0), 100, 120)
    before = image.copy()
    conceal.erase(np.random.default_rng(1), image, np.asarray([0.25, 0.25, 0.2, 0.2]))
    changed = (image != before).any(2)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert changed[25, 30]
    # Nothing is painted beyond twice the box, 24 x 20 pixels about (30, 25).
    assert columns[0] >= 30 - 24
    assert columns[-1] <= 30 + 24
    assert rows[0] >= 25 - 20
    assert rows[-1] <= 25 + 20


def test_a_covered_target_shows_the_other_picture() -> None:
    for seed in range(20):
        image, box = picture((BOXES[0], RED)), np.asarray(BOXES[0])
        conceal.cover(np.random.default_rng(seed), image, box, np.full((300, 300, 3), GREEN, np.uint8))
        assert share(image, 2) == 0
        assert 0.8 * 0.25 * 0.2 < share(image, 1) < 3 * 0.25 * 0.2


def test_nothing_is_copied_of_a_spared_target() -> None:
    """Its stripes would show in whatever light."""
    target, place = (0.25, 0.5, 0.4, 0.8), (0.8, 0.5, 0.25, 0.5)
    striped = picture((target, RED))
    striped[10:90:4, 6:54] = GREEN

    def copied(seed: int, spared: NDArray[np.float64] | None) -> bool:
        image = striped.copy()
        conceal.erase(np.random.default_rng(seed), image, np.asarray(place), spared=spared)
        return bool(image[30:70, 84:108].std(axis=(0, 1)).max() > 10)

    assert sum(copied(seed, None) for seed in range(40)) > 3
    assert not any(copied(seed, np.asarray(target)) for seed in range(40))


class TwoSquares:
    """A red target on blue, with a green object beside it that is labelled, too."""

    def views(self, rng: np.random.Generator, templates: int) -> list[View]:
        image = np.full((400, 500, 3), BLUE, np.uint8)
        image[180:230, 200:250], image[180:230, 280:330] = RED, GREEN
        box, other = np.asarray([200.0, 180, 50, 50]), np.asarray([[280.0, 180, 50, 50]])
        return [View(image, box, others=other)] * (templates + 1)


def test_without_its_target_a_search_crop_shows_all_else() -> None:
    plain = {"grey": 0.0, "dim": 0.0, "occlude": 0.0, "distract": 0.0, "degrade": False}
    config = SeqTrackConfig(search_size=64, template_size=32, templates=1)
    pairs = PairConfig(absent=1.0, scale_jitter=0.0, centre_jitter=0.5, **plain)
    dataset = PairDataset([(TwoSquares(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=120)
    crops = [dataset[i].search.numpy() for i in range(120)]
    # What is of another scene shows a target again, with this source.
    gone = [crop for crop in crops if share(crop, 2) == 0]
    assert len(gone) / len(crops) == pytest.approx(1 - ABSENCES["other"], abs=0.1)
    centred = [crop for crop in gone if share(crop[28:36, 28:36], 1) == 1]
    assert len(centred) / len(crops) == pytest.approx(ABSENCES["beside"], abs=0.1)


def test_a_template_strays_to_the_object_beside_the_target() -> None:
    plain = {"grey": 0.0, "dim": 0.0, "occlude": 0.0, "distract": 0.0, "degrade": False}
    config = SeqTrackConfig(search_size=64, template_size=32, templates=2)
    pairs = PairConfig(absent=0.0, stray=1.0, **plain)
    dataset = PairDataset([(TwoSquares(), 1.0)], config, pairs, Sprites([], 1.0), seed=0, length=120)
    taken = [dataset[i].templates[1].numpy() for i in range(120)]
    green = [share(template[12:20, 12:20], 1) == 1 for template in taken]
    # But for templates that are the given one again: half of what strays, and what comes upon it by chance.
    assert 0.5 * (1 - FRESH) - 0.1 < sum(green) / len(taken) < 0.8 * (1 - FRESH)


def test_paint_does_not_tell_that_a_target_is_absent() -> None:
    plain = {"grey": 0.0, "dim": 0.0, "occlude": 0.0, "distract": 0.0, "degrade": False, "flip": 0.0}
    config = SeqTrackConfig(search_size=64, template_size=32, templates=1)
    bare, painted = (
        PairDataset(
            [(TwoSquares(), 1.0)],
            config,
            PairConfig(absent=0.0, paint=paint, scale_jitter=0.0, centre_jitter=0.0, **plain),
            Sprites([], 1.0),
            seed=0,
            length=40,
        )
        for paint in (0.0, 1.0)
    )
    red = share(bare[0].search.numpy(), 2)
    crops = [painted[i].search.numpy() for i in range(40)]
    assert all(share(crop, 2) == red for crop in crops)
    assert sum((crop != bare[0].search.numpy()).any() for crop in crops) > 20
