"""A local tracker and a search that answer as a test's script says."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from edgetrack import seqtrack, vtt
from edgetrack.online import REDETECT, STAGES, Estimate

FRAME = np.zeros((100, 200, 3), np.uint8)
TIMINGS = dict.fromkeys(STAGES, 0.0)


class ScriptedLocal:
    """Sees the target, 10 px wide, only near where the script says it is; otherwise its box moves 1 px a frame.

    Args:
        targets: the target's x in each frame; None where there is none.
        history: how many boxes it is told of.
    """

    def __init__(self, targets: list[float | None], history: int = 0) -> None:
        self.targets, self.history = targets, history
        self.looks, self.regions, self.told, self.before = [], [], [], []

    def init(self, frame: np.ndarray, box: np.ndarray) -> seqtrack.State:
        return seqtrack.State(box, box, (), {}, 0, 1.0, None, (box,) * self.history)

    def step(self, state: seqtrack.State, frame: np.ndarray) -> tuple[seqtrack.State, Estimate]:
        number = state.frame + 1
        x = state.region[0] + state.region[2] / 2 - 5  # where a box 10 px wide would lie
        self.looks.append((number, float(x)))
        self.regions.append(state.region.tolist())
        self.told.append([box[0] for box in state.history])
        self.before.append(state.score)
        target = self.targets[number]
        found = target is not None and abs(target - x) <= 20
        box = np.asarray([target if found else x + 1, 0.0, 10.0, 10.0])
        history = (*state.history[1:], box) if state.history else ()
        score = 0.9 if found else 0.1
        state = seqtrack.State(box, box, (), {}, number, score, None, history)
        return state, Estimate(score, found, dict(TIMINGS))


class ScriptedSearch:
    """Answers the candidates, by their x, that the script says, and counts.

    Args:
        answers: the candidates' x in each search, the best first.
        sure: whether it says that the best is the target.
        number_of_views: of a frame; by the x of each it is known which was searched.
    """

    def __init__(self, answers: list[float | tuple[float, ...]], sure: bool = False, number_of_views: int = 1) -> None:
        self.answers, self.sure, self.frames = answers, sure, []
        self.number_of_views, self.searched = number_of_views, []

    def init(self, frame: np.ndarray, box: np.ndarray) -> vtt.State:
        return vtt.State(box, {}, np.ones(2), None, np.empty((0, 4)), np.empty(0), box, 0)

    def views(self, target: np.ndarray, frame_size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
        return [(x, 0, 10, 10) for x in range(self.number_of_views)]

    def search(
        self, state: vtt.State, frame: np.ndarray, view: tuple[int, int, int, int]
    ) -> tuple[vtt.State, Estimate]:
        self.searched.append(view[0])
        answer = self.answers[len(self.frames)]
        self.frames.append(answer)
        boxes = np.asarray([[x, 0.0, 10.0, 10.0] for x in (answer if isinstance(answer, tuple) else (answer,))])
        found = dataclasses.replace(state, box=boxes[0], boxes=boxes, scores=np.zeros(len(boxes)))
        return found, Estimate(0.5, self.sure, dict(TIMINGS))


def follow(algorithm: Any, local: ScriptedLocal) -> list[str]:
    """T, L or R for each frame, as the tracker would report it, and the box's x where it is ok; the first box lies at
    the script's first x, or at 0."""
    state = algorithm.init(FRAME, np.asarray([local.targets[0] or 0.0, 0.0, 10.0, 10.0]))
    said = []
    for _ in local.targets[1:]:
        state, found = algorithm.step(state, FRAME)
        assert set(found.timings) == {*STAGES, REDETECT}
        word = "R" if found.redetected else "T" if found.ok else "L"
        said.append(f"{word}{state.box[0]:g}" if found.ok else word)
    return said
