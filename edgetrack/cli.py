"""The ``edgetrack`` command: track, demo, doctor, info.

Results go to standard output, everything else to standard error. Errors are one line. What is heavy is imported inside
the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from edgetrack.errors import (
    BackendError,
    BoxError,
    BundleError,
    EdgeTrackError,
    FrameError,
    MissingDependencyError,
    OptionError,
    OutputError,
    SourceError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from rich.progress import Progress

    from edgetrack import Track, Tracker
    from edgetrack.bundle import Bundle, OnlineSettings, SearchOnlineSettings, SeqTrackManifest, VTTManifest
    from edgetrack.doctor import Diagnosis
    from edgetrack.reporting import Latencies
    from edgetrack.sources import Frame, Source
    from edgetrack.tracker import TrackState

DEFAULT_MODEL = "seqtrack-nano"
DEFAULT_SEARCH = "vtt-nano"
TRACK_SCHEMA = {"schema": "edgetrack.track", "version": 1}
IMAGE_FPS = 30.0  # of an output video where the source names no rate

EXIT_CODES: dict[int, tuple[str, tuple[type[EdgeTrackError], ...]]] = {
    2: ("wrong usage: an option, argument or output path", (OptionError,)),
    3: ("the source cannot be read, or ends before its time", (SourceError,)),
    4: ("the model bundle cannot be used", (BundleError,)),
    5: ("a backend, device or package is missing or fails", (BackendError, MissingDependencyError)),
    6: ("the box or a frame is unusable", (BoxError, FrameError)),
}
"""Exit codes of the command and the errors they stand for."""
BRIEF = 320
"""Characters of a fact that `info` shows in its list."""
ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What `kill` and a shutdown send, and what a closed terminal or a lost connection does."""
STOPPING = (signal.SIGINT, *ENDING)
"""Ctrl-C, and those."""
INTERRUPTED = 128  # plus the signal's number, as shells count: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP

EPILOG = "Exit codes: 0 success; 1 an unexpected failure; " + "".join(
    f"{code} {meaning}; " for code, (meaning, _) in EXIT_CODES.items()
) + "130 interrupted (143 by SIGTERM, 129 by SIGHUP), with what was written so far closed properly."  # fmt: skip


def exit_code(error: EdgeTrackError) -> int:
    """The exit code of the command for an error."""
    return next((code for code, (_, kinds) in EXIT_CODES.items() if isinstance(error, kinds)), 1)


class _Commands(TyperGroup):
    """Turns errors into one line and an exit code, and docstrings into paragraphs, in this one place."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for command in self.commands.values():  # Typer shows line breaks where these files have them
            command.help = re.sub(r"(?<!\n)\n(?!\n)", " ", command.help or "")

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EdgeTrackError as error:
            _say(f"error: {error}")
            raise typer.Exit(exit_code(error)) from None
        except KeyboardInterrupt as interrupt:
            _say("interrupted")
            number = interrupt.args[0] if interrupt.args else signal.SIGINT
            raise typer.Exit(INTERRUPTED + number) from None


app = typer.Typer(
    cls=_Commands,
    help="Track one object through a video, on the device.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ModelOption = Annotated[str, typer.Option(help="A shipped model's name, or the path of a bundle.")]
BackendOption = Annotated[str, typer.Option(help="Where to run; `edgetrack doctor` lists the backends.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, int8, fp16, bf16, int8+fp16 or int8+bf16.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads of the runtime; its own choice if not given.")]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command."""
    # Video libraries write their own complaints to standard error; ours say what to do. Users' settings win.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    logging.getLogger("edgetrack").addHandler(_Said(logging.WARNING))
    # By default two of them end Python where it is, and what an archive was unpacked to stays.
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _interrupt)
    app(prog_name="edgetrack")


_interrupted: list[int] = []
"""The signals that `_interrupt` was called for."""


def _interrupt(number: int, _: FrameType | None) -> None:
    """Interrupt as Ctrl-C does, with the signal's number.

    It is remembered, since a library that is loaded right then may swallow what is raised; `_StopRequest` looks. What
    ends a session interrupts once: a closed terminal may send more than one.
    """
    _interrupted.append(number)
    for each in ENDING:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(number)


