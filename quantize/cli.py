"""``python -m quantize``: from trained weights to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from quantize.export import Difference
    from train.data.pairs import Pair
    from train.models.registry import Model
    from train.recipes import Recipe

CHECKPOINT = typer.Argument(help="Weights written by train (.safetensors).")
BUNDLE = typer.Option(help="The bundle: a directory, or an archive where it ends in .zip.")
DATA = typer.Option(help="A data folder, as train takes it; without any, drawn scenes. Repeatable.")
SETTINGS = typer.Option("--set", help="KEY=VALUE on the manifest, such as online.window=0.5. Repeatable.")
METHOD = typer.Option(help="How ranges are chosen: percentile, mse or max.")
EXAMPLES = typer.Option(help="Examples to calibrate on.", min=1)
KEEP_FLOAT = typer.Option("--keep-float", help="A layer to leave in float, with * and ?. Repeatable.")

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Turn trained weights into the bundles that edgetrack runs."""


@app.command()
def export(
    checkpoint: Annotated[Path, CHECKPOINT],
    out: Annotated[Path, BUNDLE],
    name: Annotated[str | None, typer.Option(help="The model's name; the bundle's file name by default.")] = None,
    settings: Annotated[list[str] | None, SETTINGS] = None,
) -> None:
    """Write the FP32 bundle of a checkpoint, checked against PyTorch on every CPU runtime installed."""
    from edgetrack import EdgeTrackError
    from quantize.export import ExportError, export_bundle
    from quantize.opset import OpsetError
    from train.checkpoints import CheckpointError

    try:
        model, metadata = _load(checkpoint)
        had_int8 = _holds_int8(out)
        differences = export_bundle(model, out, name=name or _named(out), metadata=metadata, settings=settings or ())
    except (CheckpointError, EdgeTrackError, ExportError, OpsetError, ValueError) as error:
        _fail(error)
    _print_differences(differences)
    _say_uncalibrated(checkpoint, metadata)
    if had_int8:
        typer.echo(f"note: {out} held INT8, too, and holds FP32 alone now; build writes both", err=True)
    typer.echo(out)


@app.command()
def ptq(
    checkpoint: Annotated[Path, CHECKPOINT],
    out: Annotated[Path, typer.Option(help="The quantised checkpoint to write (.safetensors).")],
    data: Annotated[list[Path] | None, DATA] = None,
    method: Annotated[str, METHOD] = "percentile",
    examples: Annotated[int, EXAMPLES] = 256,
    keep_float: Annotated[list[str] | None, KEEP_FLOAT] = None,
) -> None:
    """Quantise without training: find the ranges of activations on examples."""
    from quantize.checkpoints import save_quantised
    from train.checkpoints import CheckpointError
    from train.data.labels import DatasetError

    try:
        _keep(checkpoint, out)
        model, metadata = _calibrated(checkpoint, data or [], method, examples, keep_float or [])
        save_quantised(out, model, **metadata)
    except (CheckpointError, DatasetError, ValueError) as error:
        _fail(error)
    typer.echo(out)


@app.command()
def carry(
    checkpoint: Annotated[Path, CHECKPOINT],
    before: Annotated[Path, typer.Option(help="The weights that it was trained on from (.safetensors).")],
    int8: Annotated[Path, typer.Option(help="The quantised checkpoint of those, by ptq or qat.")],
    out: Annotated[Path, typer.Option(help="The quantised checkpoint to write (.safetensors).")],
) -> None:
    """Quantise as earlier weights were: what training has changed since is added to their quantised ones.

    For build --int8, or qat --start, which goes on from there.
    """
    from quantize.carry import carry as run
    from quantize.checkpoints import origins, save_quantised
    from train.checkpoints import CheckpointError

    try:
        for given in (checkpoint, before, int8):
            _keep(given, out)
        (model, metadata), (old, _) = _load(checkpoint), _load(before)
        quantised, found = _quantised(int8, before, old)
        run(quantised, old, model)
        calibration = {
            **found.get("calibration", {}),
            "checkpoint": origins(checkpoint)[0],
            "carried": origins(int8)[0],
        }
        save_quantised(out, quantised, **{**metadata, "keep_float": found["keep_float"], "calibration": calibration})
    except (CheckpointError, ValueError) as error:
        _fail(error)
    typer.echo(out)


