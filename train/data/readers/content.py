"""What a dataset's folder gives, and which of its tracks are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from train.data.labels import DatasetError, Still, Tracks, read_names


@dataclass(frozen=True)
class Content:
    """A dataset, opened.

    Attributes:
        name: the reader's.
        tracks: through videos.
        stills: images with boxes.
        backgrounds: images without, which serve as scenery.
        cutouts: pictures with an alpha channel.
    """

    name: str
    tracks: Tracks = field(default_factory=lambda: Tracks.of([]))
    stills: Sequence[Still] = ()
    backgrounds: Sequence[Path] = ()
    cutouts: Sequence[Path] = ()


@dataclass(frozen=True)
class Lists:
    """Files that narrow a dataset's tracks: one name a line, or one number, counted from 0 in the dataset's own order.

    Attributes:
        only: tracks to take, such as LaSOT's training_set.txt or the ids of GOT-10k's "vottrain" part.
        exclude: tracks to leave out, such as the part of GOT-10k that the VOT challenge forbids.
    """

    only: Path | None = None
    exclude: Path | None = None

    def choose(self, names: list[str]) -> list[str]:
        """The names wanted, in their order.

        Raises:
            DatasetError: a list that cannot be read, names a track that is not there (`only`) or has nothing in common
                with the tracks that are (`exclude`).
        """
        chosen = names
        if self.only is not None:
            wanted = set(_listed(self.only, names))
            if missing := sorted(wanted - set(names)):
                raise DatasetError(
                    f"{self.only}: {len(missing)} of {len(wanted)} listed tracks are not in the dataset, such as "
                    f"{missing[0]}; expected names such as {names[0] if names else '(there are none)'}"
                )
            chosen = [name for name in names if name in wanted]
        if self.exclude is not None:
            unwanted = set(_listed(self.exclude, names))
            if not unwanted & set(names):
                raise DatasetError(
                    f"{self.exclude} excludes nothing: none of its {len(unwanted)} entries is in the dataset; "
                    f"expected names such as {names[0] if names else '(there are none)'}"
                )
            chosen = [name for name in chosen if name not in unwanted]
        if not chosen:
            raise DatasetError(f"no track is left of {len(names)}: check {self.only or self.exclude or 'the folder'}")
        return chosen


def _listed(path: Path, names: list[str]) -> list[str]:
    entries = read_names(path.expanduser())
    if not entries:
        raise DatasetError(f"{path} is empty; expected a list of tracks, one a line")
    if not all(entry.isdigit() for entry in entries) or set(entries) <= set(names):
        return entries
    numbers = [int(entry) for entry in entries]
    if max(numbers) >= len(names):
        raise DatasetError(f"{path}: number {max(numbers)}, but the dataset has {len(names)} tracks, counted from 0")
    return [names[number] for number in numbers]
