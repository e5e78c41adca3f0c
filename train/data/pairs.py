"""Training examples: template crops, a search crop as wrong as a tracker's own, and the target's box in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from edgetrack.imaging import box_to_crop, crop_square
from train.data import augment, conceal
from train.data.images import Image
from train.data.labels import Box, DatasetError
from train.data.scenes import Sprites, paste, transform
from train.data.sources import Rng, Source, View
from train.models.registry import Config


@dataclass(frozen=True)
class PairConfig:
    """How views become pairs. Jitters follow SeqTrack's official processing; probabilities are per example."""

    centre_jitter: float = 3.5
    """Largest offset of the search crop's centre from the target's is half of this, in target sides."""
    scale_jitter: float = 0.3
    """Standard deviation of the logarithm of the search crop's scale, or of the width's and of the height's of the box
    that it is cut around where these are drawn apart."""
    template_jitter: float = 0.05
    """The same for the template crop's scale."""
    drift: float = 0.08
    """How far off the templates after the first are, which a tracker takes itself: standard deviation of the centre's
    offset, in target sides, and of the logarithm of the scale."""
    stray: float = 0.25
    """Chance that such a template shows something else, which was taken for the target."""
    flip: float = 0.5
    grey: float = 0.12
    dim: float = 0.08
    """Scenes with a third to a sixteenth of their light."""
    shade: float = 0.0
    """Crops, each for itself, that `train.data.augment.shade` lays shadows over."""
    occlude: float = 0.15
    distract: float = 0.15
    paint: float = 0.1
    """Present targets with a place beside them painted over, or paint alone would tell that a target is absent."""
    absent: float = 0.2
    max_gap: int = 400
    """Frames between the search view and a template."""
    reduced: bool = False
    """Decode pictures at a half, a quarter or an eighth where the crop is coarser still: faster, and a little smoother
    than the crops of a frame in full."""
    window: float = 0.0
    """Whole frames: chance that the search image is a part of the frame."""
    least: float = 0.35
    """Whole frames: the smallest such part, in sides of the frame."""
    shrink: float = 0.0
    """Whole frames: chance that the search image fills only a part of its canvas."""
    degrade: bool = True
    """Whether crops get what `train.data.augment.degrade` draws; the official processing does without."""
    official: bool = False
    """SeqTrack's own processing: the search frame after the first template and the other templates before it, stills as
    they are, jitter of one spread with width and height apart, of light only brightness, by up to a fifth, and as the
    target's box the part of it that the search crop shows."""

    def __post_init__(self) -> None:
        for name in CHANCES:
            chance = getattr(self, name)
            if type(chance) not in (int, float) or not 0 <= chance <= 1:
                raise ValueError(f"pairs.{name} is {chance!r}; expected a probability, a number from 0 to 1")


CHANCES = (*("stray", "flip", "grey", "dim", "shade", "occlude", "distract", "paint", "absent", "window", "shrink"),)
OFFICIAL = PairConfig(
    scale_jitter=0.5,
    template_jitter=0.0,
    drift=0.0,
    stray=0.0,
    grey=0.05,
    dim=0.0,
    occlude=0.0,
    distract=0.0,
    paint=0.0,
    absent=0.0,
    official=True,
)
"""SeqTrack's published training."""
WHOLE_FRAMES = PairConfig(
    template_jitter=0.0,
    drift=0.0,
    stray=0.0,
    grey=0.0,
    dim=0.0,
    occlude=0.0,
    distract=0.0,
    paint=0.0,
    absent=0.0,
    window=0.5,
    shrink=0.5,
    degrade=False,
)
"""VTT's published training: scales, crops and flips."""
FRESH = 0.2
"""Share of examples of a tracker that has taken no template yet: the first is in all slots."""
ASTRAY = 8
"""Places drawn in search of one in the search crop that a tracker may have strayed to."""
ABSENCES = {"elsewhere": 0.2, "hidden": 0.25, "beside": 0.4, "other": 0.15}
"""Shares of what a search crop without the target shows: most often another object of its picture, since what is of its
kind is what a tracker takes for it most easily."""
BROKEN = 20
"""Broken files in a row that are passed over before training stops: more is no accident."""


