"""The newest of frames that come in their own time, so that whoever is slower than they come never falls behind.

Cameras and network streams are queued for a reader that is slow, by drivers for a few frames and by FFmpeg without an
end: a tracker that takes 40 ms for each of 30 frames a second would answer for what it saw six seconds ago after half a
minute. So a thread reads on all the time, and a frame that was not asked for before the next one came is passed over.
"""

from __future__ import annotations

import atexit
import time
from threading import Condition, Thread
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakSet

from edgetrack.errors import SourceTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    Frame: TypeAlias = NDArray[np.uint8]

PATIENCE = 2.0
"""Seconds that `Newest.close` waits for a read to return; one of a dead connection may take half a minute."""


class Newest:
    """An iterator over what is newest among `frames` whenever it is asked, and not older than the last one.

    It ends, or raises what reading them raised, once the last frame has been taken. Where none comes in time it raises
    `SourceTimeoutError`, and may be asked again.

    Args:
        frames: blocks until there is another one. It is read in a thread of this object's own, and nowhere else.
        release: called in that thread when nothing more will be read.
        name: what is read, for messages.
        timeout: seconds that a frame is waited for; None for as long as it takes.

    Attributes:
        skipped: frames passed over before the last one that was taken.
        read_at: when that one had been read, as Unix time in seconds; 0 before the first.
    """

    def __init__(
        self,
        frames: Iterator[Frame],
        release: Callable[[], object],
        name: str = "the source",
        timeout: float | None = None,
    ) -> None:
        self.skipped = 0
        self.read_at = 0.0
        self._frames, self._release, self._name, self._timeout = frames, release, name, timeout
        self._changed = Condition()
        self._fresh: tuple[Frame, float] | None = None
        self._passed = 0
        self._is_closed = False
        self._end: BaseException | None = None
        self._thread = Thread(target=self._read, name="edgetrack-frames", daemon=True)
        self._thread.start()
        _reading.add(self)

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        with self._changed:
            if not self._changed.wait_for(lambda: self._fresh is not None or self._end is not None, self._timeout):
                raise SourceTimeoutError(
                    f"{self._name}: no frame came within {self._timeout:g} seconds; it is still open, so ask again"
                )
            if self._fresh is not None:
                (frame, self.read_at), self._fresh = self._fresh, None
                self.skipped += self._passed
                self._passed = 0
                return frame
            assert self._end is not None
            raise self._end

    def stop(self) -> None:
        """Read no more once the read at hand is done, and do not wait for it."""
        with self._changed:
            self._is_closed = True

    def close(self) -> None:
        """Read no more. Where a read does not return, it is waited for a little while, and the thread left behind."""
        self.stop()
        self._thread.join(PATIENCE)

    def _read(self) -> None:
        end: BaseException = StopIteration()
        try:
            for frame in self._frames:
                now = time.time()
                with self._changed:
                    if self._is_closed:
                        break
                    self._passed += self._fresh is not None
                    self._fresh = frame, now
                    self._changed.notify_all()
        except Exception as error:
            end = error
        finally:
            with self._changed:  # first: whoever waits would wait for ever where releasing fails
                self._end = end
                self._changed.notify_all()
            self._release()


_reading: WeakSet[Newest] = WeakSet()


@atexit.register
def _close_all() -> None:
    """A thread that is inside of OpenCV while the interpreter goes may take the process with it, as a crash."""
    for newest in list(_reading):
        newest.close()
