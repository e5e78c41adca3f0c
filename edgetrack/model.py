"""A model that is loaded: a bundle's graphs in one precision on one backend, to be shared by any number of trackers."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from edgetrack.arguments import path_text, plain
from edgetrack.errors import BackendError, BackendUnavailableError, OptionError, SessionClosedError
from edgetrack_runtimes import SessionOptions, discover, int8_is_faster, open_session

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgetrack.bundle import Bundle, Manifest
    from edgetrack.kinds import Options
    from edgetrack_runtimes import Session

logger = logging.getLogger("edgetrack")

_HALF = ("fp16", "bf16")


class Model:
    """The graphs of a bundle on one backend. Made by `load`; may be shared between threads and trackers. As a context
    manager it is closed at the end.

    Attributes:
        bundle: the bundle it came from.
        backend: where it runs, such as "onnxruntime-cpu".
        precision: what it computes in, under one of the names that `load` takes, never "auto".
        variant: the precision variant whose graphs run.
        options: what every session is opened with.
    """

    def __init__(self, bundle: Bundle, backend: str, precision: str, variant: str, options: SessionOptions) -> None:
        self.bundle = bundle
        self.backend = backend
        self.precision = precision
        self.options = options
        self.variant = variant
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._closed = False

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of the model."""
        return self.bundle.manifest

    def session(self, graph: str) -> Session:
        """Return the session of one graph, opened at first use, checked against the manifest and then run once.

        Raises:
            BackendError: the runtime cannot load the graph, or the model was closed.
            ManifestError: the graph's inputs or outputs are not the ones in the manifest.
        """
        with self._lock:
            self.check_open()
            if graph not in self._sessions:
                self._sessions[graph] = self._open(graph)
            return self._sessions[graph]

    def check_open(self) -> None:
        """Raise `SessionClosedError` when the model was closed."""
        if self._closed:
            raise SessionClosedError(
                f"the model {self.manifest.name!r} was closed; load it again with edgetrack.load()"
            )

    def _open(self, graph: str) -> Session:
        from edgetrack.bundle import check_specs

        session = open_session(self.backend, self.bundle.graph_path(self.variant, graph), self.options)
        stated = self.manifest.variants[self.variant].graphs[graph]
        where = f"{self.bundle.source}: {stated.file} does not match the manifest"
        try:
            check_specs(f"{where}: inputs", list(session.inputs.values()), [t.spec for t in stated.inputs])
            check_specs(f"{where}: outputs", list(session.outputs.values()), [t.spec for t in stated.outputs])
            # A runtime's first run takes many times as long as those that follow: better now than in the first frame.
            session.run({name: np.zeros(spec.shape, spec.dtype) for name, spec in session.inputs.items()})
        except BaseException:
            session.close()
            raise
        return session

    def close(self) -> None:
        """Close every session; trackers of this model then raise `SessionClosedError`. Closing twice is fine."""
        with self._lock:
            self._closed = True
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} holds a runtime's sessions, which cannot be copied or given to another process; load the model "
            "in each process, and in one process give the same one to many trackers"
        )

    def __repr__(self) -> str:
        closed = ", closed" if self._closed else ""
        return f"<Model {self.manifest.name!r} ({self.manifest.kind}) {self.precision} on {self.backend}{closed}>"