def _print_version(wanted: bool) -> None:
    if wanted:
        from edgetrack import __version__

        _print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    # By a callback of its own: the command's runs only once there is a subcommand.
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(epilog=EPILOG)
def track(
    source: Annotated[
        str,
        typer.Argument(
            help="A video, a folder of images, an image pattern, a camera index, a URL, or a GStreamer pipeline."
        ),
    ],
    box: Annotated[str, typer.Option(metavar="X,Y,W,H", help="The target in the first frame, in pixels.")],
    model: ModelOption = DEFAULT_MODEL,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    cache_dir: Annotated[
        str | None,
        typer.Option(help="Where compiled engines are kept; without it TensorRT's alone are, in ~/.cache/edgetrack."),
    ] = None,
    decode: Annotated[str, typer.Option(help="fused (one graph a frame) or cached (token by token).")] = "fused",
    output: Annotated[
        Path | None,
        typer.Option(help="Write an annotated video, of the frames that are followed: .mp4, .avi, .mkv or .mov."),
    ] = None,
    jsonl: Annotated[
        str | None, typer.Option(help="Write one JSON object a frame to a file, or to - (stdout).")
    ] = None,
    window: Annotated[float | None, typer.Option(help="Penalty on leaving the centre, 0 to 1.")] = None,
    update_interval: Annotated[int | None, typer.Option(help="Frames between template updates; 0 for none.")] = None,
    update_threshold: Annotated[
        float | None,
        typer.Option(help="Update only above this mean token likelihood; seqtrack-nano also wants a score of 0.9."),
    ] = None,
    look_around: Annotated[
        bool | None,
        typer.Option(help="Look at one more place a frame while the target is lost; by default the model says."),
    ] = None,
    redetect: Annotated[
        str | None, typer.Option(help="A model such as vtt-nano, to search the whole frame for a lost target.")
    ] = None,
    redetect_interval: Annotated[
        int | None, typer.Option(help="Frames from one such search to the next, at least; 1 by default.")
    ] = None,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Run what the backend cannot on the runtime's other devices.")
    ] = False,
    every_frame: Annotated[
        bool,
        typer.Option("--every-frame", help="Follow each frame of a camera or stream, however late, not the newest."),
    ] = False,
) -> None:
    """Follow the target given by --box in the first frame through SOURCE.

    JSON lines: the first names schema, version, source, box format, models, backend and settings; then one line a
    frame, with frame number, time (Unix, in seconds, when it was read; null for files), box (x, y, w, h), score, ok,
    state (tracked, lost or redetected), and latency in milliseconds. Frame 0 is the box given; it has no score. Of a
    camera or stream the newest frame is followed, and those that came meanwhile are passed over, but numbered.
    """
    target = _parse_box(box)
    if jsonl == "":
        raise OptionError("got an empty --jsonl; expected the path of a file, or - for standard output")
    lines = None if jsonl in (None, "-") else Path(str(jsonl))
    if output is not None and lines is not None and _is_one_file(output, lines):
        raise OptionError(f"{output}: given for both --output and --jsonl; expected two files")

    from edgetrack import Tracker
    from edgetrack.imaging import check_box, check_target
    from edgetrack.kinds import Options, in_force
    from edgetrack.outputs import require_video, require_writable
    from edgetrack.sources import is_live, open_source

    if source == "-":
        raise SourceError(
            "got - as the source, but a pipe cannot be read; write it to a file and give that, or give the camera, URL "
            "or GStreamer pipeline that feeds it"
        )
    check_target(target)
    if output is not None:
        require_video(output)
    if lines is not None:
        require_writable(lines)  # before the video is opened, which empties an earlier one

    with ExitStack() as stack:

        def opened() -> Source:
            frames = stack.enter_context(open_source(source, every_frame=every_frame))
            for path in (output, lines):
                _refuse_overwriting(path, frames.files)
            check_box(target, frames.size)
            return frames

        # Before the model, which may take minutes, so that mistakes are said at once; but live frames would go stale.
        frames = None if is_live(source) else opened()
        tracker = Tracker(
            model,
            backend,
            precision=precision,
            threads=threads,
            decode=decode,
            window=window,
            update_interval=update_interval,
            update_threshold=update_threshold,
            look_around=look_around,
            allow_fallback=allow_fallback,
            cache_dir=cache_dir,
            redetect=redetect,
            redetect_interval=redetect_interval,
        )
        if backend == "auto":
            _say(
                f"running on {tracker.model.backend}, the first backend that can; "
                "`edgetrack doctor` says why the others were not used"
            )
        if tracker.model.manifest.score.ok_threshold <= 0:
            _say(
                f"the score of {tracker.model.manifest.name!r} is not calibrated: no target is ever said to be lost, "
                "whatever the score"
            )
        options = Options(decode, window, update_interval, update_threshold, look_around)
        settings = {
            **in_force(tracker.model.manifest, options),
            "redetect": tracker.search.manifest.name if tracker.search else None,
            "redetect_interval": (redetect_interval or 1) if tracker.search else None,
        }
        _follow(opened() if frames is None else frames, tracker, target, output, jsonl, settings)


