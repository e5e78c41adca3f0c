"""Sources: what is read, in which order, and how each kind of unreadable input is named."""

from __future__ import annotations

import errno
import gc
import math
import os
import re
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from threading import Semaphore
from typing import Any

import cv2
import numpy as np
import pytest

from edgetrack.errors import MissingDependencyError, OptionError, SourceError, SourceTimeoutError
from edgetrack.sources import Source, has_gstreamer, natural_key, open_source

WIDTH, HEIGHT = 64, 48


def frame(index: int) -> np.ndarray:
    """A frame that shows `index` as eight dark or bright stripes, one a bit, which lossy coding cannot confuse."""
    bits = np.repeat([index >> bit & 1 for bit in range(8)], WIDTH // 8)
    noise = np.random.default_rng(index).integers(-25, 26, (HEIGHT, WIDTH, 3))
    return (60 + 130 * bits[None, :, None] + noise).astype(np.uint8)


def write_video(path: Path, frames: int = 40, codec: str = "mp4v", fps: float = 25) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), fps, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(frame(index))
    writer.release()
    return path


def write_images(folder: Path, names: list[str]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        assert cv2.imwrite(str(folder / name), frame(index))
    return [folder / name for name in names]


def numbers(source: Source) -> list[int]:
    """The numbers that the frames of `source` show."""
    with source:
        stripes = (image.mean(axis=(0, 2)).reshape(8, -1).mean(axis=1) > 125 for image in source)
        return [sum(1 << bit for bit in range(8) if stripe[bit]) for stripe in stripes]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "mp4v")])
def test_video_gives_every_frame_in_order(tmp_path: Path, name: str, codec: str) -> None:
    source = open_source(write_video(tmp_path / name, codec=codec))
    assert (source.fps, source.frame_count, source.size) == (25, 40, (WIDTH, HEIGHT))
    assert source.name == str(tmp_path / name)
    assert numbers(source) == list(range(40))


def test_folder_is_read_in_natural_order_and_ignores_other_files(tmp_path: Path) -> None:
    write_images(tmp_path / "f", ["1.png", "2.jpg", "10.bmp", "11.PNG"])
    (tmp_path / "f" / "groundtruth.txt").write_text("1,2,3,4")
    (tmp_path / "f" / "._1.jpg").write_bytes(b"resource fork")
    source = open_source(str(tmp_path / "f"))
    assert (source.fps, source.frame_count) == (None, 4)
    assert numbers(source) == [0, 1, 2, 3]


def test_digits_that_are_no_numbers_are_text() -> None:
    names = ["²10.png", "²3.png", "a²b.png", "٣.png"]  # the last one is a three
    ordered = [p.name for p in sorted(map(Path, names), key=natural_key)]
    assert ordered == ["٣.png", "a²b.png", "²3.png", "²10.png"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "got ''; expected a path, an image pattern, a camera index, a URL, a pipeline or a list of image paths"),
        ("a\0b", r"got 'a\x00b'; expected a path,"),
        (Path("a\0b"), r"got PosixPath('a\x00b'); expected a path,"),
        ("\ud800.mp4", r"got '\ud800.mp4'; expected a path,"),  # no bytes that the system could name a file by
        (None, "got None; expected a path,"),
        (True, "got True; expected a path,"),
        (-1, "got -1; expected a path,"),
        (np.float64(0), "got 0.0; expected a path,"),
        (np.zeros((2, 2)), "got ndarray; expected a path,"),
        (iter(["a.png"]), "got list_iterator; expected a path,"),
        (b"a.png", "got bytes; expected a path,"),
        ([1, 2], "got 1; expected a path for each image"),
        ([b"a.png"], "got bytes; expected a path for each image"),
        (["a\0.png"], r"got 'a\x00.png'; expected a path for each image"),
    ],
)
def test_what_is_no_source_is_named(source: Any, said: str) -> None:
    with pytest.raises(SourceError, match=f"^{re.escape(said)}"):
        open_source(source)


