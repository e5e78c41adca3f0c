"""From data folders and a recipe to the datasets that the loop reads."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.data.clips import ClipSource
from train.data.frames import FrameDataset
from train.data.images import ImageCache
from train.data.labels import DatasetError, Pick, Still, Track
from train.data.pairs import PairDataset
from train.data.readers import read
from train.data.readers.content import Content
from train.data.scenes import SceneSource, Sprites
from train.data.sources import PlainStillSource, Source, StillSource, VideoSource
from train.models.vtt import VTTConfig
from train.recipes import Recipe

HELD_OUT = 0.1
"""Share of the video groups and of the stills that only validation sees."""
MOST_HELD_OUT = 1000
"""As many of each are enough to validate on, however large the dataset."""
HELD_OUT_KEY = (1,)
"""Spawn key of the held-out examples, which no seed may give to training: scenes are drawn from it, not held out."""
VALIDATION_PAIRS = 512
DRAWN = ("scenes", "clips")
"""Sources that need no folder: single composed scenes, and moving ones."""
MARGIN = 1.5
"""Pixels, per pixel of the nominal crop, that a reduced picture must keep: jitter cuts some crops finer."""


def datasets(
    recipe: Recipe,
    roots: Sequence[Path | str],
    *,
    cache_bytes: int = 4 << 30,
    validation_pairs: int = VALIDATION_PAIRS,
    validation_absent: float = 0.25,
) -> tuple[PairDataset, PairDataset]:
    """Training and validation datasets from any number of folders; with none at all every example is drawn.

    Args:
        recipe: its mixture says how much video, stills and scenes there are, all folders together; or, with ratios, how
            much of each reader's kind, and then folders of one kind share theirs, track by track.
        roots: datasets as `train.data.readers` writes them.
        cache_bytes: for decoded pictures, in all loading processes together.
        validation_pairs: length of the validation dataset.
        validation_absent: share of its examples that are without the target.

    Raises:
        DatasetError: a folder that is no dataset, a split that is kept for measuring, or ratios and folders that do not
            fit.
    """
    ratios = recipe.mixture.ratios
    cache = ImageCache(cache_bytes)
    contents = [read(root) for root in roots]
    if ratios is not None:
        _check_ratios(ratios, {content.name for content in contents})
    held_tracks = reserved([group for content in contents for group in content.tracks.groups])
    # By folder and name: datasets are moved, and pictures of several folders have the same names.
    held_stills = reserved(["/".join(still.path.parts[-2:]) for content in contents for still in content.stills])
    if len(held_tracks) + len(held_stills) and not (held_tracks.any() or held_stills.any()):
        logging.getLogger(__name__).warning(
            "all data given are one video or picture, of which nothing is held out: validation and calibration measure "
            "composed scenes instead; give two videos or more"
        )
    sprites = Sprites([path for content in contents for path in content.cutouts], recipe.mixture.drawn, cache)

    def dataset(held_out: bool, seed: int, length: int, spawn_key: tuple[int, ...] = ()) -> PairDataset:
        parts = _parts(contents, held_tracks == held_out, held_stills == held_out)
        scenery = Pick([*(content.backgrounds for content in contents), *(_Paths(part.stills) for part in parts)])
        scenes = SceneSource(sprites, scenery, cache)
        if ratios is None:
            mixture = recipe.mixture
            sources = [(scenes, mixture.scenes), *_of_files(recipe, parts, mixture.video, mixture.stills, cache)]
        else:
            drawn: dict[str, Source] = {"scenes": scenes, "clips": ClipSource(sprites, scenery, cache)}
            sources = [(drawn[name], share) for name, share in ratios.items() if name in drawn]
            for name, share in ratios.items():
                sources += _of_files(recipe, [part for part in parts if part.name == name], share, share, cache)
        if not sum(weight for _, weight in sources):
            sources = [(scenes, 1.0)]
        pairs = replace(recipe.pairs, absent=validation_absent) if held_out else recipe.pairs
        kind = FrameDataset if isinstance(recipe.model, VTTConfig) else PairDataset
        return kind(sources, recipe.model, pairs, sprites, seed=seed, length=length, spawn_key=spawn_key)

    train = dataset(False, recipe.seed, recipe.steps * recipe.batch)
    return train, dataset(True, 0, validation_pairs, HELD_OUT_KEY)


def ratios_of(ratios: Mapping[str, float] | None, roots: Sequence[Path | str]) -> dict[str, float] | None:
    """Of the ratios those that fit the folders given, for `datasets`; None where a folder has none, or none is left."""
    if ratios is None:
        return None
    given = {read(root).name for root in roots}
    if given - {"cutouts"} - ratios.keys():
        return None
    return {name: share for name, share in ratios.items() if name in {*given, *DRAWN}} or None


def reserved(names: Sequence[str]) -> NDArray[np.bool_]:
    """Which of the names only validation sees: those whose hash is below the share, at least one, and never all.

    A name's own hash decides, whatever the order, the seed and what else is given: a run that goes on from other
    weights with more data must not be measured or calibrated on what those weights were trained on.
    """
    distinct, entries = np.unique(np.asarray(names, np.str_), return_inverse=True)
    digests = [hashlib.sha256(name.encode()).digest() for name in distinct.tolist()]
    places = np.asarray([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
    count = max(1, min(np.count_nonzero(places < HELD_OUT), MOST_HELD_OUT))
    chosen = np.zeros(len(distinct), bool)
    chosen[np.argsort(places)[: min(count, len(distinct) - 1)]] = True
    return chosen[entries]


@dataclass(frozen=True)
class _Part:
    """One dataset's share of a split."""

    name: str
    tracks: Sequence[Track]
    stills: Sequence[Still]


