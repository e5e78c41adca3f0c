"""Greedy decoding of the four box tokens, one step of the decoder at a time, with its keys and values cached.

The loop that the `track` graph has unrolled inside it, with each step in reach of the caller; both give the same tokens
and likelihoods.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from edgetrack_runtimes import Session

STEPS = 4
"""Tokens of a box."""
CENTRE_STEPS: dict[str, tuple[int, ...]] = {"xywh": (0, 1), "whxy": (2, 3), "corner": ()}
"""Which of the four tokens are cx and cy, by the order in which a model writes a box; of corners none."""
SIZE_STEPS: dict[str, tuple[int, ...]] = {"xywh": (2, 3), "whxy": (0, 1), "corner": ()}
"""Which of them are w and h; of corners none."""

# What a size's prior leaves of a distribution is kept this far from nothing before a logarithm is taken of it.
_LEAST_MASS = 1e-6


class Decoded(NamedTuple):
    """A decoded box.

    Attributes:
        tokens: (4,), each in [0, bins), in the model's order: int64 as they were chosen, float64 where `averaged`.
        likelihoods: float32 (4,), the windowed probability of each token.
        presence: 1 - P(END) at the first step.
        probabilities: float32 (4, bins), of all the tokens that each could have been, given those before; without the
            window. With END and START they would sum to one.
    """

    tokens: NDArray[np.int64] | NDArray[np.float64]
    likelihoods: NDArray[np.float32]
    presence: float
    probabilities: NDArray[np.float32]


def hanning_window(strength: float, bins: int) -> NDArray[np.float32]:
    """Return the penalty (bins,) on the centre tokens, ``1 - strength + strength * hanning``; strength in [0, 1]."""
    return (1 - strength + strength * np.hanning(bins)).astype(np.float32)


def resized(decoded: Decoded, size: NDArray[np.float64], change: float, order: str) -> tuple[Decoded, float]:
    """Weigh the distributions of width and height by how large the target was: what the window is to the centre.

    From frame to frame a target's width and height each change by a log-normal factor; a model that was trained on
    crops of any scale does not know it. Bayes' rule for each of the two tokens, the one before it as it was chosen.

    Args:
        decoded: as it was chosen.
        size: (2,) width and height that are expected, in units of the search crop's side.
        change: standard deviation of the logarithm of the factor.
        order: in which the model writes a box; corners have no tokens of a size and stay as they are.

    Returns:
        The answer with other distributions and tokens of width and height, and the logarithm of the shares of the
        distributions that the prior leaves, 0 if the decoder's whole belief is in the size that was expected: evidence
        on whether this is the target that was followed.
    """
    bins = decoded.probabilities.shape[1]
    # The middles of the bins, the first of which has a logarithm.
    values = np.log((np.arange(bins) + 0.5) / (bins - 1))
    probabilities, tokens = decoded.probabilities.astype(np.float64), decoded.tokens.copy()
    evidence = 0.0
    for step, expected in zip(SIZE_STEPS[order], np.log(size), strict=False):
        row = probabilities[step]
        weighed = row * np.exp(-0.5 * ((values - expected) / change) ** 2)
        left = weighed.sum() / max(row.sum(), _LEAST_MASS)
        evidence += math.log(max(left, _LEAST_MASS))
        if left > _LEAST_MASS:
            probabilities[step] = weighed / left
            tokens[step] = weighed.argmax()
    return decoded._replace(tokens=tokens, probabilities=probabilities.astype(np.float32)), evidence


def averaged(decoded: Decoded, within: float) -> Decoded:
    """Return `decoded` with each token replaced by the mean of its distribution about it: the box that is expected.

    The likeliest bin of a broad distribution hangs on its last digit, and of a skewed one lies to a side; the mean is
    what errs least. Only what is near is averaged over, since a second mode is another object.

    Args:
        decoded: as it was chosen.
        within: how far from the chosen token, in units of the search crop's side.
    """
    bins = decoded.probabilities.shape[1]
    values = np.arange(bins)
    near = np.abs(values - decoded.tokens[:, None]) <= within * (bins - 1)  # (4, bins)
    weights = np.where(near, decoded.probabilities.astype(np.float64), 0.0)
    total = weights.sum(1)
    # Where the decoder leaves nothing to the bins there is no mean.
    means = np.divide(weights @ values, total, out=decoded.tokens.astype(np.float64), where=total > 0)
    return decoded._replace(tokens=means)


def tokens_to_box(tokens: NDArray[np.int64] | NDArray[np.float64], bins: int, order: str) -> NDArray[np.float64]:
    """Return the boxes (..., 4) that tokens (..., 4) mean: cx, cy, w, h in units of the search crop.

    Corners that were decoded the wrong way round span the same box.
    """
    values = tokens / (bins - 1)
    if order == "corner":
        low, high = np.minimum(values[..., :2], values[..., 2:]), np.maximum(values[..., :2], values[..., 2:])
        return np.concatenate([(low + high) / 2, high - low], axis=-1)
    return np.roll(values, -CENTRE_STEPS[order][0], axis=-1)


def box_to_tokens(box: NDArray[np.float64], bins: int, order: str) -> NDArray[np.int64]:
    """Return the four tokens (4,) that say `box`, cx, cy, w, h in units of the search crop, clamped to what they can.

    Rounded down, as the official code writes its training targets.
    """
    if order == "corner":
        values = np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])
    else:
        values = np.roll(box, CENTRE_STEPS[order][0])
    tokens: NDArray[np.int64] = (np.clip(values, 0, 1) * (bins - 1)).astype(np.int64)
    return tokens


def greedy_decode(
    session: Session,
    cross_keys: NDArray[np.float32],
    cross_values: NDArray[np.float32],
    window: NDArray[np.float32],
    bins: int,
    order: str,
    prompt: Sequence[int] = (),
) -> Decoded:
    """Decode a box from the decoder's memory.

    Args:
        session: the `decode_step` graph.
        cross_keys: (Ld, 1, Hd, M, dd), with `cross_values` the outputs of the `encode` graph.
        window: (bins,), multiplies the probabilities of cx and cy before the argmax.
        bins: coordinate tokens; END is `bins` and START `bins + 1`.
        order: "xywh", "whxy" or "corner".
        prompt: tokens that are put in front of START.
    """
    end, start = bins, bins + 1
    # The memory is the same in all four steps: it goes to the device once.
    memory = {
        "cross_keys": session.upload("cross_keys", cross_keys),
        "cross_values": session.upload("cross_values", cross_values),
    }
    past_keys = np.zeros(session.inputs["past_keys"].shape, np.float32)
    past_values = np.zeros(session.inputs["past_values"].shape, np.float32)
    tokens = np.empty(STEPS, np.int64)
    likelihoods = np.empty(STEPS, np.float32)
    probabilities = np.empty((STEPS, bins), np.float32)
    presence = 1.0
    given = [*prompt, start]
    first = len(given) - 1
    token = start
    for position in range(first + STEPS):
        out = session.run(
            {
                "token": np.asarray([given[position] if position <= first else token], np.int64),
                "position": np.asarray([position], np.int64),
                "past_keys": past_keys,
                "past_values": past_values,
                **memory,
            }
        )
        past_keys, past_values = out["present_keys"], out["present_values"]
        step = position - first
        if step < 0:  # inside the prompt, whose next token is known
            continue
        every = _softmax(out["logits"][0])  # over the bins, END and START
        if step == 0:
            presence = 1.0 - float(every[end])
        # The bins are sliced without renormalising, as in the official code.
        probabilities[step] = choice = every[:bins]
        if step in CENTRE_STEPS[order]:
            choice = choice * window
        token = int(choice.argmax())
        tokens[step] = token
        likelihoods[step] = choice[token]
    return Decoded(tokens, likelihoods, presence, probabilities)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    exponentials = np.exp(logits - logits.max())
    probabilities: NDArray[np.float32] = exponentials / exponentials.sum()
    return probabilities
