"""Where results go: an annotated video, and JSON lines."""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from edgetrack.arguments import require_utf8
from edgetrack.errors import OutputError
from edgetrack.imaging import import_cv2

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    Image: TypeAlias = NDArray[np.uint8]

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
"""Of videos that are written. OpenCV takes the name of an image for a pattern, and writes over what fits that."""


def require_writable(path: Path) -> None:
    """Raise `OutputError` where no file can be written at `path`. What is there is left as it is."""
    if not os.path.isdir(path.parent):
        raise OutputError(f"{path}: cannot be written: there is no folder {path.parent}")
    if os.path.isdir(path):
        raise OutputError(f"{path}: cannot be written: it is a folder; expected the path of a file")
    if not os.access(path if os.path.exists(path) else path.parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written by this user; expected a path that can be")


def require_video(path: Path) -> None:
    """Raise `OutputError` where no video can be written at `path`, by its name or as `require_writable` has it."""
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise OutputError(f"{path}: not the name of a video; expected one that ends in .mp4, .avi, .mkv or .mov")
    require_writable(path)


class _Closing:
    """A context manager that calls `close` at the end, whatever happens.

    What `close` finds does not hide an error that came before it.
    """

    def close(self) -> None:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OutputError:
            if error is None:
                raise


class VideoFile(_Closing):
    """A video being written; it can be played only after `close`.

    Args:
        path: an .mp4, .avi, .mkv or .mov file; one that exists is overwritten.
        fps: frames per second.
        size: (width, height) of the frames; those of another size are scaled to it, since a video has one size only.
            The codec wants even numbers: of an odd width or height OpenCV leaves out the last column or row.

    Raises:
        OutputError: the name is none of a video or not UTF-8, no file can be written there, or OpenCV has no encoder.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        cv2 = import_cv2()
        require_video(path)
        self.path = path
        self.size = size
        self._written = 0
        self._closed = False
        # FFmpeg takes what precedes a colon for a protocol, unless it begins with a slash.
        self._absolute = require_utf8(str(path.absolute()), OutputError)
        # MPEG-4 keeps a rate as a fraction, whose numerator has 16 bits, and OpenCV's is of all decimals there are.
        fps = round(fps, 3 if fps < 65 else 2 if fps < 655 else 1)
        self._writer = cv2.VideoWriter(self._absolute, cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
        if not self._writer.isOpened():
            raise OutputError(
                f"{path}: OpenCV cannot write this video ({size[0]}x{size[1]}, codec mp4v); "
                "expected frames with a width and a height, and an OpenCV that was built with FFmpeg"
            )

    def __enter__(self) -> VideoFile:
        return self

    def write(self, frame: Image) -> None:
        """Append one BGR uint8 frame."""
        cv2 = import_cv2()
        if (frame.shape[1], frame.shape[0]) != self.size:
            frame = cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)
        self._writer.write(frame)
        self._written += 1

    def close(self) -> None:
        """Write the index without which the file cannot be played, and look whether all is there. May be called again.

        Raises:
            OutputError: the file does not hold the frames that were written. OpenCV reports no failed write.
        """
        if self._closed:
            return
        self._closed = True
        self._writer.release()
        if self._written and not self._is_whole():
            raise OutputError(
                f"{self.path}: does not hold the {self._written} frames written to it; "
                "check that the disk has room and the file is not written elsewhere, then run again"
            )

    def _is_whole(self) -> bool:
        """Whether the file tells of the frames written and the last of them can be decoded."""
        cv2 = import_cv2()
        capture = cv2.VideoCapture(self._absolute)
        try:
            count = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))
            # Matroska tells its duration in milliseconds only, so that the number may come out one off.
            if abs(count - self._written) > 1:
                return False
            capture.set(cv2.CAP_PROP_POS_FRAMES, count - 1)
            return bool(capture.read()[0])
        finally:
            capture.release()


class JsonLines(_Closing):
    """One JSON object a line, each handed on at once, so that a reader sees it and an abrupt end loses nothing.

    Args:
        target: a path, or ``-`` for standard output.

    Raises:
        OutputError: the file cannot be written, or standard output is closed.
    """

    def __init__(self, target: str) -> None:
        self._name = "standard output" if target == "-" else target
        self._owned: IO[str] | None = None
        self._standard = sys.stdout  # as it is now: what is shown on the terminal meanwhile may take its place
        if target != "-":
            try:
                self._owned = Path(target).open("w", encoding="utf-8")  # noqa: SIM115, closed by close()
            except OSError as error:
                raise self._failure(error) from None
        elif sys.stdout is None or sys.stdout.closed:  # None where the process was started without one
            raise OutputError("standard output is closed; expected it open, or the path of a file in place of -")

    def __enter__(self) -> JsonLines:
        return self

    def write(self, record: dict[str, Any]) -> None:
        """Append one record. JSON has no NaN and no infinity: they are written as null.

        Raises:
            OutputError: the disk is full, or whoever read standard output is gone.
        """
        line = json.dumps(_finite(record), allow_nan=False) + "\n"
        stream = self._owned or self._standard
        try:
            stream.write(line)
            stream.flush()
        except OSError as error:
            if self._owned is None:
                discard_standard_output()
            raise self._failure(error) from None

    def close(self) -> None:
        """Close the file; standard output stays open. May be called again.

        Raises:
            OutputError: what is left cannot be written.
        """
        if self._owned is not None:
            try:
                self._owned.close()
            except OSError as error:
                raise self._failure(error) from None

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(f"{self._name}: cannot be written: {error.strerror}")


def _finite(value: Any) -> Any:
    """The JSON value with None for each number that is not finite."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def discard_standard_output() -> None:
    """Send what is still buffered nowhere: Python flushes it at exit, and would fail again, with a traceback."""
    with suppress(OSError):  # a stream that is no file of the system has nothing to send
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
        os.close(sink)