def test_natural_order_compares_numbers_by_value() -> None:
    names = ["b1", "a10", "a9", "a10x", "a", "10", "9"]
    ordered = sorted((Path(n) for n in names), key=natural_key)
    assert [p.name for p in ordered] == ["9", "10", "a", "a9", "a10", "a10x", "b1"]


@pytest.mark.parametrize("pattern", ["img*.png", "img%02d.png", "img%d.png", "img??.png"])
def test_patterns_pick_and_order_images(tmp_path: Path, pattern: str) -> None:
    write_images(tmp_path, ["img08.png", "img09.png", "img10.png", "other.png"])
    assert numbers(open_source(str(tmp_path / pattern))) == [0, 1, 2]


def test_a_number_outgrows_the_digits_of_its_pattern(tmp_path: Path) -> None:
    write_images(tmp_path, ["img9.png", "img99.png", "img100.png"])
    assert numbers(open_source(str(tmp_path / "img%02d.png"))) == [1, 2]


def test_list_keeps_its_order_and_one_image_is_one_frame(tmp_path: Path) -> None:
    a, b, c = write_images(tmp_path, ["a.png", "b.png", "c.png"])
    assert numbers(open_source([c, str(a), b])) == [2, 0, 1]
    assert numbers(open_source(b)) == [1]


def test_grey_alpha_and_16_bit_images_become_bgr_uint8(tmp_path: Path) -> None:
    images: list[Any] = [
        np.full((8, 9), 77, np.uint8),
        np.full((8, 9, 4), 77, np.uint8),
        np.full((8, 9, 3), 77 * 257, np.uint16),
    ]
    for index, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    for image in open_source(tmp_path):
        assert image.dtype == np.uint8
        assert image.shape == (8, 9, 3)
        assert abs(int(image[0, 0, 0]) - 77) <= 1


@pytest.mark.parametrize(
    ("low", "high", "dtype", "warned"),
    [
        (7000, 8000, np.uint16, True),  # a thermal camera's
        (0, 1023, np.uint16, True),  # ten bits
        (0, 65535, np.uint16, False),
        (20000, 40000, np.uint16, False),
        (100, 104, np.uint8, False),
    ],
)
def test_a_16_bit_image_of_which_hardly_anything_is_left_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, low: int, high: int, dtype: type, warned: bool
) -> None:
    image = np.random.default_rng(0).integers(low, high + 1, (40, 60)).astype(dtype)
    cv2.imwrite(str(tmp_path / "1.png"), image)
    cv2.imwrite(str(tmp_path / "2.png"), image)
    assert len(list(open_source(tmp_path))) == 2
    said = f"nearly all pixels are from {low // 256} to {high // 256} of 255"
    assert [said in record.getMessage() for record in caplog.records] == [True] * warned


# What cannot be read.


def test_missing_path_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nothing\.mp4: no such file or folder; expected a video"):
        open_source(tmp_path / "nothing.mp4")


def test_empty_folder_empty_list_and_fruitless_pattern(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a folder without images"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="empty list"):
        open_source([])
    with pytest.raises(SourceError, match="no image fits this pattern"):
        open_source(tmp_path / "no_such_folder" / "%04d.jpg")


@pytest.mark.parametrize("text", ["a" * 300, "a" * 300 + "/%04d.jpg", "v4l2src!" + "videoconvert!" * 30 + "appsink"])
def test_a_text_too_long_for_a_path_is_none(text: str) -> None:
    with pytest.raises(SourceError, match=r"no such file or folder|no image fits this pattern"):
        open_source(text)


@pytest.mark.parametrize(
    ("step", "source"),
    [
        ("stat", "clip.mp4"),
        ("stat", "frames"),
        ("stat", "frames/%d.png"),
        ("iterdir", "frames"),
        ("iterdir", "frames/%d.png"),
        ("open", "clip.mp4"),
    ],
)
def test_what_this_user_may_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, source: str
) -> None:
    """As it is for another user than root, who may read all."""

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    write_video(tmp_path / "clip.mp4")
    write_images(tmp_path / "frames", ["1.png"])
    monkeypatch.setattr(Path, step, refuse)
    with pytest.raises(SourceError, match=r"(clip\.mp4|frames|%d\.png): cannot be (read|listed): Permission denied"):
        open_source(tmp_path / source)


