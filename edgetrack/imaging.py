"""Frames, boxes and crops: the one implementation that training, export checks and the device all use.

Boxes are float ``(x, y, w, h)`` in pixels of the frame they belong to, origin at the top-left corner. Frames are BGR
``uint8`` arrays of shape ``(H, W, 3)``, as OpenCV gives them; any strides are accepted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from edgetrack.errors import BoxError, FrameError, MissingDependencyError

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Per-channel RGB mean of ImageNet, on the [0, 1] scale."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Per-channel RGB standard deviation of ImageNet, on the [0, 1] scale."""
SAME_ASPECT = 0.03
"""How far the logarithms of two aspects are apart, at most, where one frame is the other in another resolution. Small
streams round their sides to blocks of 16: 1080p is 416 x 240 in one (0.025), PAL's 720 x 576 is 352 x 288 in CIF
(0.022). Aspects that are meant to differ are further apart: 16:9 and 1.85:1 by 0.040."""


def import_cv2() -> Any:
    """Return the ``cv2`` module.

    Raises:
        MissingDependencyError: OpenCV is not installed, or does not load. Boards bring their own build, so it is no
            hard dependency.
    """
    try:
        import cv2

        cv2.__version__  # noqa: B018  a folder that an uninstallation left behind is an empty package
    except (ImportError, AttributeError) as error:
        # It may be there, but need a library that the system lacks, as libGL.so.1 for windows, or another NumPy.
        raise MissingDependencyError(
            f"OpenCV (module cv2) cannot be imported ({error}). Install it with: pip install opencv-python-headless, "
            "after uninstalling one that does not load, or use the build that came with your board; one that was made "
            "for NumPy 1 needs: pip install 'numpy<2'"
        ) from error
    return cv2


def check_frame(frame: object) -> NDArray[np.uint8]:
    """Return `frame` unchanged when it is a BGR uint8 array of shape (H, W, 3) with H, W >= 1.

    Raises:
        FrameError: it is anything else; the message says what was received and what is expected.
    """
    expected = "expected a BGR uint8 numpy array of shape (H, W, 3), as cv2.imread or cv2.VideoCapture.read returns"
    if not isinstance(frame, np.ndarray):
        hint = " (a failed cv2 read returns None)" if frame is None else ""
        raise FrameError(f"got {type(frame).__name__}{hint}; {expected}")
    if frame.dtype != np.uint8:
        raise FrameError(f"got a frame of dtype {frame.dtype}; {expected}")
    if frame.ndim != 3 or frame.shape[2] != 3:
        hint = ""
        if frame.ndim == 2:
            hint = (
                "; convert a grey frame with cv2.cvtColor(frame, cv2.COLOR_GRAY2BGR), and one that is half as high "
                "again as its picture, as cameras give it, with COLOR_YUV2BGR_NV12 or COLOR_YUV2BGR_I420"
            )
        elif frame.ndim == 3 and frame.shape[2] == 4:
            hint = "; convert a BGRA frame with cv2.cvtColor(frame, cv2.COLOR_BGRA2BGR)"
        raise FrameError(f"got a frame of shape {frame.shape}; {expected}{hint}")
    if 0 in frame.shape:
        raise FrameError(f"got an empty frame of shape {frame.shape}; {expected}")
    return frame


_EXPECTED_BOX = "expected (x, y, w, h) in pixels with w and h of at least 1"


def check_box(box: object, frame_size: tuple[int, int]) -> NDArray[np.float64]:
    """Return `box` as a float64 array (4,) when it is a usable target box for a frame of `frame_size` (width, height).

    A box may reach over the frame's border, but some of it must lie inside, and it may be at most twice as wide and
    high as the frame: crops are a multiple of the box's size, and memory would run out.

    Raises:
        BoxError: as `check_target`; or too large, or outside the frame.
    """
    values = check_target(box)
    x, y, w, h = values.tolist()
    width, height = frame_size
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise BoxError(
            f"got {values.tolist()}, which lies outside the {width}x{height} frame; {_EXPECTED_BOX}, overlapping it"
        )
    if w > 2 * width or h > 2 * height:
        raise BoxError(
            f"got {values.tolist()}, which is more than twice the size of the {width}x{height} frame; {_EXPECTED_BOX}"
        )
    return values