def _follow(
    source: Source,
    tracker: Tracker,
    target: tuple[float, ...],
    output: Path | None,
    jsonl: str | None,
    settings: dict[str, Any],
) -> None:
    """Track through `source`, writing as it goes; raises `typer.Exit` when interrupted. The JSON lines' header tells
    of `settings`."""
    from time import perf_counter_ns

    from edgetrack import __version__
    from edgetrack.drawing import annotate, annotate_track
    from edgetrack.outputs import JsonLines, VideoFile
    from edgetrack.reporting import Latencies, caption
    from edgetrack.tracker import TrackState

    loaded = tracker.model
    label = caption(tracker)
    latencies = Latencies()
    lost = 0
    first = next(source)
    started = perf_counter_ns()
    tracker.init(first, target)  # before any output is opened: a bad box must not empty an earlier result
    init_ms = (perf_counter_ns() - started) / 1e6
    with ExitStack() as stack:
        stop = stack.enter_context(_StopRequest())  # first, so that it still holds while the files are closed
        video = stack.enter_context(VideoFile(output, source.fps or IMAGE_FPS, source.size)) if output else None
        lines = stack.enter_context(JsonLines(jsonl)) if jsonl else None
        if lines:
            header = {
                **TRACK_SCHEMA,
                "edgetrack": __version__,
                "source": source.name,
                "frame_size": source.size,
                "fps": source.fps,
                "frames": source.frame_count,
                "box_format": "xywh",
                "model": loaded.manifest.name,
                "backend": loaded.backend,
                "precision": loaded.precision,
                "threads": loaded.options.threads,
                **settings,
            }
            lines.write(header)
            lines.write(_record(0, source.read_at, target, None, TrackState.TRACKED, init_ms))
        if video:
            video.write(annotate(first, target, caption=label))
        progress = stack.enter_context(_progress(beside=jsonl == "-"))
        task = progress.add_task("tracking", total=source.frame_count)
        progress.advance(task)
        try:
            for index, frame in enumerate(stop.until_asked(source), start=1):
                found = tracker.update(frame)
                latencies.add(found.latency_ms)
                lost += not found.ok
                if lines:
                    number = index + source.skipped
                    lines.write(_record(number, source.read_at, found.box, found.score, found.state, found.latency_ms))
                if video:
                    video.write(annotate_track(frame, found, f"{label} | {latencies.fps:.0f} fps"))
                progress.update(task, advance=1, description=_state(found))
        finally:
            progress.stop()
            _say(_summary(latencies, source.skipped, lost, label, output, jsonl))
    stop.obey()


class _Asked(BaseException):
    """An end was asked for while a frame was waited for. Not an `Exception`, which a source may take for one of its
    own."""


