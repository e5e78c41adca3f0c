"""Stopping a run by a signal: between two steps, when what it has learned is saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A run was stopped and saved, and goes on from there when it is begun again.

    Attributes:
        exit_code: as shells have it: 130 after Ctrl-C, 143 after a termination.
    """

    def __init__(self, what: str, number: int) -> None:
        super().__init__(what)
        self.exit_code = 128 + number


class Stop:
    """Within it, the first signal that would end the process is noted; the second ends it.

    Signals are Python's main thread's alone: in another one nothing is noted.

    Args:
        enabled: whether signals are noted at all.

    Attributes:
        number: of the signal that has come; None before.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.number: int | None = None
        self._enabled = enabled and threading.current_thread() is threading.main_thread()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Stop:
        if self._enabled:
            # What a shell has a job in the background ignore stays ignored.
            heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def leave_to_parent(worker: int) -> None:
    """Have a data-loading process ignore Ctrl-C, which a terminal sends to all of a run's processes: the run's own
    needs the examples of the step that it is in, and ends the loaders itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
