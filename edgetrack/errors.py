"""Every error edgetrack raises on purpose, as one tree.

    EdgeTrackError
    ├── FrameError               a frame of the wrong type, dtype or shape (also a ValueError)
    ├── BoxError                 a box that is not four finite numbers, empty or outside the frame (also a ValueError)
    ├── OptionError              an option outside its range, or one the model cannot do (also a ValueError)
    │   └── OutputError          a result that cannot be written, or not whole (also a ValueError)
    ├── NotInitialisedError      update() before init()
    ├── SourceError              a video, folder or camera that cannot be read
    │   └── SourceTimeoutError   no frame came in time from a camera or stream, which is still open
    ├── MissingDependencyError   an optional package that is needed now (also an ImportError)
    ├── BundleError              a model bundle that cannot be used
    │   ├── ManifestError        manifest.json is missing, not valid JSON, or does not fit the schema
    │   ├── SchemaVersionError   written for another version of edgetrack
    │   ├── IntegrityError       a file is missing or its hash differs from the manifest's
    │   └── UnsafePathError      a path in the manifest points out of the bundle
    └── BackendError             a runtime or device, from edgetrack_runtimes
        ├── BackendUnavailableError  not known, not wholly installed, or its device does not answer
        ├── PlacementError           part of the graph would run on another device than the one asked for
        ├── GraphError               the runtime cannot load, compile or run the graph
        ├── TensorError              a tensor with a wrong name, shape or dtype (also a ValueError)
        ├── WrongAnswerError         the backend runs the model and computes something else
        └── SessionClosedError       the session was closed

A message says what was received, what was expected and what to do. After any of them a tracker's state is what it was.
"""

from __future__ import annotations

from edgetrack_runtimes.errors import (
    BackendError,
    BackendUnavailableError,
    EdgeTrackError,
    GraphError,
    PlacementError,
    SessionClosedError,
    TensorError,
)

__all__ = [
    "BackendError",
    "BackendUnavailableError",
    "BoxError",
    "BundleError",
    "EdgeTrackError",
    "FrameError",
    "GraphError",
    "IntegrityError",
    "ManifestError",
    "MissingDependencyError",
    "NotInitialisedError",
    "OptionError",
    "OutputError",
    "PlacementError",
    "SchemaVersionError",
    "SessionClosedError",
    "SourceError",
    "SourceTimeoutError",
    "TensorError",
    "UnsafePathError",
    "WrongAnswerError",
]


class FrameError(EdgeTrackError, ValueError):
    """A frame of the wrong type, dtype or shape."""


class BoxError(EdgeTrackError, ValueError):
    """A box that is not four finite numbers, has no area, or lies outside the frame."""


class OptionError(EdgeTrackError, ValueError):
    """An option outside its range, or one that the model cannot do."""


class OutputError(OptionError):
    """A result that cannot be written where it was asked for, or of which a part is missing there."""


class NotInitialisedError(EdgeTrackError):
    """`Tracker.update` was called before `Tracker.init`."""


class SourceError(EdgeTrackError):
    """A video, folder, camera or stream that cannot be opened or read."""


class SourceTimeoutError(SourceError):
    """No frame came in time from a camera or stream. It is still open, and may be asked again."""


class MissingDependencyError(EdgeTrackError, ImportError):
    """An optional package that is needed now is not installed, or does not load."""


class BundleError(EdgeTrackError):
    """A model bundle that cannot be used."""


class ManifestError(BundleError):
    """The manifest is missing, is not valid JSON, or does not fit the schema."""


class SchemaVersionError(BundleError):
    """The bundle was written for another version of edgetrack."""


class IntegrityError(BundleError):
    """A file of the bundle is missing, or its hash differs from the manifest's."""


class UnsafePathError(BundleError):
    """A path in the manifest points out of the bundle."""


class WrongAnswerError(BackendError):
    """The backend takes the model's graphs and computes something else than the model does."""
