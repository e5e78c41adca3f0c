"""VTT online: the whole frame is searched for the target of the first one, every time anew.

The template is fixed and nothing is assumed of where the target was. Four things go beyond the paper. A model may look
twice: at the whole frame, and then at the part of it about the best candidate, where a target that was a cell or two of
the canvas is many. Such a model follows a target that is too small to be made out in the whole frame: it looks once, at
the part about the place where it was seen in the frame before, and where it was not, twice again, beginning with one
view of the frame after the other (`edgetrack.views`). And the first frame, in which the target is known, is searched
too: how far the answer's width and height are from the target's says how far they will be. And frames may be brought to
the light of the first one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgetrack.errors import OptionError
from edgetrack.illumination import Illumination, illumination, lighting_factors, relit
from edgetrack.imaging import canvas_to_boxes, crop_square, enclosing_square, letterbox, normalise, overlap, rescaled
from edgetrack.online import Clock, Estimate
from edgetrack.scoring import logistic, logit
from edgetrack.views import views

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgetrack.bundle import LogisticScore, TopScore
    from edgetrack.model import Model
    from edgetrack_runtimes import DeviceTensor

GRAPHS = ("template", "search")
"""The graphs that run, at init and for every frame."""

RECURRENT = 0.5
"""The share of an error in the first frame, of the logarithms of width and height, that is expected in every frame."""

FOUND = 0.25
"""Overlap above which the first frame's answer is of the target, so that its size says something."""

SMALLEST_PART = 0.25
"""The smallest part of the frame, in units of its sides, that is looked at alone; training shows as little."""

WORTH_IT = 0.875
"""Of the frame's sides, above which a part is so much of what has been seen that it is not looked at again."""

# Probabilities are kept this far from 0 and 1 before a logarithm is taken of them.
_EPSILON = 1e-6


@dataclass(frozen=True, eq=False)
class State:
    """What the target looks like, and what was found last.

    Attributes:
        box: float64 (4,), (x, y, w, h) in pixels of the last frame: the best candidate's.
        kernel: the output of the `template` graph, on the device of the session it is fed to.
        stretch: float64 (2,), what the widths and heights of answers are multiplied by.
        illumination: the first frame's; None where frames are taken as they are.
        boxes: float64 (N, 4), all candidates, the best first; at `init` none. The best is as the second look has it.
        scores: float64 (N,), theirs.
        seen: float64 (4,), where the target was seen last, as `box`.
        lost: frames since then.
    """

    box: NDArray[np.float64]
    kernel: Mapping[str, DeviceTensor]
    stretch: NDArray[np.float64]
    illumination: Illumination | None
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    seen: NDArray[np.float64]
    lost: int

    def rescaled(self, factor: NDArray[np.float64]) -> State:
        """The same target in a frame of another size; see `edgetrack.online.State`."""
        box, boxes, seen = (rescaled(each, factor) for each in (self.box, self.boxes, self.seen))
        return replace(self, box=box, boxes=boxes, seen=seen)