@app.command()
def qat(
    context: typer.Context,
    checkpoint: Annotated[Path, CHECKPOINT],
    out: Annotated[Path, typer.Option(help="Folder for the run; a run found there is resumed.")],
    data: Annotated[list[Path] | None, DATA] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, overrides the recipe. Repeatable.")
    ] = None,
    method: Annotated[str, METHOD] = "percentile",
    examples: Annotated[int, EXAMPLES] = 256,
    keep_float: Annotated[list[str] | None, KEEP_FLOAT] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="A quantised checkpoint to go on from, by carry, ptq or qat; nothing is calibrated then."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Data-loading processes.")] = 1,
    every: Annotated[int, typer.Option(min=1, help="Steps between validations and checkpoints.")] = 250,
    held_out: Annotated[int, typer.Option(min=1, help="Pairs, kept from training, of each validation.")] = 512,
) -> None:
    """Quantise and fine-tune: calibrate as ptq does, or --start, then learn weights and ranges from the FP32 model.

    The outcome is model.safetensors in --out, for build --int8.
    """
    from dataclasses import replace

    from quantize.checkpoints import check_calibration, origins, save_quantised
    from quantize.qat import distillation, qat_recipe
    from train.checkpoints import CheckpointError
    from train.data.labels import DatasetError
    from train.data.mixture import datasets
    from train.loop import WEIGHTS, fit
    from train.memory import keep_freed_memory
    from train.recipes import override
    from train.stopping import Stopped

    keep_freed_memory()
    begun, outcome = out / "start.safetensors", out / WEIGHTS
    try:
        if start is not None:
            _refuse_beside(context, "--start")
        for written in (begun, outcome):
            for given in (checkpoint, start or checkpoint):
                _keep(given, written)
        teacher, metadata = _load(checkpoint, threads)
        recipe = override(qat_recipe(_recipe(checkpoint, metadata, data or [])), settings or [])
        if start is None:
            asked = _calibration(checkpoint, data or [], method, examples, keep_float or [])
        else:
            model, found = _quantised(start, checkpoint, teacher)
            calibration = {**found.get("calibration", {}), "started": origins(start)[0]}
            asked = {"keep_float": found["keep_float"], "calibration": calibration}
            found |= asked
        if begun.is_file():
            before = {"checkpoint": origins(checkpoint)[1], "data": [path.name for path in data or []]}
            check_calibration(begun, asked, before)
        else:
            if start is None:
                drawn = replace(recipe, model=teacher.config)
                model, found = _calibrated(checkpoint, data or [], method, examples, keep_float or [], threads, drawn)
            save_quantised(begun, model, **found)
        train, validation = datasets(recipe, data or [], validation_pairs=held_out)
        make = distillation(teacher, asked)
        fit(recipe, train, validation, out, start=begun, data=data or [], workers=workers, every=every, make=make)
    except Stopped as stopped:
        typer.echo(stopped, err=True)
        raise typer.Exit(stopped.exit_code) from None
    except (CheckpointError, DatasetError, FloatingPointError, TypeError, ValueError) as error:
        _fail(error)
    typer.echo(outcome)


@app.command()
def sensitivity(
    checkpoint: Annotated[Path, CHECKPOINT],
    data: Annotated[list[Path] | None, DATA] = None,
    method: Annotated[str, METHOD] = "percentile",
    examples: Annotated[int, EXAMPLES] = 256,
) -> None:
    """Report each layer's share of what quantisation without training changes: one JSON line a layer, most first."""
    import json

    from rich.console import Console
    from rich.progress import Progress

    from quantize.sensitivity import shares
    from train.checkpoints import CheckpointError
    from train.data.labels import DatasetError

    try:
        model, metadata = _calibrated(checkpoint, data or [], method, examples, [])
        recipe = _recipe(checkpoint, metadata, data or [])
        weighed = _examples(recipe, data or [], WEIGHED, held_out=True)
        with Progress(console=Console(stderr=True)) as progress:
            report = shares(model, weighed, lambda layers: progress.track(layers, description="round one layer"))
    except (CheckpointError, DatasetError, ValueError) as error:
        _fail(error)
    for layer in report:
        typer.echo(json.dumps(layer._asdict()))


