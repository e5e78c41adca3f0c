"""``python -m train``: fit a recipe, average and calibrate weights, import them from elsewhere, list presets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from train.data.pairs import PairDataset
    from train.models.registry import Config, Model
    from train.models.seqtrack import SeqTrack, SeqTrackConfig
    from train.recipes import Recipe

DATA_HELP = "A dataset: its folder, or KIND:FOLDER with KIND such as lasot, got10k, coco, trackingnet. Repeatable."

SECOND_LOOK = 0.5
"""Of the canvas's shorter side, that a VTT's candidate fills when it is looked at again: about as many pixels as the
target has in its template."""

app = typer.Typer(
    help="Train the models that edgetrack runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Train the models that edgetrack runs."""


@app.command()
def fit(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, such as seqtrack-nano.")],
    out: Annotated[Path, typer.Option(help="Folder for the run; a run found there is resumed.")],
    data: Annotated[list[str] | None, typer.Option(help=DATA_HELP)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, overrides the recipe. Repeatable.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
    workers: Annotated[int, typer.Option(min=0, help="Data-loading processes.")] = 1,
    every: Annotated[int, typer.Option(min=1, help="Steps between validations and checkpoints.")] = 500,
    held_out: Annotated[int, typer.Option(min=1, help="Pairs, kept from training, of each validation.")] = 512,
    compiled: Annotated[bool, typer.Option("--compile", help="Train through torch.compile.")] = False,
) -> None:
    """Train a recipe, or go on with the run in --out. Under torchrun, on all its processes.

    Ctrl-C saves the run before it ends it.
    """
    import torch

    from train.checkpoints import CheckpointError
    from train.checkpoints.files import read_tensors
    from train.data.labels import DatasetError
    from train.loop import WEIGHTS
    from train.loop import fit as run
    from train.memory import keep_freed_memory
    from train.stopping import Stopped

    torch.set_num_threads(threads)
    keep_freed_memory()
    chosen, train, validation = _opened(recipe, settings, data, held_out)
    try:
        run(
            chosen,
            train,
            validation,
            out,
            start=start,
            data=data or [],
            workers=workers,
            every=every,
            compiled=compiled,
        )
        if os.environ.get("RANK", "0") == "0" and "score" not in read_tensors(out / WEIGHTS)[1]:
            again = "".join(f" --data {root}" for root in data or [])
            _say(f"its score says nothing yet; calibrate it: python -m train calibrate {out / WEIGHTS}{again}")
    except Stopped as stopped:
        typer.echo(stopped, err=True)
        raise typer.Exit(stopped.exit_code) from None
    except (CheckpointError, DatasetError, FloatingPointError, TypeError, ValueError) as error:
        _fail(error)


@app.command()
def loader(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, such as seqtrack-nano.")],
    data: Annotated[list[str] | None, typer.Option(help=DATA_HELP)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, overrides the recipe. Repeatable.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Data-loading processes.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long to measure.")] = 20.0,
) -> None:
    """Measure the data loader alone: pairs per second. A faster device would wait for it."""
    from train.data.labels import DatasetError
    from train.data.throughput import measure

    _, train, _ = _opened(recipe, settings, data, held_out=1)
    try:
        measured = measure(train, workers, seconds)
    except DatasetError as error:
        _fail(error)
    typer.echo(f"{measured.pairs_per_second:.0f} pairs per second")


def _opened(
    name: str, settings: list[str] | None, data: list[str] | None, held_out: int
) -> tuple[Recipe, PairDataset, PairDataset]:
    """The recipe with its settings, and its training and validation datasets."""
    import cv2

    from train.data.labels import DatasetError
    from train.data.mixture import datasets
    from train.recipes import RECIPES, override

    if name not in RECIPES:
        raise typer.BadParameter(f"{name!r} is not a recipe; expected one of {', '.join(RECIPES)}")
    cv2.setNumThreads(1)  # data-loading processes are what uses further cores
    try:
        recipe = override(RECIPES[name], settings or [])
        return recipe, *datasets(recipe, data or [], validation_pairs=held_out)
    except (DatasetError, TypeError, ValueError) as error:
        _fail(error)


@app.command("import")
def import_weights(
    file: Annotated[
        Path, typer.Argument(help="A checkpoint of SeqTrack's, MAE's, DETR's, torchvision's or EfficientNet's (.pth).")
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    preset: Annotated[
        str | None,
        typer.Option("--as", help="The preset to make: one with a ViT for MAE, else one with a backbone."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="KEY=VALUE that the file's tensors do not tell: of SeqTrack's encoder_heads, decoder_heads, "
            "memory and templates; of a MAE's or a backbone's anything of the model. Repeatable.",
        ),
    ] = None,
) -> None:
    """Convert weights from elsewhere; nothing in the file is run.

    An official SeqTrack is complete; a MAE becomes a SeqTrack, and a ResNet or EfficientNet a tracker that has it as
    its backbone, to begin training from.
    """
    from train.checkpoints import (
        CheckpointError,
        OfficialWeightsError,
        is_convolutional,
        is_mae,
        read_state,
        save_model,
    )
    from train.models.registry import PRESETS
    from train.models.vtt import VTTConfig

    if preset is not None and preset not in PRESETS:
        raise typer.BadParameter(f"{preset!r} is not a preset; expected one of {', '.join(PRESETS)}")
    config = PRESETS[preset] if preset else None
    try:
        state = read_state(file)
        if isinstance(config, VTTConfig) or is_convolutional(state) or is_mae(state):
            model, source = _begun(state, config, settings or []), f"backbone of {file.name}, else random"
        else:
            model, source = _official_seqtrack(state, preset, settings or []), f"official SeqTrack weights, {file.name}"
        save_model(out, model, source=source)
    except (CheckpointError, OfficialWeightsError, TypeError, ValueError) as error:
        _fail(error)
    typer.echo(out)


def _begun(state: dict[str, Tensor], config: Config | None, settings: list[str]) -> Model:
    """A model to begin training from: the backbone from a file, the rest as random as it is each time."""
    import torch

    from train.checkpoints import is_mae, seqtrack_from_mae, with_backbone
    from train.models.registry import config_from_dict
    from train.models.seqtrack import SeqTrackConfig
    from train.settings import with_settings

    if config is None:
        raise ValueError("a backbone alone does not say what tracker it begins; add --as, such as seqtrack-b256")
    config = config_from_dict(config.kind, with_settings(config.to_dict(), settings))
    torch.manual_seed(0)
    if not is_mae(state):
        return with_backbone(state, config)
    if not isinstance(config, SeqTrackConfig):
        raise ValueError("a MAE's encoder begins a SeqTrack; got --as of another kind")
    return seqtrack_from_mae(state, config)


def _official_seqtrack(state: dict[str, Tensor], preset: str | None, settings: list[str]) -> SeqTrack:
    """The official SeqTrack of a file; sizes are read off its tensors, and must be the preset's where one is named."""
    from train.checkpoints import seqtrack_from_official
    from train.models.registry import PRESETS
    from train.models.seqtrack import SeqTrackConfig
    from train.settings import with_settings

    config = PRESETS[preset] if preset else SeqTrackConfig()
    told = {key: getattr(config, key) for key in ("encoder_heads", "decoder_heads", "memory", "templates")}
    model = seqtrack_from_official(state, **with_settings(told, settings))
    said = {setting.partition("=")[0] for setting in settings}
    if preset is None and not {"encoder_heads", "decoder_heads"} <= said:
        dims = (model.config.encoder_dim, model.config.encoder_depth, model.config.decoder_dim)
        known = [name for name, c in _seqtrack_presets() if (c.encoder_dim, c.encoder_depth, c.decoder_dim) == dims]
        hint = f"--as {known[0]}" if known else "--set encoder_heads=N --set decoder_heads=N"
        raise ValueError(f"tensors do not tell the number of attention heads; add {hint}")
    found, expected = model.config.to_dict(), config.to_dict()
    wrong = [f"{key} is {found[key]}, expected {expected[key]}" for key in expected if found[key] != expected[key]]
    if preset is not None and wrong:
        raise ValueError(f"these weights are not {preset}: {'; '.join(wrong)}")
    return model


def _seqtrack_presets() -> list[tuple[str, SeqTrackConfig]]:
    from train.models.registry import PRESETS
    from train.models.seqtrack import SeqTrackConfig

    return [(name, config) for name, config in PRESETS.items() if isinstance(config, SeqTrackConfig)]


@app.command()
def presets() -> None:
    """List the presets with their parameters and multiply-accumulates (without the attention's two products)."""
    from rich.console import Console
    from rich.table import Table

    from train.models.complexity import complexity
    from train.models.registry import PRESETS

    table = Table("preset", "parameters (M)", "MACs (G)", "per frame: parameters (M)", "MACs (G)")
    for name, config in PRESETS.items():
        parameters, frame_parameters, macs, frame_macs = complexity(config)
        counts = (parameters / 1e6, macs / 1e9, frame_parameters / 1e6, frame_macs / 1e9)
        table.add_row(name, *(f"{count:.2f}" for count in counts))
    Console().print(table)


@app.command()
def average(
    before: Annotated[Path, typer.Argument(help="Weights that a run began from.")],
    after: Annotated[Path, typer.Argument(help="Weights that it ended with.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    share: Annotated[float, typer.Option(help="Of the second in the average.")] = 0.5,
) -> None:
    """Average the weights from before and after a run; calibrate them afterwards."""
    from train.checkpoints import CheckpointError, save_model
    from train.checkpoints import average as run

    try:
        model, facts = run(before, after, share)
        save_model(out, model, **facts)
    except (CheckpointError, ValueError) as error:
        _fail(error)
    typer.echo(out)


@app.command()
def calibrate(
    checkpoint: Annotated[Path, typer.Argument(help="Weights written by fit; the calibration is added to the file.")],
    data: Annotated[list[str] | None, typer.Option(help="The datasets given to fit. Repeatable.")] = None,
    pairs: Annotated[int, typer.Option(min=4, help="Held-out pairs to decode; half to fit, half to measure.")] = 4096,
    absent: Annotated[
        float,
        typer.Option(help="Share of them without the target: the more, the less a score promises.", min=0, max=1),
    ] = 0.33,
    window: Annotated[
        float, typer.Option(help="SeqTrack: strength of the Hanning penalty the tracker will use, from 0 to 1.")
    ] = 1.0,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 1,
) -> None:
    """Fit the score, the probability that the box overlaps the target by more than half, and turn on what goes beyond
    the papers."""
    import torch

    from edgetrack.decoding import CENTRE_STEPS, SIZE_STEPS
    from train.calibration import CLIP_MARGIN, SIZE_CHANGE
    from train.calibration import calibrate as run
    from train.checkpoints import CheckpointError, load_model, save_model
    from train.data.labels import DatasetError
    from train.data.mixture import datasets
    from train.data.readers import titles
    from train.recipes import recipe_of

    torch.set_num_threads(threads)
    try:
        model, metadata = load_model(checkpoint)
        if "recipe" not in metadata:
            raise CheckpointError(f"{checkpoint} names no recipe; expected weights written by: python -m train fit")
        recipe = recipe_of(checkpoint, metadata)
        given, trained = titles(data or []), metadata.get("training", {}).get("data")
        if trained is not None and sorted(given) != sorted(trained):
            was, now = (", ".join(each) or "drawn scenes" for each in (trained, given))
            _say(
                f"{checkpoint} was trained on {was}; it is calibrated on {now}. What was held out is told by all the "
                "data together: give the same --data"
            )
        elif not given:
            _say("without --data the score is calibrated on drawn scenes, which says little of films")
        _, held_out = datasets(recipe, data or [], validation_pairs=pairs, validation_absent=absent)
        if model.config.kind == "seqtrack" and not CENTRE_STEPS[model.config.order]:
            window = 0.0  # corners have no tokens for the centre to penalise, and a bundle of them says so
        # As far as a target's own half in a crop that is centred on it: what is further away is another object.
        within = 0.5 / model.config.search_factor if model.config.kind == "seqtrack" else 0.0
        score, auroc, deviation, count = run(model, held_out, window=window, within=within)
        facts = {key: value for key, value in metadata.items() if key not in ("kind", "config")}
        if model.config.kind == "seqtrack":
            # A calibrated score says when the tracker is in doubt; the rest of what it does is the export's to default.
            change = SIZE_CHANGE if SIZE_STEPS[model.config.order] else 0.0
            facts["online"] = {
                "window": window,
                "clip_margin": CLIP_MARGIN,
                "size_change": change,
                "mean_within": within,
                "hold_size": True,
                "look_around": True,
                "match_illumination": True,
            }
        else:
            facts["online"] = {"second_look": SECOND_LOOK, "match_illumination": True}
        measured = {"pairs": count, "absent": absent, "data": given, "auroc": auroc, "error": deviation}
        facts |= {"score": score, "calibration": measured}
        save_model(checkpoint, model, **facts)
    except (CheckpointError, DatasetError, ValueError) as error:
        _fail(error)
    typer.echo(f"AUROC {auroc:.3f}, expected calibration error {deviation:.3f} on {count} held-out pairs")


def _say(what: str) -> None:
    typer.echo(f"note: {what}", err=True)


def _fail(error: Exception) -> NoReturn:
    typer.echo(f"error: {error}", err=True)
    raise typer.Exit(1) from None