def test_an_image_too_large_for_opencv_is_named(tmp_path: Path) -> None:
    png = bytearray(cv2.imencode(".png", frame(0))[1].tobytes())
    png[16:24] = (40_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(SourceError, match=r"a\.png: an image that OpenCV refuses to decode: "):
        open_source(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.mp4", b"not a video" * 100), ("b.mp4", b""), ("notes.txt", b"plain text that FFmpeg would play\n" * 50)],
)
def test_files_that_are_no_video_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=rf"{name}: not a video that OpenCV can open \({len(content)} bytes\)"):
        open_source(tmp_path / name)


def test_video_without_its_index_is_refused_at_once(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:-800])
    with pytest.raises(SourceError, match="not a video that OpenCV can open"):
        open_source(path)


def cut(path: Path, part: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


def hole(path: Path, part: float) -> None:
    """Overwrite 5% of the file, so that some frames in the middle cannot be decoded."""
    data = bytearray(path.read_bytes())
    start, length = int(len(data) * part), len(data) // 5
    data[start : start + length] = bytes(length)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "codec", "frames", "damage"),
    [
        ("a.avi", "MJPG", 40, cut),  # an exact count
        ("a.avi", "MJPG", 40, hole),
        ("a.mkv", "MJPG", 80, cut),  # an estimate: more than a second must be missing
    ],
)
def test_cut_off_video_delivers_what_it_has_then_raises(
    tmp_path: Path, name: str, codec: str, frames: int, damage: Callable[[Path, float], None]
) -> None:
    path = write_video(tmp_path / name, frames=frames, codec=codec)
    damage(path, 0.5)
    source = open_source(path)
    delivered = []
    with pytest.raises(SourceError, match=rf"promises {frames} frames, but only \d+ could be decoded") as caught:
        delivered.extend(iter(source))  # keeps what came before the error
    assert 10 < len(delivered) < frames - 2
    assert f"only {len(delivered)} could" in str(caught.value)


class FakeCapture:
    """Stands in for cv2.VideoCapture: what a container promises and what it holds, set apart."""

    def __init__(self, held: int, promised: float, opened: bool = True, fps: float = 30.0) -> None:
        self.held, self.promised, self.opened, self.fps, self.released = held, promised, opened, fps, 0

    def isOpened(self) -> bool:
        return self.opened

    def get(self, prop: int) -> float:
        return {cv2.CAP_PROP_FPS: self.fps, cv2.CAP_PROP_FRAME_COUNT: self.promised}.get(prop, 0.0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.held -= 1
        return (True, frame(0)) if self.held >= 0 else (False, None)

    def release(self) -> None:
        self.released += 1


def use_capture(monkeypatch: pytest.MonkeyPatch, capture: FakeCapture) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: capture)


MP4 = b"\0\0\0\x20ftypisom"
MKV = b"\x1aE\xdf\xa3" + bytes(8)