def check_target(box: object) -> NDArray[np.float64]:
    """Do of `check_box` what can be done without a frame.

    Raises:
        BoxError: no numbers, wrong length, NaN or infinite, or width or height below a pixel.
    """
    try:
        given = np.asarray(box)
        if given.dtype.kind not in "biufO":  # numpy reads numbers from texts and takes the real part of complex ones
            raise TypeError
        values = given.astype(np.float64)
    except Exception as error:  # an object's own __array__ raises what it likes, torch's a RuntimeError
        raise BoxError(f"got {box!r}; {_EXPECTED_BOX}") from error
    if values.shape != (4,):
        raise BoxError(f"got {box!r} of shape {values.shape}; {_EXPECTED_BOX}")
    if not np.isfinite(values).all():
        raise BoxError(f"got {values.tolist()}, which is not finite; {_EXPECTED_BOX}")
    _, _, w, h = values.tolist()
    if w <= 0 or h <= 0:
        raise BoxError(f"got {values.tolist()}; {_EXPECTED_BOX}")
    if w < 1 or h < 1:
        shares = ", not in shares of the frame's width and height" if max(values.tolist()) <= 1 else ""
        raise BoxError(f"got {values.tolist()}, a target of less than a pixel; {_EXPECTED_BOX}{shares}")
    return values


class Crop(NamedTuple):
    """A square crop around a box.

    Attributes:
        image: BGR uint8 (size, size, 3).
        scale: crop pixels per frame pixel.
    """

    image: NDArray[np.uint8]
    scale: float


_LARGEST_PADDED = 2048
"""Side of a square, in pixels, up to which it is padded at full resolution, as the official code does: a larger one may
take hundreds of MB."""


def crop_square(frame: NDArray[np.uint8], box: NDArray[np.float64], factor: float, size: int) -> Crop:
    """Cut the square of side ``ceil(sqrt(w * h) * factor)`` centred on `box` and resize it to `size` x `size`.

    What lies outside the frame is black. The rounding of the corner and the one row and column dropped where the square
    meets the right or bottom border follow SeqTrack's official ``sample_target``: crops agree with it bit for bit, and
    within one grey level where a square that leaves the frame is more than four times as long as the crop.

    Args:
        frame: BGR uint8 (H, W, 3).
        box: (x, y, w, h) in frame pixels.
        factor: side of the square in units of the box's geometric mean side.
        size: side of the returned crop in pixels.
    """
    cv2 = import_cv2()
    x, y, w, h = (float(v) for v in box)
    side = max(1, math.ceil(math.sqrt(w * h) * factor))
    left, top = round(x + 0.5 * w - 0.5 * side), round(y + 0.5 * h - 0.5 * side)
    height, width = frame.shape[:2]
    # Amount of the square outside the frame on each side; a square wholly outside leaves nothing to copy.
    pad_left, pad_top = max(0, -left), max(0, -top)
    pad_right, pad_bottom = max(0, left + side - width + 1), max(0, top + side - height + 1)
    inside = frame[top + pad_top : max(top + side - pad_bottom, 0), left + pad_left : max(left + side - pad_right, 0)]
    if inside.size == 0:
        return Crop(np.zeros((size, size, 3), np.uint8), size / side)
    if pad_left or pad_top or pad_right or pad_bottom:
        if side > _LARGEST_PADDED:
            return Crop(_resize_padded(inside, pad_left, pad_top, side, size), size / side)
        inside = _padded(inside, (pad_top, pad_bottom), (pad_left, pad_right))
    return Crop(resize(inside, (size, size), cv2.INTER_LINEAR), size / side)


def resize(image: NDArray[np.uint8], size: tuple[int, int], interpolation: int) -> NDArray[np.uint8]:
    """Scale an image (H, W, 3) to `size` (width, height), as ``cv2.resize`` does."""
    turn = _forwards(image)
    return np.ascontiguousarray(import_cv2().resize(image[turn], size, interpolation=interpolation)[turn])


