"""A film made of nothing but a seed: a small aircraft over a landscape, seen from above, with its box known exactly.

What a tracker has to get through: the ground pans under a camera that lags behind; the aircraft turns, banks and climbs
(its box changes size and shape) and twice spurts ahead; a wingman of the same build cuts across its nose; and a cloud
swallows it whole for about half a second. Everything is drawn with numpy and OpenCV; nothing is read or downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from edgetrack.imaging import import_cv2

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image: TypeAlias = NDArray[np.uint8]
    Floats: TypeAlias = NDArray[np.float32]
    Path: TypeAlias = NDArray[np.float64]

FPS = 30
LENGTH = 240
"""Frames in which everything has happened once. A longer film goes on in the same manner."""
CROSSING, OCCLUSION = 104, 152
"""Frames in which the wingman is nearest and in which the cloud is over the target, in each `LENGTH`."""
HIDDEN_BELOW = 0.05
"""Share of the aircraft that must be in sight for it to count as visible."""

WORLD = 1024  # side of the ground's picture, which repeats
SPRITE = 160  # side of an aircraft's picture
WARM_UP = 60  # frames flown before the first, so that the camera's lag has settled
EXPOSURE = (-0.25, 0.0, 0.25)  # moments that one frame averages, in frames
RED, ORANGE = (48, 40, 196), (38, 128, 226)


@dataclass(frozen=True)
class SceneFrame:
    """One frame and the truth about it.

    Attributes:
        image: BGR uint8 (H, W, 3).
        box: (x, y, w, h) of the whole aircraft in pixels at the middle of the exposure, whether hidden or not.
        visible: share of the aircraft that can be seen, 0..1.
    """

    image: Image
    box: tuple[float, float, float, float]
    visible: float

    @property
    def hidden(self) -> bool:
        """Whether the aircraft is out of sight, so that no tracker can be blamed for missing it."""
        return self.visible < HIDDEN_BELOW


class Flight(NamedTuple):
    """Where things are, in pixels of the ground (a frame of 640x360 shows it at scale 1), one row a frame.

    Attributes:
        target, wingman: (N, 5): x, y, heading in radians, size, and width left by the bank (1 is level).
        camera: (N, 2): the point of the ground in the middle of the frame.
    """

    target: Path
    wingman: Path
    camera: Path


class Scene:
    """The film that `seed` stands for; equal seeds and sizes give equal frames.

    Args:
        seed: picks the landscape, the flight and the cloud.
        size: (width, height) of the frames in pixels.
    """

    def __init__(self, seed: int = 0, size: tuple[int, int] = (640, 360)) -> None:
        rng = np.random.default_rng(seed)
        self.size = size
        self._phases = rng.uniform(0, 2 * math.pi, 6)
        self._ground = _landscape(rng)
        self._target, self._wingman = _aircraft(rng, RED), _aircraft(rng, ORANGE)
        self._cloud = _cloud(rng)
        self._shadow, self._cloud_shadow = _softened(self._target[..., 3], 3), _softened(self._cloud[..., 3], 14)
        self._grain = rng.normal(0, 2.0, (2 * size[1], 2 * size[0], 1)).astype(np.float32)
        y, x = np.nonzero(self._target[..., 3] > 0.5)
        self._outline = import_cv2().convexHull(np.stack([x, y], 1).astype(np.float32))[:, 0] - (SPRITE - 1) / 2

    def frames(self, count: int = LENGTH) -> Iterator[SceneFrame]:
        """Yield the first `count` frames."""
        flight = _fly(self._phases, count)
        for index in range(count):
            yield self._render(flight, index)

    def _render(self, flight: Flight, index: int) -> SceneFrame:
        cv2 = import_cv2()
        width, height = self.size
        zoom = min(width / 640, height / 360)
        middle = np.asarray([width - 1, height - 1]) / 2
        now = index + WARM_UP
        camera = flight.camera[now]

        def layer(picture: Floats, matrix: Path, **options: int) -> Floats:
            warped: Floats = cv2.warpAffine(picture, matrix, self.size, flags=cv2.INTER_LINEAR, **options)
            return warped

        def place(pose: Path, offset: tuple[float, float] = (0, 0)) -> Path:
            """The affine map from an aircraft's picture, nose up, to the frame."""
            x, y, heading, size, bank = pose
            c, s = math.cos(heading + math.pi / 2) * size * zoom, math.sin(heading + math.pi / 2) * size * zoom
            linear = np.asarray([[c * bank, -s], [s * bank, c]])
            centre = middle + (np.asarray([x, y]) - camera + offset) * zoom
            return np.column_stack([linear, centre - linear @ np.full(2, (SPRITE - 1) / 2)])

        def drift(depth: float, offset: tuple[float, float] = (0, 0)) -> Path:
            """The affine map of the cloud; `depth` above 1 is nearer to the camera than the ground."""
            event = WARM_UP + OCCLUSION + index // LENGTH * LENGTH
            at = flight.target[event, :2] - flight.camera[event] + depth * (flight.camera[event] - camera)
            corner = middle + (at + offset) * zoom - zoom * np.asarray(self._cloud.shape[1::-1]) / 2
            return np.column_stack([np.eye(2) * zoom, corner])

        shift = middle - (camera % WORLD) * zoom
        image = layer(self._ground, np.column_stack([np.eye(2) * zoom, shift]), borderMode=cv2.BORDER_WRAP)
        image *= 1 - 0.35 * layer(self._cloud_shadow, drift(1.0, (90, 120)))[..., None]
        for poses in (flight.wingman, flight.target):
            image *= 1 - 0.5 * layer(self._shadow, place(poses[now], (22, 30)))[..., None]
        for sprite, poses in ((self._wingman, flight.wingman), (self._target, flight.target)):
            moments = [
                layer(sprite, place(_between(poses, now + t) + _camera_shift(flight.camera, now, t))) for t in EXPOSURE
            ]
            blurred = np.asarray(np.mean(moments, axis=0), np.float32)
            image = image * (1 - blurred[..., 3:]) + blurred[..., :3]
        cloud = layer(self._cloud, drift(1.35))
        image = image * (1 - cloud[..., 3:]) + cloud[..., :3]
        # The same grain shifted about looks like fresh grain.
        dy, dx = (index * 97) % height, (index * 151) % width
        image += self._grain[dy : dy + height, dx : dx + width]

        covered = blurred[..., 3]  # of the target, the last one drawn
        visible = float((covered * (1 - cloud[..., 3])).sum() / max(float(covered.sum()), 1e-6))
        matrix = place(flight.target[now])
        points = self._outline @ matrix[:, :2].T + matrix @ [(SPRITE - 1) / 2, (SPRITE - 1) / 2, 1]
        (x, y), (right, bottom) = points.min(axis=0) - 0.5, points.max(axis=0) + 0.5
        box = (float(x), float(y), float(right - x), float(bottom - y))
        return SceneFrame(image.clip(0, 255).astype(np.uint8), box, visible)


