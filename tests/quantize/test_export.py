"""The exported bundle is the model: tracked boxes, stored weights, stated facts."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pydantic import BaseModel
from small_models import random_model
from test_vtt_export import random_vtt
from typer.testing import CliRunner

import edgetrack
from edgetrack.bundle import OnlineSettings, SearchOnlineSettings, find_model, read_bundle
from edgetrack.imaging import clip_box, crop_square, crop_to_box, normalise
from edgetrack_runtimes import SessionOptions, open_session
from quantize.cli import app
from quantize.export import ExportError, _replace, compare, export_bundle
from quantize.graphs import seqtrack_graphs
from quantize.kinds import described
from quantize.opset import OpsetError
from train.checkpoints import save_model
from train.models.seqtrack import SeqTrack
from train.models.vtt import VTT

BACKENDS = ("onnxruntime-cpu", "openvino-cpu")


def frames(count: int) -> list[np.ndarray]:
    """A textured patch wandering over noise."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 255, (120, 160, 3), np.uint8)
    patch = rng.integers(0, 255, (30, 24, 3), np.uint8)
    out = []
    for i in range(count):
        frame = background.copy()
        frame[40 + i : 70 + i, 50 + 2 * i : 74 + 2 * i] = patch
        out.append(frame)
    return out


@torch.no_grad()
def tracked_by_pytorch(model: SeqTrack, film: list[np.ndarray], box: list[float], window: float) -> np.ndarray:
    """The online loop in PyTorch, without updates, written from the paper: crop, decode, map back, clip."""
    config = model.config
    state = np.asarray(box, np.float64)

    def crop(frame: np.ndarray, factor: float, size: int) -> tuple[torch.Tensor, float]:
        image, scale = crop_square(frame, state, factor, size)
        return torch.from_numpy(normalise(image)).permute(2, 0, 1)[None], scale

    template, _ = crop(film[0], config.template_factor, config.template_size)
    templates = template[:, None].expand(-1, config.templates, -1, -1, -1)
    penalty = torch.from_numpy(1 - window + window * np.hanning(config.bins)).float()
    boxes = [state]
    for frame in film[1:]:
        search, scale = crop(frame, config.search_factor, config.search_size)
        ids = model.generate(model.encode(templates, search), penalty).tokens
        values = ids[0].double().numpy() / (config.bins - 1)
        cxcywh = values if config.order == "xywh" else values[[2, 3, 0, 1]]
        state = clip_box(crop_to_box(cxcywh, state, scale, config.search_size), (160, 120), 10.0)
        boxes.append(state)
    return np.stack(boxes)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decode", ["fused", "cached"])
@pytest.mark.parametrize("window", [0.0, 1.0])
def test_boxes_are_those_of_the_pytorch_model(
    exported: tuple[SeqTrack, Path], backend: str, decode: str, window: float
) -> None:
    model, bundle = exported
    film, box = frames(8), [50.0, 40.0, 24.0, 30.0]
    tracker = edgetrack.Tracker(bundle, backend, threads=1, decode=decode, window=window, update_interval=0)
    tracker.init(film[0], box)
    found = np.asarray([box, *(tracker.update(frame).box for frame in film[1:])])
    expected = tracked_by_pytorch(model, film, box, window)
    assert np.ptp(expected[:, 0]) > 1  # it moves: agreement means something
    np.testing.assert_allclose(found, expected, atol=0.5)


def test_equal_weights_are_stored_once(exported: tuple[SeqTrack, Path]) -> None:
    model, bundle = exported
    sizes = {path.name: path.stat().st_size for path in (bundle / "fp32").iterdir()}
    weights = sum(p.numel() * 4 for p in model.parameters())
    graphs = [onnx.load(bundle / "fp32" / f"{name}.onnx") for name in ("template", "encode", "decode_step", "track")]
    repeated = sum(onnx.numpy_helper.to_array(t).nbytes for graph in graphs for t in graph.graph.initializer)
    assert sizes["weights.bin"] < 1.1 * weights < repeated


def test_graphs_say_what_they_are_and_nothing_of_where_they_were_made(exported: tuple[SeqTrack, Path]) -> None:
    _, bundle = exported
    manifest = json.loads((bundle / "manifest.json").read_text())
    for path in sorted((bundle / "fp32").glob("*.onnx")):
        proto = onnx.load(path, load_external_data=False)
        facts = {p.key: p.value for p in proto.metadata_props}
        assert facts["graph"] == path.stem
        assert json.loads(facts["decoder"]) == manifest["decoder"]
        content = path.read_bytes()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert b".py" not in content
        assert all(d.dim_value > 0 for v in proto.graph.input for d in v.type.tensor_type.shape.dim)


def test_manifest_states_the_model(exported: tuple[SeqTrack, Path]) -> None:
    model, bundle = exported
    manifest = read_bundle(bundle).manifest
    assert manifest.provenance["training"] == {"step": 3}
    assert manifest.provenance["config"] == model.config.to_dict()
    assert (manifest.templates, manifest.decoder.order) == (model.config.templates, model.config.order)
    assert manifest.preprocessing.search.size == model.config.search_size


