"""Frames from a video, a folder of images, a camera, a network stream or a GStreamer pipeline.

    with open_source("clip.mp4") as source:
        for frame in source:  # BGR uint8 (H, W, 3)
            ...

| what is given | what is read |
|---|---|
| ``clip.mp4`` | a video file |
| ``frames/`` | a folder of images in natural order (``2.jpg`` before ``10.jpg``) |
| ``frame.png``, ``frames/*.jpg``, ``frames/%06d.jpg`` | one image, or those that fit the pattern |
| ``0``, ``/dev/video0``, ``/dev/v4l/by-id/...`` | a camera, by its number or by a name of its device |
| ``rtsp://...``, ``http://...`` | a network stream |
| ``file:///media/clip.mp4`` | what is at that path |
| ``v4l2src ! ... ! appsink`` | a GStreamer pipeline, with an OpenCV that was built with GStreamer |

**An end is not always the end.** A container that promises more frames than can be decoded was cut off or damaged. All
frames that can be decoded are delivered first, then `SourceError` names both numbers. AVI, and MP4 and MOV
that are not fragmented, index every frame: there a shortfall of more than `EXACT_TOLERANCE` frames counts, because
decoders drop a frame or two at an edit on purpose. Elsewhere the number is duration x rate, an estimate that a longer
sound track or a varying rate spoils: there, and for a recording from a network, the shortfall must exceed one second
and a twentieth of the promise. MPEG streams promise nothing and can be cut unnoticed. A camera or a live stream has no
end of its own, so its end is an error too.

**What is live is not waited for.** Of a camera, and of a network stream that names no length, the newest frame is
delivered, and those that came while nobody asked are passed over, unless `every_frame` is asked for. A pipeline queues
what its ``appsink`` does not drop: ``appsink drop=true max-buffers=1`` keeps the newest.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import time
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np

from edgetrack.arguments import path_text, plain, require_utf8
from edgetrack.errors import OptionError, SourceError
from edgetrack.imaging import import_cv2
from edgetrack.newest import Newest

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    Frame: TypeAlias = NDArray[np.uint8]

logger = logging.getLogger("edgetrack")

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
EXACT_TOLERANCE = 2
"""Frames that may be missing from a container that indexes every frame."""


class Source:
    """An open sequence of frames: an iterator that is read once, and a context manager.

    The first frame is read when the source is opened, so an unreadable source fails there and `size` is real.

    Attributes:
        name: what was opened, for messages and reports.
        fps: frames per second, or None where the source does not say (images, some streams).
        frame_count: frames to expect, or None for a live source; an estimate for some containers.
        size: (width, height) of the first frame in pixels; later frames of a folder may differ.
        files: what is read, so that nobody writes over it; empty for cameras, streams and pipelines.
        skipped: frames that were passed over before the last one that was delivered, because it was newer.
        read_at: when that one had been read, as Unix time in seconds; None where files are read.
    """

    def __init__(
        self,
        name: str,
        frames: Iterator[Frame],
        *,
        fps: float | None = None,
        frame_count: int | None = None,
        files: Sequence[Path] = (),
        release: Callable[[], object] = lambda: None,
    ) -> None:
        self.name = name
        self.fps = fps
        self.frame_count = frame_count
        self.files = tuple(files)
        self._frames = frames
        self._release = release
        self._closed = False
        self.skipped = 0
        self.read_at: float | None = None
        try:
            self._first: Frame | None = self._read()
            if self._first is None:
                raise SourceError(f"{name}: opened, but not one frame could be read")
        except BaseException:
            self.close()
            raise
        height, width = self._first.shape[:2]
        self.size = (width, height)

    def __iter__(self) -> Iterator[Frame]:
        return self

    def __next__(self) -> Frame:
        if self._closed:
            raise SourceError(f"{self.name}: the source is closed; open it again")
        if self._first is not None:
            frame, self._first = self._first, None
            return frame
        if (read := self._read()) is None:
            raise StopIteration
        return read

    def _read(self) -> Frame | None:
        frame = next(self._frames, None)
        if isinstance(self._frames, Newest):
            self.skipped, self.read_at = self._frames.skipped, self._frames.read_at
        elif not self.files:
            self.read_at = time.time()
        return frame

    def close(self) -> None:
        """Release the file or device. Closing twice is fine; reading afterwards raises `SourceError`."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _LiveOptions(NamedTuple):
    """How frames of a camera or live stream are waited for; see `open_source`."""

    every_frame: bool
    timeout: float | None