def _fly(phases: Path, count: int) -> Flight:
    """Fly far enough for `count` frames and the occlusion that the last of them belongs to."""
    frames = WARM_UP + LENGTH * math.ceil(max(count, 1) / LENGTH) + 2
    t = np.arange(frames) - WARM_UP

    def wave(period: float, phase: int) -> Path:
        return np.asarray(np.sin(2 * math.pi * t / period + phases[phase]))

    turn = 0.030 * wave(160, 0) + 0.016 * wave(71, 1)  # radians a frame
    spurts = sum(np.exp(-(((t % LENGTH - at) / 5) ** 2)) for at in (66, 206))
    speed = 4.2 + 1.2 * wave(83, 2) + 26.0 * spurts
    # Mostly along the frame's longer side, there being more room.
    heading = np.cumsum(turn)
    heading += 0.4 * math.sin(phases[3]) + math.pi * (phases[3] > math.pi) - heading[WARM_UP : WARM_UP + LENGTH].mean()
    forward = np.stack([np.cos(heading), np.sin(heading)], 1)
    target = np.cumsum(speed[:, None] * forward, axis=0)
    # The camera follows late, and ever more closely the nearer the aircraft is to the edge of the frame.
    lag = np.zeros((frames, 2))
    for i in range(1, frames):
        lag[i] = 0.93 * (lag[i - 1] + target[i] - target[i - 1])
    reach = np.asarray([240, 110])
    unsteady = np.stack([80 * wave(190, 4) + 3 * wave(29, 5), 25 * wave(150, 5) + 3 * wave(23, 4)], 1)
    camera = target - reach * np.tanh(lag / reach) + unsteady
    # The wingman flies to one side, crosses ahead of the nose, and goes on at the other side.
    side = 130 * np.tanh(3.5 * np.sin(2 * math.pi * (t - CROSSING) / (2 * LENGTH)))
    wingman = target + 62 * forward + side[:, None] * np.stack([-forward[:, 1], forward[:, 0]], 1)
    wing_step = np.gradient(wingman, axis=0)
    wing_heading = np.unwrap(np.arctan2(wing_step[:, 1], wing_step[:, 0]))
    size = 0.52 + 0.10 * wave(131, 5)

    def pose(place: Path, heading: Path, size: Path) -> Path:
        bank = np.cos(np.clip(18 * np.gradient(heading), -1, 1))
        return np.column_stack([place, heading, size, bank])

    return Flight(pose(target, heading, size), pose(wingman, wing_heading, 0.92 * size), camera)


