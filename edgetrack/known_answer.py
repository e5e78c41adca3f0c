"""The known-answer test: whether a backend computes what the model does.

A runtime can take a graph, run it fast and answer nonsense, with no error: TensorRT 8.6 did so with INT8 graphs that
ONNX Runtime and OpenVINO agree on. So a bundle says what each of its variants answers to one question, which is two
frames that are drawn here by formula, the same on every machine; and `edgetrack.load` asks it, as `edgetrack.Tracker`
does for the graphs that it loads. A loaded model that is given to a tracker which decodes in another way is not asked
again.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from edgetrack.errors import WrongAnswerError
from edgetrack.imaging import overlap
from edgetrack.kinds import Options, algorithm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetrack.bundle import KnownAnswer
    from edgetrack.model import Model

WIDTH, HEIGHT = 320, 240
TARGET = (136.0, 102.0, 52.0, 40.0)
MOVED = (151.0, 93.0, 52.0, 40.0)
"""Where the target is in the first frame and in the second: x, y, w, h in pixels."""
LEAST_OVERLAP = 0.8
"""Of a box with the known one. Between runtimes that compute the same model it is 0.94 and more: in INT8 a last bit
makes values round the other way. What computes something else is nowhere near."""
LARGEST_DIFFERENCE = 0.2
"""Of a score from the known one, either way; between the same it is 0.01."""


@cache
def frames() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The two frames, BGR uint8 (HEIGHT, WIDTH, 3), a red and white ball over green waves; not to be written to."""
    return _drawn(TARGET), _drawn(MOVED)


def _drawn(box: tuple[float, float, float, float]) -> NDArray[np.uint8]:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    waves = np.sin(x / 17 + np.sin(y / 23)) + np.sin(y / 13 - x / 41) + np.sin((x + 2 * y) / 7) / 2
    ground = np.stack([96 + 14 * waves, 118 + 16 * waves, 104 + 12 * waves], axis=-1)
    left, top, width, height = box
    across, down = (x - left) / width * 2 - 1, (y - top) / height * 2 - 1
    # One inside the ellipse, nothing outside, and on a pixel's width of its edge what lies between.
    inside = np.clip((1 - np.hypot(across, down)) * width / 4 + 0.5, 0, 1)[..., None]
    ball = np.where((np.sin(6 * across) > 0)[..., None], (40.0, 60.0, 210.0), (235.0, 235.0, 225.0))
    drawn: NDArray[np.uint8] = np.rint(ground * (1 - inside) + ball * inside).astype(np.uint8)
    drawn.setflags(write=False)
    return drawn


def ask(model: Model, decode: str = "fused") -> tuple[NDArray[np.float64], float]:
    """What a model says of the second frame: the box, float64 (4,), x, y, w, h in pixels, and the score.

    Args:
        decode: as `edgetrack.Tracker` takes it; SeqTrack's alone.
    """
    # Without what only a longer film would use.
    options = Options() if model.manifest.kind == "vtt" else Options(decode, look_around=False)
    tracker, (first, second) = algorithm(model, options), frames()
    state, estimate = tracker.step(tracker.init(first, np.asarray(TARGET)), second)
    return state.box, estimate.score


def verify(model: Model, decode: str = "fused") -> None:
    """Ask a model the question, if its bundle knows the answer.

    Raises:
        WrongAnswerError: it answers otherwise.
    """
    known = model.manifest.known_answers.get(model.variant)
    if known is None:
        return
    box, score = ask(model, decode)
    if not agree(box, score, known):
        others = sorted(set(model.manifest.variants) - {model.precision})
        raise WrongAnswerError(
            f"{model.backend} computes {model.manifest.name!r} in {model.precision} wrongly: in a picture whose answer "
            f"is known it puts the target at {np.round(box, 1).tolist()} with a score of {score:.3f}; right is "
            f"{np.round(known.box, 1).tolist()} with {known.score:.3f}. Take another backend, another version of the "
            f"runtime{f', or precision {others[0]!r}' if others else ''}"
        )


def agree(box: NDArray[np.float64], score: float, known: KnownAnswer) -> bool:
    """Whether an answer is, but for rounding, the known one; what is not a number is not."""
    near = bool(overlap(box, np.asarray(known.box)) >= LEAST_OVERLAP)
    return near and abs(score - known.score) <= LARGEST_DIFFERENCE