def test_a_graph_that_computes_something_else_is_refused(exported: tuple[SeqTrack, Path]) -> None:
    model, bundle = exported
    other = type(model)(model.config).eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.decoder.layers[-1].fc2.bias[0] += 0.5
    paths = {"decode_step": bundle / "fp32" / "decode_step.onnx"}
    with pytest.raises(ExportError, match=r"decode_step on .*: logits differs"):
        compare(other, paths)


@pytest.mark.parametrize("graph", ["template", "decode_step"])
def test_an_output_that_is_not_a_number_is_refused(
    exported: tuple[SeqTrack, Path], monkeypatch: pytest.MonkeyPatch, graph: str
) -> None:
    class Session:
        def __init__(self, backend: str, path: Path, options: SessionOptions) -> None:
            self.session, self.broken = open_session(backend, path, options), path.stem == graph

        def __enter__(self) -> Session:
            return self

        def __exit__(self, *_: object) -> None:
            self.session.close()

        def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            found = self.session.run(inputs)
            return {name: value * np.nan for name, value in found.items()} if self.broken else found

    model, bundle = exported
    paths = {name: bundle / "fp32" / f"{name}.onnx" for name in ("template", "decode_step")}
    compare(model, paths)
    monkeypatch.setattr("quantize.export.open_session", Session)
    with pytest.raises(ExportError, match=rf"{graph} on \S+: \w+ is not finite"):
        compare(model, paths)


def test_example_inputs_are_coherent_and_random() -> None:
    model = random_model("isolated")
    one, other = (seqtrack_graphs(model, torch.Generator().manual_seed(seed)) for seed in (0, 1))
    for name, spec in one.items():
        assert all(v.shape == other[name].inputs[k].shape for k, v in spec.inputs.items())
    assert not torch.equal(one["track"].inputs["search"], other["track"].inputs["search"])


@pytest.mark.parametrize(
    ("model", "part"), [(random_model("isolated"), OnlineSettings), (random_vtt("nano"), SearchOnlineSettings)]
)
def test_every_online_setting_is_there_to_be_set(model: SeqTrack | VTT, part: type[BaseModel]) -> None:
    online = described(model, {})["online"]
    assert set(online) == set(part.model_fields)
    required = {name: value for name, value in online.items() if part.model_fields[name].is_required()}
    assert part(**required).model_dump() == online  # the others are as if nothing had been said
    for name in online:
        assert described(model, {"online": {name: "given"}})["online"] == online | {name: "given"}


def test_command_writes_a_bundle_and_settings_reach_the_manifest(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", random_model("isolated"))
    arguments = ["export", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "small.zip")]
    result = CliRunner().invoke(app, [*arguments, "--set", "online.window=0.25", "--set", "description=for a test"])
    assert result.exit_code == 0, result.output
    manifest = read_bundle(tmp_path / "small.zip").manifest
    assert (manifest.name, manifest.online.window, manifest.description) == ("small", 0.25, "for a test")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".export")] == []


@pytest.mark.parametrize("out", ["tracker-v1.2", "tracker-v1.2.zip"])
def test_a_model_is_called_as_its_bundle_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    names: list[str] = []
    monkeypatch.setattr("quantize.export.export_bundle", lambda *_, name, **__: names.append(name) or [])
    save_model(tmp_path / "model.safetensors", random_model("isolated"))
    result = CliRunner().invoke(app, ["export", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / out)])
    assert (result.exit_code, names) == (0, ["tracker-v1.2"])


def test_that_int8_is_gone_from_a_bundle_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantize.export.export_bundle", lambda *_, **__: [])
    save_model(tmp_path / "model.safetensors", random_model("isolated"))
    for out, had_int8 in ((find_model("vtt-nano"), True), (tmp_path / "new", False)):
        result = CliRunner().invoke(app, ["export", str(tmp_path / "model.safetensors"), "--out", str(out)])
        assert result.exit_code == 0
        assert (f"note: {out} held INT8, too" in result.stderr) == had_int8


@pytest.mark.parametrize("facts", [{}, {"score": {"source": "likelihood", "ok_threshold": 0.0}}])
def test_a_score_that_is_not_calibrated_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object]
) -> None:
    monkeypatch.setattr("quantize.export.export_bundle", lambda *_, **__: [])
    path = tmp_path / "model.safetensors"
    save_model(path, random_model("isolated"), **facts)
    for command in (["export"], ["build", "--examples", "4"]):
        with monkeypatch.context() as patch:
            patch.setattr("quantize.cli._print_proof", lambda bundle: None)
            patch.setattr("quantize.cli.PROVED", 2)
            result = CliRunner().invoke(app, [*command, str(path), "--out", str(tmp_path / "small")])
        assert result.exit_code == 0, result.output
        told = f"note: the score of {path} is not calibrated" in result.stderr
        assert told == (not facts)


