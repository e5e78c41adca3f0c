"""A run that is interrupted saves what it has learned, and ends where an uninterrupted one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_runs import SEQTRACK, run

from train.checkpoints.files import read_tensors, write_tensors
from train.data.mixture import datasets
from train.objective import objective
from train.stopping import Stop, Stopped

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_foreground() -> Iterator[None]:
    """A shell has its jobs in the background ignore SIGINT."""
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run_stopped(out: Path, example: int, number: int, every: int = 100) -> Stopped:
    """Train until this example is read, when the process gets a signal."""
    train, _ = datasets(SEQTRACK, [])
    read = type(train).__getitem__

    def signalled(self: object, index: int) -> object:
        if index == example:
            signal.raise_signal(number)
        return read(self, index)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(train), "__getitem__", signalled)
        with pytest.raises(Stopped) as stopped:
            run(SEQTRACK, out, every=every)
    return stopped.value


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_is_saved_at_its_step_and_ends_where_an_uninterrupted_one_does(
    tmp_path: Path, number: int
) -> None:
    (whole,) = run(SEQTRACK, tmp_path / "whole", every=100)
    stopped = run_stopped(tmp_path / "parts", example=14, number=number)  # in the fourth step, of four examples
    assert (tmp_path / "parts" / "predictions.png").is_file()  # drawn before the first step
    assert stopped.exit_code == 128 + number
    assert str(stopped).startswith("stopped at step 4 of 6, which is saved in ")
    _, facts = read_tensors(tmp_path / "parts" / "model.safetensors")
    assert (facts["training"]["step"], facts["training"]["pairs"]) == (4, 16)
    assert "iou" not in facts["training"]  # it was not measured
    assert not (tmp_path / "parts" / "log.jsonl").exists()
    (record,) = run(SEQTRACK, tmp_path / "parts", every=100)
    assert {**record, "hours": 0} == {**whole, "hours": 0}  # the losses are means over all six steps
    one, other = (read_tensors(tmp_path / name / "state.safetensors")[0] for name in ("whole", "parts"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_state_without_the_losses_since_the_last_record_goes_on(tmp_path: Path) -> None:
    """Such as runs begun earlier have: their next record is of the steps that follow alone."""
    run_stopped(tmp_path, example=14, number=signal.SIGINT)
    tensors, facts = read_tensors(tmp_path / "state.safetensors")
    known = {name: fact for name, fact in facts.items() if name not in ("since", "logged")}
    write_tensors(tmp_path / "state.safetensors", tensors, known)
    (record,) = run(SEQTRACK, tmp_path, every=100)
    recorded = sum(record[name] for name in objective(SEQTRACK).losses)
    assert 0.5 < recorded / sum(facts["since"]) * facts["step"] < 2  # of two steps, divided by two


def test_what_was_saved_at_that_step_is_left_as_it_is(tmp_path: Path) -> None:
    run_stopped(tmp_path, example=14, number=signal.SIGINT, every=4)
    _, facts = read_tensors(tmp_path / "model.safetensors")
    assert facts["training"]["step"] == 4
    assert "iou" in facts["training"]


def test_the_second_signal_ends_it() -> None:
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_signals_are_as_before_afterwards_and_where_it_is_not_enabled() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with Stop():
        assert signal.getsignal(signal.SIGINT) != before[0]
    with Stop(enabled=False) as stop:
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert stop.number is None
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
    assert stop.number is None


def test_ctrl_c_reaches_the_loaders_too_and_they_let_the_run_end(tmp_path: Path) -> None:
    """As a terminal sends it: to all processes of the group."""
    command = [sys.executable, "-m", "train", "fit", "seqtrack-nano", "--out", str(tmp_path / "run"), "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--held-out", "4", "--set", "batch=4", "--start", "train/weights/seqtrack-nano.safetensors"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    recipe = tmp_path / "run" / "recipe.json"
    deadline = time.monotonic() + 120
    while not recipe.is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "stopped at step" in said
    assert "Traceback" not in said
    assert json.loads(recipe.read_text())["batch"] == 4
