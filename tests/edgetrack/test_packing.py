"""A part of a bundle: what is kept is what it was, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from edgetrack import BundleError, OptionError, OutputError, Tracker, cli
from edgetrack.bundle import find_model, read_bundle
from edgetrack.packing import repack
from edgetrack.scene import Scene


@pytest.mark.parametrize("name", ["seqtrack-nano", "vtt-nano"])
@pytest.mark.parametrize("out", ["small.zip", "small"])
def test_a_part_of_a_bundle_tracks_as_the_whole_of_it(tmp_path: Path, name: str, out: str) -> None:
    whole = read_bundle(find_model(name))
    part = read_bundle(repack(name, tmp_path / out, ["int8"]))
    files = part.manifest.files
    assert files == {name: entry for name, entry in whole.manifest.files.items() if name.startswith("int8/")}
    assert list(part.manifest.variants) == list(part.manifest.known_answers) == ["int8"]
    sizes = [sum(entry.bytes for entry in each.manifest.files.values()) for each in (part, whole)]
    assert sizes[0] < 0.3 * sizes[1]
    film = list(Scene(0, (320, 180)).frames(4))
    found = []
    for model in (tmp_path / out, name):
        tracker = Tracker(model, "onnxruntime-cpu", precision="int8", threads=1)
        tracker.init(film[0].image, film[0].box)
        found.append([tracker.update(frame.image).box for frame in film[1:]])
    assert np.array_equal(*found)
    with pytest.raises(OptionError, match=r"the bundle .* has int8"):
        Tracker(tmp_path / out, "onnxruntime-cpu", precision="fp32")


def test_all_of_a_bundle_is_the_bundle(tmp_path: Path) -> None:
    assert read_bundle(repack("vtt-nano", tmp_path / "all")).manifest == read_bundle(find_model("vtt-nano")).manifest


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").write_text("kept")
    with pytest.raises(OutputError, match="there: is there already"):
        repack("vtt-nano", tmp_path / "there")
    with pytest.raises(OptionError, match="got the precision 'int4'; 'vtt-nano' has fp32, int8"):
        repack("vtt-nano", tmp_path / "new", ["int8", "int4"])
    with pytest.raises(OutputError, match=r"new: cannot be written: No such file"):
        repack("vtt-nano", tmp_path / "missing" / "new")
    with pytest.raises(BundleError):
        repack("no-such-model", tmp_path / "new")
    monkeypatch.setattr("edgetrack.packing.write_bundle", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        repack("vtt-nano", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "kept"


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    out = tmp_path / "nano.zip"
    result = CliRunner().invoke(cli.app, ["pack", "vtt-nano", "--precision", "int8", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert f"wrote {out}: int8, 2.9 MB" in result.output
