"""The reference is the model; a bundle of other weights is found out, on every level, and by the exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import random_model
from typer.testing import CliRunner

import edgetrack
from benchmarks import parity
from benchmarks.cli import app
from benchmarks.datasets import read_dataset
from benchmarks.parity import Limits, compare_graphs, feeds, relative
from benchmarks.reference import reference_model
from benchmarks.results import ResultsError
from edgetrack.sources import read_image
from quantize.export import export_bundle
from train.checkpoints import load_model, save_model
from train.models.seqtrack import SeqTrack
from train.models.vtt import VTT, VTTConfig


def test_the_reference_tracks_as_the_exported_bundle_does(trained: tuple[Path, Path], dataset_folder: Path) -> None:
    checkpoint, bundle = trained
    sequence = read_dataset(str(dataset_folder), ("plain",)).sequences[0]
    tracks = []
    for model in (reference_model(checkpoint, "cpu", 1), edgetrack.load(bundle, "onnxruntime-cpu", threads=1)):
        for decode in ("fused", "cached"):
            tracker = edgetrack.Tracker(model, decode=decode)
            tracker.init(read_image(sequence.frames[0]), sequence.truth[0])
            tracks.append([tracker.update(read_image(path)) for path in sequence.frames[1:]])
    boxes = np.asarray([[track.box for track in each] for each in tracks])
    scores = np.asarray([[track.score for track in each] for each in tracks])
    assert len(np.unique(boxes[0].round(3), axis=0)) > 1  # it does move
    for index in (1, 2, 3):
        np.testing.assert_allclose(boxes[index], boxes[0], atol=1e-6)
        np.testing.assert_allclose(scores[index], scores[0], rtol=1e-4)


def test_feeds_are_the_references_own_and_leave_absent_frames_out(
    trained: tuple[Path, Path], dataset_folder: Path
) -> None:
    reference = reference_model(trained[0], "cpu", 1)
    videos = read_dataset(str(dataset_folder)).sequences
    examples = list(feeds(reference, videos, per_sequence=50))
    # 11 steps of "plain"; "hides" has 15, less the 3 hidden frames and the one whose frame before is hidden.
    assert len(examples) == 11 + 11
    (track,), steps = examples[0]["track"], examples[0]["decode_step"]
    assert [int(step["position"][0]) for step in steps] == [0, 1, 2, 3]
    answer = reference.session("track").run(track)
    assert [int(step["token"][0]) for step in steps][1:] == answer["tokens"][0, :3].tolist()


def test_other_weights_are_found_in_the_graph_they_are_in(
    trained: tuple[Path, Path], dataset_folder: Path, tmp_path: Path
) -> None:
    checkpoint, bundle = trained
    model, _ = load_model(checkpoint)
    with torch.no_grad():
        for parameter in model.decoder.head[-1].parameters():
            parameter.mul_(1.01)
    save_model(tmp_path / "other.safetensors", model)
    candidate = edgetrack.load(bundle, "onnxruntime-cpu", threads=1)
    reference = reference_model(tmp_path / "other.safetensors", "cpu", 1)
    videos = read_dataset(str(dataset_folder)).sequences
    tensors = compare_graphs(reference, candidate, list(feeds(reference, videos, 2)))["tensors"]
    assert set(tensors) == {"template", "encode", "decode_step", "track"}
    assert max(tensors["template"].values()) < 1e-4
    assert max(tensors["encode"].values()) < 1e-4
    assert tensors["decode_step"]["logits"] == pytest.approx(0.01 / 1.01, rel=0.01)


SWITCHES: dict[str, dict[str, object]] = {
    "bidirectional": {"decoding": "bidirectional", "memory": "token"},
    "corner": {"order": "corner", "memory": "x"},
    "prompt": {"prompt_frames": 3},
}


def switched(name: str, folder: Path) -> SeqTrack:
    """A small model with one of the paper's switches thrown and random weights, saved as small.safetensors."""
    model = random_model("isolated", encoder_depth=1, decoder_layers=1, **SWITCHES[name])
    save_model(folder / "small.safetensors", model)
    return model


@pytest.mark.parametrize(
    ("name", "graphs", "options"),
    [
        ("bidirectional", {"template", "track"}, {"window"}),
        ("corner", {"template", "encode", "decode_step", "track"}, set()),
        ("prompt", {"template", "encode", "decode_step", "track"}, {"window", "prompt"}),
    ],
)
def test_a_switched_model_is_fed_what_it_takes(
    name: str, graphs: set[str], options: set[str], dataset_folder: Path, tmp_path: Path
) -> None:
    switched(name, tmp_path)
    reference = reference_model(tmp_path / "small.safetensors", "cpu", 1)
    videos = read_dataset(str(dataset_folder), ("plain",)).sequences
    examples = list(feeds(reference, videos, per_sequence=50))
    assert len(examples) == 11
    for index, example in enumerate(examples):
        assert set(example) == graphs
        (track,) = example["track"]
        assert set(track) & {"window", "prompt"} == options
        prompt: list[int] = []
        if "prompt" in options:
            # The boxes of the three frames before as they are drawn; until there are as many, the first stands in.
            boxes = videos[0].truth[[max(0, index - back) for back in (2, 1, 0)]]
            side = 4 * 24  # of the search crop: the square's, four times
            shift = (boxes[:, :2] - boxes[-1, :2]) / side
            prompt = np.floor(39 * np.column_stack([0 * shift + 24 / side, 0.5 + shift])).astype(int).ravel().tolist()
            assert track["prompt"].tolist() == [prompt]
        if "decode_step" in graphs:
            steps = example["decode_step"]
            answer = reference.session("track").run(track)["tokens"][0].tolist()
            assert [int(step["position"][0]) for step in steps] == list(range(len(prompt) + 4))
            assert [int(step["token"][0]) for step in steps] == [*prompt, 41, *answer[:3]]


