"""From data folders and a recipe to the datasets that the loop reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from train.data.pairs import PairDataset
from train.data.scenes import SceneSource, Sprites, read_cutouts
from train.data.sources import (
    DatasetError,
    ImageCache,
    Sequence,
    Source,
    StillSource,
    VideoSource,
    read_sequences,
    read_stills,
)
from train.recipes import Recipe

HELD_OUT = 0.1
"""Share of the video groups and of the stills that only validation sees."""
VALIDATION_PAIRS = 512


def datasets(
    recipe: Recipe, roots: list[Path], *, cache_bytes: int = 4 << 30, validation_pairs: int = VALIDATION_PAIRS
) -> tuple[PairDataset, PairDataset]:
    """Training and validation datasets from any number of folders.

    A folder with list.txt is read as tracks, one with instances.json as stills, one that holds only pictures as
    cut-outs; with no folder at all every example is a drawn scene.

    Raises:
        DatasetError: a folder that is none of these, or a split that is kept for measuring.
    """
    cache = ImageCache(cache_bytes)
    sequences, stills, backgrounds, cutouts = [], [], [], []
    for root in roots:
        if (root / "list.txt").is_file():
            sequences += read_sequences(root)
        elif (root / "instances.json").is_file():
            labelled, plain = read_stills(root)
            stills += labelled
            backgrounds += plain
        elif root.is_dir() and (found := read_cutouts(root)):
            cutouts += found
        else:
            raise DatasetError(f"{root} holds neither list.txt (tracks) nor instances.json (stills) nor .png cut-outs")
    rng = np.random.default_rng(recipe.seed)
    held_groups = _held_out(rng, sorted({sequence.group for sequence in sequences}))
    held_stills = set(rng.permutation(len(stills))[: int(len(stills) * HELD_OUT)].tolist())
    sprites = Sprites(cutouts, recipe.mixture.drawn)

    def dataset(held_out: bool, seed: int, length: int) -> PairDataset:
        tracks: list[Sequence] = [s for s in sequences if (s.group in held_groups) == held_out]
        pictures = [s for i, s in enumerate(stills) if (i in held_stills) == held_out]
        scenery = backgrounds + [still.path for still in pictures]
        sources: list[tuple[Source, float]] = [(SceneSource(sprites, scenery, cache), recipe.mixture.scenes)]
        if tracks:
            sources.append((VideoSource(tracks, cache), recipe.mixture.video))
        if pictures:
            sources.append((StillSource(pictures, cache), recipe.mixture.stills))
        pairs = replace(recipe.pairs, absent=0.25) if held_out else recipe.pairs
        return PairDataset(sources, recipe.model, pairs, sprites, seed=seed, length=length)

    return dataset(False, recipe.seed, recipe.steps * recipe.batch), dataset(True, recipe.seed + 1, validation_pairs)


def _held_out(rng: np.random.Generator, groups: list[str]) -> set[str]:
    return set(rng.permutation(groups)[: round(len(groups) * HELD_OUT)].tolist())
