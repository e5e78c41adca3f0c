"""``python -m benchmarks``: one command for each question. Heavy imports are inside the commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from benchmarks.protocols import Scores


class _Commands(TyperGroup):
    """Turns the errors that are meant for the user into one line and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        from benchmarks.results import ResultsError
        from edgetrack.errors import EdgeTrackError

        try:
            return super().invoke(ctx)
        except (ResultsError, EdgeTrackError) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    help="Measure trackers: accuracy, latency, and parity with the trained model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

MODEL_HELP = (
    "A shipped name, a bundle, a checkpoint (.safetensors, run in PyTorch), opencv:mil, opencv:kcf, opencv:csrt, "
    "opencv:mosse, or opencv:nano:BACKBONE.onnx,HEAD.onnx."
)
RESULTS = Path("runs/benchmarks")


class Place(str, Enum):
    """Where a target that has vanished comes back."""

    NEAR = "near"
    FAR = "far"
    WIDE = "wide"


def _writable(target: str | None) -> str | None:
    from benchmarks.records import writable

    return writable(target)


OutOption = Annotated[Path, typer.Option(help="Where raw results are kept.")]
JsonOption = Annotated[
    str | None, typer.Option("--json", help="Write the record to a file, or to - (stdout).", callback=_writable)
]
DatasetOption = Annotated[str, typer.Option(help="A folder in GOT-10k's layout, or READER:FOLDER (see `datasets`).")]
SequenceOption = Annotated[list[str] | None, typer.Option("--sequence", help="Only this sequence. Repeatable.")]
BackendOption = Annotated[str, typer.Option(help="A backend of edgetrack; for a checkpoint cpu or cuda.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, int8, fp16, bf16, int8+fp16 or int8+bf16.")]
DecodeOption = Annotated[str, typer.Option(help="fused (one graph a frame) or cached (token by token).")]
SeedOption = Annotated[int, typer.Option(help="Of the places where targets come back.", min=0)]
DrawsOption = Annotated[int, typer.Option(help="Places to come back at, for each sequence.", min=1)]
ThreadsOption = Annotated[int | None, typer.Option(help="Threads of the runtime; its own choice if not given.", min=1)]
FixedThreadsOption = Annotated[int, typer.Option(help="Threads of the runtime.", min=1)]


def main() -> None:
    """Run the command."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    app(prog_name="python -m benchmarks")


@app.command()
def datasets() -> None:
    """List the datasets that can be read, what their folders hold, and the protocols."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks.datasets import READERS
    from benchmarks.protocols import PROTOCOLS

    console = Console()
    readers = Table("reader", "protocol", "expects")
    for name, reader in READERS.items():
        readers.add_row(name, reader.protocol, reader.expects)
    protocols = Table("protocol", "ranks by", "first frame", "absent frames", "mean over", "")
    for name, rules in PROTOCOLS.items():
        protocols.add_row(name, rules.headline, rules.first, rules.absent, rules.mean, rules.note)
    console.print(readers)
    console.print(protocols)


@app.command()
def score(
    results: Annotated[Path, typer.Argument(help="A folder in the toolkits' text format, or an .npz with its truth.")],
    protocol: Annotated[str | None, typer.Option(help="The dataset's own by default; see `datasets`.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Where the truth for a folder of results is.")] = None,
    perfect: Annotated[bool, typer.Option(help="Score the truth as if it were the prediction.")] = False,
    json: JsonOption = None,
) -> None:
    """Score raw results."""
    from dataclasses import asdict

    from benchmarks import records
    from benchmarks.datasets import read_dataset
    from benchmarks.protocols import score as score_results
    from benchmarks.results import ResultsError, read_npz, read_track, truth_as_track

    if results.suffix == ".npz":
        found = read_npz(results, perfect)
        chosen = protocol
    elif dataset is None:
        raise ResultsError(f"{results}: a folder of results needs --dataset, where the truth is")
    else:
        truth = read_dataset(dataset)
        chosen = protocol or truth.protocol
        found = [
            sequence.result(
                truth_as_track(sequence.truth, sequence.absent) if perfect else read_track(results, sequence.name)
            )
            for sequence in truth.sequences
        ]
    if chosen is None:
        raise ResultsError("an .npz does not say how it is scored; give --protocol (see `datasets`)")
    scores = score_results(found, chosen)
    _print_scores(scores, results.name, quiet=json == "-")
    records.write(records.record("score", **asdict(scores)), json)


