"""The comparison of trackers, alone and together, on the same frames."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import peers
from benchmarks.cli import app
from benchmarks.contenders import Spec

STILL = {"window": 1.0, "update_interval": None, "update_threshold": 0.0, "clip_margin": 10.0}
"""Where all looks alike, the centre is taken."""


@pytest.fixture(scope="module")
def content(slow_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The record of a colour tracker with a colour search, on an orange square over grey."""
    from synthetic_bundle import PRESENCE_ALONE, write_colour_bundle
    from synthetic_vtt import write_cells_bundle

    root = tmp_path_factory.mktemp("peers")
    local = write_colour_bundle(root / "colour", score=PRESENCE_ALONE, online=STILL).root
    # The canvas is half as large as the drawn frames: a square is one and a half of its cells, and fills none for sure.
    search = write_cells_bundle(root / "cells", side=1.5, score={"source": "top", "ok_threshold": 0.1}).root
    arguments = ["peers", "--dataset", str(slow_folder), "--model", str(local), "--redetect", str(search)]
    options = ["--backend", "onnxruntime-cpu", "--threads", "1", "--out", str(root / "raw"), "--json", "-"]
    with pytest.MonkeyPatch.context() as patch:
        # OpenCV's MIL, which is slow, is found by `available`: see below.
        patch.setattr(peers, "available", lambda weights, threads: ([], {"opencv:none": "not here"}))
        result = CliRunner().invoke(app, [*arguments, "--draws", "2", "--seed", "3", *options])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_each_model_is_compared_alone_and_together(content: dict) -> None:
    labels = [each["contender"]["label"] for each in content["contenders"]]
    assert labels == [f"{name} fp32 on onnxruntime-cpu" for name in ("colour", "cells", "colour + cells")]
    assert content["missing"] == {"opencv:none": "not here"}
    assert (content["seed"], content["draws"]) == (3, 2)


def test_together_they_find_again_what_the_local_tracker_does_not(content: dict) -> None:
    local, search, together = content["contenders"]
    for each in (local, search, together):
        assert each["loss"]["sequences"] == {"near": 1, "far": 2, "wide": 2}
        assert each["behaviour"]["far"]["returns"] == 2
        assert each["left_out"] == []
    assert together["loss"]["found_far"] == 1
    assert local["loss"]["found_far"] == 0
    assert local["behaviour"]["far"]["frames_to_find"] is None
    for each in (local, together):
        assert each["behaviour"]["given"]["returns"] == 0
        assert each["behaviour"]["given"]["found"] is None
        assert each["behaviour"]["near"]["tnr"] == 1


def test_what_searches_is_part_of_the_trackers_identity(content: dict) -> None:
    local, _, together = (each["contender"] for each in content["contenders"])
    assert "redetect" not in local
    assert (together["redetect"]["name"], together["redetect"]["interval"]) == ("cells", 1)
    assert together["manifest"] == local["manifest"]


def test_times_kept_from_other_threads_are_not_given(
    bundle: Path, slow_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "available", lambda weights, threads: ([], {}))
    record, page = tmp_path / "peers.json", tmp_path / "page.html"
    arguments = ["peers", "--dataset", str(slow_folder), "--model", str(bundle), "--backend", "onnxruntime-cpu"]
    for threads in ("1", "2"):
        options = ["--threads", threads, "--out", str(tmp_path / "raw"), "--json", str(record)]
        result = CliRunner().invoke(app, [*arguments, *options])
        assert result.exit_code == 0, result.output
    (contender,) = json.loads(record.read_text())["contenders"]
    assert contender["update_ms"] == {}
    assert {place: values["update_ms"] for place, values in contender["behaviour"].items()} == {
        "given": {},
        "near": {},
        "far": {},
        "wide": {},
    }
    result = CliRunner().invoke(app, ["report", str(record), "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert "– / –" in page.read_text()


def test_peers_that_are_not_there_are_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "small_backbone.onnx").write_bytes(b"")
    able, missing = peers.available(tmp_path, 1)
    assert Spec("opencv:mil", threads=1) in able
    assert len(able) + len(missing) == 5  # MIL, KCF, CSRT, MOSSE, and one nano
    assert all("contrib" in why for name, why in missing.items() if "nano" not in name)
    nano = f"opencv:nano:{tmp_path}/small_backbone.onnx,{tmp_path}/small_head.onnx"
    assert "no such file" in missing[nano]


def test_weights_that_opencv_cannot_load_are_said_to_be_missing(tmp_path: Path) -> None:
    for part in ("backbone", "head"):
        (tmp_path / f"small_{part}.onnx").write_bytes(b"junk")
    _, missing = peers.available(tmp_path, 1)
    assert (
        "OpenCV cannot load them" in missing[f"opencv:nano:{tmp_path}/small_backbone.onnx,{tmp_path}/small_head.onnx"]
    )