@pytest.mark.parametrize("name", sorted(SWITCHES))
def test_a_switched_models_bundle_passes_and_anothers_fails(name: str, dataset_folder: Path, tmp_path: Path) -> None:
    model = switched(name, tmp_path)
    export_bundle(model, tmp_path / "small", name="small", metadata={})
    with torch.no_grad():
        for parameter in model.decoder.head.parameters():
            parameter.copy_(torch.flip(parameter, (0,)))
    save_model(tmp_path / "other.safetensors", model)
    options = ["--dataset", str(dataset_folder), "--backend", "onnxruntime-cpu", "--max-box-error", "1e-4"]
    arguments = [str(tmp_path / "small"), "--reference"]
    code, content, output = run([*arguments, str(tmp_path / "small.safetensors"), *options], tmp_path)
    assert code == 0, output
    assert content["entries"][0]["equal_boxes"] == 1
    assert content["entries"][0]["auc_drop"] == 0
    arguments += [str(tmp_path / "other.safetensors"), "--no-closed-loop"]
    code, _, output = run([*arguments, *options], tmp_path)
    assert code == 3
    assert "box error" in output


def test_vtt_is_compared_on_whole_frames(dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    shape = {"search_width": 96, "search_height": 64, "template_size": 32, "backbone": "resnet-nano", "dim": 16}
    model = VTT(VTTConfig(**shape, encoder_layers=1, decoder_layers=1, heads=2, ffn=24, queries=5)).eval()
    save_model(tmp_path / "vtt.safetensors", model)
    export_bundle(model, tmp_path / "vtt", name="vtt", metadata={})
    arguments = [str(tmp_path / "vtt"), "--reference", str(tmp_path / "vtt.safetensors")]
    options = ["--dataset", str(dataset_folder), "--backend", "onnxruntime-cpu", "--max-box-error", "1e-4"]
    code, content, output = run([*arguments, *options, "--max-auc-drop", "0.001"], tmp_path)
    assert code == 0, output
    (entry,) = content["entries"]
    assert set(entry["tensors"]) == {"template", "search"}
    assert set(entry["tensors"]["search"]) == {"boxes", "scores"}
    assert entry["equal_boxes"] == 1
    # Whether a bundle that tracks worse fails, and one that tracks better does not.
    for tracked, failed in ((0.25, True), (0.75, False)):
        aucs = iter([0.5, tracked])
        monkeypatch.setattr(parity, "evaluate", lambda *_, **__: (SimpleNamespace(metrics={"auc": next(aucs)}), {}))  # noqa: B023
        code, content, output = run([*arguments, *options, "--max-auc-drop", "0.2"], tmp_path)
        assert (code, "AUC drops by 0.25" in output) == ((3, True) if failed else (0, False))
        assert (content["reference"]["auc"], content["entries"][0]["auc_drop"]) == (0.5, 0.5 - tracked)


class Answering:
    """A VTT that answers the example of number n with the nth of some boxes; of its queries, `best` says which wins."""

    def __init__(self, boxes: np.ndarray, best: np.ndarray) -> None:
        self.manifest = SimpleNamespace(kind="vtt")
        self.boxes, self.best = boxes, best

    def session(self, graph: str) -> Answering:
        assert graph == "search"
        return self

    def run(self, feeds: dict) -> dict[str, np.ndarray]:
        boxes = np.stack([self.boxes[feeds["number"]]] * 2)
        return {"boxes": boxes[None], "scores": np.eye(2)[None, self.best[feeds["number"]]]}


def test_differences_are_summed_up_over_examples() -> None:
    """Errors of 0, 0.001, ..., 0.1 of the width alone, the largest first; in every fourth another query wins."""
    count = 101
    truth, none = np.full((count, 4), 0.5), np.zeros(count, int)
    away = truth - np.arange(count)[::-1, None] / 1000 * (0, 0, 1, 0)
    examples = [{"search": [{"number": number}]} for number in range(count)]
    reference, candidate = Answering(truth, none), Answering(away, (np.arange(count) % 4 == 0).astype(int))
    found = compare_graphs(reference, candidate, examples)  # type: ignore[arg-type]
    assert found["box_error"] == pytest.approx({"mean": 0.05, "p95": 0.095, "worst": 0.1})
    assert found["tensors"] == {"search": {"boxes": pytest.approx(0.1 / 0.5), "scores": 1}}
    assert found["equal_boxes"] == pytest.approx(75 / 101)


def test_relative_difference() -> None:
    assert relative(np.zeros(2), np.zeros(2)) == 0
    assert relative(np.asarray([1.0, 2.5]), np.asarray([1.0, 2.0])) == 0.25
    assert relative(np.asarray([1.0, np.nan]), np.asarray([1.0, 2.0])) == float("inf")


def test_limits() -> None:
    entry = {"auc_drop": 0.02, "box_error": {"p95": 0.01}}
    assert Limits().broken(entry) == []
    assert Limits(auc_drop=0.03, box_error=0.02).broken(entry) == []
    assert Limits(auc_drop=0.02, box_error=0.01).broken(entry) == []  # at most
    assert Limits(auc_drop=0.02).broken({**entry, "auc_drop": -0.5}) == []  # better than the reference
    assert len(Limits(auc_drop=0.01, box_error=0.001).broken(entry)) == 2
    assert Limits(auc_drop=0.01).broken({"box_error": {"p95": 0.0}}) == []  # sequences were not tracked


def test_what_is_no_number_passes_no_limit() -> None:
    entry = {"auc_drop": float("nan"), "box_error": {"p95": float("nan")}}
    assert Limits(auc_drop=0.01, box_error=0.01).broken(entry) == [
        "AUC drops by nan; at most 0.01 is allowed",
        "box error nan; at most 0.01 is allowed",
    ]


def run(arguments: list[str], tmp_path: Path) -> tuple[int, dict, str]:
    out = tmp_path / "parity.json"
    result = CliRunner().invoke(
        app, ["parity", *arguments, "--threads", "1", "--out", str(tmp_path), "--json", str(out)]
    )
    return result.exit_code, json.loads(out.read_text()) if out.exists() else {}, result.output


def test_command_passes_the_models_own_bundle(trained: tuple[Path, Path], dataset_folder: Path, tmp_path: Path) -> None:
    checkpoint, bundle = trained
    arguments = [str(bundle), "--reference", str(checkpoint), "--dataset", str(dataset_folder)]
    code, content, output = run([*arguments, "--max-auc-drop", "0", "--max-box-error", "0"], tmp_path)
    assert code == 0, output
    assert content["reference"] | {"torch": "", "auc": 0} == {
        "backend": f"pytorch-{'cuda' if torch.cuda.is_available() else 'cpu'}",
        "torch": "",
        "tf32": False,
        "auc": 0,
    }
    # What was compared, by digests, and on what.
    assert content["threads"] == 1
    assert content["dataset"] == {**read_dataset(str(dataset_folder)).describe(), "crops": 8}
    contenders = [content["checkpoint"], *(entry["contender"] for entry in content["entries"])]
    assert {contender["name"] for contender in contenders} == {"small"}
    assert len({contender["manifest"] for contender in contenders}) == 2
    assert content["checkpoint"]["backend"].startswith("pytorch-")
    assert {entry["backend"] for entry in content["entries"]} >= {"onnxruntime-cpu"}
    assert all(entry["equal_boxes"] == 1 and entry["auc_drop"] == 0 for entry in content["entries"])


def test_a_dataset_without_an_auc_is_refused_before_anything_is_run(
    trained: tuple[Path, Path], dataset_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = replace(read_dataset(str(dataset_folder)), name="oxuva", protocol="oxuva")
    monkeypatch.setattr(parity, "reference_model", lambda *args, **options: pytest.fail("it was loaded"))
    with pytest.raises(ResultsError, match=r"oxuva is scored by 'oxuva', .* and gives no AUC"):
        parity.compare(str(trained[1]), trained[0], judged, tmp_path, backends=["onnxruntime-cpu"])


def test_command_fails_another_models_bundle(trained: tuple[Path, Path], dataset_folder: Path, tmp_path: Path) -> None:
    checkpoint, bundle = trained
    model, _ = load_model(checkpoint)
    with torch.no_grad():
        for parameter in model.decoder.head.parameters():
            parameter.copy_(torch.flip(parameter, (0,)))
    save_model(tmp_path / "other.safetensors", model)
    arguments = [str(bundle), "--reference", str(tmp_path / "other.safetensors"), "--dataset", str(dataset_folder)]
    options = ["--backend", "onnxruntime-cpu", "--no-closed-loop", "--max-box-error", "0.001"]
    code, content, output = run(arguments + options, tmp_path)
    assert code == 3
    assert "box error" in output
    assert content["entries"][0]["broken"]


def test_a_precision_that_a_backend_refuses_fails_the_gate(
    trained: tuple[Path, Path], dataset_folder: Path, tmp_path: Path
) -> None:
    checkpoint, bundle = trained
    arguments = [str(bundle), "--reference", str(checkpoint), "--dataset", str(dataset_folder), "--no-closed-loop"]
    code, content, output = run([*arguments, "--backend", "onnxruntime-cpu", "--precision", "fp16"], tmp_path)
    assert code == 3
    assert "fp16" in output
    assert "refused" in content["entries"][0]
