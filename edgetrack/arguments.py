"""What callers give, numbers and paths, as the plain values that the rest of the package takes."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from edgetrack.errors import EdgeTrackError


def plain(value: Any) -> Any:
    """A numpy scalar, which options often are the outcome of, as Python's own; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def path_text(given: object) -> str | None:
    """The text of a path; None for another type, an empty one, and what the system can name no file by."""
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if isinstance(text, str) and text and "\0" not in text:
        with suppress(UnicodeEncodeError):
            os.fsencode(text)
            return text
    return None


def require_utf8(text: str, error: type[EdgeTrackError], name: str = "") -> str:
    """Return `text`, what a library in C++ is to open, as it is; `error` where it is not UTF-8, as Linux lets names be.

    OpenCV ends the process for such a name, and runtimes say something else of it. The error tells `name`, where given,
    in place of `text`.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise error(f"got {name or text!r}, which is not UTF-8; expected a name that is: rename it") from None
    return text