@pytest.mark.parametrize(
    ("head", "held", "promised", "complete"),
    [
        (MP4, 98, 100, True),  # an edit list may hide a frame or two
        (MP4, 97, 100, False),
        (MKV, 70, 100, True),  # an estimate that is a second off
        (MKV, 69, 100, False),
        (MKV, 1900, 2000, True),  # a long one that is 5% off
        (MKV, 1899, 2000, False),
        (MKV, 120, 100, True),  # more than promised
        (MKV, 5, -9.2e16, True),  # no duration at all
    ],
)
def test_rule_for_a_premature_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, held: int, promised: float, complete: bool
) -> None:
    path = tmp_path / "clip"
    path.write_bytes(head)
    use_capture(monkeypatch, FakeCapture(held, promised))
    source = open_source(path)
    if complete:
        assert sum(1 for _ in source) == held
        return
    with pytest.raises(SourceError, match=f"promises {promised} frames, but only {held} could"):
        list(source)


@pytest.mark.parametrize("fps", [0.0, -1.0, math.nan, math.inf, 1000.0, 90_000.0])
def test_a_rate_that_is_none_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: float) -> None:
    """Containers without one report nothing, or their time base."""
    (tmp_path / "clip").write_bytes(MKV)
    use_capture(monkeypatch, FakeCapture(3, 3, fps=fps))
    source = open_source(tmp_path / "clip")
    assert (source.fps, len(list(source))) == (None, 3)


@pytest.mark.parametrize("promised", [0.0, -9.2e16, math.nan, math.inf, 2.0**31, 9.2e18])
def test_a_number_of_frames_that_is_none_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, promised: float
) -> None:
    (tmp_path / "clip").write_bytes(MKV)
    use_capture(monkeypatch, FakeCapture(3, promised))
    source = open_source(tmp_path / "clip")
    assert (source.frame_count, len(list(source))) == (None, 3)


def box(kind: bytes, content: bytes = b"") -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def long_box(kind: bytes, content: bytes) -> bytes:
    return b"\0\0\0\1" + kind + (16 + len(content)).to_bytes(8, "big") + content


HEAD, INDEX = box(b"ftyp", b"isom"), box(b"mvhd", bytes(100)) + box(b"trak", bytes(50))


@pytest.mark.parametrize(
    ("content", "fragmented"),
    [
        (HEAD + box(b"moov", INDEX) + box(b"mdat", b"frames"), False),
        (HEAD + box(b"mdat", box(b"moof")) + box(b"moov", INDEX), False),  # a frame that holds the word
        (HEAD + b"\0\0\0\0mdat" + box(b"moof"), False),  # the last box, of which the size is left open
        (HEAD + box(b"moov", INDEX + box(b"mvex")) + box(b"mdat", b"frames"), True),
        (HEAD + long_box(b"moov", INDEX + long_box(b"mvex", b"")), True),
        (HEAD + box(b"moov", INDEX) + long_box(b"mdat", b"frames") + box(b"moof"), True),
        (HEAD + b"\0\0\0\0moov" + INDEX + box(b"mvex"), True),
        (HEAD + b"\0\0\0\3mdat" + box(b"moof"), False),  # damaged: no box is as short as that
        (HEAD + b"\0\0\0\4" + box(b"moof"), False),
    ],
)
def test_fragmented_mp4_promises_by_its_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, fragmented: bool
) -> None:
    path = tmp_path / "clip"
    path.write_bytes(content)
    use_capture(monkeypatch, FakeCapture(70, 100))
    source = open_source(path)
    if fragmented:
        assert sum(1 for _ in source) == 70
        return
    with pytest.raises(SourceError, match="promises 100 frames, but only 70 could"):
        list(source)


def test_video_without_one_frame_is_refused_and_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip").write_bytes(MKV)
    capture = FakeCapture(0, 0)
    use_capture(monkeypatch, capture)
    with pytest.raises(SourceError, match="not one frame could be read"):
        open_source(tmp_path / "clip")
    assert capture.released == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.98])
def test_damaged_image_in_a_folder_is_named_and_may_be_passed_over(tmp_path: Path, suffix: str, kept: float) -> None:
    _, second, third = write_images(tmp_path, [f"{i}{suffix}" for i in (1, 2, 3)])
    cut(second, kept)
    source = open_source(tmp_path)
    next(source)
    with pytest.raises(SourceError, match=rf"{second.name}: "):
        next(source)
    assert (next(source) == cv2.imread(str(third))).all()
    assert next(source, None) is None


