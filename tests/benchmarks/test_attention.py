"""The attention that is drawn is the model's: against weights worked out from its queries and keys in PyTorch."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import edgetrack
from benchmarks.attention import Look, Revealed, draw, look, reveal
from benchmarks.cli import app
from benchmarks.datasets import Sequence, read_dataset
from benchmarks.reference import reference_model
from benchmarks.results import ResultsError
from edgetrack.imaging import letterbox, normalise
from train.checkpoints import save_model
from train.models.vtt import VTT, VTTConfig

FRAME = 3


class Recorder:
    """Queries and keys of an attention, as its linear layers give them, of the last runs."""

    def __init__(self, queries: nn.Linear, keys: nn.Linear, heads: int) -> None:
        self.heads, self.queries, self.keys = heads, [], []
        queries.register_forward_hook(lambda *called: self.queries.append(called[2][0]))
        keys.register_forward_hook(lambda *called: self.keys.append(called[2][0]))

    def weights(self) -> np.ndarray:
        """(queries, keys), the mean over the heads of softmax(q k^T / sqrt(d)), for the last keys."""
        q, k = torch.cat(self.queries[-4:]), self.keys[-1]

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.heads, -1)).movedim(-2, 0)

        scores = split(q) @ split(k).transpose(1, 2) / (q.shape[-1] / self.heads) ** 0.5
        return scores.softmax(-1).mean(0).numpy()


@pytest.fixture
def video(slow_folder: Path) -> Sequence:
    return read_dataset(str(slow_folder)).sequences[0]


def module(model: edgetrack.Model, graph: str) -> nn.Module:
    return model.session(graph)._module.model  # type: ignore[attr-defined]


@pytest.mark.parametrize("backend", ["onnxruntime-cpu", "openvino-cpu"])
def test_seqtracks_maps_are_the_decoders_attention(trained: tuple[Path, Path], video: Sequence, backend: str) -> None:
    checkpoint, bundle = trained
    seen = look(reveal(str(bundle), backend, threads=1), video, [FRAME])[FRAME]
    assert list(seen.decoder) == ["w", "h", "cx", "cy"]  # the order of this model's tokens
    reference = reference_model(checkpoint, "cpu", 1)
    layer = module(reference, "track").decoder.layers[-1]
    recorder = Recorder(layer.cross_q, layer.cross_k, layer.heads)
    tracker = edgetrack.Tracker(reference)
    tracker.init(video.read(0), video.truth[0])
    for index in range(1, FRAME):
        track = tracker.update(video.read(index))
    weights = recorder.weights()
    assert weights.shape == (4, 16 + 4)  # the search tokens and the template's
    np.testing.assert_allclose(np.stack(list(seen.decoder.values())), weights[:, :16].reshape(4, 4, 4), atol=1e-5)
    assert np.ptp(weights, axis=0).max() > 1e-3  # the four differ
    # The box in the crop is as large, measured by the crop, as the answer in the frame.
    np.testing.assert_allclose(seen.box[2] / seen.box[3], track.box[2] / track.box[3], rtol=1e-3)


@pytest.mark.parametrize("name", ["seqtrack-nano", "vtt-nano"])
def test_an_int8_graph_is_watched_as_it_is_deployed(name: str, video: Sequence) -> None:
    """ONNX Runtime gets other constants behind a ReLU than the file has, in the watched graph too."""
    revealed = reveal(name, "onnxruntime-cpu", "int8", threads=1)
    boxes = []
    for model in (revealed, edgetrack.load(name, "onnxruntime-cpu", "int8", threads=1)):
        tracker = edgetrack.Tracker(model)
        tracker.init(video.read(0), video.truth[0])
        boxes.append([tracker.update(video.read(index)).box for index in range(1, FRAME)])
    np.testing.assert_allclose(boxes[0], boxes[1], atol=1e-3)
    assert all(np.isfinite(weights).all() for weights in revealed.decoder())


@pytest.mark.parametrize("name", ["seqtrack-nano", "vtt-nano"])
def test_the_image_is_the_one_that_the_graph_was_run_on(name: str, dataset_folder: Path) -> None:
    """Also where the target is out of sight: SeqTrack then looks about a region that is not the box it answers, and
    VTT, which looks at a part of the frame, at another one."""
    model = reveal(name, "onnxruntime-cpu", "fp32", threads=1)
    hides, fed, run = read_dataset(str(dataset_folder), ("hides",)).sequences[0], [], model.watched.run

    def noting(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed.append(feeds["search"][0])
        return run(feeds)

    model.watched.run = noting  # type: ignore[assignment,method-assign]
    preprocessing = model.manifest.preprocessing
    for frame in (5, 10, 12):
        image = look(model, hides, [frame])[frame].image
        if name == "vtt-nano":
            image = letterbox(image, preprocessing.search.width, preprocessing.search.height).image
        shown = normalise(image, preprocessing.mean, preprocessing.std)
        assert np.abs(shown - fed[-1]).mean() < 0.05, frame  # but for the light, which is the first frame's


SMALL = VTTConfig(
    search_width=96,
    search_height=64,
    template_size=32,
    backbone="resnet-nano",
    dim=16,
    encoder_layers=2,
    decoder_layers=2,
    heads=2,
    ffn=24,
    queries=5,
)


@pytest.fixture(scope="module")
def searching(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Revealed]:
    """A checkpoint with random weights, and what is made of it."""
    torch.manual_seed(3)
    model = VTT(SMALL).eval()
    with torch.no_grad():
        for layer in (model.encoder[-1], model.decoder[-1]):
            layer.attention.q.weight.mul_(4)  # random weights of this size look everywhere alike
    path = tmp_path_factory.mktemp("attention") / "searching.safetensors"
    save_model(path, model)
    return path, reveal(str(path), "onnxruntime-cpu", threads=1)


def test_vtts_maps_are_the_attention_of_the_winner_and_of_the_points(
    searching: tuple[Path, Revealed], video: Sequence
) -> None:
    checkpoint, revealed = searching
    points = [(10.0, 8.0), (150.0, 110.0)]
    seen = look(revealed, video, [FRAME], points)[FRAME]
    reference = reference_model(checkpoint, "cpu", 1)
    model = module(reference, "search")
    encoder, decoder = (
        Recorder(layer.attention.q, layer.attention.k, 2) for layer in (model.encoder[-1], model.decoder[-1])
    )
    tracker = edgetrack.Tracker(reference)
    tracker.init(video.read(0), video.truth[0])
    tracker.update(video.read(1))
    for recorder in (encoder, decoder):
        recorder.queries.clear()
    best = tracker.update(video.read(2))
    rows, columns = SMALL.grid
    extent = letterbox(video.read(2), 96, 64).extent
    np.testing.assert_allclose(extent, (85 / 96, 1))  # the frame is narrower than the canvas
    visible = np.arange(columns) + 0.01 < extent[0] * columns

    def over_frame(raw: np.ndarray) -> np.ndarray:
        # What is hidden takes no part, so that the visible shares add up to 1.
        grid = raw.reshape(rows, columns) * visible
        return cv2.resize(grid / grid.sum(), (96, 64), interpolation=cv2.INTER_LINEAR)[:, :85]

    ((title, weights),) = seen.decoder.items()
    winner = int(title.removeprefix("query "))
    np.testing.assert_allclose(weights, over_frame(decoder.weights()[winner]), atol=1e-5)
    # The queries' answers come back sorted: the winner's is the one that the tracker gave.
    np.testing.assert_allclose(seen.box, best.box, atol=0.1)
    assert list(seen.encoder) == points
    raw = encoder.weights()
    for (x, y), found in seen.encoder.items():
        token = int(y / 120 * rows) * columns + int(x / 160 * extent[0] * columns)
        np.testing.assert_allclose(found, over_frame(raw[token]), atol=1e-5)


def test_without_points_the_target_and_the_quarters_are_asked(
    searching: tuple[Path, Revealed], video: Sequence
) -> None:
    (x, y), *quarters = look(searching[1], video, [2])[2].encoder
    assert quarters == [(40, 30), (120, 30), (40, 90), (120, 90)]
    assert 0 <= x < 160
    assert 0 <= y < 120


def test_a_picture_is_bright_where_the_weight_is() -> None:
    weights = np.zeros((4, 4))
    weights[1, 2] = 0.5
    image = np.full((64, 64, 3), 90, np.uint8)
    sheets = draw(Look(image, np.asarray([4.0, 4.0, 8.0, 8.0]), {"w": weights, "h": weights.T}, {}))
    assert list(sheets) == ["decoder"]
    sheet = sheets["decoder"]
    assert sheet.shape == (320, 3 * 326 - 6, 3)
    for column, (x, y) in enumerate([(200, 120), (120, 200)], 1):
        panel = sheet[:, 326 * column : 326 * column + 320].astype(int).sum(axis=2)
        assert panel[y, x] > 1.5 * panel[y, 320 - x]


def test_many_wide_panels_stand_in_rows() -> None:
    image, weights = np.zeros((400, 900, 3), np.uint8), np.ones((2, 2))
    maps = {(100.0 * i, 50.0): weights for i in range(1, 5)}
    sheet = draw(Look(image, np.asarray([10.0, 10.0, 50.0, 50.0]), {"q": weights}, maps))["encoder"]
    assert sheet.shape == (3 * 406 - 6, 2 * 906 - 6, 3)


def test_what_cannot_be_drawn_is_refused(
    trained: tuple[Path, Path], searching: tuple[Path, Revealed], bundle: Path, video: Sequence
) -> None:
    model = reveal(str(trained[1]), "onnxruntime-cpu", threads=1)
    for frame in (1, 13):
        with pytest.raises(ResultsError, match=f"frame {frame}; expected 2 to 12"):
            look(model, video, [frame])
    with pytest.raises(ResultsError, match="point 160,5 is outside"):
        look(searching[1], video, [2], [(160.0, 5.0)])
    with pytest.raises(ResultsError, match="expected a bundle written by python -m quantize"):
        reveal(str(bundle), "onnxruntime-cpu")


def test_command_writes_pictures(trained: tuple[Path, Path], slow_folder: Path, tmp_path: Path) -> None:
    arguments = ["attention", str(trained[1]), "--dataset", str(slow_folder), "--out", str(tmp_path / "pictures")]
    result = CliRunner().invoke(app, [*arguments, "--frame", "2", "--frame", "5", "--backend", "onnxruntime-cpu"])
    assert result.exit_code == 0, result.output
    written = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert written == ["slow-000002-decoder.png", "slow-000005-decoder.png"]
    assert cv2.imread(str(tmp_path / "pictures" / written[0])).shape == (320, 5 * 326 - 6, 3)
