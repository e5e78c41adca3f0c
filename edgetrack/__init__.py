"""Single-object tracking on edge devices: ``Tracker(model).init(frame, box)``, then ``update(frame)`` -> `Track`."""

from edgetrack import errors
from edgetrack.errors import *  # noqa: F403
from edgetrack.model import Model, load
from edgetrack.tracker import Candidate, Track, Tracker, TrackState

__version__ = "0.1.0"

__all__ = ["Candidate", "Model", "Track", "TrackState", "Tracker", "__version__", "errors", "load", *errors.__all__]