def _padded(image: NDArray[np.uint8], rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.uint8]:
    """The image with so many black rows above and below it, and columns to its left and right."""
    cv2, turn = import_cv2(), _forwards(image)
    around = (*rows[:: turn[0].step], *columns[:: turn[1].step])
    padded: NDArray[np.uint8] = cv2.copyMakeBorder(image[turn], *around, cv2.BORDER_CONSTANT, value=0)[turn]
    return padded


def _forwards(image: NDArray[np.uint8]) -> tuple[slice, ...]:
    """What turns the axes of an image round that run backwards in memory.

    OpenCV copies all of such an array before it looks at any pixel, as RGB seen as BGR is one (``rgb[..., ::-1]``):
    tens of milliseconds for a large frame. So it is given them forwards, and what comes out, which is small, is turned.
    """
    return tuple(slice(None, None, -1 if stride < 0 else None) for stride in image.strides)


def _resize_padded(inside: NDArray[np.uint8], left: int, top: int, side: int, size: int) -> NDArray[np.uint8]:
    """Resize bilinearly to `size` the black square of `side` pixels with `inside` at (left, top), without making it."""
    at = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
    low = np.floor(at).astype(np.intp)
    part = (at - low).astype(np.float32)
    out = np.zeros((size, size, 3), np.float32)
    # The four pixels around each sample, weighted; those in the black add nothing.
    for rows, row_weights in ((low, 1 - part), (low + 1, part)):
        for columns, column_weights in ((low, 1 - part), (low + 1, part)):
            y = np.flatnonzero((rows >= top) & (rows < top + inside.shape[0]))
            x = np.flatnonzero((columns >= left) & (columns < left + inside.shape[1]))
            weights = row_weights[y, None, None] * column_weights[None, x, None]
            out[np.ix_(y, x)] += weights * inside[np.ix_(rows[y] - top, columns[x] - left)]
    return np.rint(out).astype(np.uint8)


def normalise(
    image: NDArray[np.uint8],
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> NDArray[np.float32]:
    """Turn a BGR uint8 image (H, W, 3) into the network's input: RGB float32 (H, W, 3), ``(v / 255 - mean) / std``."""
    cv2 = import_cv2()
    height, width = image.shape[:2]
    scale = np.asarray([1 / (255 * s) for s in std], np.float32)
    shift = np.asarray([-m / s for m, s in zip(mean, std, strict=True)], np.float32)
    rgb: NDArray[np.uint8] = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_BGR2RGB)
    # Row by row: numpy is slow along an axis of three.
    out = np.multiply(rgb.reshape(height, 3 * width), np.tile(scale, width), dtype=np.float32)
    out += np.tile(shift, width)
    return out.reshape(height, width, 3)


def box_to_crop(box: NDArray[np.float64], around: NDArray[np.float64], scale: float, size: int) -> NDArray[np.float64]:
    """Map (x, y, w, h) in frame pixels to (cx, cy, w, h) in units of a crop's side, cut around the box `around`.

    The inverse of `crop_to_box`. Values lie outside [0, 1] where the box leaves the crop.
    """
    centre = box[:2] + 0.5 * box[2:]
    origin = around[:2] + 0.5 * around[2:]
    return np.concatenate([(centre - origin) * scale / size + 0.5, box[2:] * scale / size])


def crop_to_box(
    cxcywh: NDArray[np.float64], around: NDArray[np.float64], scale: float, size: int
) -> NDArray[np.float64]:
    """Map (cx, cy, w, h) in units of a crop's side back to (x, y, w, h) in frame pixels; see `box_to_crop`."""
    origin = around[:2] + 0.5 * around[2:]
    wh = cxcywh[2:] * size / scale
    centre = (cxcywh[:2] - 0.5) * size / scale + origin
    return np.concatenate([centre - 0.5 * wh, wh])