class _Paths(Sequence[Path]):
    """The pictures' paths alone."""

    def __init__(self, stills: Sequence[Still]) -> None:
        self._stills = stills

    def __len__(self) -> int:
        return len(self._stills)

    def __getitem__(self, index: int) -> Path:  # type: ignore[override]
        return self._stills[index].path


def _check_ratios(ratios: Mapping[str, float], given: set[str]) -> None:
    labelled = given - {"cutouts"}
    if missing := sorted(name for name in ratios if name not in {*given, *DRAWN}):
        raise DatasetError(
            f"there is a ratio for {', '.join(missing)} but no such dataset; "
            f"given are {', '.join(sorted(given)) or 'none'}: add it, or set the ratios without it"
        )
    if unused := sorted(labelled - set(ratios)):
        raise DatasetError(f"{', '.join(unused)} has no ratio; expected one for each of {', '.join(sorted(labelled))}")


def _parts(contents: list[Content], tracks: NDArray[np.bool_], stills: NDArray[np.bool_]) -> list[_Part]:
    """The contents' tracks and stills where the masks, over all contents, are true."""
    parts, track, still = [], 0, 0
    for content in contents:
        n, m = len(content.tracks), len(content.stills)
        parts.append(
            _Part(
                content.name,
                Pick([content.tracks], np.flatnonzero(tracks[track : track + n])),
                Pick([content.stills], np.flatnonzero(stills[still : still + m])),
            )
        )
        track, still = track + n, still + m
    return parts


def _of_files(
    recipe: Recipe, parts: list[_Part], video: float, pictures: float, cache: ImageCache
) -> list[tuple[Source, float]]:
    """Sources of all parts together, where they hold anything, with the weights given."""
    pairs, model = recipe.pairs, recipe.model
    # Global search shows whole frames, stills as they are, whatever the target's size.
    side = None if isinstance(model, VTTConfig) else model.search_size / model.search_factor
    needed = None
    if pairs.reduced and side is not None:
        needed = MARGIN * max(side, model.template_size / model.template_factor)
    tracks, stills = Pick([part.tracks for part in parts]), Pick([part.stills for part in parts])
    sources: list[tuple[Source, float]] = []
    if len(tracks):
        videos = VideoSource(
            tracks, cache, pairs.max_gap, causal=pairs.official, needed=needed, past=model.prompt_frames
        )
        sources.append((videos, video))
    if len(stills):
        if pairs.official or side is None:
            sources.append((PlainStillSource(stills, cache, needed=needed), pictures))
        else:
            sources.append((StillSource(stills, cache, side), pictures))
    return sources
