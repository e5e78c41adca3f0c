"""Datasets by name: how a folder is recognised, and what it holds.

A dataset is written ``ROOT``, recognised by what lies in it, or ``NAME:ROOT``, which says what it has to be; tracks may
be narrowed with a list: ``lasot:/data/LaSOT,only=training_set.txt`` or ``/data/GOT-10k,exclude=forbidden.txt``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from train.data.labels import DatasetError, found_in, refuse_evaluation_split
from train.data.readers import coco, cutouts, got10k, lasot, stills, trackingnet, tracks
from train.data.readers.content import Content, Lists

OPTION = re.compile(r",(only|exclude)=")


class Reader(Protocol):
    """A module of this package."""

    LAYOUT: str
    """Paths that show the layout, relative to the root."""

    def recognises(self, root: Path) -> bool:
        """Whether `root` looks like this dataset; a glance, not a check."""
        ...

    def read(self, root: Path, lists: Lists) -> Content:
        """What `root` holds; raises DatasetError when that is not this dataset or must not be trained on."""
        ...


READERS: dict[str, Reader] = {
    "lasot": lasot,
    "got10k": got10k,
    "trackingnet": trackingnet,
    "coco": coco,
    "tracks": tracks,
    "stills": stills,
    "cutouts": cutouts,
}
"""In the order in which a folder is tried: the plain layouts after the datasets that they resemble."""


@dataclass(frozen=True)
class Spec:
    """A dataset as it is written on a command line, taken apart."""

    root: Path
    name: str | None = None
    lists: Lists = Lists()  # noqa: RUF009 (frozen)

    @property
    def title(self) -> str:
        """As it is written, but for where the folder lies."""
        kind = f"{self.name}:" if self.name else ""
        lists = "".join(f",{option}={path.name}" for option, path in vars(self.lists).items() if path)
        return f"{kind}{self.root.resolve().name}{lists}"

    @classmethod
    def parse(cls, text: str) -> Spec:
        where, *rest = OPTION.split(text)
        options = dict(zip(rest[::2], map(Path, rest[1::2]), strict=True))
        name, separator, root = where.partition(":")
        if separator and name in READERS:
            return cls(Path(root).expanduser(), name, Lists(**options))
        if separator and not Path(where).exists():
            raise DatasetError(f"{text!r}: no dataset is called {name!r}; expected one of {', '.join(READERS)}")
        return cls(Path(where).expanduser(), None, Lists(**options))


def titles(roots: Sequence[str | Path]) -> list[str]:
    """The datasets' titles, by which a run and its weights know their data, wherever it lies."""
    return [Spec.parse(str(root)).title for root in roots]


def read(text: str | Path) -> Content:
    """Open one dataset; see the module docstring for how it is written.

    Raises:
        DatasetError: a folder that is no dataset, a broken one, or a split that is kept for measuring.
    """
    spec = Spec.parse(str(text))
    if not spec.root.is_dir():
        expected = READERS[spec.name].LAYOUT if spec.name else "a dataset's folder"
        raise DatasetError(f"{spec.root}: {found_in(spec.root)}; expected {expected}")
    refuse_evaluation_split(spec.root)
    name = spec.name or next((name for name, reader in READERS.items() if reader.recognises(spec.root)), None)
    if name in (None, "tracks") and not tracks.recognises(spec.root):
        labelled = sorted(path.parent.name for path in spec.root.glob("*/groundtruth.txt"))
        if labelled:
            raise DatasetError(
                f"{spec.root} has no list.txt, which names its clips' folders, one a line, such as {labelled[0]}: "
                f"{found_in(spec.root)}; expected {tracks.LAYOUT}"
            )
    if name is None:
        layouts = "".join(f"\n  {name}: {reader.LAYOUT}" for name, reader in READERS.items())
        raise DatasetError(f"{spec.root} is no dataset: {found_in(spec.root)}; expected one of{layouts}")
    if not READERS[name].recognises(spec.root):
        raise DatasetError(f"{spec.root} is not {name}: {found_in(spec.root)}; expected {READERS[name].LAYOUT}")
    content = READERS[name].read(spec.root, spec.lists)
    if spec.lists != Lists() and not len(content.tracks):
        raise DatasetError(f"{spec.root}: only= and exclude= choose among tracks, and {name} has none")
    return content