class Canvas(NamedTuple):
    """A frame on a canvas of fixed size.

    Attributes:
        image: BGR uint8 (height, width, 3); the frame lies in the top-left corner, the rest is black.
        extent: float64 (2,), the shares of the canvas's width and height that the frame covers.
    """

    image: NDArray[np.uint8]
    extent: NDArray[np.float64]


def letterbox(frame: NDArray[np.uint8], width: int, height: int) -> Canvas:
    """Scale the whole frame to fit a canvas of `width` x `height` pixels, keeping its aspect."""
    frame_height, frame_width = frame.shape[:2]
    scale = min(width / frame_width, height / frame_height)
    return place(frame, (max(1, round(frame_width * scale)), max(1, round(frame_height * scale))), width, height)


def place(frame: NDArray[np.uint8], size: tuple[int, int], width: int, height: int) -> Canvas:
    """Scale the frame to `size` (width, height) and put it into the corner of a canvas of `width` x `height` pixels."""
    cv2 = import_cv2()
    image = np.zeros((height, width, 3), np.uint8)
    is_smaller = size[0] < frame.shape[1] and size[1] < frame.shape[0]
    # Averaged where it shrinks: small targets must not fall between the samples.
    interpolation = cv2.INTER_AREA if is_smaller else cv2.INTER_LINEAR
    image[: size[1], : size[0]] = resize(frame, size, interpolation)
    return Canvas(image, np.asarray([size[0] / width, size[1] / height]))


def canvas_to_boxes(
    cxcywh: NDArray[np.float64], extent: NDArray[np.float64], frame_size: tuple[int, int]
) -> NDArray[np.float64]:
    """Map boxes (..., 4), cx, cy, w, h in units of a canvas's width and height, to (x, y, w, h) in frame pixels.

    Args:
        extent: the canvas's; see `Canvas`.
        frame_size: (width, height) of the frame on it.
    """
    scaled = cxcywh * np.tile(np.asarray(frame_size) / extent, 2)
    return np.concatenate([scaled[..., :2] - 0.5 * scaled[..., 2:], scaled[..., 2:]], axis=-1)


def enclosing_square(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """The square (x, y, side, side) about the centre of `box`, as long as the box's longer side."""
    side = box[2:].max()
    return np.concatenate([box[:2] + 0.5 * (box[2:] - side), [side, side]])


def clip_box(box: NDArray[np.float64], frame_size: tuple[int, int], margin: float = 10.0) -> NDArray[np.float64]:
    """Clip (x, y, w, h) to a frame of `frame_size` (width, height), keeping at least `margin` pixels of each side.

    SeqTrack's official ``clip_box``: the box stays at least `margin` wide and high, and at least partly in view.
    """
    width, height = frame_size
    x1, y1 = box[:2]
    x2, y2 = box[:2] + box[2:]
    x1, x2 = min(max(0.0, x1), width - margin), min(max(margin, x2), width)
    y1, y2 = min(max(0.0, y1), height - margin), min(max(margin, y2), height)
    return np.asarray([x1, y1, max(margin, x2 - x1), max(margin, y2 - y1)], np.float64)


def growth(before: tuple[int, int], after: tuple[int, int]) -> NDArray[np.float64] | None:
    """What width and height have grown by, float64 (2,), where a frame of size `before`, (width, height), and one of
    size `after` can be one picture: where their aspects agree, but for what rounds to whole blocks. None elsewhere."""
    factor = np.asarray(after, np.float64) / before
    return factor if abs(np.log(factor[0] / factor[1])) < SAME_ASPECT else None


def rescaled(boxes: NDArray[np.float64], factor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes (..., 4), (x, y, w, h), with x and width, and y and height, times `factor` (2,)."""
    return boxes * np.tile(factor, 2)


def overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes (..., 4) in (x, y, w, h), broadcast over the leading axes; 0 for NaN boxes."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    intersection = np.prod(np.clip(high - low, 0, None), axis=-1)
    union = np.prod(a[..., 2:], axis=-1) + np.prod(b[..., 2:], axis=-1) - intersection
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, intersection / union, 0.0)
    return np.nan_to_num(iou, nan=0.0)