def _between(poses: Path, moment: float) -> Path:
    """The pose at a moment between two frames."""
    index = math.floor(moment)
    return np.asarray(poses[index] + (moment - index) * (poses[index + 1] - poses[index]))


def _camera_shift(camera: Path, now: int, t: float) -> Path:
    """What the camera's own motion within the exposure adds to a pose."""
    return np.append(camera[now] - _between(camera, now + t), [0, 0, 0])


def _smoothstep(low: float, high: float, value: Floats) -> Floats:
    x = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(x * x * (3 - 2 * x), np.float32)


def _softened(alpha: Floats, radius: float) -> Floats:
    blurred: Floats = import_cv2().GaussianBlur(alpha, (0, 0), radius)
    return blurred


def _noise(rng: np.random.Generator, side: int, cells: int, octaves: int, gain: float = 0.5) -> Floats:
    """Smooth noise (side, side) of mean 0 and deviation 1 that repeats without a seam; `cells` divides `side`."""
    cv2 = import_cv2()
    total = np.zeros((side, side), np.float32)
    for octave in range(octaves):
        n = cells << octave
        grid = np.pad(rng.standard_normal((n, n)).astype(np.float32), 2, mode="wrap")
        step = side // n
        total += (
            gain**octave
            * cv2.resize(grid, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)[
                2 * step : -2 * step, 2 * step : -2 * step
            ]
        )
    return np.asarray((total - total.mean()) / total.std(), np.float32)


