"""What can be measured: edgetrack on any backend, the trained PyTorch model, and OpenCV's trackers, behind one face.

| MODEL | what runs |
|---|---|
| a shipped name, or a bundle (directory, .zip) | `edgetrack.Tracker` on --backend in --precision |
| ``weights.safetensors`` | the PyTorch model under the same online algorithm, on --backend cpu or cuda: the reference |
| ``opencv:mil``, ``opencv:kcf``, ``opencv:csrt``, ``opencv:mosse`` | OpenCV's; but for MIL in the contrib build |
| ``opencv:nano:BACKBONE.onnx,HEAD.onnx`` | OpenCV's TrackerNano with NanoTrack's weights |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import perf_counter_ns
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import ResultsError
from edgetrack.imaging import import_cv2

Frame = NDArray[np.uint8]


class Answer(NamedTuple):
    """What a tracker says of one frame; `score` is NaN where it has none."""

    box: tuple[float, float, float, float]
    score: float
    ok: bool
    seconds: float


class Contender(Protocol):
    """A tracker under test. `identity` is all that decides its boxes, so that kept results are never mixed up."""

    label: str
    identity: dict[str, Any]

    def init(self, frame: Frame, box: Sequence[float]) -> None: ...

    def update(self, frame: Frame) -> Answer: ...


@dataclass(frozen=True)
class Spec:
    """How a contender is asked for; plain values, so that other processes can make it too."""

    model: str
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    decode: str = "fused"
    window: float | None = None
    update_interval: int | None = None
    update_threshold: float | None = None
    redetect: str | None = None
    redetect_interval: int = 1

    def make(self) -> Contender:
        """Load it.

        Raises:
            ResultsError: nothing is known by that name, or an option does not apply to it.
            EdgeTrackError: edgetrack cannot load the bundle.
        """
        if self.model.startswith("opencv:"):
            return OpenCVContender(self)
        if self.model.endswith(".safetensors"):
            return ReferenceContender(self)
        return EdgetrackContender(self)


class EdgetrackContender:
    """A bundle, through the public API; with `Spec.redetect` two of them."""

    def __init__(self, spec: Spec, model: Any = None) -> None:
        import edgetrack

        # A model that is loaded already carries its backend, precision and threads.
        loading: dict[str, Any] = {}
        if model is None:
            loading = {"backend": spec.backend, "precision": spec.precision, "threads": spec.threads}
        search = None if spec.redetect is None else self._load(spec.redetect, spec)
        self.tracker = edgetrack.Tracker(
            spec.model if model is None else model,
            **loading,
            decode=spec.decode,
            window=spec.window,
            update_interval=spec.update_interval,
            update_threshold=spec.update_threshold,
            redetect=search,
            redetect_interval=None if search is None else spec.redetect_interval,
        )
        loaded = self.tracker.model
        together = "" if search is None else f" + {search.manifest.name}"
        self.label = f"{loaded.manifest.name}{together} {loaded.precision} on {loaded.backend}"
        options = {
            name: value
            for name, value in asdict(spec).items()
            if name in ("window", "update_interval", "update_threshold") and value is not None
        }
        if search is not None:
            options["redetect"] = {
                "name": search.manifest.name,
                "precision": search.precision,
                "manifest": manifest_digest(search.manifest),
                "interval": spec.redetect_interval,
            }
        self.identity = {
            "kind": "edgetrack",
            "name": loaded.manifest.name,
            "backend": loaded.backend,
            "precision": loaded.precision,
            "decode": spec.decode,
            "runtime": loaded.session("template").runtime_version,
            "manifest": manifest_digest(loaded.manifest),
            **options,
        }

    def _load(self, model: str, spec: Spec) -> Any:
        import edgetrack

        return edgetrack.load(model, spec.backend, spec.precision, threads=spec.threads)

    def init(self, frame: Frame, box: Sequence[float]) -> None:
        self.tracker.init(frame, box)

    def update(self, frame: Frame) -> Answer:
        started = perf_counter_ns()
        track = self.tracker.update(frame)
        return Answer(track.box, track.score, track.ok, (perf_counter_ns() - started) / 1e9)


class ReferenceContender(EdgetrackContender):
    """A checkpoint in PyTorch, through the same `edgetrack.Tracker`."""

    def __init__(self, spec: Spec) -> None:
        if spec.precision not in ("auto", "fp32"):
            raise ResultsError(f"a checkpoint runs in fp32, not in {spec.precision}; export a bundle for others")
        super().__init__(spec, self._load(spec.model, spec))

    def _load(self, model: str, spec: Spec) -> Any:
        from benchmarks.reference import reference_model

        return reference_model(Path(model), spec.backend, spec.threads)


OPENCV = ("mil", "kcf", "csrt", "mosse", "nano")


class OpenCVContender:
    """One of OpenCV's trackers; a fresh one for each target, because `init` may be called once.

    Where it says that the target is lost it gives no box; the last one stands for it, as in other evaluations.

    MIL draws from a generator that OpenCV seeds by the clock: its boxes differ a little from run to run.
    """

    def __init__(self, spec: Spec) -> None:
        self._cv2 = cv2 = import_cv2()
        self._name, _, weights = spec.model.removeprefix("opencv:").partition(":")
        self._weights = tuple(weights.split(",")) if weights else ()
        if self._name not in OPENCV:
            raise ResultsError(f"no OpenCV tracker {self._name!r}; there are {', '.join(OPENCV)}")
        if (self._name == "nano") != (len(self._weights) == 2):
            raise ResultsError(f"{spec.model}: only nano takes weights, as opencv:nano:BACKBONE.onnx,HEAD.onnx")
        unused = [each for each in fields(spec) if each.name not in ("model", "threads")]
        if given := [each.name for each in unused if getattr(spec, each.name) != each.default]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ResultsError(
                f"{spec.model} got {options}; OpenCV's trackers take --threads alone, leave out the rest"
            )
        cv2.setNumThreads(spec.threads or -1)
        self._tracker = self._create()
        hashes = [hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] for path in self._weights]
        title = {"nano": "TrackerNano", "mosse": "MOSSE"}.get(self._name, self._name.upper())
        named = f" ({Path(self._weights[0]).stem.split('_')[0]})" if self._weights else ""
        self.label = f"OpenCV {title}{named}"
        self.identity = {
            "kind": "opencv",
            "name": self._name,
            "weights": hashes,
            "opencv": cv2.__version__,
            "lost": "last box",
        }

    def _create(self) -> Any:
        cv2 = self._cv2
        if self._name == "nano":
            for path in self._weights:
                if not Path(path).is_file():
                    raise ResultsError(f"{path}: no such file; expected weights of NanoTrack")
            params = cv2.TrackerNano_Params()
            params.backbone, params.neckhead = self._weights
            try:
                return cv2.TrackerNano_create(params)
            except cv2.error as error:
                reason = " ".join(str(error).split())
                raise ResultsError(f"{', '.join(self._weights)}: OpenCV cannot load them: {reason}") from None
        holder = getattr(cv2, "legacy", None) if self._name == "mosse" else cv2
        create = getattr(holder, f"Tracker{self._name.upper()}_create", None)
        if create is None:
            raise ResultsError(
                f"this OpenCV ({cv2.__version__}) has no {self._name.upper()} tracker; install "
                "opencv-contrib-python-headless in an environment of its own"
            )
        return create()

    def init(self, frame: Frame, box: Sequence[float]) -> None:
        self._tracker = self._create()
        x, y, w, h = (round(float(value)) for value in box)
        self._tracker.init(frame, (x, y, w, h))
        self._last = (float(x), float(y), float(w), float(h))

    def update(self, frame: Frame) -> Answer:
        started = perf_counter_ns()
        ok, box = self._tracker.update(frame)
        seconds = (perf_counter_ns() - started) / 1e9
        score = float(self._tracker.getTrackingScore()) if hasattr(self._tracker, "getTrackingScore") else float("nan")
        if ok:
            x, y, w, h = (float(value) for value in box)
            self._last = (x, y, w, h)
        return Answer(self._last, score, bool(ok), seconds)


def manifest_digest(manifest: Any) -> str:
    """Of what decides a bundle's boxes."""
    return digest(manifest.model_dump(mode="json", exclude={"accuracy", "provenance", "name"}))


def digest(value: Any) -> str:
    """A short hash of plain JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