def open_source(
    source: str | os.PathLike[str] | int | Sequence[str | os.PathLike[str]],
    *,
    every_frame: bool = False,
    timeout: float | None = None,
) -> Source:
    """Open `source` and read its first frame; the module's docstring lists what it may be.

    Args:
        source: a path, image pattern, camera index, URL or pipeline as text, or a list of image paths in playing order.
            A `pathlib.Path` is a path or a pattern, whatever it looks like.
        every_frame: whether each frame of a camera or live stream is delivered, however late, rather than the newest.
        timeout: seconds that the newest frame of a camera or live stream is waited for, so that who steers by it hears
            of one that hangs; FFmpeg itself gives a stream up after thirty. None waits. Of no use for anything else.

    Raises:
        SourceError: it is missing, empty or cannot be read. While iterating: an image that cannot be decoded (named;
            the next one is delivered when the source is asked again), or an end that came too early; and
            `SourceTimeoutError`, after which the source is still open.
        OptionError: the timeout is no positive number.
        MissingDependencyError: OpenCV is not installed, or does not load.
    """
    given, timeout = plain(source), plain(timeout)
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and 0 < timeout <= TIMEOUT_MAX):
        raise OptionError(f"got timeout={timeout!r}; expected a positive number of seconds, or None to wait")
    live = _LiveOptions(every_frame, timeout)
    # Python neither reads nor writes numbers of thousands of digits; no camera has one of a hundred.
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return _open_camera(min(given, 10**99), live)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return _open_images(f"{len(given)} images", [Path(_text(path, "a path for each image")) for path in given])
    text = _text(given, "a path, an image pattern, a camera index, a URL, a pipeline or a list of image paths")
    if isinstance(given, os.PathLike):
        return _open_path(text, live)
    if re.fullmatch(r"\d+", text):
        return _open_camera(int(text[:99]), live)
    if " ! " in text:
        return _open_pipeline(text)
    if re.match("file://", text, re.IGNORECASE):
        return _open_path(_path_of_url(text), live)
    if re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE):
        return _open_stream(text, live)
    return _open_path(text, live)


def is_live(source: str) -> bool:
    """Whether this looks like a camera, a stream or a pipeline, whose frames go stale while they are not read."""
    return source.isdecimal() or source.startswith("/dev/") or "://" in source or " ! " in source


def _text(given: object, expected: str) -> str:
    """The text that a source is given as."""
    text = path_text(given)
    if text is None:
        is_short = given is None or isinstance(given, str | int | float | os.PathLike)
        raise SourceError(f"got {repr(given) if is_short else type(given).__name__}; expected {expected}")
    return text


def _path_of_url(url: str) -> str:
    """The path that a ``file://`` URL names."""
    host, _, path = url[len("file://") :].partition("/")
    if host.lower() not in ("", "localhost"):
        raise SourceError(f"{_redacted(url)}: a file of another host; expected file:///path for one of this host")
    return _text("/" + os.fsdecode(unquote_to_bytes(os.fsencode(path))), "a path in a file:// URL")


