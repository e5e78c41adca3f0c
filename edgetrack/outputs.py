"""Where results go: an annotated video, and JSON lines."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from edgetrack.errors import OptionError
from edgetrack.imaging import import_cv2

if TYPE_CHECKING:
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    Image: TypeAlias = NDArray[np.uint8]


class _Closing:
    """A context manager that calls `close` at the end, whatever happens."""

    def close(self) -> None:
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class VideoFile(_Closing):
    """A video being written; it can be played only after `close`.

    Args:
        path: an .mp4, .avi, .mkv or .mov file; one that exists is overwritten.
        fps: frames per second.
        size: (width, height) of the video. Frames of another size are scaled to it: the codec can hold one size only.

    Raises:
        OptionError: the folder does not exist, or OpenCV has no encoder for this kind of file.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        cv2 = import_cv2()
        if not path.parent.is_dir():
            raise OptionError(f"{path}: cannot be written: there is no folder {path.parent}")
        self.size = size
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
        if not self._writer.isOpened():
            raise OptionError(
                f"{path}: OpenCV cannot write this video ({size[0]}x{size[1]}, codec mp4v); "
                "expected a writable path that ends in .mp4, .avi, .mkv or .mov"
            )

    def __enter__(self) -> VideoFile:
        return self

    def write(self, frame: Image) -> None:
        """Append one BGR uint8 frame."""
        cv2 = import_cv2()
        if (frame.shape[1], frame.shape[0]) != self.size:
            frame = cv2.resize(frame, self.size, interpolation=cv2.INTER_AREA)
        self._writer.write(frame)

    def close(self) -> None:
        """Write the index without which the file cannot be played. May be called again."""
        self._writer.release()


class JsonLines(_Closing):
    """One JSON object a line, each handed on at once, so that a reader sees it and an abrupt end loses nothing.

    Args:
        target: a path, or ``-`` for standard output.

    Raises:
        OptionError: the file cannot be written.
    """

    def __init__(self, target: str) -> None:
        self._owned: IO[str] | None = None
        if target != "-":
            try:
                self._owned = Path(target).open("w", encoding="utf-8")  # noqa: SIM115, closed by close()
            except OSError as error:
                raise OptionError(f"{target}: cannot be written: {error.strerror}") from None

    def __enter__(self) -> JsonLines:
        return self

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; numbers that are not finite are a bug of the caller's."""
        stream = self._owned or sys.stdout
        stream.write(json.dumps(record, allow_nan=False) + "\n")
        stream.flush()

    def close(self) -> None:
        """Close the file; standard output stays open. May be called again."""
        if self._owned is not None:
            self._owned.close()