def test_jpeg_with_a_thumbnail_and_trailing_bytes_is_whole(tmp_path: Path) -> None:
    """Cameras put a thumbnail, with its own end marker, before the picture, and notes behind it."""
    path = write_images(tmp_path, ["a.jpg"])[0]
    jpeg = path.read_bytes()
    thumbnail = b"\xff\xe1" + (len(jpeg) + 2).to_bytes(2, "big") + jpeg
    path.write_bytes(jpeg[:2] + thumbnail + jpeg[2:] + b"notes")
    assert numbers(open_source(path)) == [0]
    path.write_bytes((jpeg[:2] + thumbnail + jpeg[2:])[:-40])
    with pytest.raises(SourceError, match="cut off"):
        open_source(path)


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]])
def test_jpeg_ends_at_its_own_end_marker(tmp_path: Path, options: list[int]) -> None:
    """Motion photos have a film behind the picture, in which there is a start of scan somewhere, and no end marker."""
    path, jpeg = tmp_path / "a.jpg", cv2.imencode(".jpg", frame(5), options)[1].tobytes()
    path.write_bytes(jpeg + b"\0\0\0\x18ftypmp42\xff\xda\0\x08" + bytes(50))
    assert numbers(open_source(path)) == [5]
    for kept in (*range(2, len(jpeg) - 2, 97), len(jpeg) - 2, len(jpeg) - 1):
        path.write_bytes(jpeg[:kept])
        with pytest.raises(SourceError, match="cut off"):
            open_source(path)


@pytest.mark.parametrize(
    "source",
    [
        "{folder}/v\udcff.mp4",
        "file://{folder}/v%FF.mp4",
        "rtsp://a:s3crt@host/\udcff",
        "filesrc location={folder}/v\udcff.mp4 ! decodebin ! appsink",
    ],
)
def test_a_name_that_is_not_utf_8_does_not_reach_opencv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """It would end the process."""
    write_video(tmp_path / "a.mp4", 3).rename(tmp_path / os.fsdecode(b"v\xff.mp4"))
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)
    monkeypatch.setattr(cv2, "VideoCapture", lambda *_: pytest.fail("reached OpenCV"))
    with pytest.raises(
        SourceError, match=r"\\udcff.*', which is not UTF-8; expected a name that is: rename it"
    ) as caught:
        open_source(source.format(folder=tmp_path))
    assert "s3crt" not in str(caught.value)


def test_images_may_have_names_that_are_not_utf_8(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])[0].rename(tmp_path / os.fsdecode(b"v\xff.png"))
    assert numbers(open_source(tmp_path)) == [0]


# Devices, streams, pipelines.


@pytest.mark.parametrize("camera", [0, np.int64(0), np.uint8(0), "0", "/dev/video0"])
def test_absent_camera_is_an_error(monkeypatch: pytest.MonkeyPatch, camera: str | int) -> None:
    use_capture(monkeypatch, FakeCapture(0, 0, opened=False))
    with pytest.raises(SourceError, match="camera 0: cannot be opened"):
        open_source(camera)


@pytest.mark.parametrize("index", [99_999_999_999, "99999999999", "9" * 30])
def test_a_number_that_no_camera_has(index: str | int) -> None:
    with pytest.raises(SourceError, match=f"camera {index}: cannot be opened"):
        open_source(index)


@pytest.mark.parametrize("index", ["9" * 5000, 10**5000], ids=["text", "number"])
def test_a_number_longer_than_python_writes(index: str | int) -> None:
    with pytest.raises(SourceError, match=r"camera \d{99,100}: cannot be opened"):
        open_source(index)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_link_to_a_camera_is_that_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    (tmp_path / "front_cam").symlink_to("/dev/video12")
    (tmp_path / "by-id").symlink_to("front_cam")
    opened = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: opened.append(index) or FakeCapture(1, 0))
    for path in ("/dev/video12", tmp_path / "front_cam", tmp_path / "by-id"):
        assert open_source(kind(path)).name == "camera 12"
    assert opened == [12] * 3


