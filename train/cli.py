"""``python -m train``: fit a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train the models that edgetrack runs.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Train the models that edgetrack runs."""


@app.command()
def fit(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, such as seqtrack-nano.")],
    out: Annotated[Path, typer.Option(help="Folder for the run; a run found there is resumed.")],
    data: Annotated[
        list[Path] | None, typer.Option(help="A data folder: tracks, stills or cut-outs. Repeatable.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, overrides the recipe. Repeatable.")
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Weights to start from.")] = None,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 1,
    workers: Annotated[int, typer.Option(help="Data-loading processes.")] = 1,
    every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 500,
) -> None:
    """Train a recipe, or go on with the run in --out."""
    import cv2
    import torch

    from train.data.mixture import datasets
    from train.loop import fit as run
    from train.recipes import RECIPES, override

    if recipe not in RECIPES:
        raise typer.BadParameter(f"{recipe!r} is not a recipe; expected one of {', '.join(RECIPES)}")
    torch.set_num_threads(threads)
    cv2.setNumThreads(1)
    try:
        chosen = override(RECIPES[recipe], settings or [])
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error
    train, validation = datasets(chosen, data or [])
    run(chosen, train, validation, out, start=start, workers=workers, every=every)
