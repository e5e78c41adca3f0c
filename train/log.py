"""A run's log: one JSON line a record, and TensorBoard when it is installed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from train.checkpoints.files import whole, writing

LOG = "log.jsonl"


class RunLog:
    """Appends to ``log.jsonl`` in a folder; a context manager.

    Args:
        folder: which exists.
        step: that the run is at. What a run that was stopped had logged of later ones is dropped: it goes on from here.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / LOG
        self._drop_after(step)
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def _drop_after(self, step: int) -> None:
        lines = self._path.read_text().splitlines(keepends=True) if self._path.is_file() else []
        kept = [line for line in lines if _step(line) <= step]
        if kept != lines:
            with whole(self._path) as path:
                path.write_text("".join(kept))

    def write(self, record: dict[str, float | None]) -> None:
        """One record; it holds a "step", and None for what could not be measured."""
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
        if self._board is not None:
            for name, value in record.items():
                if value is not None:
                    self._board.add_scalar(name, value, record["step"])

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()


def _step(line: str) -> float:
    """The step of a record; a line that a stop cut short is later than all."""
    try:
        return float(json.loads(line)["step"])
    except json.JSONDecodeError:
        return math.inf