class _StopRequest:
    """While entered, the first signal of `STOPPING` asks for an end after the frame at hand; the second ends at once.
    One that came before and was swallowed ends it right away, and so does one while a frame is waited for, which a
    stream that hangs may not send for half a minute.

    Attributes:
        signal: the number of the signal that asked, 0 before.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._is_waiting = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _StopRequest:
        if _interrupted:
            raise KeyboardInterrupt(_interrupted[0])
        for number in STOPPING:
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it, and shells for their background jobs
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def until_asked(self, source: Source) -> Iterator[Frame]:
        """The frames of a source, up to where an end is asked for."""
        try:
            while not self.signal:
                self._is_waiting = True
                frame = next(source, None)
                self._is_waiting = False
                if frame is None:
                    return
                yield frame
        except _Asked:
            return
        finally:
            self._is_waiting = False

    def obey(self) -> None:
        """Raise `typer.Exit` where an end was asked for."""
        if self.signal:
            _say("interrupted")
            raise typer.Exit(INTERRUPTED + self.signal)

    def _request(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        if self._is_waiting:
            raise _Asked


@app.command(epilog=EPILOG)
def demo(
    output: Annotated[Path, typer.Option(help="Folder for demo.mp4 and demo.png.")] = Path("demo"),
    frames: Annotated[int, typer.Option(help="Length of the film.", min=2)] = 240,
    seed: Annotated[int, typer.Option(help="Which film.", min=0)] = 0,
    model: ModelOption = DEFAULT_MODEL,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    redetect: Annotated[
        str | None,
        typer.Option(
            help=f"A VTT model: search the whole frame with it while the target is lost. With {DEFAULT_MODEL}, "
            f"{DEFAULT_SEARCH} unless another is given."
        ),
    ] = None,
) -> None:
    """Draw a film of a small aircraft that turns, spurts and flies through a cloud; track it; say how well it went."""
    from edgetrack.demo import run_demo
    from edgetrack.doctor import processor

    with _StopRequest() as stop, _progress() as progress:
        task = progress.add_task("demo", total=frames)

        def advance() -> None:
            progress.advance(task)
            stop.obey()

        search = DEFAULT_SEARCH if redetect is None and model == DEFAULT_MODEL else redetect
        result = run_demo(
            output,
            model,
            backend,
            precision=precision,
            threads=threads,
            frames=frames,
            seed=seed,
            redetect=search,
            advance=advance,
        )
    given = "the runtime's choice of threads" if result.threads is None else f"{result.threads} thread(s)"
    rows = {
        "ran on": f"{result.model} {result.precision}, {result.backend}, {given}, {processor()}",
        "speed": f"{result.fps:.0f} frames per second ({result.latency_ms:.1f} ms median)",
        "mean overlap": f"{result.overlap:.3f} over {result.frames - result.hidden} frames in sight"
        + (f"; hidden in {result.hidden}" if result.hidden else ""),
        "success rate": f"{result.success:.1%} of them with an overlap above 0.5",
        "said": f"lost in {result.lost} frames, ok but hidden or not there in {result.misled}",
        "wrote": f"{result.video}, {result.picture}",
    }
    for name, value in rows.items():
        _print(f"{name:<14}{value}")


@app.command(epilog=EPILOG)
def doctor(
    model: Annotated[
        list[str] | None, typer.Argument(help="Shipped models' names or paths of bundles; all that ship by default.")
    ] = None,
    run: Annotated[
        bool,
        typer.Option(
            "--run", help="Run and time every model on every backend too. TensorRT takes minutes to build them."
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Say what this machine can run: packages, backends and why not, models and whether they are intact.

    With --run also which of them give the right answers where, and the median time of an update in a film of 640 x 360
    pixels, with the threads that the runtime takes by itself. Exits with 4 if a model is damaged or missing, and with
    5 if OpenCV is missing, no backend works, one answers wrongly or one that works runs a model in no precision.
    """
    from edgetrack.doctor import diagnose

    diagnosis = diagnose(model, run=run)
    if as_json:
        _print(json.dumps(diagnosis.as_json(), indent=2))
    else:
        _print_diagnosis(diagnosis)
    if not all(check.sound for check in diagnosis.models):
        raise typer.Exit(4)
    failed = not all(model.runs_rightly for model in diagnosis.models)
    if failed or diagnosis.opencv is None or not any(check.available for check in diagnosis.backends):
        raise typer.Exit(5)


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    packages = ", ".join(f"{name} {version}" for name, version in diagnosis.packages.items())
    _print(f"edgetrack {diagnosis.edgetrack}, Python {diagnosis.python}, {packages}")
    _print(f"{diagnosis.processor}, {diagnosis.system}")
    if diagnosis.opencv is None:
        _print(f"OpenCV: missing. {diagnosis.opencv_reason}")
    else:
        able = {name: "yes" if diagnosis.opencv[name] else "no" for name in ("ffmpeg", "gstreamer")}
        _print(f"OpenCV {diagnosis.opencv['version']}, FFmpeg: {able['ffmpeg']}, GStreamer: {able['gstreamer']}")
    for module, names in diagnosis.doubled.items():
        _print(
            f"{module} is in {' and in '.join(names)}, one laid over the other: pip uninstall {' '.join(names)}, then "
            "install the one that is wanted"
        )
    _print()
    for backend in diagnosis.backends:
        detail = ", ".join(backend.devices) if backend.available else backend.reason
        works, version = "works" if backend.available else "no", backend.runtime_version or "-"
        _print(f"{backend.backend:<22}{works:<7}{version:<12}{detail.removeprefix(backend.backend + ': ')}")
    _print()
    for model in diagnosis.models:
        state = "intact" if model.sound else "unusable"
        _print(f"{model.name:<22}{state:<9}{_size(model.bytes or 0) if model.sound else model.reason}")
        for found in model.runs:
            right = f"answers as it should, {found.update_ms:.1f} ms a frame" if found.update_ms is not None else ""
            _print(f"  {found.backend:<20}{found.precision:<10}{found.reason or right}")
    if not diagnosis.models:
        _print("No models ship with this installation; give the path of a bundle.")