class Pair(NamedTuple):
    """One example.

    Attributes:
        templates: uint8 (T, St, St, 3), BGR.
        search: uint8 (S, S, 3), BGR, a crop; or (H, W, 3), a canvas with the frame in its top-left corner.
        box: float32 (4,), cx, cy, w, h in units of the search image's width and height; zeros when absent. Of a crop
            it may reach beyond the border, but for the official processing's.
        present: bool scalar.
        extent: float32 (2,), shares of the search image's width and height that show anything; ones for a crop.
        history: float32 (F, 4), where the boxes of the F frames before lie in the search crop, oldest first, cx, cy, w,
            h in units of its side; F is the model's `prompt_frames`.
    """

    templates: Tensor
    search: Tensor
    box: Tensor
    present: Tensor
    extent: Tensor
    history: Tensor


class Look(NamedTuple):
    """What is done to a crop: shadows with a chance of `shade`, what `augment.degrade` draws, if so wished, and the
    rest."""

    flip: bool
    grey: bool
    brightness: float
    degrade: bool
    shade: float


class PairDataset(Dataset[Pair]):
    """Example number i is a function of (seed, i) and the spawn key alone: any split over workers, and any resumption,
    gives the same stream.

    Args:
        sources: (source, weight) pairs; weights need not sum to one.
        config: the model's sizes and crop factors.
        pairs: how views become pairs.
        sprites: occluders and distractors.
        seed: of the stream.
        length: number of examples.
        spawn_key: as `numpy.random.SeedSequence` takes it: streams of another key share no example, whatever the seed.
    """

    def __init__(
        self,
        sources: Sequence[tuple[Source, float]],
        config: Config,
        pairs: PairConfig,
        sprites: Sprites,
        *,
        seed: int,
        length: int,
        spawn_key: tuple[int, ...] = (),
    ) -> None:
        self._sources = [source for source, _ in sources]
        weights = np.asarray([weight for _, weight in sources], np.float64)
        self._weights = weights / weights.sum()
        self._config, self._pairs, self._sprites = config, pairs, sprites
        self._seed, self._length, self._spawn_key = seed, length, spawn_key
        self._reported: set[str] = set()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Pair:
        rng = np.random.default_rng(np.random.SeedSequence((self._seed, index), spawn_key=self._spawn_key))
        views = self._views(rng)
        present = rng.random() >= self._pairs.absent
        flip, grey = rng.random() < self._pairs.flip, rng.random() < self._pairs.grey
        *template_looks, search_look = self._looks(rng, flip, grey, len(views))
        # The official code treats the templates that a tracker takes itself as it does the one that is given.
        given = views[:-1] if self._pairs.official else views[:1]
        templates = [
            self._finish(rng, self._template(rng, view), look)
            for view, look in zip(given, template_looks, strict=False)
        ]
        if present:
            search, box = self._search(rng, views[-1])
        else:
            search, box = self._absent(rng, views[-1]), np.zeros(4)
        if len(views) - 1 > len(templates) and rng.random() < FRESH:
            templates *= len(views) - 1
        for view in views[len(templates) : -1]:
            # A tracker's own templates are of late: they are lit as the search crop is.
            taken = self._taken(rng, view, search, box if present else None)
            templates.append(self._finish(rng, taken, search_look))
        history = self._history(rng, views[-1])
        if search_look.flip:
            history[:, 0] = 1 - history[:, 0]
            box[0] = 1 - box[0] if present else 0
        search, extent = self._framed(self._finish(rng, search, search_look))
        return Pair(
            torch.from_numpy(np.stack(templates)),
            torch.from_numpy(search),
            torch.from_numpy((box * np.tile(extent, 2)).astype(np.float32)),
            torch.tensor(present),
            torch.from_numpy(extent.astype(np.float32)),
            torch.from_numpy(history.astype(np.float32)),
        )

    def _template(self, rng: Rng, view: View) -> Image:
        """The template crop, of nearly the right scale."""
        config = self._config
        box = rescale(view.box, float(np.exp(rng.normal(0, self._pairs.template_jitter))))
        return crop_square(view.image, box, config.template_factor, config.template_size).image

    def _taken(self, rng: Rng, view: View, search: Image, box: Box | None) -> Image:
        """A template that a tracker took itself: a little off, or of what it took for the target.

        Args:
            view: of the target.
            search: the search crop.
            box: the target's in it, cx, cy, w, h in units of its side; None where it is absent.
        """
        config, pairs = self._config, self._pairs
        if rng.random() < pairs.stray:
            return self._astray(rng, view, search, box)
        around = rescale(view.box, float(np.exp(rng.normal(0, pairs.drift))))
        around[:2] += rng.normal(0, pairs.drift, 2) * np.sqrt(view.box[2] * view.box[3])
        return crop_square(view.image, around, config.template_factor, config.template_size).image

    def _astray(self, rng: Rng, view: View, search: Image, box: Box | None) -> Image:
        """A template of something else: of what lies about the middle of the search crop if the target is absent, since
        that is what a tracker follows then; of a place beside the target, or of another object of the same picture, if
        it is not; or of any other target."""
        config = self._config
        if box is not None and rng.random() < 0.5 and (other := self._other(rng, view)) is not None:
            return self._template(rng, View(view.image, other))
        side = config.search_size / config.search_factor * float(np.exp(rng.normal(0, 0.2)))
        for _ in range(ASTRAY if rng.random() < 0.75 else 0):
            centre = 0.5 + rng.normal(0, 0.1, 2) if box is None else rng.random(2)
            if box is None or (np.abs(centre - box[:2]) > box[2:]).any():
                place = np.asarray([*(centre * config.search_size - side / 2), side, side])
                return crop_square(search, place, config.template_factor, config.template_size).image
        return self._template(rng, self._views(rng)[0])

    def _framed(self, image: Image) -> tuple[Image, NDArray[np.float64]]:
        """The search image as the network gets it, and its extent."""
        return image, np.ones(2)

    def _views(self, rng: Rng) -> list[View]:
        """Views of one target. A broken file among a million must not end a run that resuming would only end again:
        it is named in the log and another target is drawn."""
        for attempt in range(1, BROKEN + 1):
            source = self._sources[rng.choice(len(self._sources), p=self._weights)]
            try:
                return source.views(rng, self._config.templates)
            except DatasetError as error:
                if attempt == BROKEN:
                    raise
                if str(error) not in self._reported:
                    self._reported.add(str(error))
                    logging.getLogger(__name__).warning("passed over: %s", error)
        raise AssertionError("unreachable")

    def _looks(self, rng: Rng, flip: bool, grey: bool, views: int) -> list[Look]:
        """How the crop of each of the views is to look, the search crop's the last. The official code flips all alike
        and then, with other dice, each template and the search crop for itself, whose brightness it draws apart too."""
        if self._pairs.official:
            again, factors = rng.random(views) < self._pairs.flip, rng.uniform(0.8, 1.2, views)
            return [Look(flip ^ bool(a), grey, float(f), False, 0.0) for a, f in zip(again, factors, strict=True)]
        light = np.ones(2)
        if rng.random() < self._pairs.dim:
            light = np.exp(rng.uniform(np.log(0.06), np.log(0.4)) + rng.normal(0, 0.3, 2))
        degrade, shade = self._pairs.degrade, self._pairs.shade
        template, search = (Look(flip, grey, min(1.0, float(f)), degrade, shade) for f in light)
        return [template] * (views - 1) + [search]

    def _search(self, rng: Rng, view: View) -> tuple[Image, Box]:
        """The search crop around a box that is off by what a tracker's last box may be off by."""
        config = self._config
        around = self._jitter(rng, view)
        image, scale = crop_square(view.image, around, config.search_factor, config.search_size)
        box = box_to_crop(view.box, around, scale, config.search_size)
        if rng.random() < self._pairs.paint:
            self._paint(rng, image, box)
        if rng.random() < self._pairs.distract:
            self._distract(rng, image, box)
        if rng.random() < self._pairs.occlude:
            self._occlude(rng, image, box)
        return image, clipped(box) if self._pairs.official else box

    def _jitter(self, rng: Rng, view: View) -> Box:
        """Most crops are nearly right, some lie anywhere that still shows the target's centre.

        Greedy decoding takes the most likely size, and a log-normal quantity is most likely below its median, by
        the factor exp(-sigma^2): a model unsure of the size would answer a little small, frame after frame, until the
        search region has shrunk to nothing. The crop's scale is drawn so that the most likely size is the right one.

        The official processing draws width and height apart, about the right ones, and the centre evenly.

        With a prompt, half of the crops lie where the target was before: from others nothing is learned of its motion.
        """
        sigma = self._pairs.scale_jitter
        if self._pairs.official:
            around, spread = rescale(view.box, np.exp(rng.normal(0, sigma, 2))), 1.0
        else:
            around = rescale(view.box, float(np.exp(rng.normal(-(sigma**2), sigma))))
            spread = rng.choice((0.25, 0.5, 1.0), p=(0.6, 0.25, 0.15))
        reach = float(np.sqrt(around[2] * around[3])) * self._pairs.centre_jitter * spread
        if view.past is not None and rng.random() < 0.5:
            last = view.past[-1]
            moved = last[:2] - view.box[:2] + (last[2:] - view.box[2:]) / 2
            if np.abs(moved).max() < reach / 2 / spread:
                around[:2] += moved
                return around
        around[:2] += reach * (rng.random(2) - 0.5)
        return around

    def _history(self, rng: Rng, view: View) -> NDArray[np.float64]:
        """Where the last boxes lie in the search crop: the last in its middle, since a tracker cuts the crop around it,
        the others as the target moved, or as it may have moved where that is not known."""
        frames = self._config.prompt_frames
        if not frames:
            return np.zeros((0, 4))
        factor = self._config.search_factor
        if view.past is None:
            drift = rng.normal(0, 0.15, 2) * np.arange(1 - frames, 1)[:, None] + rng.normal(0, 0.03, (frames, 2))
            grown = rng.normal(0, 0.03, (frames, 1))
        else:
            centres = view.past[:, :2] + view.past[:, 2:] / 2
            sides = np.sqrt(view.past[:, 2:].prod(1))
            drift, grown = (centres - centres[-1]) / sides[-1], np.log(sides / sides[-1])[:, None]
        drift[-1], grown[-1] = 0, 0
        shape = view.box[2:] / np.sqrt(view.box[2] * view.box[3])
        return np.concatenate([0.5 + drift / factor, shape * np.exp(grown) / factor], 1)

    def _absent(self, rng: Rng, view: View) -> Image:
        """A search crop without the target: the same scene elsewhere, the target painted over, another object of the
        same picture, or another scene."""
        config = self._config
        kind = rng.choice(list(ABSENCES), p=list(ABSENCES.values()))
        if kind == "elsewhere" and (around := self._elsewhere(rng, view)) is not None:
            return crop_square(view.image, around, config.search_factor, config.search_size).image
        if kind == "beside" and (around := self._beside(rng, view)) is not None:
            image, scale = crop_square(view.image, around, config.search_factor, config.search_size)
            box = box_to_crop(view.box, around, scale, config.search_size)
            if (np.abs(box[:2] - 0.5) < 0.5 + box[2:] / 2).all():
                conceal.erase(rng, image, box)
            return image
        other = self._views(rng)[-1]
        if kind == "other":
            return crop_square(other.image, self._jitter(rng, other), config.search_factor, config.search_size).image
        around = self._jitter(rng, view)
        image, scale = crop_square(view.image, around, config.search_factor, config.search_size)
        self._hide(rng, image, box_to_crop(view.box, around, scale, config.search_size), other.image)
        return image

    def _elsewhere(self, rng: Rng, view: View) -> Box | None:
        """A place in the picture whose search crop does not show the target; None where none was found."""
        side = float(np.sqrt(view.box[2] * view.box[3]))
        height, width = view.image.shape[:2]
        reach = 0.5 * (self._config.search_factor * side + view.box[2:])
        for _ in range(4):
            centre = rng.random(2) * (width, height)
            if (np.abs(centre - (view.box[:2] + view.box[2:] / 2)) > reach).any():
                return np.asarray([*(centre - side / 2), side, side])
        return None

    def _beside(self, rng: Rng, view: View) -> Box | None:
        """Around another object; None where there is none."""
        other = self._other(rng, view)
        return None if other is None else self._jitter(rng, View(view.image, other))

    @staticmethod
    def _other(rng: Rng, view: View) -> Box | None:
        """Another object, of the target's kind as often as not, that the target does not hide; None where there is
        none."""
        if not len(view.others):
            return None
        box = view.others[int(rng.integers(len(view.others)))]
        low, high = np.maximum(box[:2], view.box[:2]), np.minimum(box[:2] + box[2:], view.box[:2] + view.box[2:])
        if np.maximum(high - low, 0).prod() > 0.2 * box[2:].prod():
            return None
        return box

    @staticmethod
    def _hide(rng: Rng, image: Image, box: Box, texture: Image) -> None:
        """Paint the target over, with what is beside it or with a piece of another picture."""
        if rng.random() < 0.6:
            conceal.erase(rng, image, box)
        else:
            conceal.cover(rng, image, box, texture)

    def _paint(self, rng: Rng, image: Image, box: Box) -> None:
        """Paint over a place of the target's size that does not touch it."""
        for _ in range(4):
            place = np.concatenate([rng.random(2), box[2:]])
            if (np.abs(place[:2] - box[:2]) > 1.6 * box[2:]).any():
                conceal.erase(rng, image, place, spared=box)
                return

    def _distract(self, rng: Rng, image: Image, box: Box) -> None:
        """Paste a cut-out beside the target, about its size."""
        height, width = image.shape[:2]
        for _ in range(rng.integers(1, 4)):
            sprite = transform(
                self._sprites.pick(rng),
                max(6.0, float(box[2]) * width * rng.uniform(0.6, 1.4)),
                rng.uniform(-30, 30),
                1.0,
            )
            h, w = sprite.shape[:2]
            x, y = rng.uniform(-0.2, 1.0, 2)
            apart_x = abs(x + w / width / 2 - box[0]) > (w / width + box[2]) / 2
            apart_y = abs(y + h / height / 2 - box[1]) > (h / height + box[3]) / 2
            if apart_x or apart_y:
                paste(image, sprite, int(x * width), int(y * height))

    def _occlude(self, rng: Rng, image: Image, box: Box) -> None:
        """Cover up to about half of the target from one side."""
        height, width = image.shape[:2]
        w, h = box[2] * width, box[3] * height
        sprite = transform(self._sprites.pick(rng), max(4.0, w * rng.uniform(0.4, 0.9)), rng.uniform(-90, 90), 1.0)
        angle = rng.uniform(0, 2 * np.pi)
        x = box[0] * width + 0.5 * w * np.cos(angle) - sprite.shape[1] / 2
        y = box[1] * height + 0.5 * h * np.sin(angle) - sprite.shape[0] / 2
        paste(image, sprite, int(x), int(y))

    @staticmethod
    def _finish(rng: Rng, image: Image, look: Look) -> Image:
        if look.shade and rng.random() < look.shade:
            image = augment.shade(rng, image)
        if look.degrade:
            image = augment.degrade(rng, image)
        if look.brightness != 1:
            image = augment.brighten(image, look.brightness)
        if look.grey:
            image = augment.grey(image)
        return np.ascontiguousarray(image[:, ::-1] if look.flip else image)


def rescale(box: Box, factor: float | NDArray[np.float64]) -> Box:
    """The box grown about its centre, by one factor or by one each for width and height."""
    wh = box[2:] * factor
    return np.concatenate([box[:2] + 0.5 * (box[2:] - wh), wh])


def clipped(box: Box) -> Box:
    """The part of a box, cx, cy, w, h in units of the crop, that lies in the crop."""
    low, high = np.clip((box[:2] - box[2:] / 2, box[:2] + box[2:] / 2), 0, 1)
    return np.concatenate([(low + high) / 2, high - low])