def test_a_path_of_digits_is_no_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("0001"), ["1.png", "2.png"])
    assert numbers(open_source(Path("0001"))) == [0, 1]


def test_a_path_with_an_exclamation_mark_is_no_pipeline(tmp_path: Path) -> None:
    assert numbers(open_source(write_video(tmp_path / "x ! y.mp4", 3))) == [0, 1, 2]


def test_a_device_that_is_no_camera_is_named() -> None:
    with pytest.raises(SourceError, match=r"^/dev/null: neither a file nor a folder; expected one of them, or a"):
        open_source("/dev/null")


def test_camera_that_stops_is_an_error_after_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    use_capture(monkeypatch, FakeCapture(3, 0))
    source = open_source("2", every_frame=True)
    assert (source.frame_count, source.fps) == (None, 30)
    assert len([next(source) for _ in range(3)]) == 3
    with pytest.raises(SourceError, match="camera 2: stopped delivering after 3 frames"):
        next(source)


class PacedCapture(FakeCapture):
    """One whose frames come when `pace` is released."""

    def __init__(self, held: int, promised: float = 0) -> None:
        super().__init__(held, promised)
        self.pace, self.reads = Semaphore(0), Semaphore(0)

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.reads.release()
        assert self.pace.acquire(timeout=10)
        return super().read()

    def show(self, count: int) -> None:
        """Let `count` frames, or the end after them, come, and wait until they are read."""
        for _ in range(count):
            self.pace.release()
            assert self.reads.acquire(timeout=10)

    def start(self) -> None:
        """Let the first frame come, and wait for nothing."""
        self.pace.release()


@pytest.mark.parametrize("name", ["0", "/dev/video3", "rtsp://10.0.0.7/live"])
def test_of_what_is_live_the_newest_is_delivered(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    capture = PacedCapture(9)
    use_capture(monkeypatch, capture)
    capture.start()
    before = time.time()
    source = open_source(name)
    for _ in range(2):  # of the first frame, and of the one that is waited for
        assert capture.reads.acquire(timeout=10)
    next(source)
    assert source.skipped == 0
    capture.show(5)
    next(source)
    assert source.skipped == 4
    assert before <= source.read_at <= time.time()
    capture.show(1)
    next(source)
    assert source.skipped == 4
    capture.pace.release(3)
    with pytest.raises(SourceError, match="stopped delivering after 9 frames"):
        list(source)
    source.close()
    assert capture.released == 1


def test_a_camera_that_hangs_is_told_of_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = PacedCapture(9)
    use_capture(monkeypatch, capture)
    capture.start()
    with open_source("2", timeout=0.05) as source:
        next(source)
        with pytest.raises(SourceTimeoutError, match="camera 2: no frame came within"):
            next(source)
        capture.pace.release()
        assert capture.reads.acquire(timeout=10)
        assert next(source).shape == (48, 64, 3)
        capture.pace.release()


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, True, "1", 10**400])
def test_no_such_timeout(timeout: object) -> None:
    with pytest.raises(OptionError, match="expected a positive number of seconds"):
        open_source("2", timeout=timeout)


def test_a_camera_that_nobody_closed_goes_with_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    capture = PacedCapture(9)
    use_capture(monkeypatch, capture)
    capture.start()
    source = open_source("2")
    threads = [thread for thread in threading.enumerate() if thread.name == "edgetrack-frames"]
    del source
    gc.collect()
    capture.pace.release()  # the frame that the thread was waiting for
    for thread in threads:
        thread.join(10)
    assert capture.released == 1