@app.command()
def accuracy(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    dataset: DatasetOption,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    protocol: Annotated[str | None, typer.Option(help="The dataset's own by default; see `datasets`.")] = None,
    sequence: SequenceOption = None,
    decode: DecodeOption = "fused",
    window: Annotated[float | None, typer.Option(help="Penalty on leaving the centre, 0 to 1.")] = None,
    update_interval: Annotated[int | None, typer.Option(help="Frames between template updates; 0 for none.")] = None,
    update_threshold: Annotated[float | None, typer.Option(help="Update only above this mean likelihood.")] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="Frames and boxes times this, such as 0.25, for small targets.", min=0.01, max=4),
    ] = None,
    processes: Annotated[int, typer.Option(help="Processes, each with whole sequences.", min=1)] = 1,
    ray: Annotated[
        bool, typer.Option("--ray", help="Let Ray place the processes; RAY_ADDRESS names a cluster.")
    ] = False,
    out: OutOption = RESULTS,
    json: JsonOption = None,
) -> None:
    """Run a tracker over a dataset, once, and score it. Sequences whose results are under --out are not run again."""
    from benchmarks import records
    from benchmarks.accuracy import evaluate
    from benchmarks.contenders import Spec
    from benchmarks.datasets import read_dataset
    from benchmarks.scaled import scaled

    spec = Spec(model, backend, precision, threads, decode, window, update_interval, update_threshold)
    data, left_out = read_dataset(dataset, tuple(sequence or ())), ()
    if scale is not None:
        data, left_out = scaled(data, scale)
    if left_out:
        typer.echo(f"left out, smaller than a pixel: {', '.join(left_out)}", err=True)
    with _progress("track", len(data.sequences)) as advance:
        scores, content = evaluate(spec, data, out, protocol, processes=processes, cluster=ray, advance=advance)
    _print_scores(scores, content["contender"]["label"], quiet=json == "-")
    if json != "-":
        typer.echo(f"{_median(content)}; raw results in {content['results']}")
    records.write(records.record("accuracy", **content), json)


def _median(content: dict[str, Any]) -> str:
    if not content["update_ms"]:
        return (
            "no times: those kept are of other threads or processes, or of another command or machine; give another "
            "--out to track again"
        )
    return f"median {content['update_ms']['p50']:.2f} ms a frame"


@app.command()
def ablations(
    dataset: DatasetOption,
    data: Annotated[list[str] | None, typer.Option(help="A dataset to train on. Repeatable.")] = None,
    recipe: Annotated[str, typer.Option(help="A SeqTrack recipe.")] = "seqtrack-nano",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE for all rows, such as steps=800. Repeatable.")
    ] = None,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="Where runs and raw results are kept, to go on from.")] = RESULTS
    / "ablations",
    json: JsonOption = None,
) -> None:
    """Train a recipe with one setting changed at a time, and track a dataset with each: what every choice is worth."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks import records
    from benchmarks.ablations import ABLATIONS, ablate
    from benchmarks.datasets import read_dataset
    from train.stopping import Stopped

    truth, chosen = read_dataset(dataset), settings or []
    try:
        with _progress("ablate", len(ABLATIONS)) as advance:
            content = ablate(recipe, data or [], truth, out, settings=chosen, threads=threads, advance=advance)
    except Stopped as stopped:
        typer.echo(stopped, err=True)
        raise typer.Exit(stopped.exit_code) from None
    table = Table("", "AUC", "SR0.5", "IoU, held-out pairs", title=f"{content['pairs']} pairs each, in percent")
    for row in content["rows"]:
        values = (row["metrics"]["auc"], row["metrics"]["sr_50"], row["held_out"]["iou"])
        table.add_row(row["title"], *(f"{100 * value:.1f}" for value in values))
    Console(stderr=json == "-").print(table)
    records.write(records.record("ablations", **content), json)


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[str], object]]:
    """A bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda name: progress.update(task, advance=1, description=f"{title}: {name}")


