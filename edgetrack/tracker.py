"""The tracker a user holds: a model, its online settings and the state of one target."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import TYPE_CHECKING

from edgetrack.errors import NotInitialisedError, OptionError
from edgetrack.imaging import check_box, check_frame
from edgetrack.kinds import Options, algorithm, check, graphs
from edgetrack.model import load_graphs
from edgetrack.vtt import State as Searched

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgetrack.model import Model
    from edgetrack.online import State


@dataclass(frozen=True)
class Track:
    """Where the target is in one frame.

    Attributes:
        box: (x, y, w, h) in pixels of the frame given, origin at its top-left corner.
        score: how sure the tracker is, in the terms of the model's calibration.
        ok: whether the score reaches the model's threshold; False means "cannot locate the target now", not a fault.
        latency_ms: wall time of the whole `Tracker.update` call, in milliseconds.
        timings: milliseconds by stage: "crop", "graph", "postprocess", "template".
    """

    box: tuple[float, float, float, float]
    score: float
    ok: bool
    latency_ms: float
    timings: Mapping[str, float] = field(hash=False)


@dataclass(frozen=True)
class Candidate:
    """One of the places that a model with global search considered.

    Attributes:
        box: (x, y, w, h) in pixels of the frame given.
        score: as `Track.score`.
    """

    box: tuple[float, float, float, float]
    score: float


class Tracker:
    """Follows one target.

    A tracker belongs to one thread; a `Model` may be shared by trackers in many. After any error the state is what it
    was.

    Args:
        model: a shipped name, the path of a bundle (directory or .zip), or a loaded `Model`.
        backend: where to run; "auto" takes the first that can. This and `precision`, `threads` and `allow_fallback` are
            options of `edgetrack.load`.
        decode: "fused" runs one graph a frame, "cached" the encoder and then the decoder token by token. Same boxes.
        window: strength of the penalty on leaving the crop's centre, 0 (none) to 1 (the paper's).
        update_interval: frames between template updates; 0 never updates.
        update_threshold: a template is replaced when the mean of the four token likelihoods is above this; 0 is the
            paper's naive update.

    The last three default to the model's manifest. They and `decode` are SeqTrack's: VTT has no such options.

    Raises:
        OptionError: an option is out of range, or one that the model cannot do.
        BundleError, BackendError: the model cannot be loaded; see `edgetrack.load`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        backend: str = "auto",
        *,
        precision: str = "auto",
        threads: int | None = None,
        decode: str = "fused",
        window: float | None = None,
        update_interval: int | None = None,
        update_threshold: float | None = None,
        allow_fallback: bool = False,
    ) -> None:
        options = Options(decode, window, update_interval, update_threshold)
        check(options)
        self._model = load_graphs(
            model, lambda manifest: graphs(manifest, options), backend, precision, threads, allow_fallback
        )
        self._algorithm = algorithm(self._model, options)
        self._state: State | None = None

    @property
    def model(self) -> Model:
        """The model this tracker runs; give it to other trackers to load it once."""
        return self._model

    def init(self, frame: NDArray[np.uint8], box: Sequence[float] | NDArray[np.float64]) -> None:
        """Take the target at `box`, (x, y, w, h) in pixels, of the BGR uint8 `frame` (H, W, 3). May be called again.

        Raises:
            FrameError, BoxError: an unusable frame or box; a target taken earlier is kept.
        """
        frame = check_frame(frame)
        target = check_box(box, (frame.shape[1], frame.shape[0]))
        self._state = self._algorithm.init(frame, target)

    def update(self, frame: NDArray[np.uint8]) -> Track:
        """Find the target in the next frame, BGR uint8 (H, W, 3).

        A frame may differ in size from the one before: the search begins at the last box's pixel coordinates, and the
        box returned is in pixels of this frame.

        Raises:
            NotInitialisedError: `init` has not been called.
            FrameError: an unusable frame.
        """
        started = perf_counter_ns()
        if self._state is None:
            raise NotInitialisedError("update() was called before init(); call init(frame, box) with the first box")
        frame = check_frame(frame)
        state, estimate = self._algorithm.step(self._state, frame)
        self._state = state
        x, y, w, h = state.box.tolist()
        return Track((x, y, w, h), estimate.score, estimate.ok, (perf_counter_ns() - started) / 1e6, estimate.timings)

    def candidates(self) -> tuple[Candidate, ...]:
        """All that the last `update` considered, the best first; before it, and from `init` on, nothing.

        Raises:
            OptionError: the model is of a kind that answers with one box alone.
        """
        if self._model.manifest.kind != "vtt":
            raise OptionError(f"{self._model.manifest.name!r} answers with one box; expected a model of kind 'vtt'")
        if not isinstance(self._state, Searched):
            return ()
        rows = zip(self._state.boxes.tolist(), self._state.scores.tolist(), strict=True)
        return tuple(Candidate((x, y, w, h), score) for (x, y, w, h), score in rows)

    def __repr__(self) -> str:
        target = "no target" if self._state is None else f"target at {self._state.box.round(1).tolist()}"
        return f"<Tracker {self._model!r}, {target}>"