def test_a_setting_that_does_not_fit_is_said_before_anything_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "quantize.export._to_onnx", lambda spec: pytest.fail("exported before the settings are checked")
    )
    save_model(tmp_path / "model.safetensors", random_model("isolated"))
    arguments = ["export", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "small")]
    fixed = ("preprocessing.mean=[0, 0, 0]", "decoder.order=xywh", "provenance={}", "templates=2", "kind=vtt")
    for setting, problem in (
        ("online.window=5", "online.window is 5: Input should be less than or equal to 1"),
        ("online.window=wide", "cannot apply --set 'online.window=wide': got a word; expected a number"),
        ("online.breadth=1", "cannot apply --set 'online.breadth=1'"),
        *((setting, f"cannot apply --set {setting!r}; expected KEY=VALUE with KEY one of name") for setting in fixed),
    ):
        result = CliRunner().invoke(app, [*arguments, "--set", setting])
        assert result.exit_code == 1
        assert problem in result.output
    assert not (tmp_path / "small").exists()


def test_a_graph_of_no_operator_set_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OpsetError("ReduceMax 'largest': axes 'a' are computed; expected a constant")

    monkeypatch.setattr("quantize.export.export_bundle", refused)
    save_model(tmp_path / "model.safetensors", random_model("isolated"))
    result = CliRunner().invoke(app, ["export", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "small")])
    assert (result.exit_code, result.stderr[:24]) == (1, "error: ReduceMax 'larges")


def test_what_is_not_a_bundle_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    (tmp_path / "folder.zip").mkdir()
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("photo.jpg", "sunset")
    photos = (tmp_path / "photos.zip").read_bytes()
    for out in (
        tmp_path / "home",
        tmp_path / "home" / "letter.txt",
        tmp_path / "folder.zip",
        tmp_path / "photos.zip",
    ):
        with pytest.raises(ExportError, match="not a bundle"):
            export_bundle(random_model("joint"), out, name="x", metadata={})
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    assert (tmp_path / "photos.zip").read_bytes() == photos


def test_a_manifest_does_not_make_a_bundle_of_what_is_not(
    exported: tuple[SeqTrack, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantize.export._to_onnx", lambda spec: pytest.fail("exported before --out is checked"))
    manifest = (exported[1] / "manifest.json").read_text()
    (tmp_path / "file").write_text("dear")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, text, file in (("app", '{"name": "an app"}', "app.js"), ("own", manifest, "fp32/notes.txt")):
        (tmp_path / name / file).parent.mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text(text)
        (tmp_path / name / file).write_text("years of work")
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr("manifest.json", text)
            archive.writestr(file, "years of work")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, problem in (
        ("app", r"its manifest\.json is not a bundle's"),
        ("app.zip", r"its manifest\.json is not a bundle's"),
        ("own", r"it also holds fp32/notes\.txt"),
        ("own.zip", r"it also holds fp32/notes\.txt"),
        ("dangling", "a link to nothing"),
        ("file/below", "file is no folder"),
        ("file/far/below.zip", "file is no folder"),
    ):
        with pytest.raises(ExportError, match=problem):
            export_bundle(exported[0], tmp_path / name, name="x", metadata={})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["small", "small.zip"])
def test_a_bundle_is_replaced_even_one_of_another_version(tmp_path: Path, name: str) -> None:
    out, manifest = tmp_path / name, json.dumps({"schema_version": 1, "kind": "other", "variants": {}, "files": {}})
    if out.suffix:
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("manifest.json", manifest)
    else:
        out.mkdir()
        (out / "manifest.json").write_text(manifest)
    for _ in range(2):
        export_bundle(random_vtt("nano"), out, name="new", metadata={})
        assert read_bundle(out).manifest.name == "new"


def test_a_full_disk_is_said_and_the_bundle_before_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_model(tmp_path / "model.safetensors", random_vtt("nano"))
    with zipfile.ZipFile(tmp_path / "small.zip", "w") as archive:
        archive.writestr(
            "manifest.json", json.dumps({"schema_version": 1, "kind": "other", "variants": {}, "files": {}})
        )
    before = (tmp_path / "small.zip").read_bytes()
    monkeypatch.setattr("quantize.export.pack", full)
    result = CliRunner().invoke(
        app, ["export", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "small.zip")]
    )
    assert result.exit_code == 1
    assert f"error: {tmp_path / 'small.zip'}: cannot be written: No space left on device" in result.stderr
    assert (tmp_path / "small.zip").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "small.zip"]


def test_a_bundle_stays_where_the_next_cannot_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("model", "next"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(name)
    moved: list[Path] = []

    def interrupted(source: Path, target: Path) -> None:
        moved.append(source)
        if len(moved) == 2:  # the first makes place
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _replace(tmp_path / "next", tmp_path / "model", tmp_path / "before")
    assert (tmp_path / "model" / "manifest.json").read_text() == "model"
    _replace(tmp_path / "next", tmp_path / "model", tmp_path / "before")
    assert (tmp_path / "model" / "manifest.json").read_text() == "next"
    assert (tmp_path / "before" / "manifest.json").read_text() == "model"