def has_gstreamer() -> bool:
    """Whether the installed OpenCV can run GStreamer pipelines."""
    cv2 = import_cv2()
    # The list of backends names it in every build, since it could be a plugin; this one tries to load it.
    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def natural_key(path: Path) -> list[tuple[bool, int, str]]:
    """A sorting key under which ``2.jpg`` comes before ``10.jpg``."""
    parts = re.split(r"(\d+)", path.name)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def _open_path(text: str, live: _LiveOptions) -> Source:
    path = Path(text)
    mode = _mode(path)
    # udev gives cameras names that stay, as links: in /dev/v4l, and where its rules say.
    if camera := re.fullmatch(r"/dev/video(\d+)", os.path.realpath(path)):
        return _open_camera(int(camera[1]), live)
    if stat.S_ISDIR(mode):
        images = images_in(path)
        if not images:
            suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
            raise SourceError(f"{text}: a folder without images; expected files ending in {suffixes}")
        return _open_images(text, images)
    if stat.S_ISREG(mode):
        return _open_images(text, [path]) if path.suffix.lower() in IMAGE_SUFFIXES else _open_video(path)
    if mode:
        raise SourceError(
            f"{text}: neither a file nor a folder; expected one of them, or a camera by its number or as /dev/video0"
        )
    if pattern := _pattern(path.name):
        images = images_in(path.parent, pattern) if stat.S_ISDIR(_mode(path.parent)) else []
        if not images:
            raise SourceError(f"{_redacted(text)}: no image fits this pattern")
        return _open_images(text, images)
    raise SourceError(
        f"{_redacted(text)}: no such file or folder; expected a video, a folder of images, an image pattern, "
        "a camera index, a URL or a GStreamer pipeline"
    )


def _mode(path: Path) -> int:
    """What kind of thing `path` is, links followed, for the functions of `stat`; 0 for nothing."""
    try:
        return path.stat().st_mode
    except OSError as error:
        # A text too long for a name is a pipeline without spaces about its "!", most likely.
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return 0
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error


def _pattern(name: str) -> re.Pattern[str] | None:
    """The file names that ``*``, ``?`` and ``%06d`` stand for, or None when `name` has none of them."""
    if not re.search(r"[*?]|%\d*d", name):
        return None
    regex = ""
    for part in re.split(r"([*?]|%\d*d)", name):
        if part == "*":
            regex += ".*"
        elif part == "?":
            regex += "."
        elif re.fullmatch(r"%\d*d", part):
            digits = part[1:-1].lstrip("0")
            regex += rf"\d{{{digits},}}" if digits else r"\d+"
        else:
            regex += re.escape(part)
    return re.compile(regex)