def test_every_frame_of_what_is_live_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    use_capture(monkeypatch, FakeCapture(50, 0))
    source = open_source("rtsp://10.0.0.7/live", every_frame=True)
    time.sleep(0.05)
    for _ in range(50):
        next(source)
        assert source.skipped == 0
        assert abs(source.read_at - time.time()) < 60
    with pytest.raises(SourceError, match="stopped delivering after 50 frames"):
        next(source)


def test_what_names_a_length_or_ends_of_itself_is_read_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)
    for name, promised in (("http://host/clip.mp4", 40), ("filesrc location=a.mp4 ! appsink", 0)):
        use_capture(monkeypatch, FakeCapture(40, promised))
        source = open_source(name)
        time.sleep(0.02)
        assert len(list(source)) == 40
        assert source.skipped == 0
        assert source.read_at is not None
    monkeypatch.undo()
    source = open_source(write_video(tmp_path / "clip.mp4"))
    assert len(list(source)) == 40
    assert (source.skipped, source.read_at) == (0, None)


def test_stream_password_stays_out_of_names_and_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    use_capture(monkeypatch, FakeCapture(2, 0))
    source = open_source("rtsp://admin:secret@10.0.0.7/live")
    assert source.name == "rtsp://10.0.0.7/live"
    with pytest.raises(SourceError, match="stopped delivering") as caught:
        list(source)
    assert "secret" not in str(caught.value)
    use_capture(monkeypatch, FakeCapture(0, 0, opened=False))
    with pytest.raises(SourceError, match=r"^rtsp://10\.0\.0\.7/live: the stream cannot be opened"):
        open_source("rtsp://admin:secret@10.0.0.7/live")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://admin:s3/c?r#t@h/live", "rtsp://h/live"),
        ("rtsp://admin:s3@cr@t@h/live", "rtsp://h/live"),
        ("rtsp://admin:s3 c!r t@h/live", "rtsp://h/live"),
        ("rtsp://h/user=admin&password=s3@crt&channel=1", "rtsp://h/user=admin&password=***&channel=1"),
        ("rtsp://h/user=admin_password=s3crt_channel=1", "rtsp://h/user=admin_password=***"),
        ("http://h/video?usr=a&PWD=s3crt", "http://h/video?usr=a&PWD=***"),
        ("srt://h:9000?mode=caller&passphrase=s3crt", "srt://h:9000?mode=caller&passphrase=***"),
        ("rtsp://h/live?token=s3crt", "rtsp://h/live?token=***"),
        ("http://h/clip.mp4?at=1", "http://h/clip.mp4?at=1"),
        ("rtspsrc location=rtsp://a:s3crt@h/s ! appsink name=a@b", "rtspsrc location=rtsp://h/s ! appsink name=a@b"),
        ("rtspsrc user-pw=s3crt location=rtsp://h/ ! appsink", "rtspsrc user-pw=*** location=rtsp://h/ ! appsink"),
        (r'rtspsrc user-pw = "s3 \" crt" ! appsink', "rtspsrc user-pw = *** ! appsink"),
    ],
)
def test_no_password_is_named(monkeypatch: pytest.MonkeyPatch, source: str, name: str) -> None:
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: True)
    use_capture(monkeypatch, FakeCapture(1, 0))
    assert open_source(source).name == name
    use_capture(monkeypatch, FakeCapture(0, 0, opened=False))
    with pytest.raises(SourceError, match=f"^{re.escape(name)}: "):
        open_source(source)
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: False)
    use_capture(monkeypatch, FakeCapture(0, 0, opened=False))
    with pytest.raises(SourceError, match=f"^{re.escape(name)}: "):
        open_source(source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("rtspsrc location=rtsp://a:s3crt@h/s!appsink", "rtspsrc location=rtsp://h/s!appsink: no such file or folder"),
        ("rtspsrc location=rtsp://a:s3crt@h/s?x!appsink", "rtspsrc location=rtsp://h/s?x!appsink: no image fits"),
        ("rtsp:/a:s3crt@h/s", "rtsp:/h/s: no such file or folder"),
    ],
)
def test_no_password_is_named_where_something_is_taken_for_a_path(source: str, said: str) -> None:
    with pytest.raises(SourceError, match=f"^{re.escape(said)}"):
        open_source(source)