class VTT:
    """The online algorithm on one model. Safe to share: nothing here changes after construction.

    Opens both graphs, so that a backend that cannot run one says so here and not at a later frame.

    Args:
        model: of kind "vtt".
    """

    def __init__(self, model: Model) -> None:
        manifest = model.manifest
        if manifest.kind != "vtt":
            raise OptionError(f"got {manifest.name!r}, of kind {manifest.kind!r}; expected a model of kind 'vtt'")
        self._manifest = manifest
        self._template, self._search = model.session("template"), model.session("search")
        self._second_look = manifest.online.second_look

    def init(self, frame: NDArray[np.uint8], box: NDArray[np.float64]) -> State:
        """Take the target from `frame` at `box`: the square of its longer side is the template.

        Costs as much as a step, whose answer tells the sizes of the target from its own.
        """
        preprocessing = self._manifest.preprocessing
        settings = preprocessing.template
        crop = crop_square(frame, enclosing_square(box), settings.factor, settings.size).image
        template = normalise(crop, preprocessing.mean, preprocessing.std)[None]
        outputs = self._template.run({"template": template})
        kernel = {name: self._search.upload(name, value) for name, value in outputs.items()}
        first = illumination(frame) if self._manifest.online.match_illumination else None
        box = box.copy()  # the caller may go on to change the array
        state = State(box, kernel, np.ones(2), first, np.empty((0, 4)), np.empty(0), box, 0)
        answer = self.step(state, frame)[0].box
        if overlap(answer, box) <= FOUND:
            return state
        return replace(state, stretch=(box[2:] / answer[2:]) ** RECURRENT)

    def step(self, state: State, frame: NDArray[np.uint8]) -> tuple[State, Estimate]:
        """Find the target of `state` in `frame`."""
        clock, frame_size = Clock(), (frame.shape[1], frame.shape[0])
        factors = lighting_factors(state.illumination, frame)
        views = self.views(state.seen, frame_size)
        near = self._part(state.seen, frame_size) if len(views) > 1 and not state.lost else None
        boxes, scores = self._look(state, frame, near or views[max(state.lost - 1, 0) % len(views)], factors, clock)
        part = self._part(boxes[0], frame_size) if near is None else None
        if part is not None:
            again, sure = self._look(state, frame, part, factors, clock)
            boxes[0], scores[0] = again[0], sure[0]
        found, estimate = self._found(state, boxes, scores, clock)
        seen, lost = (found.box, 0) if estimate.ok else (state.seen, state.lost + 1)
        return replace(found, seen=seen, lost=lost), estimate

    def search(self, state: State, frame: NDArray[np.uint8], view: tuple[int, int, int, int]) -> tuple[State, Estimate]:
        """Find the target of `state` in a view of `frame`, (x, y, w, h) in whole pixels, at one look."""
        clock = Clock()
        boxes, scores = self._look(state, frame, view, lighting_factors(state.illumination, frame), clock)
        return self._found(state, boxes, scores, clock)

    def views(self, target: NDArray[np.float64], frame_size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        """What to search in turn for a target that was seen at `target` last; see `edgetrack.views`.

        The whole frame alone for a model that looks at nothing closer.
        """
        if not self._second_look:
            return [(0, 0, *frame_size)]
        canvas = self._manifest.preprocessing.search
        return views(target, frame_size, (canvas.width, canvas.height), SMALLEST_PART)

    def _found(
        self, state: State, boxes: NDArray[np.float64], scores: NDArray[np.float64], clock: Clock
    ) -> tuple[State, Estimate]:
        """The best first, stretched, with calibrated scores."""
        calibration = self._manifest.score
        sizes = boxes[:, 2:] * state.stretch
        boxes = np.concatenate([boxes[:, :2] + 0.5 * (boxes[:, 2:] - sizes), sizes], axis=1)
        calibrated = np.asarray([calibrated_score(calibration, value) for value in scores.tolist()])
        score = float(calibrated[0])
        clock.lap("postprocess")
        found = replace(state, box=boxes[0], boxes=boxes, scores=calibrated)
        return found, Estimate(score, score >= calibration.ok_threshold, clock.stages)

    def _look(
        self,
        state: State,
        frame: NDArray[np.uint8],
        view: tuple[int, int, int, int],
        factors: NDArray[np.float64],
        clock: Clock,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Boxes (N, 4), x, y, w, h in pixels of `frame`, and probabilities (N,) of the candidates in a view of it.

        The best come first. The channels of `frame` are multiplied by `factors`.
        """
        preprocessing = self._manifest.preprocessing
        x, y, width, height = view
        image = frame[y : y + height, x : x + width]
        canvas = letterbox(image, preprocessing.search.width, preprocessing.search.height)
        search = normalise(relit(canvas.image, factors), preprocessing.mean, preprocessing.std)[None]
        extent = canvas.extent.astype(np.float32)[None]
        clock.lap("crop")
        out = self._search.run({"search": search, "extent": extent, **state.kernel})
        clock.lap("graph")
        scores, boxes = out["scores"][0].astype(np.float64), out["boxes"][0].astype(np.float64)
        boxes = canvas_to_boxes(boxes, canvas.extent, (width, height)) + np.asarray([x, y, 0, 0])
        nowhere = ~np.isfinite(boxes).all(axis=1)  # a device may answer so once, and nobody is to get such a box
        boxes[nowhere], scores[nowhere] = state.seen, np.nan
        order = np.argsort(-scores, kind="stable")
        return boxes[order], scores[order]

    def _part(self, box: NDArray[np.float64], frame_size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """The part of the frame, x, y, w, h in whole pixels, that is looked at again for a target at `box`.

        It has the canvas's aspect, as far as the frame reaches, and shows the target at `second_look` of the canvas's
        shorter side. None where that is no gain, or there is no target to be shown: a flat box.
        """
        if not (box[2:] > 0).all():
            return None
        canvas = self._manifest.preprocessing.search
        sides, frame = np.asarray([canvas.width, canvas.height]), np.asarray(frame_size)
        scale = (sides / frame).min()  # pixels of the canvas for one of the frame
        wanted = self._second_look * sides.min()
        share = max(math.sqrt(box[2:].prod()) * scale / wanted, SMALLEST_PART) if wanted else 1.0
        if share > WORTH_IT:
            return None
        size = np.clip(np.rint(sides / scale * share), 1, frame).astype(int)
        corner = np.clip(np.rint(box[:2] + 0.5 * (box[2:] - size)), 0, frame - size).astype(int)
        return int(corner[0]), int(corner[1]), int(size[0]), int(size[1])


def calibrated_score(calibration: TopScore | LogisticScore, probability: float) -> float:
    """Return the score that a bundle's calibration makes of a query's softmax probability."""
    if math.isnan(probability):
        return 0.0  # nothing was found
    if calibration.source == "top":
        return probability
    return logistic(calibration.intercept + calibration.slope * score_feature(probability))


def score_feature(probability: float) -> float:
    """Return what a calibration weighs: the logit of the probability, finite."""
    return logit(probability, _EPSILON)
