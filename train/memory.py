"""What training asks of the C library's memory."""

from __future__ import annotations

import ctypes
import sys

# Of malloc.h, the same on every machine that has glibc.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for what it allocates next.

    A step's activations are blocks of many megabytes. glibc asks the system for each of them, gives it back when it is
    freed, and the next step's are faulted in page by page again: a third of a step's time on a CPU. The process then
    stays as large as its largest step. Where the C library is another, nothing happens.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)  # never