@app.command()
def latency(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    decode: DecodeOption = "fused",
    frames: Annotated[int, typer.Option(help="Updates that are timed.", min=10)] = 300,
    warmup: Annotated[int, typer.Option(help="Updates before, which are not.", min=1)] = 30,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the drawn film that is tracked.")] = "640x360",
    cores: Annotated[str | None, typer.Option(help="Cores the process may use, such as 0 or 4,5.")] = None,
    json: JsonOption = None,
) -> None:
    """Measure a tracker's times, memory, disk and energy, in a process of its own."""
    from benchmarks import records
    from benchmarks.contenders import Spec
    from benchmarks.latency import Plan, measure

    spec = Spec(model, backend, precision, threads, decode)
    chosen = None if cores is None else tuple(int(each) for each in _numbers("--cores", cores, ","))
    width, height = _numbers("--size", size, "x", 2, least=64)  # in a smaller one OpenCV's MIL finds no place to sample
    content = measure(spec, Plan(frames, warmup, (width, height), cores=chosen))
    _print_latency(content, quiet=json == "-")
    records.write(records.record("latency", **content), json)


def _numbers(option: str, text: str, separator: str, count: int | None = None, least: int = 0) -> list[int]:
    parts = text.split(separator)
    if not all(part.isdigit() and int(part) >= least for part in parts) or count not in (None, len(parts)):
        numbers = "whole numbers" + (f" of at least {least}" if least else "")
        raise typer.BadParameter(f"{option} {text!r}; expected {numbers} separated by {separator!r}")
    return [int(part) for part in parts]


def _print_latency(content: dict[str, Any], *, quiet: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=quiet)
    threads = "its choice of threads" if content["threads"] is None else f"{content['threads']} thread(s)"
    times = Table("milliseconds", "mean", "p50", "p95", "p99", title=f"{content['contender']['label']}, {threads}")
    rows = {"update": content["update_ms"], "init": content["init_ms"]}
    if "stages_ms" in content:
        rows |= {f"  {name}": values for name, values in content["stages_ms"].items()}
        rows |= {"graph alone": content["graph_alone_ms"], "update less graph": content["overhead_ms"]}
    for name, values in rows.items():
        times.add_row(name, *(f"{values[column]:.3f}" for column in ("mean", "p50", "p95", "p99")))
    console.print(times)
    facts = [
        f"{content['processor_ms']:.2f} ms of processor time a frame",
        f"load {content['load_ms']:.0f} ms, cold start to the first box {content['cold_start_ms']:.0f} ms",
        f"memory {content['memory_mib']['before']} MiB before, {content['memory_mib']['peak']} MiB at most",
    ]
    if "disk_bytes" in content:
        facts.append(f"on disk {content['disk_bytes'] / 1e6:.1f} MB")
    if content["energy"]["source"]:
        facts.append(f"{1e3 * content['energy']['joules_per_frame']:.1f} mJ a frame ({content['energy']['source']})")
    console.print("; ".join(facts))
    if content["load_average"] > len(os.sched_getaffinity(0)):
        console.print(f"the machine was busy (load {content['load_average']}): times are not the device's alone")


