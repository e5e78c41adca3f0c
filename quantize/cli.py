"""``python -m quantize``: from trained weights to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Turn trained weights into the bundles that edgetrack runs."""


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Weights written by train (.safetensors).")],
    out: Annotated[Path, typer.Option(help="The bundle: a directory, or an archive where it ends in .zip.")],
    name: Annotated[str | None, typer.Option(help="The model's name; the bundle's file name by default.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE on the manifest, such as online.window=0.5. Repeatable."),
    ] = None,
) -> None:
    """Write the FP32 bundle of a checkpoint, checked against PyTorch on every CPU runtime installed."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from quantize.export import ExportError, export_bundle
    from train.checkpoints import CheckpointError, load_model

    torch.set_num_threads(1)
    try:
        model, metadata = load_model(checkpoint)
        differences = export_bundle(model, out, name=name or out.stem, metadata=metadata, settings=settings or ())
    except (CheckpointError, ExportError, ValueError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    table = Table("backend", "graph", "output", "largest difference", title="against PyTorch, relative")
    for backend, graph, tensor, relative in differences:
        table.add_row(backend, graph, tensor, f"{relative:.1e}")
    Console(stderr=True).print(table)
    typer.echo(out)
