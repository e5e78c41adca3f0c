"""INT8 of VTT: norms folded, convolutions and linear layers in integers, the fake-quant model's answers."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from small_int8 import examples
from test_qat import FEW, SETTINGS, invoke
from test_tracking import BOX, write_sequence
from test_vtt_export import BACKENDS, random_vtt
from torch import nn

import edgetrack
from edgetrack.bundle import read_bundle
from edgetrack.imaging import overlap
from quantize.answers import answer, divergence
from quantize.calibrate import calibrate
from quantize.checkpoints import load_quantised, save_quantised
from quantize.export import ExportError, Int8, _proof, export_bundle
from quantize.fake import QMAX, FakeQuantize, QuantAttend, freeze
from quantize.norms import fold_norms
from quantize.placement import place, quantised_layers
from quantize.proof import _differences, _Example, _overlap
from quantize.qat import Distillation
from quantize.sensitivity import set_rounding
from train.checkpoints import save_model
from train.models.attention import Attend
from train.models.resnet import RESNETS, FrozenBatchNorm, ResNet
from train.models.vtt import VTT
from train.recipes import Recipe


def calibrated_vtt() -> VTT:
    model = place(random_vtt("nano"))
    calibrate(model, examples(model.config)[:2], "mse")
    return model


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[VTT, Path]:
    model = calibrated_vtt()
    freeze(model)
    out = tmp_path_factory.mktemp("vtt") / "model"
    export_bundle(random_vtt("nano"), out, name="small", metadata={}, int8=Int8(model, {}, examples(model.config)[2:]))
    return model, out


def test_folded_norms_compute_the_same() -> None:
    torch.manual_seed(0)
    network = ResNet(RESNETS["resnet50"]).double().eval()
    for name, buffer in network.named_buffers():
        buffer.uniform_(0.5, 1.5) if name.endswith("var") else buffer.normal_(0.5, 0.2)
    plain = copy.deepcopy(network)
    fold_norms(network)
    assert not any("running_var" in name for name, _ in network.named_buffers())
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(network(images), plain(images))
    biased = nn.Sequential(nn.Conv2d(3, 4, 3), FrozenBatchNorm(4)).double()
    biased[1].load_state_dict({name: torch.rand(4) + 0.5 for name in biased[1].state_dict()})
    expected = biased(images)
    fold_norms(biased)
    assert isinstance(biased[1], nn.Identity)
    torch.testing.assert_close(biased(images), expected)


def test_the_proof_is_of_known_differences_and_overlaps() -> None:
    """A vector that is off by a twentieth of its length, and boxes of which the n-th overlaps by n hundredths."""
    value = torch.tensor([[30.0, 40.0], [0.0, 0.0]])
    off = value + torch.tensor([[0.0, 1.5], [-2.0, 0.0]])
    pairs = [
        ({"track": {"boxes": a, "tokens": b}}, {"track": {"boxes": c, "tokens": b}})
        for a, c, b in zip(off, value, torch.zeros(2, 4, dtype=torch.int64), strict=True)
    ]
    assert _differences(pairs) == {"track.boxes": 0.05}
    whole = torch.tensor([[0.5, 0.5, 0.4, 0.4]])
    examples_of = [_Example({}, {}, {}, whole) for _ in range(100)] + [_Example({}, {}, {}, None)]
    boxes = [whole * torch.tensor([1, 1, n / 100, 1]) for n in range(1, 101)] + [whole]
    found = _overlap(examples_of, boxes)["overlap_with_fp32"]
    assert found["mean"] == pytest.approx(0.505, abs=1e-4)
    assert found["5th_percentile"] == pytest.approx(0.0595, abs=1e-4)


def test_all_but_the_first_convolution_and_what_is_folded_is_rounded() -> None:
    model = random_vtt("nano")
    layers = {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert layers - quantised_layers(place(model)).keys() == {"backbone.conv1", "reduce"}


def test_both_runtimes_compute_in_integers_and_answer_like_the_fake_quant_model(built: tuple[VTT, Path]) -> None:
    model, bundle = built
    proof = read_bundle(bundle).manifest.accuracy["int8"]
    assert proof["runtimes"].keys() == set(BACKENDS)
    rounded = quantised_layers(model)
    backbone = [name for name in rounded if name.startswith("backbone")]
    shortcuts = [name for name in rounded if "downsample" in name]
    for backend, found in proof["runtimes"].items():
        executed = found["executed"]
        # OpenVINO computes the shortcuts, 1x1 convolutions of stride 2, in float.
        floating = len(shortcuts) if backend == "openvino-cpu" else 0
        # phi is the template's. What the first decoder layer asks follows from the learned queries alone, so that
        # product is a constant.
        assert sum(executed["search"]["integer"].values()) == len(rounded) - 2 - floating, (backend, executed)
        assert sum(executed["template"]["integer"].values()) == len(backbone) + 1 - floating, (backend, executed)
        assert all(difference < 0.05 for difference in found["difference"].values()), found["difference"]


def test_what_only_a_folded_product_reads_goes_with_it(built: tuple[VTT, Path]) -> None:
    """The first decoder layer's query, its weight and the rounding of what it is made of, else run in every frame."""
    for path in sorted((built[1] / "int8").glob("*.onnx")):
        graph = onnx.load(path, load_external_data=False).graph
        read = {value.name for value in graph.output}.union(*(node.input for node in graph.node))
        assert [node.output[0] for node in graph.node if read.isdisjoint(node.output)] == []
        assert {tensor.name for tensor in graph.initializer} <= read


