"""The ratios of precisions: of a clock that runs do advance, and of a bundle on disk."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from benchmarks import precisions, turns
from benchmarks.cli import app
from benchmarks.results import ResultsError
from edgetrack.errors import OptionError
from quantize.export import export_bundle
from train.checkpoints import load_model


def test_medians_are_taken_in_turns_and_without_a_turn_s_first_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []
    spec = SimpleNamespace(shape=(1, 3, 4, 4), dtype=np.dtype(np.float32))

    def session(precision: str) -> SimpleNamespace:
        def run(feeds: dict[str, np.ndarray]) -> None:
            assert feeds["search"].shape == spec.shape
            order.append(precision)
            slow = 50 if order[-turns.SETTLE :] != [precision] * turns.SETTLE else 1  # as caches do, when models change
            clock[0] += slow * {"fp32": 0.010, "int8": 0.004, "int8+bf16": 0.003, "bf16": 0.006}[precision]

        return SimpleNamespace(run=run, inputs={"search": spec}, runtime_version="1.0")

    files = {"fp32/a.onnx": 700, "fp32/w.bin": 300, "int8/a.onnx": 290}
    manifest = SimpleNamespace(
        name="m",
        kind="seqtrack",
        variants=("fp32", "int8"),
        files={name: SimpleNamespace(bytes=size) for name, size in files.items()},
        model_dump=lambda **options: {"files": files},
    )

    def load(model: str, backend: str, precision: str, threads: int) -> SimpleNamespace:
        if "fp16" in precision:
            raise OptionError("no fp16")
        return SimpleNamespace(manifest=manifest, session=lambda graph: session(precision), close=lambda: None)

    monkeypatch.setattr("edgetrack.load", load)
    monkeypatch.setattr(turns, "perf_counter", lambda: clock[0])
    (entry,) = precisions.measure("m", ["b"], runs=turns.TURN + 5)
    assert entry["of_fp32"] == pytest.approx({"fp32": 1.0, "int8": 0.4, "int8+bf16": 0.3, "bf16": 0.6})
    assert entry["milliseconds"]["fp32"] == pytest.approx(10.0)
    assert entry["bytes"] == {"fp32": 1000, "int8": 290}
    assert entry["refused"] == {"fp16": "no fp16", "int8+fp16": "no fp16"}
    names = ["fp32", "int8", "int8+bf16", "bf16"]
    expected = [name for timed in (turns.TURN, 5) for name in names for _ in range(turns.SETTLE + timed)]
    assert order == expected


def test_no_untimed_run_of_a_later_turn_is_taken_for_a_timed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        clock[0] += seconds if order[-turns.SETTLE :] == [name] * turns.SETTLE else 50.0

    monkeypatch.setattr(turns, "perf_counter", lambda: clock[0])
    times = turns.in_turns({"a": lambda: call("a", 1.0), "b": lambda: call("b", 2.0)}, 2 * turns.TURN + 5)
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        np.testing.assert_allclose(times[name], np.full(2 * turns.TURN + 5, seconds))


def test_command_measures_a_bundle(trained: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, out = trained[1], tmp_path / "p.json"
    arguments = ["precisions", str(bundle), "--backend", "onnxruntime-cpu", "--runs", "3", "--json", str(out)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (entry,) = json.loads(out.read_text())["entries"]
    assert entry["of_fp32"]["fp32"] == 1
    assert entry["milliseconds"]["fp32"] > 0
    assert "has fp32" in entry["refused"]["int8"]
    assert entry["bytes"] == {"fp32": sum(file.stat().st_size for file in (bundle / "fp32").iterdir())}


def test_bundles_of_one_name_are_told_apart(trained: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, other = trained[1], tmp_path / "small"
    model, metadata = load_model(trained[0])
    for parameter in model.parameters():
        parameter.data *= 1.01
    export_bundle(model, other, name="small", metadata=metadata)
    one, two = (precisions.measure(str(each), ["onnxruntime-cpu"], runs=3)[0] for each in (bundle, other))
    assert one["model"] == two["model"]
    assert one["manifest"] != two["manifest"]
    assert one["runtime"] == onnxruntime.__version__


def test_without_fp32_there_is_nothing_to_compare_with(bundle: Path) -> None:
    with pytest.raises(ResultsError, match="has no FP32 on openvino-npu to compare with: "):
        precisions.measure(str(bundle), ["openvino-npu"])