@app.command(epilog=EPILOG)
def info(
    bundle: Annotated[str, typer.Argument(help="A shipped model's name, or the path of a bundle.")],
    as_json: JsonFlag = False,
) -> None:
    """Check a model bundle and say what is in it."""
    from edgetrack.bundle import find_model, read_bundle

    found = read_bundle(find_model(bundle))
    size = sum(entry.bytes for entry in found.manifest.files.values())
    if as_json:
        manifest = found.manifest.model_dump(mode="json")
        record = {"schema": "edgetrack.info", "version": 1, "path": str(found.source), "bytes": size}
        _print(json.dumps({**record, "manifest": manifest}, indent=2))
    else:
        _print_info(found, size)


@app.command(epilog=EPILOG)
def pack(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or the path of a bundle.")],
    out: Annotated[Path, typer.Option(help="The folder to write, or the file where it ends in .zip.")],
    precision: Annotated[
        list[str] | None, typer.Option(help="One that it is to have, such as int8; all by default. Repeatable.")
    ] = None,
) -> None:
    """Write a model as a bundle of its own, with the precisions that a device needs and no others."""
    from edgetrack.bundle import read_bundle
    from edgetrack.packing import repack

    written = read_bundle(repack(model, out, precision or ()))
    size = sum(entry.bytes for entry in written.manifest.files.values())
    _say(f"wrote {out}: {', '.join(written.manifest.variants)}, {_size(size)}")


def _print_info(bundle: Bundle, size: int) -> None:
    manifest = bundle.manifest
    facts = {
        "name": manifest.name,
        "kind": manifest.kind,
        "description": manifest.description,
        "path": str(bundle.source),
        "size": f"{_size(size)} in {len(manifest.files)} files",
        "variants": ", ".join(manifest.variants),
        "known answers": ", ".join(manifest.known_answers) or "none: what a backend computes is not checked",
        **(_vtt_facts(manifest) if manifest.kind == "vtt" else _seqtrack_facts(manifest)),
    }
    for title, values in (("provenance", manifest.provenance), ("accuracy", manifest.accuracy)):
        for key, value in values.items():
            facts[f"{title}.{key}"] = value if isinstance(value, str) else _brief(value)
    margin = max(map(len, facts)) + 2
    for name, text in facts.items():
        _print(f"{name:<{margin}}{text}")
    for name, variant in manifest.variants.items():
        for graph_name, graph in variant.graphs.items():
            _print(f"\n{name}/{graph_name}, {graph.file}, {_size(manifest.files[graph.file].bytes)}")
            for side, tensors in (("in ", graph.inputs), ("out", graph.outputs)):
                for tensor in tensors:
                    _print(f"  {side} {tensor.name:<16}{tensor.dtype:<9}{tuple(tensor.shape)}")


def _brief(value: object) -> str:
    """As JSON, up to the last comma of the first `BRIEF` characters: a model's history of training fills screens."""
    text = json.dumps(value)
    if len(text) <= BRIEF:
        return text
    return (text[:BRIEF].rpartition(",")[0] or text[:BRIEF]) + ", ... (all of it with --json)"


def _lit(online: OnlineSettings | SearchOnlineSettings) -> str:
    return ", in the light of the first frame" if online.match_illumination else ""


