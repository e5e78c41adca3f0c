"""Sessions over named tensors: one graph, one device, arrays in and arrays out. Knows nothing of tracking."""

from edgetrack_runtimes.registry import BACKENDS, BackendStatus, discover, int8_is_faster, open_session
from edgetrack_runtimes.session import DeviceTensor, Session, SessionOptions, TensorSpec

__all__ = [
    "BACKENDS",
    "BackendStatus",
    "DeviceTensor",
    "Session",
    "SessionOptions",
    "TensorSpec",
    "discover",
    "int8_is_faster",
    "open_session",
]
