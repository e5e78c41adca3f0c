"""Shadows against what light does: it takes the same share of whatever is there, and of blue less under a blue sky."""

from __future__ import annotations

import numpy as np

from train.data.augment import shade


def kept(seed: int, value: int) -> np.ndarray:
    """Shares (H, W, 3) that a plain picture keeps of its values."""
    image = np.full((96, 120, 3), value, np.uint8)
    before = image.copy()
    shares = shade(np.random.default_rng(seed), image) / value
    np.testing.assert_array_equal(image, before)
    assert shares.shape == image.shape
    return shares


def test_shade_takes_a_share_of_the_light_whatever_it_falls_on() -> None:
    for seed in range(20):
        np.testing.assert_allclose(kept(seed, 250), kept(seed, 125), atol=0.015)


def test_shade_is_as_deep_as_said_and_bluish() -> None:
    shares = np.stack([kept(seed, 250) for seed in range(200)])
    assert shares.max() <= 1
    assert 0.2 < shares.min() < 0.3
    deepest = shares[..., 1].min(axis=(1, 2))
    assert np.quantile(deepest, 0.97) < 0.85
    assert (np.diff(shares, axis=-1) <= 1e-9).all()  # blue keeps the most, red the least


def test_shade_covers_about_half_and_leaves_light_beside_it() -> None:
    greens = np.stack([kept(seed, 250)[..., 1] for seed in range(200)])
    deepest = greens.min(axis=(1, 2), keepdims=True)
    covered = ((1 - greens) / (1 - deepest)).mean(axis=(1, 2))
    assert 0.45 < covered.mean() < 0.55
    both = ((covered > 0.05) & (covered < 0.95)).mean()
    assert both > 0.9


def test_shade_is_of_one_piece() -> None:
    """Neighbours differ little but along a few edges: it is no noise."""
    for seed in range(20):
        steps = np.abs(np.diff(kept(seed, 250)[..., 1], axis=1))
        assert (steps > 0.1).mean() < 0.15