def test_recorded_stream_with_a_known_length_ends_normally(monkeypatch: pytest.MonkeyPatch) -> None:
    use_capture(monkeypatch, FakeCapture(4, 4))
    assert len(list(open_source("http://host/clip.mp4"))) == 4


def test_recorded_stream_that_is_cut_off_delivers_what_it_has_then_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    use_capture(monkeypatch, FakeCapture(90, 120))  # an estimate that is a second off
    assert len(list(open_source("http://host/clip.avi"))) == 90
    use_capture(monkeypatch, FakeCapture(60, 120))
    delivered = []
    with pytest.raises(SourceError, match="promises 120 frames, but only 60 could be decoded"):
        delivered.extend(iter(open_source("http://host/clip.avi")))
    assert len(delivered) == 60


@pytest.mark.parametrize("start", ["file://", "file://localhost", "FILE://LocalHost"])
def test_a_file_url_is_its_path(tmp_path: Path, start: str) -> None:
    path = write_video(tmp_path / "a 100% ü.mp4", 3)
    source = open_source(start + path.as_uri().removeprefix("file://"))
    assert (source.name, source.files) == (str(path), (path,))
    assert numbers(source) == [0, 1, 2]
    write_images(tmp_path / "f", ["1.png", "2.png"])
    assert numbers(open_source(f"{start}{tmp_path}/f")) == [0, 1]


def test_the_file_of_a_url_may_lack_no_frame_of_its_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clip").write_bytes(MP4)
    use_capture(monkeypatch, FakeCapture(97, 100))
    with pytest.raises(SourceError, match="promises 100 frames, but only 97 could"):
        list(open_source((tmp_path / "clip").as_uri()))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file://a:s3crt@nas/clip.mp4", "file://nas/clip.mp4: a file of another host; expected file:///path"),
        ("file:///none/clip.mp4", "/none/clip.mp4: no such file or folder"),
        ("file:///a%00b", r"got '/a\x00b'; expected a path in a file:// URL"),
    ],
)
def test_a_file_url_that_leads_nowhere_is_named(url: str, said: str) -> None:
    with pytest.raises(SourceError, match=f"^{re.escape(said)}"):
        open_source(url)


def test_pipeline_needs_gstreamer(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = "videotestsrc num-buffers=3 ! videoconvert ! appsink"
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda _: False)
    with pytest.raises(SourceError, match="has no GStreamer"):
        open_source(pipeline)
    monkeypatch.setattr(cv2.videoio_registry, "hasBackend", lambda backend: backend == cv2.CAP_GSTREAMER)
    use_capture(monkeypatch, FakeCapture(0, 0, opened=False))
    with pytest.raises(SourceError, match="GStreamer cannot start this pipeline"):
        open_source(pipeline)
    use_capture(monkeypatch, FakeCapture(3, 0))
    assert len(list(open_source(pipeline))) == 3


def test_gstreamer_answer_agrees_with_the_build_information() -> None:
    line = re.search(r"GStreamer:\s*(\w+)", cv2.getBuildInformation())
    assert has_gstreamer() == (line is not None and line[1] == "YES")


def test_closed_source_cannot_be_read_and_closes_twice(tmp_path: Path) -> None:
    source = open_source(write_images(tmp_path, ["a.png"])[0])
    source.close()
    source.close()
    with pytest.raises(SourceError, match="closed"):
        next(source)


def test_missing_opencv_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_images(tmp_path, ["a.png"])[0]
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match="pip install opencv-python-headless"):
        open_source(path)
