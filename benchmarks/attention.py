"""Where a model looks: attention of the deployed graphs, drawn over the frames of a sequence.

The graph that runs in each frame is the bundle's own, in memory, with the results of its softmaxes added to its
outputs. So the maps are those of what is deployed, in any precision, and no bundle has to hold a graph for them.

Drawn are the last layers, averaged over the heads: of SeqTrack the decoder's attention to the search crop while each of
the four coordinates is said (Chen et al., CVPR 2023, Fig. 7); of VTT the decoder's attention of the query that won to
the frame, or to the part of it that was looked at last, and the encoder's attention of chosen points (VTT, Figs. 5
and 6).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import edgetrack
from benchmarks.contenders import Frame
from benchmarks.datasets import Sequence as Video
from benchmarks.metrics import Floats
from benchmarks.results import ResultsError
from edgetrack import Model
from edgetrack.drawing import annotate
from edgetrack.imaging import box_to_crop, crop_square, import_cv2, letterbox
from edgetrack.kinds import FRAME_GRAPHS, Options, algorithm
from edgetrack.online import Clock
from edgetrack.vtt import VTT, State
from edgetrack_runtimes import Session, open_session
from train.models.registry import config_from_dict
from train.models.vtt import VTTConfig

COORDINATES = {"xywh": ("cx", "cy", "w", "h"), "whxy": ("w", "h", "cx", "cy"), "corner": ("x1", "y1", "x2", "y2")}
"""What the four tokens say, by the order in which a model writes a box."""


@dataclass(frozen=True)
class Look:
    """An image that a model looked at, and where.

    Attributes:
        image: BGR uint8 (H, W, 3): SeqTrack's search crop; VTT's frame, or the part of it that it looked at last.
        box: the answer, (x, y, w, h) in pixels of the image.
        decoder: title -> weights over the image (rows, columns).
        encoder: a point (x, y) in pixels of the image -> weights over the image (rows, columns); of VTT alone.
    """

    image: Frame
    box: Floats
    decoder: Mapping[str, Floats]
    encoder: Mapping[tuple[float, float], Floats]


class _Session:
    """A session that keeps what its softmaxes gave in the last run, in the graph's order."""

    def __init__(self, session: Session, softmaxes: Sequence[str]) -> None:
        self._session, self._names = session, tuple(softmaxes)
        self.inputs, self.backend = session.inputs, session.backend
        self.runtime_version, self.placement = session.runtime_version, session.placement
        self.outputs = {name: spec for name, spec in session.outputs.items() if name not in self._names}
        self.upload, self.close = session.upload, session.close
        self.last: dict[str, NDArray[Any]] = {}

    def run(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        self.last = self._session.run(feeds)
        return {name: self.last[name] for name in self.outputs}

    def softmaxes(self) -> list[NDArray[np.float32]]:
        """Attention weights (heads, queries, keys)."""
        return [self.last[name][0] for name in self._names]


class Revealed(Model):
    """A loaded model opened once more, with the attention of the graph that runs in each frame kept.

    Raises:
        ResultsError: its manifest does not hold the configuration that `quantize` writes.
    """

    def __init__(self, model: Model) -> None:
        manifest = model.manifest
        super().__init__(model.bundle, model.backend, model.precision, model.variant, model.options)
        values = manifest.provenance.get("config")
        if not isinstance(values, dict):
            raise ResultsError(
                f"{model.bundle.source}: no provenance.config in the manifest, which says what the softmaxes of its "
                "graphs belong to; expected a bundle written by python -m quantize"
            )
        self.config = config_from_dict(manifest.kind, values)
        path = self.bundle.graph_path(self.variant, FRAME_GRAPHS[manifest.kind])
        with tempfile.TemporaryDirectory() as folder:
            # Beside its weights, in their file as in the bundle: what lies in the graph itself no session can replace.
            copied = shutil.copytree(path.parent, Path(folder) / self.variant) / path.name
            proto, names = revealed(onnx.load(path, load_external_data=False))
            copied.write_bytes(proto.SerializeToString())
            opened = open_session(model.backend, copied, model.options)
        self.watched = _Session(opened, names)

    def session(self, graph: str) -> Session:
        return self.watched if graph == FRAME_GRAPHS[self.manifest.kind] else super().session(graph)  # type: ignore[return-value]

    def decoder(self) -> list[Floats]:
        """The decoder's last layer in the last frame: weights over the image (rows, columns), by token or query."""
        config, found = self.config, self.watched.softmaxes()
        if isinstance(config, VTTConfig):
            return [self._on_grid(row) for row in found[-1].mean(axis=0)]
        if config.memory == "token":
            raise ResultsError(f"{self.manifest.name!r}: its decoder sees one token, the image's mean; nothing to draw")
        # Behind the encoder's come those over the sequence and over the memory, layer by layer, token by token.
        cross = [each for each in found[config.encoder_depth :] if each.shape[-1] == config.memory_tokens]
        rows = np.concatenate([each.mean(axis=0) for each in cross[config.decoder_layers - 1 :: config.decoder_layers]])
        if len(rows) < 4:
            raise ResultsError(f"{self.manifest.name!r}: found {len(rows)} rows of its decoder's attention; expected 4")
        return [self._on_grid(row[: config.search_tokens]) for row in rows[-4:]]

    def encoder(self, token: int) -> Floats:
        """VTT's last encoder layer in the last frame: weights of one of the image's tokens over it (rows, columns)."""
        assert isinstance(self.config, VTTConfig)
        return self._on_grid(self.watched.softmaxes()[self.config.encoder_layers - 1][:, token].mean(axis=0))

    def _on_grid(self, weights: NDArray[np.float32]) -> Floats:
        return weights.astype(np.float64).reshape(self.config.grid)


def revealed(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The graph with its attention weights, (1, heads, queries, keys), added to its outputs; their names, in order."""
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    added = [
        known[node.output[0]]
        for node in proto.graph.node
        if node.op_type == "Softmax" and len(known[node.output[0]].type.tensor_type.shape.dim) == 4
    ]
    proto.graph.output.extend(added)
    return proto, [value.name for value in added]


def reveal(model: str, backend: str = "auto", precision: str = "auto", threads: int | None = None) -> Revealed:
    """Load a shipped name or a bundle, or a checkpoint, which is exported first."""
    if not model.endswith(".safetensors"):
        return Revealed(edgetrack.load(model, backend, precision, threads=threads))
    from quantize.export import ExportError, export_bundle
    from train.checkpoints import CheckpointError, load_model

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / f"{Path(model).stem}.zip"
        try:
            trained, metadata = load_model(Path(model))
            export_bundle(trained, out, name=out.stem, metadata=metadata)
        except (CheckpointError, ExportError) as error:
            raise ResultsError(str(error)) from None
        return Revealed(edgetrack.load(out, backend, precision, threads=threads))


def look(
    model: Revealed, video: Video, frames: Sequence[int], points: Sequence[tuple[float, float]] = ()
) -> dict[int, Look]:
    """Track a video as far as needed, and say where the model looked in the given frames, counted from 1.

    It is tracked without looking around. A VTT may look twice; what it saw last is told.

    points: of the encoder, (x, y) in pixels of the frame; by default the middle of the box that is found, and the
        middles of the quarters of what was looked at.

    Raises:
        ResultsError: a frame that is the given one or is not there, or a point outside of what was looked at.
    """
    if wrong := [each for each in frames if not 2 <= each <= len(video.frames)]:
        raise ResultsError(
            f"{video.name}: frame {wrong[0]}; expected 2 to {len(video.frames)}, those in which it is tracked"
        )
    # A tracker that looks around runs the graph in other places, too, whose attention would be the one that is kept.
    tracker = _Searching(model) if model.manifest.kind == "vtt" else algorithm(model, Options(look_around=False))
    state: Any = tracker.init(video.read(0), video.truth[0])
    looks = {}
    for number in range(2, max(frames) + 1):
        before, frame = state, video.read(number - 1)
        state, _ = tracker.step(before, frame)
        if number not in frames:
            continue
        if isinstance(tracker, _Searching):
            looks[number] = _of_vtt(model, frame, state.box, tracker.view, points)
        else:
            looks[number] = _of_seqtrack(model, frame, state.box, before.region)
    return looks


class _Searching(VTT):
    """VTT's online algorithm, which tells the `view` that it looked at last: x, y, w, h in pixels of the frame."""

    view: tuple[int, int, int, int]

    def _look(
        self, state: State, frame: Frame, view: tuple[int, int, int, int], factors: Floats, clock: Clock
    ) -> tuple[Floats, Floats]:
        self.view = view
        return super()._look(state, frame, view, factors, clock)


def _of_seqtrack(model: Revealed, frame: Frame, box: Floats, region: Floats) -> Look:
    """The crop around `region`, the box about which the frame was searched."""
    manifest = model.manifest
    assert manifest.kind == "seqtrack"
    settings = manifest.preprocessing.search
    crop = crop_square(frame, region, settings.factor, settings.size)
    cx, cy, w, h = box_to_crop(box, region, crop.scale, settings.size) * settings.size
    titles = COORDINATES[manifest.decoder.order]
    maps = dict(zip(titles, model.decoder(), strict=True))
    return Look(crop.image, np.asarray([cx - w / 2, cy - h / 2, w, h]), maps, {})


def _of_vtt(
    model: Revealed,
    frame: Frame,
    box: Floats,
    view: tuple[int, int, int, int],
    points: Sequence[tuple[float, float]],
) -> Look:
    manifest, config = model.manifest, model.config
    assert manifest.kind == "vtt"
    assert isinstance(config, VTTConfig)
    cv2, canvas = import_cv2(), manifest.preprocessing.search
    left, top, width, height = view
    image, box = frame[top : top + height, left : left + width], box - (left, top, 0, 0)
    extent = letterbox(image, canvas.width, canvas.height).extent

    def in_view(weights: Floats) -> Floats:
        """Of the canvas, in its pixels, what the view covers."""
        whole: Floats = cv2.resize(weights, (canvas.width, canvas.height), interpolation=cv2.INTER_LINEAR)
        return whole[: max(1, round(extent[1] * canvas.height)), : max(1, round(extent[0] * canvas.width))]

    winner = int(model.watched.last["scores"][0].argmax())
    encoder = {}
    if config.encoder_layers:
        quarters = [(width * x / 4, height * y / 4) for y in (1, 3) for x in (1, 3)]
        middle = np.clip(box[:2] + box[2:] / 2, 0, (width - 1, height - 1))
        chosen = [(x - left, y - top) for x, y in points] or [(float(middle[0]), float(middle[1])), *quarters]
        for x, y in chosen:
            if not (0 <= x < width and 0 <= y < height):
                raise ResultsError(
                    f"the point {x + left:g},{y + top:g} is outside of what was looked at, which is {width} x {height} "
                    f"from {left},{top} on, of a frame of {frame.shape[1]} x {frame.shape[0]}"
                )
            row, column = (np.asarray([y / height, x / width]) * extent[::-1] * config.grid).astype(int)
            encoder[x, y] = in_view(model.encoder(int(row) * config.grid[1] + int(column)))
    return Look(image, box, {f"query {winner}": in_view(model.decoder()[winner])}, encoder)


_SIDE, _WIDTH, _GAP = 320, 2000, 6
"""In pixels: least height of a panel, greatest width of a sheet of several columns, space between panels."""


def draw(seen: Look) -> dict[str, Frame]:
    """Sheets of panels by name: the image with the answer, and then the image under each map."""
    scale = max(1.0, _SIDE / seen.image.shape[0])
    image, box = _resized(seen.image, scale), (scale * seen.box).tolist()

    def panel(title: str, weights: Floats) -> Frame:
        # With the largest weight, because each map's colours have a scale of their own.
        return annotate(_under(image, weights), box, caption=f"{title}: at most {weights.max():.2g}")

    sheets = {"decoder": [annotate(image, box), *(panel(*each) for each in seen.decoder.items())]}
    if seen.encoder:
        sheets["encoder"] = [annotate(image, box)]
        for (x, y), weights in seen.encoder.items():
            sheets["encoder"].append(panel(f"{x:.0f}, {y:.0f}", weights))
            _cross(sheets["encoder"][-1], (round(scale * x), round(scale * y)))
    return {name: _sheet(panels) for name, panels in sheets.items()}


def write(
    model: Revealed,
    video: Video,
    frames: Sequence[int],
    out: Path,
    points: Sequence[tuple[float, float]] = (),
    advance: Callable[[str], object] = lambda name: None,
) -> list[Path]:
    """Write the sheets of some frames as PNG files named after the video and the frame."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, seen in look(model, video, frames, points).items():
        for name, sheet in draw(seen).items():
            paths.append(out / f"{video.name}-{number:06d}-{name}.png")
            import_cv2().imwrite(str(paths[-1]), sheet)
        advance(str(number))
    return paths


def _resized(image: Frame, scale: float) -> Frame:
    cv2 = import_cv2()
    resized: Frame = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
    return resized


def _under(image: Frame, weights: Floats) -> Frame:
    """The image in grey under the map, which is opaque where it is large."""
    cv2 = import_cv2()
    height, width = image.shape[:2]
    shares = cv2.resize(weights / max(weights.max(), 1e-12), (width, height), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(np.round(255 * shares).astype(np.uint8), cv2.COLORMAP_INFERNO)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
    opacity = 0.2 + 0.6 * shares[..., None]
    mixed: Frame = ((1 - opacity) * grey + opacity * colours).round().astype(np.uint8)
    return mixed


def _cross(image: Frame, at: tuple[int, int]) -> None:
    cv2 = import_cv2()
    for colour, thickness in (((20, 20, 20), 5), ((255, 255, 255), 2)):
        cv2.drawMarker(image, at, colour, cv2.MARKER_CROSS, 18, thickness, cv2.LINE_AA)


def _sheet(panels: Sequence[Frame]) -> Frame:
    """Equal panels in rows, on white."""
    height, width = panels[0].shape[:2]
    columns = min(len(panels), max(1, _WIDTH // (width + _GAP)))
    rows = -(-len(panels) // columns)
    sheet = np.full((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for index, panel in enumerate(panels):
        y, x = (height + _GAP) * (index // columns), (width + _GAP) * (index % columns)
        sheet[y : y + height, x : x + width] = panel
    return sheet