@torch.no_grad()
def test_what_attends_to_all_tokens_is_kept_beside_what_attends_to_one() -> None:
    """Shares of 1 and of 1/448 do not fit into 127 steps: rounded, the even average comes to nothing."""
    generator = torch.Generator().manual_seed(0)
    k, v = (torch.randn(1, 1, 448, 32, generator=generator) for _ in range(2))
    q = torch.cat([40 * k[:, :, :1], torch.zeros(1, 1, 8, 32)], 2)  # one sharp, eight even
    exact = Attend()(q, k, v)
    errors = {}
    for shares in (True, False):
        module = QuantAttend(Attend(), shares=shares)
        for rounding in module.children():
            if isinstance(rounding, FakeQuantize):
                rounding.register_forward_pre_hook(lambda m, x: setattr(m, "scale", x[0].abs().max().item() / QMAX))
        errors[shares] = (module(q, k, v) - exact).norm(dim=-1)[0, 0] / exact.norm(dim=-1)[0, 0]
    assert errors[True][0] < 0.05
    assert errors[True][1:].min() > 0.9
    assert errors[False].max() < 0.05


def test_attention_over_many_tokens_is_rounded_but_for_what_the_first_queries_ask(tmp_path: Path) -> None:
    """Their side of the first decoder layer's product is a constant of the graph, which no tensor is rounded into."""
    small = random_vtt("nano")
    config = replace(small.config, search_width=256, search_height=256)
    plain = VTT(config).eval()
    plain.load_state_dict(small.state_dict())
    model = place(copy.deepcopy(plain))
    attend = {name for name in quantised_layers(model) if name.endswith("attend")}
    assert attend == {"encoder.0.attention.attend", "decoder.1.attention.attend"}
    calibrate(model, examples(config)[:1], "mse")
    freeze(model)
    export_bundle(plain, tmp_path / "many", name="many", metadata={}, int8=Int8(model, {}, examples(config)[2:]))
    executed = read_bundle(tmp_path / "many").manifest.accuracy["int8"]["runtimes"]["onnxruntime-cpu"]["executed"]
    # phi is the template's, the first decoder layer's query a constant; of an attention's products one is float.
    assert sum(executed["search"]["integer"].values()) == len(quantised_layers(model)) - 2


def test_the_tracker_runs_it(built: tuple[VTT, Path]) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    for backend in BACKENDS:
        tracker = edgetrack.Tracker(built[1], backend, threads=1)
        assert tracker.model.precision == "int8"
        tracker.init(frame, [40.0, 30.0, 20.0, 24.0])
        assert np.isfinite(tracker.update(frame).box).all()


def test_a_rounded_model_survives_its_file_and_learns(tmp_path: Path) -> None:
    model = calibrated_vtt()
    save_quantised(tmp_path / "int8.safetensors", model, [])
    loaded, metadata = load_quantised(tmp_path / "int8.safetensors")
    assert metadata["kind"] == "vtt-int8"
    pair = examples(model.config)[2]
    with torch.no_grad():
        wanted = answer(random_vtt("nano"), pair)
        torch.testing.assert_close(answer(loaded, pair), answer(model, pair))
        assert (divergence(answer(loaded, pair), wanted) > 0).all()
        set_rounding(loaded, False)
        torch.testing.assert_close(divergence(answer(loaded, pair), wanted).float(), torch.zeros(len(pair.box)))
    set_rounding(loaded, True)
    distilled = Distillation(
        Recipe(model.config, dense=0.0), random_vtt("nano"), {"keep_float": []}
    ).eval()  # without dropout
    distilled.model.load_state_dict(model.state_dict())
    torch.manual_seed(0)
    with torch.no_grad():  # what rounding alone does to random weights is no more than the loss jumps from step to step
        for parameter in distilled.parameters():
            if parameter.requires_grad and parameter.ndim > 1:
                parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    optimiser = torch.optim.Adam([p for p in distilled.parameters() if p.requires_grad], lr=1e-4)
    losses = []
    for _ in range(14):
        loss, _ = distilled(pair, distilled.counts(pair))
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    assert max(losses[-3:]) < 0.8 * losses[0], losses


