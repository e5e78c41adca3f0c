"""Scales of activations from a few batches: the values' histogram, and the range that loses the least."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from quantize.answers import answer
from quantize.fake import QMAX, FakeQuantize
from quantize.placement import roundings
from train.data.pairs import Pair
from train.models.registry import Model

BINS = 4096
PERCENTILE = 0.9999
_SHRINK = torch.linspace(1.0, 0.05, 96)
"""Ranges that are tried, in units of the largest magnitude."""


class Histogram:
    """Counts of magnitudes in BINS equal bins from 0 to a limit that doubles when it is exceeded."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.limit = 0.0
        self.largest = 0.0

    def add(self, values: Tensor) -> None:
        magnitudes = values.detach().float().abs().flatten()
        largest = magnitudes.max().item()
        self.largest = max(self.largest, largest)
        if self.limit == 0.0:
            self.limit = largest
        while self.limit < largest:
            self.counts = torch.cat([self.counts.view(-1, 2).sum(1), torch.zeros(BINS // 2, dtype=torch.float64)])
            self.limit *= 2
        if self.limit > 0:
            self.counts += torch.histc(magnitudes.cpu(), BINS, 0, self.limit)

    @property
    def centres(self) -> Tensor:
        return (torch.arange(BINS, dtype=torch.float64) + 0.5) * (self.limit / BINS)


def largest(histogram: Histogram) -> float:
    """The range that holds everything seen."""
    return histogram.largest


def percentile(histogram: Histogram) -> float:
    """The range that holds all but one in 10,000 of the magnitudes; all, where so few only are no zeros."""
    share = histogram.counts.cumsum(0) / histogram.counts.sum()
    if share[0] >= PERCENTILE:
        return histogram.largest
    return min(histogram.largest, histogram.centres[int((share < PERCENTILE).sum())].item())


def least_squares(histogram: Histogram) -> float:
    """The range with the least mean squared error of rounding and cutting off together."""
    scale = (_SHRINK * histogram.largest / QMAX)[:, None].double()  # (R, 1)
    centres = histogram.centres[None]  # (1, BINS)
    error = ((centres / scale).round().clamp(max=QMAX) * scale - centres) ** 2 @ histogram.counts
    return float(_SHRINK[error.argmin()]) * histogram.largest


METHODS: dict[str, Callable[[Histogram], float]] = {
    "mse": least_squares,
    "percentile": percentile,
    "max": largest,
}


def check_method(method: str) -> None:
    """Raises ValueError for an unknown one: before examples are drawn, which takes a while."""
    if method not in METHODS:
        raise ValueError(f"the method is {method!r}; expected one of {', '.join(METHODS)}")


@torch.no_grad()
def calibrate(model: Model, batches: Iterable[Pair], method: str) -> None:
    """Set the scale of every activation of `model`, as `place` returned it, from what goes through it while activations
    are not rounded; weights are.

    Raises:
        ValueError: an unknown method, no batch, or a layer through which nothing but zeros went, or what is not finite.
    """
    check_method(method)
    observed = {module: Histogram() for module in roundings(model).values()}
    names = {module: name for name, module in roundings(model).items()}

    def observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not inputs[0].isfinite().all():
            raise ValueError(f"calibration met values that are not finite at {names[module]}; check the weights")
        observed[module].add(inputs[0])

    handles = [module.register_forward_pre_hook(observe) for module in observed]
    model.eval()
    set_enabled(observed, False)
    try:
        for pair in batches:
            answer(model, pair)
    finally:
        set_enabled(observed, True)
        for handle in handles:
            handle.remove()
    for module, histogram in observed.items():
        if histogram.largest == 0:
            raise ValueError(f"calibration saw nothing but zeros at {names[module]}; give it more or other data")
        module.scale = (largest if module.fixed_range else METHODS[method])(histogram) / QMAX


def set_enabled(modules: Iterable[FakeQuantize], enabled: bool) -> None:
    """Switch roundings on or off."""
    for module in modules:
        module.enabled = enabled