def images_in(folder: Path, pattern: re.Pattern[str] = re.compile(".*")) -> list[Path]:
    """The images of a folder whose names fit the pattern, in natural order.

    Raises:
        SourceError: it cannot be listed.
    """
    # Hidden files are left out: copies from a Mac bring "._1.jpg", which is no image.
    try:
        found = [p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed: {error.strerror}") from error
    return sorted((p for p in found if pattern.fullmatch(p.name)), key=natural_key)


def _open_images(name: str, paths: list[Path]) -> Source:
    if not paths:
        raise SourceError("got an empty list of images; expected at least one path")
    warn_of_depth(paths[0])
    return Source(name, map(read_image, paths), frame_count=len(paths), files=paths)


def read_image(path: Path, flags: int | None = None) -> Frame:
    """Read one image as BGR uint8 (H, W, 3); grey, 16-bit and alpha are converted.

    Args:
        flags: OpenCV's, for a smaller one than ``IMREAD_COLOR`` gives.

    Raises:
        SourceError: the file is missing, is not an image, or was cut off; the message names it.
    """
    cv2 = import_cv2()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    # Many OpenCV builds fill the missing part of a cut-off JPEG with grey and say nothing.
    if data.startswith(b"\xff\xd8") and not _has_end(data):
        raise SourceError(f"{path}: a JPEG that is cut off ({len(data)} bytes, no end marker)")
    try:
        flags = cv2.IMREAD_COLOR if flags is None else flags
        image: Frame | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:  # too large for it, or for the memory
        raise SourceError(f"{path}: an image that OpenCV refuses to decode: {error.err}") from error
    if image is None:
        raise SourceError(f"{path}: not an image that OpenCV can decode ({len(data)} bytes)")
    return image


LEVELS = 32
"""Of 256, that a 16-bit image read by its upper 8 bits has at least where it was meant to be read so."""


def warn_of_depth(path: Path) -> None:
    """Log that hardly anything of a 16-bit image is left when it is read by its upper 8 bits, as `read_image` does.

    Thermal cameras write temperatures so, which fill a few of them. An image that cannot be read is passed over.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        return  # they have 8 bits, and decoding takes a while
    cv2 = import_cv2()
    try:
        image = read_image(path, cv2.IMREAD_UNCHANGED)
    except SourceError:
        return
    if image.dtype != np.uint16:
        return
    low, high = (np.percentile(image, [1, 99]) / 256).astype(int).tolist()
    if high - low + 1 < LEVELS:
        logger.warning(
            f"{path} has 16 bits, of which the upper 8 are read: in it nearly all pixels are from {low} to {high} of "
            "255; scale such images to 8 bits first, all of a film alike"
        )


def _has_end(jpeg: bytes) -> bool:
    """Whether the picture's end marker is there, whatever follows it: phones put films behind their pictures.

    A segment's length leads over what it holds, such as a thumbnail with its own end marker. Coded data, which follows
    a start of scan, goes on to the next marker that is no restart: in it a zero follows each FF (ITU-T T.81, B.1.1).
    """
    markers = re.compile(rb"\xff([\xc0-\xcf\xd9-\xef\xfe])")  # anything else behind an FF is a decoder's to forgive
    at = 2
    while marker := markers.search(jpeg, at):
        if marker[1] == b"\xd9":
            return True
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
    return False


def _open_video(path: Path) -> Source:
    cv2 = import_cv2()
    try:
        is_indexed = _indexes_every_frame(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror}") from error
    # FFmpeg takes what precedes a colon for a protocol, unless it begins with a slash.
    capture = cv2.VideoCapture(require_utf8(str(path.absolute()), SourceError))
    # FFmpeg plays plain text as a video of a terminal; nobody means that.
    fourcc = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, "little")
    if not capture.isOpened() or fourcc == b"ansi":
        capture.release()
        raise SourceError(
            f"{path}: not a video that OpenCV can open ({path.stat().st_size} bytes); "
            "it is damaged, cut off before its index, or in a format this OpenCV build does not know"
        )
    fps, count = _rate(cv2, capture), _count(cv2, capture)
    if count is None:
        frames: Iterator[Frame] = _read_all(capture)
    else:
        tolerance = EXACT_TOLERANCE if is_indexed else _loose_tolerance(fps, count)
        frames = _read_promised(capture, str(path), count, tolerance)
    return Source(str(path), frames, fps=fps, frame_count=count, files=[path], release=capture.release)


def _open_camera(index: int, live: _LiveOptions) -> Source:
    cv2 = import_cv2()
    capture = cv2.VideoCapture(min(index, 2**31 - 1))  # OpenCV counts in 32 bits; there is none with that number
    name = f"camera {index}"
    if not capture.isOpened():
        capture.release()
        raise SourceError(
            f"{name}: cannot be opened; check that it is plugged in, not in use, and readable by this user"
        )
    return _live(cv2, capture, name, live)


def _open_stream(url: str, live: _LiveOptions) -> Source:
    cv2 = import_cv2()
    name = _redacted(url)
    capture = cv2.VideoCapture(require_utf8(url, SourceError, name))
    if not capture.isOpened():
        capture.release()
        raise SourceError(f"{name}: the stream cannot be opened; check the address, the network and the credentials")
    fps, count = _rate(cv2, capture), _count(cv2, capture)
    if count is None:
        return _live(cv2, capture, name, live)
    frames = _read_promised(capture, name, count, _loose_tolerance(fps, count))
    return Source(name, frames, fps=fps, frame_count=count, release=capture.release)


def _live(cv2: Any, capture: Any, name: str, live: _LiveOptions) -> Source:
    """What has no end of its own, each frame or the newest."""
    fps, frames = _rate(cv2, capture), _read_live(capture, name)
    if live.every_frame:
        return Source(name, frames, fps=fps, release=capture.release)
    newest = Newest(frames, capture.release, name, live.timeout)
    source = Source(name, newest, fps=fps, release=newest.close)
    weakref.finalize(source, newest.stop)  # a thread, which reads on, would keep a camera that nobody closed
    return source


def _open_pipeline(pipeline: str) -> Source:
    cv2 = import_cv2()
    name = _redacted(pipeline)
    if not has_gstreamer():
        raise SourceError(
            f"{name}: this OpenCV build ({cv2.__version__}) has no GStreamer; use the OpenCV that came with your "
            "board or one built with -D WITH_GSTREAMER=ON (the wheels on PyPI are built without)"
        )
    capture = cv2.VideoCapture(require_utf8(pipeline, SourceError, name), cv2.CAP_GSTREAMER)
    if not capture.isOpened():
        capture.release()
        raise SourceError(
            f"{name}: GStreamer cannot start this pipeline; expected it to end in "
            "'videoconvert ! video/x-raw,format=BGR ! appsink'"
        )
    # A pipeline may well end of itself (filesrc, num-buffers), and OpenCV does not tell an end from an error.
    return Source(name, _read_all(capture), fps=_rate(cv2, capture), release=capture.release)


def _redacted(text: str) -> str:
    """A URL or pipeline without passwords, which messages and reports must not carry.

    Rather too much is taken out than too little: a password may hold all that ends it elsewhere.
    """
    value = r"""(?:(["'])(?:\\.|(?!\3).)*\3|[^\s&]*)"""
    text = re.sub(
        rf"(pass(?:word|wd|phrase)?|pwd?|token|secret)(\s*=\s*){value}", r"\1\2***", text, flags=re.IGNORECASE
    )
    return re.sub(r"(:/+)(?:(?! ! ).)*@", r"\1", text)  # up to the end of a pipeline's element


def _read_all(capture: Any) -> Generator[Frame, None, int]:
    """Yield every frame; as a generator's value, how many there were."""
    decoded = 0
    while True:
        read, frame = capture.read()
        if not read:
            return decoded
        decoded += 1
        yield frame


def _read_promised(capture: Any, name: str, count: int, tolerance: int) -> Iterator[Frame]:
    """Yield every frame, and raise where more than `tolerance` of the `count` promised are missing."""
    decoded = yield from _read_all(capture)
    if decoded + tolerance < count:
        raise SourceError(
            f"{name}: promises {count} frames, but only {decoded} could be decoded; it is cut off or damaged"
        )


def _read_live(capture: Any, name: str) -> Iterator[Frame]:
    decoded = yield from _read_all(capture)
    raise SourceError(f"{name}: stopped delivering after {decoded} frames; the device or the connection is gone")


def _loose_tolerance(fps: float | None, count: int) -> int:
    """Frames that may be missing where the number promised is an estimate."""
    return max(round(fps or 0), count // 20)


def _rate(cv2: Any, capture: Any) -> float | None:
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0 < fps < 1000 else None  # containers without a rate report 0, NaN or their time base


def _count(cv2: Any, capture: Any) -> int | None:
    count = float(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return int(count) if 0 < count < 2**31 else None  # unknown durations come out as 0 or astronomically negative


def _indexes_every_frame(path: Path) -> bool:
    """Whether the container is AVI, or MP4 or MOV that is not fragmented, by its first bytes and its boxes."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return not _is_fragmented(file)
    return head[:4] == b"RIFF" and head[8:] == b"AVI "


def _is_fragmented(file: BinaryIO) -> bool:
    """Whether an MP4 says that its frames are, or finds them, in fragments, each with an index of its own."""
    for kind, start, end in _boxes(file, 0, file.seek(0, os.SEEK_END)):
        if kind == b"moof" or (kind == b"moov" and any(inner == b"mvex" for inner, _, _ in _boxes(file, start, end))):
            return True
    return False


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes of an MP4 that lie from `start` to `end`: the kind of each, and where its content begins and ends.

    ISO/IEC 14496-12, 4.2: a size of 1 stands for one of 64 bits behind the kind, and 0 for all that is left.
    """
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        size, content = int.from_bytes(head[:4], "big"), start + 8
        if size == 1:
            size, content = int.from_bytes(head[8:], "big"), start + 16
        after = start + size if size else end
        if after < content:
            return  # damaged
        yield head[4:8], content, min(after, end)
        start = after
