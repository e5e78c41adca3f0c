"""LaSOT (Fan et al., CVPR 2019): 70 categories of 20 videos; four of each are the testing split, the rest train."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.data.labels import DatasetError, Numbered, Track, Tracks, check_lengths, found_in, read_flags, read_table
from train.data.readers.content import Content, Lists
from train.data.readers.tracks import LAYOUT as OWN

LAYOUT = (
    "airplane/airplane-1/{groundtruth.txt, full_occlusion.txt, out_of_view.txt, img/00000001.jpg}, "
    "one folder for each of its 70 categories"
)

TESTING: dict[str, tuple[int, ...]] = {
    category: tuple(int(number) for number in numbers)
    for category, *numbers in map(
        str.split,
        """
        airplane 1 9 13 15
        basketball 1 6 7 11
        bear 2 4 6 17
        bicycle 2 7 9 18
        bird 2 3 15 17
        boat 3 4 12 17
        book 3 10 11 19
        bottle 1 12 14 18
        bus 2 5 17 19
        car 2 6 9 17
        cat 1 3 18 20
        cattle 2 7 12 13
        chameleon 3 6 11 20
        coin 3 6 7 18
        crab 3 6 12 18
        crocodile 3 4 10 14
        cup 1 4 7 17
        deer 4 8 10 14
        dog 1 7 15 19
        drone 2 7 13 15
        electricfan 1 10 18 20
        elephant 1 12 16 18
        flag 2 3 5 9
        fox 2 3 5 20
        frog 3 4 9 20
        gametarget 1 2 7 13
        gecko 1 5 16 19
        giraffe 2 10 13 15
        goldfish 3 7 8 10
        gorilla 4 6 9 13
        guitar 3 8 10 16
        hand 2 3 9 16
        hat 1 2 5 18
        helmet 5 11 13 19
        hippo 1 7 9 20
        horse 1 4 12 15
        kangaroo 2 5 11 14
        kite 4 6 10 15
        leopard 1 7 16 20
        licenseplate 6 12 13 15
        lion 1 5 12 20
        lizard 1 3 6 13
        microphone 2 6 14 16
        monkey 3 4 9 17
        motorcycle 1 3 9 18
        mouse 1 8 9 17
        person 1 5 10 12
        pig 2 10 13 18
        pool 3 7 12 15
        rabbit 10 13 17 19
        racing 10 15 16 20
        robot 1 5 8 19
        rubicCube 1 6 14 19
        sepia 6 8 13 16
        shark 2 3 5 6
        sheep 3 5 7 9
        skateboard 3 8 16 19
        spider 14 16 18 20
        squirrel 8 11 13 19
        surfboard 4 5 8 12
        swing 10 14 17 20
        tank 6 9 14 16
        tiger 4 6 12 18
        train 1 7 11 20
        truck 3 6 7 16
        turtle 5 8 9 16
        umbrella 2 9 17 19
        volleyball 1 13 18 19
        yoyo 7 15 17 19
        zebra 10 14 16 17
        """.strip().splitlines(),
    )
}
"""The official testing split (the paper's protocol II): numbers of the videos of each category."""
SEQUENCE = re.compile(r"(.+)-(\d+)")


def recognises(root: Path) -> bool:
    return any(any((root / category).glob(f"{category}-*")) for category in TESTING)


def read(root: Path, lists: Lists) -> Content:
    """The training split of what is there: videos of the testing split are passed over, and refused where a list names
    them. Frames that are fully occluded or out of view are not used."""
    names = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        inside = (SEQUENCE.fullmatch(path.name) for path in folder.iterdir())
        numbers = sorted(int(match[2]) for match in inside if match and match[1] == folder.name)
        if numbers and folder.name not in TESTING:
            raise DatasetError(
                f"{folder} is not one of LaSOT's 70 categories, and those of its extension are for measuring only: "
                f"move the folder elsewhere; videos of your own go in another folder, as {OWN}"
            )
        names += [f"{folder.name}-{number}" for number in numbers]
    names = lists.choose(names)
    training = [name for name in names if not is_testing(name)]
    if lists.only is not None and (refused := sorted(set(names) - set(training))):
        raise DatasetError(
            f"{lists.only} names {len(refused)} videos of LaSOT's testing split, such as {refused[0]}: "
            "never train on it"
        )
    if not training:
        raise DatasetError(f"{root} has only videos of LaSOT's testing split: never train on it; {found_in(root)}")
    return Content("lasot", tracks=Tracks(training, training, _Reader(root)))


def is_testing(name: str) -> bool:
    """Whether the video `name`, such as airplane-1, belongs to the testing split."""
    category, _, number = name.rpartition("-")
    return int(number) in TESTING.get(category, ())


@dataclass(frozen=True)
class _Reader:
    root: Path

    def __call__(self, name: str) -> Track:
        folder = self.root / name.rpartition("-")[0] / name
        boxes = read_table(folder / "groundtruth.txt", 4)
        occluded = read_flags(folder / "full_occlusion.txt")
        outside = read_flags(folder / "out_of_view.txt")
        ends = Numbered(folder / "img", "{:08d}.jpg", np.asarray([len(boxes), len(boxes) + 1]))
        check_lengths(folder, len(boxes), (ends[0], ends[1]), full_occlusion=len(occluded), out_of_view=len(outside))
        return Track.visible_part(
            name,
            name,
            lambda times: Numbered(folder / "img", "{:08d}.jpg", times + 1),
            boxes,
            (occluded == 0) & (outside == 0),
        )