@app.command()
def peers(
    dataset: DatasetOption,
    model: Annotated[list[str] | None, typer.Option(help=MODEL_HELP + " Repeatable.")] = None,
    redetect: Annotated[
        str | None, typer.Option(help="A model of kind vtt: compared alone, and together with each --model.")
    ] = None,
    redetect_interval: Annotated[int, typer.Option(help="Frames from one search to the next, at least.", min=1)] = 1,
    weights: Annotated[Path | None, typer.Option(help="A folder with NanoTrack's ONNX files.")] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    seed: SeedOption = 0,
    draws: DrawsOption = 3,
    sequence: SequenceOption = None,
    out: OutOption = RESULTS,
    json: JsonOption = None,
) -> None:
    """Compare models with OpenCV's trackers: accuracy, speed, and what they do when the target is gone and returns."""
    from dataclasses import replace

    from benchmarks import records
    from benchmarks.contenders import Spec
    from benchmarks.datasets import read_dataset
    from benchmarks.peers import available, compare

    data = read_dataset(dataset, tuple(sequence or ()))
    rivals, missing = available(weights, threads)
    specs = [Spec(each, backend, precision, threads) for each in model or ()]
    if redetect is not None:
        ours = [each for each in specs if not each.model.startswith("opencv:")]
        specs.append(Spec(redetect, backend, precision, threads))
        specs += [replace(each, redetect=redetect, redetect_interval=redetect_interval) for each in ours]
    specs += rivals
    with _progress("compare", len(specs)) as advance:
        compared = compare(specs, data, out, seed=seed, draws=draws, advance=advance)
    _print_peers(compared, f"{data.name}, {len(data.sequences)} sequences", quiet=json == "-")
    for name, reason in missing.items():
        typer.echo(f"{name}: {reason}", err=json == "-")
    records.write(records.record("peers", seed=seed, draws=draws, contenders=compared, missing=missing), json)