def _landscape(rng: np.random.Generator) -> Floats:
    """Hills, woods, a patchwork of fields, a river and a road: BGR float32 (WORLD, WORLD, 3), 0..255, seamless."""
    height = _noise(rng, WORLD, 4, 8, 0.48)
    wobble_x, wobble_y = _noise(rng, WORLD, 8, 3), _noise(rng, WORLD, 8, 3)
    fine = _noise(rng, WORLD, 128, 3, 0.8)
    y, x = np.mgrid[:WORLD, :WORLD].astype(np.float32)

    # Fields: a grid with bent lines, a crop for every cell, furrows one way or the other, hedges in between.
    cell = 64
    u, v = (x + 18 * wobble_x) / cell, (y + 18 * wobble_y) / (cell / 2)
    column, row = np.floor(u).astype(int) % (WORLD // cell), np.floor(v).astype(int) % (2 * WORLD // cell)
    crops = np.asarray([[62, 112, 104], [58, 128, 122], [84, 158, 172], [70, 104, 88], [92, 138, 150], [52, 96, 78]])
    kind = rng.integers(0, len(crops), (2 * WORLD // cell, WORLD // cell))[row, column]
    ground = crops[kind].astype(np.float32)
    furrows = np.where(kind % 2 == 0, np.sin(2 * math.pi * 12 * u), np.sin(2 * math.pi * 8 * v))
    ground += (5 * furrows + 4 * fine)[..., None]
    edge = np.minimum(np.minimum(u % 1, 1 - u % 1) * 2, np.minimum(v % 1, 1 - v % 1))
    hedge = 1 - _smoothstep(0.03, 0.09, edge + 0.02 * fine)

    wood = np.maximum(_smoothstep(0.35, 0.5, height + 0.12 * fine), hedge)
    crowns = _noise(rng, WORLD, 256, 2, 0.7)
    ground += wood[..., None] * (np.asarray([38, 72, 52], np.float32) + 7 * crowns[..., None] - ground)
    rock = _smoothstep(1.5, 1.9, height + 0.05 * fine)
    ground += rock[..., None] * (np.asarray([104, 118, 126], np.float32) + 4 * fine[..., None] - ground)

    course = _noise(rng, WORLD, 2, 5, 0.42)
    road = 1 - _smoothstep(0.012, 0.022, np.abs(_noise(rng, WORLD, 2, 3, 0.4)))
    ground += (road * (1 - wood * 0.6))[..., None] * (np.asarray([150, 176, 188], np.float32) - ground)
    bank = 1 - _smoothstep(0.10, 0.15, np.abs(course) + 0.012 * fine)
    ground += bank[..., None] * (np.asarray([120, 168, 182], np.float32) - ground)
    water = 1 - _smoothstep(0.08, 0.10, np.abs(course) + 0.006 * fine)
    depth = _smoothstep(0.0, 0.09, np.abs(course))[..., None]
    ground += water[..., None] * (
        np.asarray([118, 92, 44], np.float32) + depth * np.asarray([24, 40, 30], np.float32) - ground
    )

    relief = 14 * height + 2.2 * wood * (1.5 + crowns)
    light = (np.roll(relief, 1, 0) - relief) + (np.roll(relief, 1, 1) - relief)
    shade = 1 - np.clip(0.22 * light * (1 - water), -0.45, 0.35)
    return np.asarray(np.clip(ground * shade[..., None] * 1.08, 0, 255), np.float32)


def _aircraft(rng: np.random.Generator, colour: tuple[int, int, int]) -> Floats:
    """A small propeller plane from above, nose up: premultiplied BGRA float32 (SPRITE, SPRITE, 4), alpha 0..1."""
    cv2 = import_cv2()
    fine = 4  # drawn larger, then averaged down
    side = SPRITE * fine
    paint = np.zeros((side, side, 3), np.uint8)
    shape = np.zeros((side, side), np.uint8)

    def polygon(canvas: Image, colour: float | tuple[int, ...], *points: tuple[float, float]) -> None:
        """Fill a polygon given in units of half the picture, (0, 0) in the middle, and its mirror image."""
        for sign in (1, -1):
            corners = (np.asarray(points) * [sign, 1] * 0.5 + 0.5) * side
            cv2.fillPoly(canvas, [corners.round().astype(np.int32)], colour)

    white, dark, glass = (232, 236, 238), (44, 40, 38), (96, 66, 38)
    wing = [(0, -0.30), (0.30, -0.30), (0.92, -0.20), (0.96, -0.08), (0.90, 0.02), (0, 0.10)]
    tail = [(0, 0.62), (0.10, 0.62), (0.36, 0.70), (0.36, 0.84), (0, 0.86)]
    body = [
        (0, -0.80),
        (0.07, -0.78),
        (0.11, -0.62),
        (0.13, -0.30),
        (0.12, 0.05),
        (0.06, 0.55),
        (0.035, 0.90),
        (0, 0.92),
    ]
    for part, tint in ((wing, white), (tail, white), (body, colour)):
        polygon(shape, 255, *part)
        polygon(paint, tint, *part)
    polygon(paint, colour, (0.92, -0.20), (0.96, -0.08), (0.90, 0.02), (0.76, 0.035), (0.76, -0.227))  # wing tips
    polygon(paint, colour, (0.40, -0.284), (0.52, -0.265), (0.52, 0.058), (0.40, 0.067))  # a band on each wing
    polygon(paint, colour, (0.26, 0.665), (0.36, 0.70), (0.36, 0.84), (0.26, 0.847))
    polygon(paint, dark, (0.14, 0.055), (0.70, 0.012), (0.70, 0.024), (0.14, 0.067))  # the gap of the flaps
    polygon(paint, white, (0, -0.80), (0.07, -0.78), (0.095, -0.68), (0, -0.68))  # cowling
    polygon(paint, glass, (0, -0.42), (0.085, -0.40), (0.10, -0.22), (0.085, -0.02), (0, 0.02))
    polygon(paint, (214, 190, 160), (0.02, -0.38), (0.05, -0.37), (0.06, -0.25), (0.02, -0.25))  # a glint on the glass
    polygon(paint, white, (0, 0.20), (0.022, 0.20), (0.016, 0.88), (0, 0.88))

    # Round the edges with the light from the upper left, and add the dirt of use.
    dome = cv2.GaussianBlur(cv2.distanceTransform(shape, cv2.DIST_L2, 3).clip(0, 26), (0, 0), 4)
    slope = cv2.Sobel(dome, cv2.CV_32F, 1, 0) + cv2.Sobel(dome, cv2.CV_32F, 0, 1)
    dirt = cv2.resize(_noise(rng, 128, 8, 4, 0.7), (side, side), interpolation=cv2.INTER_CUBIC)
    lit = paint * (1 + 0.035 * slope.clip(-6, 6) + 0.05 * dirt)[..., None]
    alpha = shape.astype(np.float32)[..., None] / 255
    sprite = np.concatenate([lit.clip(0, 255).astype(np.float32) * alpha, alpha], axis=2)
    sprite = cv2.resize(sprite, (SPRITE, SPRITE), interpolation=cv2.INTER_AREA)
    # The turning propeller is a faint disc; too faint to count as part of the box.
    disc = np.zeros((SPRITE, SPRITE), np.float32)
    cv2.ellipse(disc, (SPRITE // 2, round(0.1 * SPRITE)), (round(0.17 * SPRITE), 2), 0, 0, 360, 0.35, -1, cv2.LINE_AA)
    disc *= 1 - sprite[..., 3]
    sprite += disc[..., None] * np.asarray([210, 214, 216, 1], np.float32)
    return np.asarray(cv2.GaussianBlur(sprite, (0, 0), 0.8), np.float32)


def _cloud(rng: np.random.Generator) -> Floats:
    """A cumulus, thick in the middle: premultiplied BGRA float32 (224, 272, 4), alpha 0..1."""
    shape = _noise(rng, 512, 8, 5, 0.42)[:224, :272]
    y, x = np.mgrid[:224, :272].astype(np.float32)
    distance = np.hypot((x - 136) / 128, (y - 112) / 104)
    alpha = _smoothstep(0.0, 0.45, 1 - distance + 0.16 * shape) * _smoothstep(0.0, 0.2, 1.02 - distance)
    billow = _noise(rng, 512, 16, 4, 0.5)[:224, :272]
    light = 232 + 7 * billow + 9 * shape - 16 * (x / 272 + y / 224 - 1)
    tint = np.stack([light + 3, light + 1, light - 2], axis=2).clip(0, 255)
    return np.concatenate([tint * alpha[..., None], alpha[..., None]], axis=2).astype(np.float32)