def load(
    model: str | os.PathLike[str] | Model,
    backend: str = "auto",
    precision: str = "auto",
    *,
    threads: int | None = None,
    allow_fallback: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Model:
    """Load a model once, for any number of trackers.

    The backend is asked a question whose answer the bundle holds, so that one that computes something else is found
    here and not in the field; see `edgetrack.known_answer`.

    Args:
        model: a shipped name, the path of a bundle (directory or .zip), or a `Model`, which is returned as it is.
        backend: a name from `edgetrack_runtimes.BACKENDS`, or "auto" for the first of them that can run the model.
        precision: a precision variant of the bundle ("fp32", "int8"); "fp16"/"bf16" to run the fp32 graphs in that
            arithmetic; or "int8+fp16"/"int8+bf16" for integers with what is left in float in that arithmetic, where
            "int8" alone leaves it in float32. "auto" takes int8 where the bundle has it and
            `edgetrack_runtimes.int8_is_faster`, else fp32.
        threads: threads of one session; None leaves it to the runtime.
        allow_fallback: let a backend run nodes that it cannot place on its device elsewhere.
        cache_dir: where compiled engines are kept between runs; None keeps TensorRT's alone, which take minutes to
            build, in the user's cache folder (XDG_CACHE_HOME or ~/.cache, there edgetrack).

    Raises:
        BundleError: the bundle cannot be used; see `edgetrack.bundle.read_bundle`.
        BackendError: the backend is not available, cannot run the model, or computes it wrongly (`WrongAnswerError`);
            with "auto", that is so of every backend.
        MissingDependencyError: there is no OpenCV, which that question takes as a tracker does.
        OptionError: an option is out of range, or contradicts the `Model` given.
    """
    from edgetrack.kinds import Options

    return load_for(model, Options(), backend, precision, threads, allow_fallback, cache_dir)


def load_for(
    model: str | os.PathLike[str] | Model | Bundle,
    tracking: Options,
    backend: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    allow_fallback: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Model:
    """Do what `load` does for a tracker with these options: "auto" finds a backend that runs all its graphs.

    A bundle that was read already may be given as well.
    """
    from edgetrack.kinds import graphs

    threads = plain(threads)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise OptionError(
            f"got threads={threads!r}; expected a whole number of at least 1, or None for the runtime's choice"
        )
    for option, name in (("backend", backend), ("precision", precision)):
        if not isinstance(name, str):
            raise OptionError(f"got {option}={name!r}; expected a name, such as 'auto'")
    allow_fallback = plain(allow_fallback)
    if not isinstance(allow_fallback, bool):
        raise OptionError(f"got allow_fallback={allow_fallback!r}; expected True or False")
    cache_text = path_text(cache_dir)
    if cache_text is None and cache_dir is not None:
        raise OptionError(f"got cache_dir={cache_dir!r}; expected the path of a folder, or None for the default")
    cache = None if cache_text is None else Path(cache_text)
    if cache is not None and os.path.exists(cache) and not os.path.isdir(cache):
        raise OptionError(f"got cache_dir={cache_text!r}, which is a file; expected a folder, which may be yet to make")
    if isinstance(model, Model):
        model.check_open()
        asked = {
            "backend": (backend, "auto", model.backend),
            "precision": (precision, "auto", model.precision),
            "threads": (threads, None, model.options.threads),
            "allow_fallback": (allow_fallback, False, model.options.allow_fallback),
            "cache_dir": (cache, None, model.options.cache_dir),
        }
        for name, (value, default, actual) in asked.items():
            if value not in (default, actual):
                raise OptionError(
                    f"got {name}={value!r} with {model!r}, which was loaded with {name}={actual!r}; "
                    "options of loading go to load(), or give the model's name or path"
                )
        graphs(model.manifest, tracking)  # an option that the model does not have is refused here as well
        return model

    # pydantic is wanted only now: importing edgetrack stays cheap.
    from edgetrack.bundle import Bundle, find_model, read_bundle
    from edgetrack.known_answer import verify

    bundle = model if isinstance(model, Bundle) else read_bundle(find_model(model))
    wanted = graphs(bundle.manifest, tracking)

    def opened(backend: str) -> Model:
        variant, hint = _variant(bundle.manifest, precision, backend)
        options = SessionOptions(threads=threads, precision=hint, cache_dir=cache, allow_fallback=allow_fallback)
        name = variant if precision == "auto" else precision
        candidate = Model(bundle, backend, name, variant, options)
        try:
            for graph in wanted:
                candidate.session(graph)
            verify(candidate, tracking.decode)
        except BaseException:
            candidate.close()
            raise
        return candidate

    return _first_that_opens(opened) if backend == "auto" else opened(backend)


def read_unless_loaded(model: str | os.PathLike[str] | Model) -> Model | Bundle:
    """What is to be loaded, with its manifest: the bundle of a name or a path, with the errors of `load`."""
    from edgetrack.bundle import find_model, read_bundle

    return model if isinstance(model, Model) else read_bundle(find_model(model))


def load_beside(bundle: Bundle, other: Model, precision: str = "auto") -> Model:
    """Load a bundle as `other` was loaded: for its backend, with its options, and with "auto" in its precision as well
    where the bundle has that. The errors are those of `load`."""

    from edgetrack.kinds import Options

    def loaded(precision: str) -> Model:
        options = other.options
        return load_for(
            bundle, Options(), other.backend, precision, options.threads, options.allow_fallback, options.cache_dir
        )

    # What "auto" made fp32 was not asked to be, which may let a GPU compute in less.
    if precision == "auto" and (other.precision, other.options.precision) != ("fp32", "auto"):
        with suppress(OptionError):
            return loaded(other.precision)
    return loaded(precision)


def _first_that_opens(opened: Callable[[str], Model]) -> Model:
    """Open the model on the first available backend, best first, that can run it; log the choice and its reason."""
    refusals: list[str] = []
    for status in discover():
        backend = status.backend
        if not status.available:
            refusals.append(_of(backend, status.reason))
            continue
        try:
            model = opened(backend)
        except BackendError as error:
            logger.warning("%s is available but cannot run the model, trying the next backend: %s", backend, error)
            refusals.append(_of(backend, str(error)))
            continue
        logger.info("backend auto: chose %s for %r; passed over: %s", backend, model, "; ".join(refusals) or "none")
        return model
    raise BackendUnavailableError("no backend can run the model:\n  " + "\n  ".join(refusals))


def _of(backend: str, reason: str) -> str:
    """A reason under the name of its backend, which many begin with."""
    return f"{backend}: {reason.removeprefix(f'{backend}: ')}"


def _variant(manifest: Manifest, precision: str, backend: str) -> tuple[str, str]:
    """Return the precision variant to open and the execution hint to open it with."""
    variants = manifest.variants
    if precision == "auto":
        preferred = ("int8", "fp32") if int8_is_faster(backend) else ("fp32", "int8")
        return next(name for name in (*preferred, *variants) if name in variants), "auto"
    if precision in variants:
        return precision, precision if precision in ("fp32", *_HALF) else "auto"
    named = {half: ("fp32", half) for half in _HALF if "fp32" in variants}
    named |= {f"int8+{half}": ("int8", half) for half in _HALF if "int8" in variants}
    if precision in named:
        return named[precision]
    raise OptionError(
        f"got precision={precision!r}; the bundle {manifest.name!r} has {', '.join(sorted(variants))}"
        f"{', and can be run in ' + ', '.join(named) if named else ''}"
    )