def _print_peers(compared: list[dict[str, Any]], title: str, *, quiet: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from benchmarks.metrics import TITLES

    console = Console(stderr=quiet)
    headline = compared[0]["headline"]
    table = Table("tracker", TITLES[headline], TITLES["sr_50"], "ms p50", "p99", "max", title=f"{title}, in percent")
    for each in compared:
        times = _times(each, ("p50", "p99", "max"))
        table.add_row(each["contender"]["label"], *_cells(each["metrics"], (headline, "sr_50")), *times)
    console.print(table)
    names = ("auc", "tpr", "tnr", "max_gm", "auroc", "ece")
    headings = [TITLES[name] for name in names]
    parts = {
        "given": "as it is",
        "near": "vanishes, back in place",
        "far": "vanishes, back far away",
        "wide": "small in a wide view, vanishes, back elsewhere",
    }
    for part, what in parts.items():
        table = Table("tracker", *headings, "returns", "found", "frames", "ms p99", "max", title=f"{title}: {what}")
        for each in compared:
            values = each["behaviour"][part]
            frames = "-" if values["frames_to_find"] is None else f"{values['frames_to_find']:g}"
            times = _times(values, ("p99", "max"))
            found = (*_cells(values, names), str(values["returns"]), *_cells(values, ("found",)), frames)
            table.add_row(each["contender"]["label"], *found, *times)
        console.print(table)
    if compared[0]["left_out"]:
        console.print(f"left out of those that vanish: {', '.join(compared[0]['left_out'])}")


def _times(values: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Milliseconds of an update; a dash for those that were kept from other conditions."""
    times = values["update_ms"]
    return [f"{times[name]:.2f}" if name in times else "-" for name in names]


def _cells(values: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Percentages; a dash for what could not be measured."""
    return [
        "-" if values[name] is None or values[name] != values[name] else f"{100 * values[name]:.1f}" for name in names
    ]


@app.command()
def returns(
    dataset: DatasetOption,
    out: Annotated[Path, typer.Option(help="The folder to write, in GOT-10k's layout.")],
    place: Annotated[Place, typer.Option(help="Where the target comes back.")] = Place.FAR,
    seed: SeedOption = 0,
    draws: DrawsOption = 1,
    sequence: SequenceOption = None,
) -> None:
    """Write the sequences that peers makes of a dataset: the target is painted over for 60 frames and then returns."""
    from benchmarks.datasets import read_dataset
    from benchmarks.returns import returning, write
    from benchmarks.wide import wide

    data = read_dataset(dataset, tuple(sequence or ()))
    if place is Place.WIDE:
        made, left_out = wide(data, seed, draws)
    else:
        made, left_out = returning(data, place is Place.FAR, seed, draws)
    with _progress("write", len(made.sequences)) as advance:
        write(made, out, advance)
    typer.echo(f"{len(made.sequences)} sequences in {out}")
    if left_out:
        typer.echo(f"left out, too large for their frame or not in sight for long: {', '.join(left_out)}")


@app.command()
def parity(
    model: Annotated[str, typer.Argument(help="A shipped name or a bundle.")],
    reference: Annotated[Path, typer.Option(help="The checkpoint that the bundle was made of (.safetensors).")],
    dataset: DatasetOption,
    backend: Annotated[list[str] | None, typer.Option(help="All that work here by default. Repeatable.")] = None,
    precision: Annotated[list[str] | None, typer.Option(help="All of the bundle by default. Repeatable.")] = None,
    threads: ThreadsOption = None,
    sequence: SequenceOption = None,
    closed_loop: Annotated[bool, typer.Option(help="Track whole sequences, too, and compare the AUC.")] = True,
    max_auc_drop: Annotated[float | None, typer.Option(help="Fail above this drop, a fraction such as 0.01.")] = None,
    max_box_error: Annotated[
        float | None, typer.Option(help="Fail above this box error (95th percentile), in sides of the search crop.")
    ] = None,
    out: OutOption = RESULTS,
    json: JsonOption = None,
) -> None:
    """Compare every backend and precision with the trained model in PyTorch. Exits with 3 where a limit is broken."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks import records
    from benchmarks.datasets import read_dataset
    from benchmarks.parity import Limits, compare
    from edgetrack_runtimes import discover

    data = read_dataset(dataset, tuple(sequence or ()))
    backends = backend or [status.backend for status in discover() if status.available]
    with _progress("compare", len(backends) + closed_loop) as advance:
        content = compare(
            model,
            reference,
            data,
            out,
            backends=backends,
            precisions=precision or (),
            threads=threads,
            closed_loop=closed_loop,
            limits=Limits(max_auc_drop, max_box_error),
            advance=advance,
        )
    console = Console(stderr=json == "-")
    auc = content["reference"]["auc"]
    title = f"{content['model']} against {content['reference']['backend']}, float32, TF32 off"
    table = Table("backend", "precision", "worst tensor", "same box", "box error p95", "AUC", "drop", title=title)
    for entry in content["entries"]:
        if "refused" in entry:
            table.add_row(entry["backend"], entry["precision"], entry["refused"])
            continue
        graph, output, worst = max(
            ((graph, name, value) for graph, values in entry["tensors"].items() for name, value in values.items()),
            key=lambda each: each[2],
        )
        table.add_row(
            entry["backend"],
            entry["precision"],
            f"{worst:.1e} ({graph} {output})",
            f"{100 * entry['equal_boxes']:.1f} %",
            f"{entry['box_error']['p95']:.5f}",
            f"{100 * entry['auc']:.2f}" if closed_loop else "-",
            f"{100 * entry['auc_drop']:+.2f}" if closed_loop else "-",
        )
    console.print(table)
    if auc is not None:
        console.print(f"AUC of the reference: {100 * auc:.2f}")
    records.write(records.record("parity", **content), json)
    broken = [f"{e['precision']} on {e['backend']}: {each}" for e in content["entries"] for each in e.get("broken", ())]
    broken += [f"{e['precision']} on {e['backend']}: {e['refused']}" for e in content["entries"] if "refused" in e]
    for each in broken:
        typer.echo(f"error: {each}", err=True)
    if broken:
        raise typer.Exit(3)


@app.command()
def realtime(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    dataset: DatasetOption,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    fps: Annotated[
        list[float] | None, typer.Option(help="Frames a second; 30 and 60 by default. Repeatable.", min=0.1)
    ] = None,
    latency_ms: Annotated[
        list[float] | None, typer.Option(help="Also as if an update took this long. Repeatable.", min=0)
    ] = None,
    sequence: SequenceOption = None,
    json: JsonOption = None,
) -> None:
    """Track videos that play at their rate: a slow tracker misses frames. Accuracy as a function of latency."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks import records
    from benchmarks.contenders import Spec
    from benchmarks.datasets import read_dataset
    from benchmarks.metrics import TITLES
    from benchmarks.protocols import PROTOCOLS
    from benchmarks.realtime import measure

    data = read_dataset(dataset, tuple(sequence or ()))
    contender = Spec(model, backend, precision, threads).make()
    rates, latencies = fps or [30.0, 60.0], [each / 1e3 for each in latency_ms or ()]
    with _progress("track", len(rates) * (1 + len(latencies))) as advance:
        entries = measure(contender, data, rates, latencies, advance)
    content = {"contender": {"label": contender.label, **contender.identity}, "threads": threads, "entries": entries}
    ranked = dict.fromkeys((PROTOCOLS[data.protocol].headline, "sr_50"))
    names = [name for name in ranked if name in entries[0]["metrics"]]
    table = Table("fps", "latency (ms)", "frames looked at", *(TITLES[name] for name in names), title=contender.label)
    for entry in entries:
        measured = f"{entry['update_ms']['p50']:.2f} (as measured)"
        table.add_row(
            f"{entry['fps']:g}",
            measured if entry["latency_ms"] is None else f"{entry['latency_ms']:g}",
            f"{100 * entry['looked_at']:.0f} %",
            *(f"{100 * entry['metrics'][name]:.2f}" for name in names),
        )
    Console(stderr=json == "-").print(table)
    records.write(records.record("realtime", dataset=data.describe(), protocol=data.protocol, **content), json)


@app.command()
def conditions(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    dataset: DatasetOption,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    sequence: SequenceOption = None,
    json: JsonOption = None,
) -> None:
    """Track films whose light, shade, colours, noise, focus or compression change after 30 frames."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks import records
    from benchmarks.conditions import CONDITIONS, ONSET, measure
    from benchmarks.contenders import Spec
    from benchmarks.datasets import read_dataset
    from benchmarks.metrics import TITLES

    data = read_dataset(dataset, tuple(sequence or ()))
    contender = Spec(model, backend, precision, threads).make()
    with _progress("track", len(CONDITIONS) * len(data.sequences)) as advance:
        entries, left_out = measure(contender, data, advance)
    console = Console(stderr=json == "-")
    title = f"{contender.label} on {data.name}, from frame {ONSET + 1} on, in percent"
    table = Table("condition", TITLES["auc"], "right, called lost", "wrong, called ok", title=title)
    for entry in entries:
        table.add_row(entry["condition"], *_cells(entry, ("auc", "right_lost", "wrong_ok")))
    console.print(table)
    if left_out:
        console.print(f"left out, without the target by then: {', '.join(left_out)}")
    content = {"contender": {"label": contender.label, **contender.identity}, "threads": threads, "entries": entries}
    records.write(records.record("conditions", dataset=data.describe(), left_out=left_out, **content), json)


@app.command()
def ratios(
    preset: Annotated[list[str] | None, typer.Option(help="seqtrack-nano by default. Repeatable.")] = None,
    backend: Annotated[list[str] | None, typer.Option(help="All that work here by default. Repeatable.")] = None,
    threads: FixedThreadsOption = 1,
    rounds: Annotated[int, typer.Option(help="Runs of each graph, in turns.", min=3)] = 50,
    json: JsonOption = None,
) -> None:
    """Time naive, cached and fused decoding, and joint and isolated templates, with random weights."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks import records
    from benchmarks.ratios import measure
    from benchmarks.report import decoding
    from benchmarks.results import ResultsError
    from edgetrack_runtimes import discover
    from train.models.seqtrack import PRESETS

    presets = preset or ["seqtrack-nano"]
    if unknown := [each for each in presets if each not in PRESETS]:
        raise ResultsError(f"no preset {', '.join(unknown)}; there are {', '.join(PRESETS)}")
    backends = backend or [status.backend for status in discover() if status.available]
    with _progress("time", len(presets) * (8 + len(backends))) as advance:
        entries = [entry for each in presets for entry in measure(each, backends, threads, rounds, advance)]
    table = Table("preset", "backend", "naive", "cached", "fused", "isolated / joint", title="decoding, of encoding")
    for entry in entries:
        table.add_row(entry["preset"], entry["backend"], *decoding(entry), f"{entry['isolated_of_joint']:.2f}")
    Console(stderr=json == "-").print(table)
    records.write(records.record("ratios", entries=entries), json)


@app.command()
def precisions(
    model: Annotated[list[str], typer.Argument(help="Shipped names or bundles.")],
    backend: Annotated[list[str] | None, typer.Option(help="All that work here by default. Repeatable.")] = None,
    threads: FixedThreadsOption = 1,
    runs: Annotated[int, typer.Option(help="Runs of each graph, in turns.", min=3)] = 300,
    json: JsonOption = None,
) -> None:
    """Time the graph of a frame in each precision, in turns, and compare the bytes."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks import records
    from benchmarks.precisions import PRECISIONS, measure
    from edgetrack_runtimes import discover

    backends = backend or [status.backend for status in discover() if status.available]
    with _progress("time", len(model) * len(backends)) as advance:
        entries = [entry for each in model for entry in measure(each, backends, threads, runs, advance)]
    table = Table("model", "backend", "FP32, ms", *(f"{name} / fp32" for name in PRECISIONS[1:]), "bytes, int8 / fp32")
    for entry in entries:
        shares = (f"{entry['of_fp32'][name]:.2f}" if name in entry["of_fp32"] else "" for name in PRECISIONS[1:])
        sizes = entry["bytes"]
        smaller = f"{sizes['int8'] / sizes['fp32']:.1%}" if "int8" in sizes else ""
        table.add_row(entry["model"], entry["backend"], f"{entry['milliseconds']['fp32']:.2f}", *shares, smaller)
    Console(stderr=json == "-").print(table)
    records.write(records.record("precisions", entries=entries), json)


@app.command()
def attention(
    model: Annotated[str, typer.Argument(help="A shipped name, a bundle, or a checkpoint, which is exported first.")],
    dataset: DatasetOption,
    out: Annotated[Path, typer.Option(help="The folder for the pictures.")],
    sequence: Annotated[str | None, typer.Option(help="The first one by default.")] = None,
    frame: Annotated[list[int] | None, typer.Option(help="Counted from 1; the middle by default. Repeatable.")] = None,
    point: Annotated[
        list[str] | None, typer.Option(metavar="X,Y", help="In the frame, of VTT's encoder. Repeatable.")
    ] = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Draw where a model looks: the decoder's attention, and VTT's encoder's, over frames of a sequence."""
    from benchmarks.attention import reveal, write
    from benchmarks.datasets import read_dataset

    points = [tuple(float(each) for each in _numbers("--point", text, ",", 2)) for text in point or ()]
    video = read_dataset(dataset, (sequence,) if sequence else ()).sequences[0]
    frames = sorted(set(frame or [len(video.frames) // 2 + 1]))
    for path in write(reveal(model, backend, precision, threads), video, frames, out, points):
        typer.echo(path)


@app.command()
def report(
    records: Annotated[list[Path], typer.Argument(help="JSON records of the other commands.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="The page's title.")] = "Trackers on this device",
    frames: Annotated[
        str | None, typer.Option(help="The dataset, to show frames of it: the page then holds its pictures.")
    ] = None,
) -> None:
    """Make one self-contained HTML page of records."""
    from benchmarks.datasets import read_dataset
    from benchmarks.records import read
    from benchmarks.report import drawn, gather, render

    findings, dataset = gather(read(records)), read_dataset(frames) if frames else None
    page = render(findings, title, dataset)
    for entry in drawn(findings.entries, dataset)[1] if dataset else ():
        typer.echo(
            f"warning: {entry.label}: no raw results in {entry.accuracy['results']}, so its boxes are not drawn; run "
            "this where they are kept",
            err=True,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    typer.echo(out)


@app.command()
def table(
    records: Annotated[list[Path], typer.Argument(help="JSON records: accuracy, peers, latency; or ablations.")],
    into: Annotated[Path | None, typer.Option(help="Replace what is between the marks in this file.")] = None,
) -> None:
    """Make the README's Markdown tables of records."""
    from benchmarks.records import read
    from benchmarks.report import gather
    from benchmarks.table import ablations_markdown, markdown, write_into

    contents = read(records)
    ablations = [each for each in contents if each["schema"].endswith(".ablations")]
    text = ablations_markdown(ablations[-1]) if len(ablations) == len(contents) else markdown(gather(contents))
    if into is None:
        typer.echo(text, nl=False)
    else:
        write_into(into, text)


@app.command()
def vot(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Serve a tracker to the VOT toolkit over TraX; the toolkit starts this command (see benchmarks/vot.py)."""
    from benchmarks.contenders import Spec
    from benchmarks.vot import serve

    serve(Spec(model, backend, precision, threads))


@app.command()
def submission(
    results: Annotated[Path, typer.Argument(help="A folder of raw results, as accuracy keeps them.")],
    dataset: Annotated[str, typer.Option(help="got10k:FOLDER or trackingnet:FOLDER, which names the sequences.")],
    out: Annotated[Path, typer.Option(help="The .zip to write.")],
) -> None:
    """Pack raw results for the evaluation server of GOT-10k or TrackingNet."""
    from benchmarks.datasets import read_dataset
    from benchmarks.results import ResultsError, write_submission

    server, separator, _ = dataset.partition(":")
    if not separator or server not in ("got10k", "trackingnet"):
        raise ResultsError(f"no server for {dataset!r}; expected got10k:FOLDER or trackingnet:FOLDER")
    write_submission(results, [sequence.name for sequence in read_dataset(dataset).sequences], server, out)
    typer.echo(out)


def _print_scores(scores: Scores, title: str, *, quiet: bool) -> None:
    """Tables of percentages: over all, by attribute, by sequence; to standard error if standard output holds JSON."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks.metrics import TITLES

    console = Console(stderr=quiet)
    headings = [TITLES[name] for name in scores.metrics]
    overall = Table("over", *headings, title=f"{title}, protocol {scores.protocol}, in percent")
    frames = sum(sequence["frames"] for sequence in scores.sequences)
    overall.add_row(f"{len(scores.sequences)} sequences, {frames} frames", *_percent(scores.metrics))
    for attribute, group in scores.attributes.items():
        overall.add_row(f"{attribute} ({group['sequences']})", *_percent(group["metrics"]))
    console.print(overall)
    shown = [name for name in ("auc", "precision_20", "sr_50", "tpr", "tnr", "max_gm") if name in scores.metrics]
    each = Table("sequence", "frames", "absent", *(TITLES[name] for name in shown))
    for sequence in scores.sequences:
        counts = (str(sequence["frames"]), str(sequence["absent"]))
        each.add_row(sequence["name"], *counts, *_percent({name: sequence["metrics"][name] for name in shown}))
    console.print(each)


def _percent(metrics: dict[str, float]) -> list[str]:
    return [f"{100 * value:.2f}" for value in metrics.values()]
