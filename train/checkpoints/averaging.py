"""Weights between those before a run and those after it.

A run on other examples gives up some of what the weights before it did well, mostly away from its own examples. Weights
on the line from one to the other often do well on both (WiSE-FT: Wortsman et al., CVPR 2022, Sec. 3).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from train.checkpoints.files import CheckpointError, load_model
from train.models.registry import Model


def average(before: Path, after: Path, share: float) -> tuple[Model, dict[str, Any]]:
    """The model whose weights are (1 - `share`) of those in `before` and `share` of those in `after`.

    Returns:
        The model in eval mode, and facts for its file: what `after` was trained with and, as training.averaged, the
        share and the last run of `before`. A calibration is left out: another model needs another.

    Raises:
        CheckpointError: the files hold no models, models of two kinds or configurations, or were not trained.
        ValueError: `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"got a share of {share!r}; expected a number between 0 and 1, neither of them")
    (model, facts), (tuned, tuned_facts) = load_model(before), load_model(after)
    if model.config != tuned.config:
        mine, other = ({"kind": m.config.kind, **m.config.to_dict()} for m in (model, tuned))
        apart = [f"{key} is {mine.get(key)!r} and {other.get(key)!r}" for key in mine if mine[key] != other.get(key)]
        raise CheckpointError(f"{before} and {after} are not of one configuration: {'; '.join(apart)}")
    for path, found in ((before, facts), (after, tuned_facts)):
        if "training" not in found:
            raise CheckpointError(f"{path} was not trained; expected weights written by: python -m train fit")
    state, other_state = model.state_dict(), tuned.state_dict()
    with torch.no_grad():
        for name, tensor in other_state.items():
            if tensor.is_floating_point():  # a count of batches is no weight
                tensor.mul_(share).add_(state[name] * (1 - share))
    training = {**tuned_facts["training"], "averaged": {"share": share, "with": summary(facts["training"])}}
    return tuned, {"training": training, "recipe": tuned_facts["recipe"]}


def summary(training: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run in the histories of later ones, but for its recipe."""
    return {key: training[key] for key in ("step", "pairs", "hours", "averaged") if key in training}
