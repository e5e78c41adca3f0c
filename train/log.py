"""A run's log: one JSON line a record, and TensorBoard when it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from train.checkpoints.files import writing

LOG = "log.jsonl"


class RunLog:
    """Appends to ``log.jsonl`` in a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._board: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        self._board = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]

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