def _seqtrack_facts(manifest: SeqTrackManifest) -> dict[str, str]:
    from edgetrack.seqtrack import least_score

    search, template = manifest.preprocessing.search, manifest.preprocessing.template
    online, score = manifest.online, manifest.score
    update = "never updated"
    if online.update_interval is not None:
        update = f"updated every {online.update_interval} frames above a likelihood of {online.update_threshold:g}"
        if online.look_around:
            update += f" and, looking around, at a score of {least_score(score):g} or more"
    meaning = "mean token likelihood, not calibrated" if score.source == "likelihood" else "calibrated probability"
    return {
        "search": f"{search.size} px, {search.factor:g} x the target{_lit(online)}",
        "templates": f"{manifest.templates} of {template.size} px, {template.factor:g} x the target, {update}",
        "decoder": f"{manifest.decoder.bins} bins, {manifest.decoder.order}, window {online.window:g}",
        "score": f"{meaning}, ok from {score.ok_threshold:g}",
    }


def _vtt_facts(manifest: VTTManifest) -> dict[str, str]:
    search, template, score = manifest.preprocessing.search, manifest.preprocessing.template, manifest.score
    meaning = "best query's probability, not calibrated" if score.source == "top" else "calibrated probability"
    again = ", and again about the best candidate" if manifest.online.second_look else ""
    return {
        "search": f"the whole frame, on {search.width} x {search.height} px{again}{_lit(manifest.online)}",
        "template": f"{template.size} px, {template.factor:g} x the target's longer side, never updated",
        "queries": str(manifest.queries),
        "score": f"{meaning}, ok from {score.ok_threshold:g}",
    }


def _parse_box(text: str) -> tuple[float, ...]:
    parts = text.split(",")
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = ()
    if len(values) != 4:
        raise OptionError(f"got --box {text!r}; expected four numbers X,Y,W,H in pixels, such as 120,80,64,48")
    return values


def _refuse_overwriting(output: Path | None, files: Sequence[Path]) -> None:
    if output is not None and os.path.exists(output) and any(_is_one_file(output, file) for file in files):
        raise OptionError(f"{output}: is read as the source and would be overwritten; expected another path")


def _is_one_file(a: Path, b: Path) -> bool:
    """Whether two paths lead to one file, be it there already or not."""
    if os.path.exists(a) and os.path.exists(b):
        return os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


def _record(
    number: int,
    read_at: float | None,
    box: tuple[float, ...],
    score: float | None,
    state: TrackState,
    latency_ms: float,
) -> dict[str, object]:
    """One frame's JSON line: boxes to a thousandth of a pixel, when it was read to a millisecond, what it took to a
    microsecond."""
    return {
        "frame": number,
        "time": None if read_at is None else round(read_at, 3),
        "box": [round(v, 3) for v in box],
        "score": None if score is None else round(score, 6),
        "ok": state != "lost",
        "state": state.value,
        "latency_ms": round(latency_ms, 3),
    }


def _summary(latencies: Latencies, skipped: int, lost: int, label: str, output: Path | None, jsonl: str | None) -> str:
    written = [str(target) for target in (output, jsonl) if target is not None and target != "-"]
    wrote = f"; wrote {', '.join(written)}" if written else ""
    if not latencies:
        return f"1 frame, nothing to track after it, {label}{wrote}"
    passed = f", {skipped} passed over" if skipped else ""
    return (
        f"{len(latencies) + 1} frames{passed}, lost in {lost}, {latencies.fps:.1f} fps "
        f"(median {latencies.median:.2f} ms, mean {latencies.mean:.2f} ms), {label}{wrote}"
    )


def _state(found: Track) -> str:
    return f"{'held' if found.ok else 'lost'} {found.score:.2f}"


def _progress(*, beside: bool = False) -> Progress:
    """A bar on standard error where that is a terminal, nothing elsewhere.

    Args:
        beside: whether results go to standard output while it is shown; where that is a terminal too, there is no bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        refresh_per_second=5,
        disable=not console.is_terminal or (beside and sys.stdout.isatty()),
        redirect_stdout=False,  # which would send the results to the bar's stream
    )


def _print(line: str = "") -> None:
    """One line on standard output; a full disk there is an `OutputError`."""
    try:
        typer.echo(line)
    except BrokenPipeError:  # whoever read it has seen enough: typer ends the command without a word
        raise
    except OSError as error:
        from edgetrack.outputs import discard_standard_output

        discard_standard_output()
        raise OutputError(f"standard output: cannot be written: {error.strerror}") from None


def _say(message: str) -> None:
    """One line on standard error."""
    typer.echo("edgetrack: " + " ".join(message.split()), err=True)


class _Said(logging.Handler):
    """Log records as the command's other messages."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(f"{record.levelname.lower()}: {record.getMessage()}")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
