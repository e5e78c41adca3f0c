"""The newest frame of a camera: which one that is, whatever the pace of who takes them, and how it ends."""

from __future__ import annotations

import subprocess
import sys
import time
from queue import Queue
from threading import Event, Semaphore, Timer

import numpy as np
import pytest

from edgetrack import SourceError, SourceTimeoutError, newest
from edgetrack.newest import Newest

WAIT = 10
"""Seconds after which something that should have happened never will."""


class Camera:
    """An iterator that is fed by hand: `show` returns once the frame has been read and the next one is asked for."""

    def __init__(self) -> None:
        self._frames: Queue = Queue()
        self._asked = Semaphore(0)
        self.released = 0
        self.was_released = Event()

    def __iter__(self) -> Camera:
        return self

    def __next__(self) -> np.ndarray:
        self._asked.release()
        frame = self._frames.get()
        if isinstance(frame, BaseException):
            raise frame
        return frame

    def release(self) -> None:
        self.released += 1
        self.was_released.set()

    def show(self, number: int) -> None:
        assert self._asked.acquire(timeout=WAIT)
        self._frames.put(np.full((2, 2, 3), number, np.uint8))
        assert self._asked.acquire(timeout=WAIT)
        self._asked.release()

    def fail(self, error: BaseException) -> None:
        self._frames.put(error)
        assert self.was_released.wait(WAIT)


@pytest.fixture
def camera() -> Camera:
    return Camera()


def taken(frames: Newest) -> tuple[int, int]:
    """The number of the frame that is newest, and how many were passed over before it."""
    return int(next(frames)[0, 0, 0]), frames.skipped


def test_what_is_taken_is_what_was_read_last(camera: Camera) -> None:
    frames = Newest(camera, camera.release)
    camera.show(0)
    assert taken(frames) == (0, 0)
    camera.show(1)
    assert taken(frames) == (1, 0)
    for number in range(2, 7):
        camera.show(number)
    assert taken(frames) == (6, 4)
    camera.show(7)
    camera.show(8)
    assert taken(frames) == (8, 5)
    camera.fail(StopIteration())


def test_no_frame_is_taken_twice(camera: Camera) -> None:
    frames = Newest(camera, camera.release)
    camera.show(0)
    assert taken(frames) == (0, 0)
    Timer(0.1, camera.show, [1]).start()
    assert taken(frames) == (1, 0)
    camera.fail(StopIteration())


def test_a_frame_is_as_old_as_its_reading(camera: Camera) -> None:
    frames = Newest(camera, camera.release)
    assert frames.read_at == 0
    before = time.time()
    camera.show(0)
    after = time.time()
    time.sleep(0.05)
    camera_time = (next(frames), frames.read_at)[1]
    assert before <= camera_time <= after
    camera.show(1)
    assert frames.read_at == camera_time  # of the one that was taken, not of the one that waits
    next(frames)
    assert after + 0.05 <= frames.read_at <= time.time()
    camera.fail(StopIteration())


@pytest.mark.parametrize("end", [StopIteration(), SourceError("camera 0: the device is gone")])
def test_an_end_comes_after_the_last_frame_and_stays(camera: Camera, end: Exception) -> None:
    frames = Newest(camera, camera.release)
    camera.show(0)
    camera.show(1)
    camera.fail(end)
    assert taken(frames) == (1, 1)
    for _ in range(2):
        with pytest.raises(type(end), match=str(end) or None):
            next(frames)
    frames.close()
    assert camera.released == 1


def test_closing_releases_once_the_read_at_hand_is_done(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "PATIENCE", 0.05)
    frames = Newest(camera, camera.release)
    camera.show(0)
    frames.close()  # the camera is being asked for another one, and has none
    assert camera.released == 0
    camera._frames.put(np.zeros((2, 2, 3), np.uint8))
    assert camera.was_released.wait(WAIT)
    frames.close()
    assert camera.released == 1


def test_a_frame_that_does_not_come_in_time_may_come_later(camera: Camera) -> None:
    frames = Newest(camera, camera.release, "camera 3", 0.05)
    for _ in range(2):
        with pytest.raises(
            SourceTimeoutError, match=r"^camera 3: no frame came within 0\.05 seconds; it is still open"
        ):
            next(frames)
    camera.show(7)
    assert taken(frames) == (7, 0)
    camera.fail(SourceError("gone"))
    with pytest.raises(SourceError, match="gone"):
        next(frames)


def test_a_program_that_ends_waits_for_the_read_at_hand() -> None:
    code = """
import time
from edgetrack.newest import Newest

def frames():
    yield None
    time.sleep(0.3)
    yield None

next(Newest(frames(), lambda: print("released", flush=True)))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "released\n"


def test_stopping_does_not_wait(camera: Camera) -> None:
    frames = Newest(camera, camera.release)
    camera.show(0)
    frames.stop()
    assert camera.released == 0
    camera._frames.put(np.zeros((2, 2, 3), np.uint8))
    assert camera.was_released.wait(WAIT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_release_that_fails_leaves_nobody_waiting() -> None:
    def release() -> None:
        raise OSError("the driver is gone")

    frames = Newest(iter([np.zeros((2, 2, 3), np.uint8)]), release)
    assert next(frames).shape == (2, 2, 3)
    with pytest.raises(StopIteration):
        next(frames)
    frames.close()
