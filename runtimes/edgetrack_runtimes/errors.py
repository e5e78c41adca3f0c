"""The root of edgetrack's errors and the branch of runtimes and devices; `edgetrack.errors` draws the tree."""

from __future__ import annotations


class EdgeTrackError(Exception):
    """The root of every error that edgetrack raises on purpose."""


class BackendError(EdgeTrackError):
    """A runtime or device that cannot do what was asked."""


class BackendUnavailableError(BackendError):
    """The backend is not known, not wholly installed, or its device does not answer."""


class PlacementError(BackendError):
    """Part of the graph would run on another device than the one asked for."""


class GraphError(BackendError):
    """The runtime cannot load, compile or run the graph."""


class TensorError(BackendError, ValueError):
    """A tensor with a wrong name, shape or dtype."""


class SessionClosedError(BackendError):
    """The session was closed."""


def one_line(error: Exception) -> str:
    """What a runtime's error says, without its line breaks."""
    return " ".join(str(error).split())
