"""How the commands of a checkout begin: a package that they need and that is not installed is said in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable

OURS = ("edgetrack", "edgetrack_runtimes", "train", "quantize", "benchmarks")


def run(command: Callable[[], object]) -> None:
    """Run a command; exits with 1 where a package is missing. `pip install .` brings those of edgetrack alone."""
    try:
        command()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in OURS:
            raise
        sys.exit(
            f"error: {error.name} is not installed; training, quantising and measuring need more than edgetrack itself "
            "does: `make lint` installs all of it into .venv, and `. .venv/bin/activate` goes there"
        )
