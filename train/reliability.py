"""How far a score can be trusted: whether it ranks right answers first, and whether it is their probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def auroc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float:
    """Area under the ROC curve, by ranks; ties count half. NaN when only one class is there."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # average rank of tied scores, from 1
    positives = int(labels.sum())
    negatives = labels.size - positives
    if not positives or not negatives:
        return float("nan")
    return float((ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def expected_calibration_error(probability: NDArray[np.float64], labels: NDArray[np.bool_], bins: int = 10) -> float:
    """Mean distance between what was promised and what came true, over bins of equal width (Guo et al. 2017, Eq. 3)."""
    index = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = [
        abs(probability[index == b].mean() - labels[index == b].mean()) * (index == b).mean()
        for b in range(bins)
        if (index == b).any()
    ]
    return float(np.sum(gaps))
