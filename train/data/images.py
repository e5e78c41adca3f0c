"""Pictures from files, decoded once where memory allows, and no finer than they are needed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from train.data.labels import read_picture

Image = NDArray[np.uint8]

DECODERS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
"""Reductions that a JPEG decoder gives for less work than the full picture."""


def reduction(pixels: float, needed: float) -> int:
    """The largest decoder reduction that leaves at least `needed` of `pixels`."""
    return max((factor for factor in DECODERS if pixels >= factor * needed), default=1)


class ImageCache:
    """Decoded images, the least recently used dropped when they exceed `budget` bytes.

    The budget is for all data-loading processes together: each takes its share.
    """

    def __init__(self, budget: int = 4 << 30) -> None:
        self._budget = budget
        self._bytes = 0
        self._images: OrderedDict[Hashable, Image] = OrderedDict()

    def read(self, path: Path, reduce: int = 1) -> Image:
        """The image as BGR uint8 (ceil(H / reduce), ceil(W / reduce), 3); `reduce` is a key of `DECODERS`."""
        return self.keep((path, reduce), lambda: read_picture(path, DECODERS[reduce]))

    def keep(self, key: Hashable, make: Callable[[], Image]) -> Image:
        """The image that `make` gives, which is asked again only if it was dropped."""
        if key in self._images:
            self._images.move_to_end(key)
            return self._images[key]
        image = self._images[key] = make()
        self._bytes += image.nbytes
        worker = get_worker_info()
        share = self._budget // worker.num_workers if worker else self._budget
        while self._bytes > share and len(self._images) > 1:
            self._bytes -= self._images.popitem(last=False)[1].nbytes
        return image
