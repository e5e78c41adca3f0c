"""The tracker a user holds: a model, its online settings and the state of one target."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NoReturn

from edgetrack.arguments import plain
from edgetrack.errors import NotInitialisedError, OptionError
from edgetrack.imaging import check_box, check_frame, growth
from edgetrack.kinds import Options, algorithm, check, require_pair
from edgetrack.longterm import State as Redetecting
from edgetrack.model import Model, load_beside, load_for, read_unless_loaded
from edgetrack.vtt import State as Searched

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from edgetrack.bundle import Bundle
    from edgetrack.online import State

logger = logging.getLogger("edgetrack")


class TrackState(str, Enum):
    """What became of the target in a frame."""

    TRACKED = "tracked"
    """It is where the tracker looked for it."""
    LOST = "lost"
    """It cannot be located now."""
    REDETECTED = "redetected"
    """It was lost, and was found again elsewhere in the frame."""

    def __str__(self) -> str:
        return self.value  # the word that JSON lines have


@dataclass(frozen=True)
class Track:
    """Where the target is in one frame.

    Attributes:
        box: (x, y, w, h) in pixels of the frame given, origin at its top-left corner. SeqTrack's is the part of the
            target that lies in the frame.
        score: how sure the tracker is, in the terms of the model's calibration.
        ok: whether the score reaches the model's threshold; False means "cannot locate the target now", not a fault.
        latency_ms: wall time of the whole `Tracker.update` call, in milliseconds.
        timings: milliseconds by stage: "crop", "graph", "postprocess", "template"; with `redetect` or `look_around`,
            also "redetect".
        redetected: whether the target had been lost and was found elsewhere in this frame.
    """

    box: tuple[float, float, float, float]
    score: float
    ok: bool
    latency_ms: float
    timings: Mapping[str, float] = field(hash=False)
    redetected: bool = False

    @property
    def state(self) -> TrackState:
        """`ok` and `redetected` in one word."""
        if self.redetected:
            return TrackState.REDETECTED
        return TrackState.TRACKED if self.ok else TrackState.LOST


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
        backend: where to run; "auto" takes the first that can. This and `precision`, `threads`, `allow_fallback` and
            `cache_dir` are options of `edgetrack.load`.
        decode: "fused" runs one graph a frame, "cached" the encoder and then the decoder token by token: the same boxes
            but for rounding.
        window: strength of the penalty on leaving the crop's centre, 0 (none) to 1 (the paper's).
        update_interval: frames between template updates; 0 never updates.
        update_threshold: a template is replaced when the mean of the four token likelihoods is above this; 0 is the
            paper's naive update.
        look_around: whether one more place around a lost target is looked at in every frame, from the sixteenth that it
            is lost in, for which such a frame takes twice as long. A template is then replaced at a score of 0.9 or
            more alone.
        redetect: a model of kind "vtt", given as `model` is. The whole frame is searched with it for a lost target,
            from the sixteenth frame that it is lost in, one part in a frame where the target was small, and what it
            finds is taken once `model`, of kind "seqtrack", is sure of it, too. A template is then replaced at a score
            of 0.9 or more alone. Where `model` is loaded and this is not, it is loaded for the same backend with the
            same options, and where its bundle can in the same precision.
        redetect_interval: frames from one such search to the next, at least; 1 where it is left out.

    Window, updates and looking around default to the model's manifest. They and `decode` are SeqTrack's: VTT has no
    such options.

    Raises:
        OptionError: an option is out of range, or one that the model cannot do.
        BundleError, BackendError, MissingDependencyError: the model cannot be loaded; see `edgetrack.load`.
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
        look_around: bool | None = None,
        allow_fallback: bool = False,
        cache_dir: str | os.PathLike[str] | None = None,
        redetect: str | os.PathLike[str] | Model | None = None,
        redetect_interval: int | None = None,
    ) -> None:
        options = Options(decode, plain(window), plain(update_interval), plain(update_threshold), plain(look_around))
        check(options)
        interval = 1 if redetect_interval is None else plain(redetect_interval)
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise OptionError(f"got redetect_interval={interval!r}; expected a whole number of at least 1")
        if redetect is None and redetect_interval is not None:
            raise OptionError(
                f"got redetect_interval={interval} without redetect, whose interval it is; leave it out, or give "
                "redetect a model, such as 'vtt-nano'"
            )
        local: str | os.PathLike[str] | Model | Bundle = model
        search: Model | Bundle | None = None
        if redetect is not None:
            first, second = read_unless_loaded(model), read_unless_loaded(redetect)
            require_pair(first.manifest, second.manifest)  # now: loading either may take minutes
            local, search = first, second
        self._model = load_for(local, options, backend, precision, threads, allow_fallback, cache_dir)
        self._search: Model | None = None
        if isinstance(local, Model) and search is not None and not isinstance(search, Model):
            self._search = load_beside(search, local, precision)
        elif search is not None:
            self._search = load_for(search, Options(), backend, precision, threads, allow_fallback, cache_dir)
        self._algorithm = algorithm(self._model, options, self._search, interval)
        self._searches = self._search is not None or self._model.manifest.kind == "vtt"
        self._state: State | None = None
        self._frame_size = (0, 0)

    @property
    def model(self) -> Model:
        """The model this tracker runs; give it to other trackers to load it once."""
        return self._model

    @property
    def search(self) -> Model | None:
        """The model that looks for a lost target in the whole frame; None without `redetect`."""
        return self._search

    def init(self, frame: NDArray[Any], box: Sequence[float] | NDArray[Any]) -> None:
        """Take the target at `box`, (x, y, w, h) in pixels, of the BGR uint8 `frame` (H, W, 3). May be called again.

        Logs a warning where the box reaches over the border and its last two numbers could be a corner, as detectors
        give it.

        Raises:
            FrameError, BoxError: an unusable frame or box; a target taken earlier is kept.
        """
        frame = check_frame(frame)
        frame_size = (frame.shape[1], frame.shape[0])
        target = check_box(box, frame_size)
        _ask_about_corners(target, frame_size)
        self._state = self._algorithm.init(frame, target)
        self._frame_size = frame_size

    def update(self, frame: NDArray[Any]) -> Track:
        """Find the target in the next frame, BGR uint8 (H, W, 3).

        A frame may differ in size from the one before, and the box returned is in pixels of this frame. Where the
        aspect is the same it is taken for the same view in another resolution, as a stream switches it, and the target
        is looked for at the last box's place in the view; elsewhere at its pixel coordinates.

        Raises:
            NotInitialisedError: `init` has not been called.
            FrameError: an unusable frame.
        """
        started = perf_counter_ns()
        if self._state is None:
            raise NotInitialisedError("update() was called before init(); call init(frame, box) with the first box")
        frame = check_frame(frame)
        frame_size = (frame.shape[1], frame.shape[0])
        state = self._state
        if frame_size != self._frame_size and (factor := growth(self._frame_size, frame_size)) is not None:
            state = state.rescaled(factor)
        state, estimate = self._algorithm.step(state, frame)
        self._state, self._frame_size = state, frame_size
        x, y, w, h = state.box.tolist()
        latency_ms = (perf_counter_ns() - started) / 1e6
        return Track((x, y, w, h), estimate.score, estimate.ok, latency_ms, estimate.timings, estimate.redetected)

    def candidates(self) -> tuple[Candidate, ...]:
        """All that the search considered in the last `update`, the best first.

        The best, which is what was answered, is as it was seen closer where it was looked at again. The others, and
        which of them all is the best, are as the first look had it, at the whole frame or, for a small target, at a
        part of it. Nothing before the first `update`, and, with `redetect`, where the last one did not search.

        Raises:
            OptionError: the tracker never searches whole frames.
        """
        if not self._searches:
            raise OptionError(
                f"{self._model.manifest.name!r} answers with one box; expected a model of kind 'vtt', or redetect"
            )
        state = self._state
        if isinstance(state, Redetecting):
            state = state.searched if state.has_searched else None
        if not isinstance(state, Searched):
            return ()
        rows = zip(state.boxes.tolist(), state.scores.tolist(), strict=True)
        return tuple(Candidate((x, y, w, h), score) for (x, y, w, h), score in rows)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be copied or given to another process: its state may lie in a device's memory; make a "
            "tracker there, and call init() with the box"
        )

    def __repr__(self) -> str:
        target = "no target" if self._state is None else f"target at {self._state.box.round(1).tolist()}"
        return f"<Tracker {self._model!r}, {target}>"


def _ask_about_corners(box: NDArray[np.float64], frame_size: tuple[int, int]) -> None:
    """Log what to give instead where a box reaches over the border and its last two numbers could be a corner."""
    x, y, w, h = box.tolist()
    width, height = frame_size
    if (x + w > width or y + h > height) and 0 <= x < w <= width and 0 <= y < h <= height:
        logger.warning(
            f"the box {x:g},{y:g},{w:g},{h:g}, of {w:g}x{h:g} pixels, reaches over the border of the {width}x{height} "
            f"frame; if its last two numbers are a corner, give {x:g},{y:g},{w - x:g},{h - y:g}"
        )