def test_a_graph_that_is_further_away_than_rounding_is_refused(built: tuple[VTT, Path], tmp_path: Path) -> None:
    """One activation is taken for twice what it is: its integers get another scale than they were made with."""
    model, bundle = built
    (tmp_path / "weights.bin").write_bytes((bundle / "int8" / "weights.bin").read_bytes())
    paths = {name: tmp_path / f"{name}.onnx" for name in ("template", "search")}
    for name, path in paths.items():
        proto = onnx.load(bundle / "int8" / path.name, load_external_data=False)
        if name == "search":
            rounded = {node.output[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
            first = next(n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in rounded)
            scale = next(tensor for tensor in proto.graph.initializer if tensor.name == first.input[1])
            twice = 2 * numpy_helper.to_array(scale)
            proto.graph.initializer.append(numpy_helper.from_array(twice, "twice"))
            first.input[1] = "twice"
        onnx.save(proto, path)
    variant = Int8(model, {}, examples(model.config)[2:])
    with pytest.raises(ExportError, match=r"int8 on \S+-cpu: search\.\w+ is .* at most .* is allowed"):
        _proof(random_vtt("nano"), variant, paths)
    intact = {name: bundle / "int8" / path.name for name, path in paths.items()}
    assert _proof(random_vtt("nano"), variant, intact)["runtimes"].keys() == set(BACKENDS)


def test_the_rounding_of_other_weights_is_refused(built: tuple[VTT, Path]) -> None:
    model, bundle = built
    other = random_vtt("nano")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.copy_(parameter.flatten().flip(0).view_as(parameter))
    paths = {name: bundle / "int8" / f"{name}.onnx" for name in ("template", "search")}
    with pytest.raises(ExportError, match=r"of its size away from FP32's; at most 0\.5 is allowed"):
        _proof(other, Int8(model, {}, examples(model.config)[2:]), paths)


@pytest.mark.parametrize("tensor", ["template.kernel", "search.scores"])
def test_a_rounding_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch, tensor: str) -> None:
    rounding = {"template.kernel": 0.1, "search.boxes": 0.1, "search.scores": 0.1, tensor: float("nan")}
    fake_quant = {"difference_from_fp32": rounding, "overlap_with_fp32": {"mean": 0.95, "5th_percentile": 0.9}}
    monkeypatch.setattr("quantize.export.prove", lambda *_: {"fake-quant": fake_quant, "runtimes": {}})
    model = random_vtt("nano")
    with pytest.raises(ExportError, match=rf"fake-quant model's {tensor} is nan"):
        _proof(model, Int8(model, {}, []), {})


def test_the_commands_make_a_bundle_of_both_precisions(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", random_vtt("nano"))
    invoke("ptq", tmp_path / "model.safetensors", "--out", tmp_path / "ptq.safetensors", *FEW)
    invoke("qat", tmp_path / "model.safetensors", "--out", tmp_path / "qat", *SETTINGS, *FEW)
    calibrated, _ = load_quantised(tmp_path / "ptq.safetensors")
    learned, metadata = load_quantised(tmp_path / "qat" / "model.safetensors")
    assert metadata["training"]["step"] == 4
    # Equalised alike, as they begin from the same examples; only the fine-tune moved.
    start, _ = load_quantised(tmp_path / "qat" / "start.safetensors")
    for name, value in calibrated.state_dict().items():
        torch.testing.assert_close(start.state_dict()[name], value)
    assert any(not torch.equal(learned.state_dict()[name], value) for name, value in start.state_dict().items())
    write_sequence(tmp_path / "clips", "still", [BOX] * 3)
    int8 = ("--int8", tmp_path / "qat" / "model.safetensors")
    output = invoke(
        *("build", tmp_path / "model.safetensors", *int8, "--out", tmp_path / "bundle"),
        *("--sequences", tmp_path / "clips"),
    )
    assert "tracking 1 sequences, 3 frames" in output
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert manifest.variants.keys() == {"fp32", "int8"}
    assert manifest.provenance["int8"]["training"]["step"] == 4
    assert manifest.accuracy["tracking"]["runtimes"].keys() == set(BACKENDS)
    for backend, found in manifest.accuracy["tracking"]["runtimes"].items():
        boxes = []
        for precision in ("fp32", "int8"):
            tracker = edgetrack.Tracker(tmp_path / "bundle", backend, precision=precision, threads=1)
            tracker.init(np.zeros((60, 80, 3), np.uint8), BOX)
            boxes.append([tracker.update(np.full((60, 80, 3), index, np.uint8)).box for index in (1, 2)])
        assert found["int8"]["overlap_with_fp32"] == pytest.approx(float(overlap(*np.asarray(boxes)).mean()), abs=1e-4)