@app.command()
def build(
    context: typer.Context,
    checkpoint: Annotated[Path, CHECKPOINT],
    out: Annotated[Path, BUNDLE],
    int8: Annotated[
        Path | None, typer.Option(help="The quantised checkpoint, by ptq or qat; without it, ptq is done on the way.")
    ] = None,
    data: Annotated[list[Path] | None, DATA] = None,
    name: Annotated[str | None, typer.Option(help="The model's name; the bundle's file name by default.")] = None,
    settings: Annotated[list[str] | None, SETTINGS] = None,
    method: Annotated[str, METHOD] = "percentile",
    examples: Annotated[int, EXAMPLES] = 256,
    keep_float: Annotated[list[str] | None, KEEP_FLOAT] = None,
    sequences: Annotated[
        Path | None,
        typer.Option(
            help="Sequences in GOT-10k's layout, to track and score with every precision: from the true first box and "
            "from the twelve of SRE."
        ),
    ] = None,
) -> None:
    """Write the bundle with all precisions, FP32 and INT8, both checked against PyTorch on every CPU runtime."""
    from edgetrack import EdgeTrackError
    from quantize.export import ExportError, Int8, export_bundle
    from quantize.fake import freeze
    from quantize.opset import OpsetError
    from quantize.qdq import QdqError
    from quantize.tracking import read_sequences
    from train.checkpoints import CheckpointError
    from train.data.labels import DatasetError

    try:
        if int8 is not None:
            _refuse_beside(context, "--int8")
        tracked = read_sequences(sequences) if sequences else ()
        model, metadata = _load(checkpoint)
        if int8 is None:
            quantised, found = _calibrated(checkpoint, data or [], method, examples, keep_float or [])
        else:
            quantised, found = _quantised(int8, checkpoint, model)
        freeze(quantised)
        recipe = _recipe(int8 or checkpoint, found, data or [])
        held_out = _examples(recipe, data or [], PROVED, held_out=True)
        variant = Int8(quantised, _int8_facts(found), held_out)
        differences = export_bundle(
            model,
            out,
            name=name or _named(out),
            metadata=metadata,
            settings=settings or (),
            int8=variant,
            sequences=tracked,
        )
    except (CheckpointError, DatasetError, EdgeTrackError, ExportError, OpsetError, QdqError, ValueError) as error:
        _fail(error)
    _print_differences(differences)
    _print_proof(out)
    _say_uncalibrated(checkpoint, metadata)
    typer.echo(out)


def _holds_int8(out: Path) -> bool:
    """Whether a bundle with INT8 is there already."""
    from edgetrack import EdgeTrackError
    from edgetrack.bundle import read_bundle

    try:
        return "int8" in read_bundle(out).manifest.variants
    except EdgeTrackError:
        return False


def _say_uncalibrated(checkpoint: Path, metadata: dict[str, Any]) -> None:
    """A bundle of weights without a calibration tracks, and nothing in what it answers shows what it lacks."""
    if "score" not in metadata:
        typer.echo(
            f"note: the score of {checkpoint} is not calibrated: it does not tell when the target is lost, and what "
            "edgetrack adds to the papers is off; weights that train fit wrote are calibrated by: python -m train "
            f"calibrate {checkpoint}",
            err=True,
        )


def _refuse_beside(context: typer.Context, quantised: str) -> None:
    """Refuse what says how to quantise beside the option that gives a quantised model: it would say nothing."""
    options = {"method": "--method", "examples": "--examples", "keep_float": "--keep-float"}
    sources = {option: context.get_parameter_source(name) for name, option in options.items()}
    if given := [option for option, source in sources.items() if source is not None and source.name != "DEFAULT"]:
        raise ValueError(
            f"{', '.join(given)} cannot go with {quantised}, whose model is quantised; give them to ptq or qat, or "
            f"leave {quantised} out"
        )


def _quantised(path: Path, checkpoint: Path, model: Model) -> tuple[Model, dict[str, Any]]:
    """The quantised model of a file and the file's metadata; refused where it was not made of the checkpoint's."""
    from quantize.checkpoints import check_origin, load_quantised
    from train.checkpoints import CheckpointError

    quantised, metadata = load_quantised(path)
    if quantised.config != model.config:
        raise CheckpointError(f"{path} is of another model than {checkpoint}: their configurations differ")
    check_origin(path, metadata, checkpoint)
    return quantised, metadata


def _named(bundle: Path) -> str:
    """A model's name by where its bundle goes; a version's last part is no suffix."""
    return bundle.name.removesuffix(".zip")


PROVED = 256
"""Examples, held out from training, that a bundle's INT8 graphs are compared on. Of 64 single ones decided: the same
graphs were 1.7 and 0.7 times as far from the fake-quant model, in likelihoods, as that from FP32; of 256, 1.1 times."""
WEIGHED = 64
"""Those that each layer's share of the error is found on."""


def _keep(checkpoint: Path, written: Path) -> None:
    """Refuse to write over a checkpoint that was given, by whatever name: it may be the only one."""
    if written.exists() and checkpoint.exists() and written.samefile(checkpoint):
        raise ValueError(
            f"{written} would be written over, and it is the checkpoint given as {checkpoint}; give another --out"
        )


def _load(checkpoint: Path, threads: int = 1) -> tuple[Model, dict[str, Any]]:
    """The FP32 model of a checkpoint and the file's metadata. Sets torch's threads, one by default as devices have few,
    and OpenCV's to one: data-loading processes are what uses further cores."""
    import cv2
    import torch

    from train.checkpoints import load_model

    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    return load_model(checkpoint)


def _calibrated(
    checkpoint: Path,
    data: list[Path],
    method: str,
    examples: int,
    keep_float: list[str],
    threads: int = 1,
    recipe: Recipe | None = None,
) -> tuple[Model, dict[str, Any]]:
    """The checkpoint's model, equalised, with rounding layers and ranges, and its metadata with how they were found: on
    examples as `recipe` draws them, by default the checkpoint's own."""
    from quantize.calibrate import calibrate, check_method
    from quantize.equalise import equalise
    from quantize.placement import place

    check_method(method)
    model, metadata = _load(checkpoint, threads)
    batches = _examples(recipe or _recipe(checkpoint, metadata, data), data, examples, held_out=False)
    equalise(model, batches)
    calibrate(place(model, keep_float), batches, method)
    return model, {**metadata, **_calibration(checkpoint, data, method, examples, keep_float)}


def _calibration(
    checkpoint: Path, data: list[Path], method: str, examples: int, keep_float: list[str]
) -> dict[str, Any]:
    """How a rounded model was made, for its file."""
    from quantize.checkpoints import origins
    from train.data.readers import Spec

    facts = {"method": method, "examples": examples, "data": [Spec.parse(str(path)).title for path in data]}
    return {"keep_float": keep_float, "calibration": {**facts, "checkpoint": origins(checkpoint)[0]}}


def _recipe(path: Path, metadata: dict[str, Any], data: list[Path]) -> Recipe:
    """The recipe that the file at `path` was trained with, or the default one of its model where it names none.

    Quantising takes a fraction of the data that training did. So of the recipe's ratios stay those of the kinds that
    `data` are of, and none where one of these has no ratio.
    """
    from dataclasses import replace

    from train.checkpoints.files import QUANTISED
    from train.data.mixture import ratios_of
    from train.models.registry import config_from_dict
    from train.recipes import Recipe, recipe_of

    if "recipe" not in metadata:
        return Recipe(config_from_dict(metadata["kind"].removesuffix(QUANTISED), metadata["config"]))
    recipe = recipe_of(path, metadata)
    return replace(recipe, mixture=replace(recipe.mixture, ratios=ratios_of(recipe.mixture.ratios, data)))


def _examples(recipe: Recipe, data: list[Path], count: int, *, held_out: bool) -> list[Pair]:
    """Batches of examples as a recipe draws them, from its training or its validation stream."""
    from torch.utils.data import DataLoader, Subset

    from train.data.mixture import datasets
    from train.data.pairs import Pair

    train, validation = datasets(recipe, data, validation_pairs=count)
    subset = Subset(validation if held_out else train, range(count))
    return [Pair(*batch) for batch in DataLoader(subset, 32)]


def _int8_facts(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        key: metadata[key] for key in ("keep_float", "calibration", "training", "recipe", "source") if key in metadata
    }


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(1) from None


def _print_differences(differences: list[Difference]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("backend", "graph", "output", "largest difference", title="FP32 against PyTorch, relative")
    for backend, graph, tensor, relative in differences:
        table.add_row(backend, graph, tensor, f"{relative:.1e}")
    Console(stderr=True).print(table)


def _print_proof(bundle: Path) -> None:
    """What the manifest says of the INT8 graphs."""
    from rich.console import Console
    from rich.table import Table

    from edgetrack.bundle import read_bundle

    accuracy: dict[str, Any] = dict(read_bundle(bundle).manifest.accuracy)
    proof, console = accuracy["int8"], Console(stderr=True)
    table = Table("backend", "graph", "in integers", "in float", title="INT8: what is executed")
    for backend, found in proof["runtimes"].items():
        for graph, operations in found["executed"].items():
            table.add_row(
                backend, graph, *(", ".join(f"{n} {op}" for op, n in side.items()) for side in operations.values())
            )
    console.print(table)
    table = Table("", "largest difference", "choices equal", "box overlap with FP32", "5th percentile")
    table.title = f"fake-quant against FP32, runtimes against fake-quant; {proof['examples']} examples"
    for name, found in {"fake-quant": proof["fake-quant"], **proof["runtimes"]}.items():
        overlap = found["overlap_with_fp32"]
        worst = found.get("difference") or found["difference_from_fp32"]
        table.add_row(
            name,
            f"{max(worst.values()):.1%} ({max(worst, key=worst.__getitem__)})",
            f"{found['choices_equal']:.1%}" if "choices_equal" in found else "",
            f"{overlap['mean']:.3f}",
            f"{overlap['5th_percentile']:.3f}",
        )
    console.print(table)
    if tracked := accuracy.get("tracking"):
        table = Table("backend", "precision", "AUC", "AUC, SRE", "box overlap with FP32")
        table.title = f"tracking {tracked['sequences']} sequences, {tracked['frames']} frames"
        for backend, variants in tracked["runtimes"].items():
            for precision, found in variants.items():
                overlap = found.get("overlap_with_fp32")
                shown = (f"{found['auc']:.1%}", f"{found['sre']:.1%}", "" if overlap is None else f"{overlap:.3f}")
                table.add_row(backend, precision, *shown)
        console.print(table)
