"""The cached loop against a decoder that sees the whole prefix at every step, and against the fused graph."""

from __future__ import annotations

import math

import numpy as np
import pytest
from synthetic_bundle import ColourNet, write_colour_bundle

from edgetrack import load
from edgetrack.decoding import (
    Decoded,
    averaged,
    box_to_tokens,
    greedy_decode,
    hanning_window,
    resized,
    tokens_to_box,
)
from edgetrack_runtimes import TensorSpec

BINS, HEADS, MEMORY, WIDTH, LAYERS = 11, 2, 6, 3, 2
VOCABULARY, SLOTS = BINS + 2, 8


class TinyDecoder:
    """A random one-layer-at-a-time attention decoder with the `decode_step` contract, and its uncached form.

    Stands in for a session: `inputs`, `upload` and `run` are all that the loop uses.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        d = HEADS * WIDTH
        self.words = rng.normal(size=(VOCABULARY, d)).astype(np.float32)
        self.places = rng.normal(size=(SLOTS, d)).astype(np.float32)
        self.projections = rng.normal(size=(LAYERS, 3, d, d)).astype(np.float32)
        self.head = 2 * rng.normal(size=(d, VOCABULARY)).astype(np.float32)
        self.cross = rng.normal(size=(2, LAYERS, 1, HEADS, MEMORY, WIDTH)).astype(np.float32)
        cache = (LAYERS, 1, HEADS, SLOTS, WIDTH)
        self.inputs = {name: TensorSpec(name, cache, "float32") for name in ("past_keys", "past_values")}
        self.uploads: list[str] = []
        self.fed: list[tuple[int, int]] = []

    def upload(self, name: str, value: np.ndarray) -> np.ndarray:
        self.uploads.append(name)
        return value.copy()

    @staticmethod
    def _attend(query: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(H, w), (H, N, w), (H, N, w) -> (H, w)"""
        logits = np.einsum("hw,hnw->hn", query, keys)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.einsum("hn,hnw->hw", weights / weights.sum(axis=1, keepdims=True), values)

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        token, position = int(feeds["token"][0]), int(feeds["position"][0])
        self.fed.append((token, position))
        keys, values = feeds["past_keys"].copy(), feeds["past_values"].copy()
        x = self.words[token] + self.places[position]
        for layer, (q, k, v) in enumerate(self.projections):
            keys[layer, 0, :, position] = (x @ k).reshape(HEADS, WIDTH)
            values[layer, 0, :, position] = (x @ v).reshape(HEADS, WIDTH)
            seen = slice(0, position + 1)
            x = (
                x
                + self._attend(
                    (x @ q).reshape(HEADS, WIDTH), keys[layer, 0, :, seen], values[layer, 0, :, seen]
                ).ravel()
            )
            cross = feeds["cross_keys"][layer, 0], feeds["cross_values"][layer, 0]
            x = np.tanh(x + self._attend(x.reshape(HEADS, WIDTH), *cross).ravel())
        return {"logits": (x @ self.head)[None], "present_keys": keys, "present_values": values}

    def logits(self, sequence: list[int]) -> np.ndarray:
        """Logits after `sequence`, computed for all of it at once with a causal mask and no cache."""
        n = len(sequence)
        x = self.words[sequence] + self.places[:n]
        mask = np.where(np.tri(n, dtype=bool), 0, -np.inf)
        for layer, (q, k, v) in enumerate(self.projections):
            heads = [m.reshape(n, HEADS, WIDTH).transpose(1, 0, 2) for m in (x @ q, x @ k, x @ v)]
            x = x + self._softmax(heads[0] @ heads[1].transpose(0, 2, 1) + mask, heads[2])
            mine = x.reshape(n, HEADS, WIDTH).transpose(1, 0, 2)
            x = np.tanh(x + self._softmax(mine @ self.cross[0, layer, 0].transpose(0, 2, 1), self.cross[1, layer, 0]))
        return x[-1] @ self.head

    @staticmethod
    def _softmax(logits: np.ndarray, values: np.ndarray) -> np.ndarray:
        weights = np.exp(logits)
        out = weights / weights.sum(axis=-1, keepdims=True) @ values
        return out.transpose(1, 0, 2).reshape(out.shape[1], -1)


@pytest.mark.parametrize("order", ["xywh", "whxy"])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("prompt", [(), (3, 7, 1)])
def test_equals_the_uncached_decoder(order: str, seed: int, prompt: tuple[int, ...]) -> None:
    decoder = TinyDecoder(seed)
    window = np.random.default_rng(seed).random(BINS).astype(np.float32)
    decoded = greedy_decode(decoder, *decoder.cross, window, BINS, order, prompt)

    sequence = [*prompt, BINS + 1]
    for step in range(4):
        odds = np.exp(decoder.logits(sequence).astype(np.float64))
        odds /= odds.sum()
        if step == 0:
            assert decoded.presence == pytest.approx(1 - odds[BINS], abs=1e-5)
        odds = odds[:BINS]
        assert decoded.probabilities[step] == pytest.approx(odds, rel=1e-4, abs=1e-6)
        if order[step] in "xy":
            odds = odds * window
        sequence.append(int(odds.argmax()))
        assert decoded.likelihoods[step] == pytest.approx(odds.max(), rel=1e-4, abs=1e-6)
    assert decoded.tokens.tolist() == sequence[-4:]
    assert decoder.fed == [(token, position) for position, token in enumerate(sequence[:-1])]


def test_memory_goes_to_the_device_once() -> None:
    decoder = TinyDecoder(0)
    greedy_decode(decoder, *decoder.cross, np.ones(BINS, np.float32), BINS, "xywh")
    assert sorted(decoder.uploads) == ["cross_keys", "cross_values"]


def test_survives_logits_that_overflow_a_naive_softmax() -> None:
    decoder = TinyDecoder(1)
    decoder.head *= 1e4
    decoded = greedy_decode(decoder, *decoder.cross, np.ones(BINS, np.float32), BINS, "xywh")
    assert np.isfinite(decoded.likelihoods).all()
    assert np.isfinite(decoded.probabilities).all()
    assert 0 <= decoded.presence <= 1


@pytest.mark.parametrize(("strength", "ends", "middle"), [(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (0.4, 0.6, 1.0)])
def test_window(strength: float, ends: float, middle: float) -> None:
    window = hanning_window(strength, 41)
    assert window.dtype == np.float32
    assert window[[0, 20, 40]] == pytest.approx([ends, middle, ends])
    assert window == pytest.approx(window[::-1])


@pytest.mark.parametrize("order", ["xywh", "whxy"])
def test_equals_the_fused_graph(order: str, tmp_path) -> None:
    net = ColourNet(order=order)
    model = load(write_colour_bundle(tmp_path / "bundle", net).root, "onnxruntime-cpu", threads=1)
    rng = np.random.default_rng(3)
    for _ in range(5):
        templates = rng.normal(size=(2, 32, 32, 3)) * 0.2 + rng.normal(size=(2, 1, 1, 3))
        state = model.session("template").run({"templates": templates.astype(np.float32)})
        search = rng.normal(size=(1, 64, 64, 3)).astype(np.float32)
        window = hanning_window(rng.random(), net.bins)
        fused = model.session("track").run({"search": search, "window": window, **state})
        memory = model.session("encode").run({"search": search, **state})
        cached = greedy_decode(
            model.session("decode_step"), memory["cross_keys"], memory["cross_values"], window, net.bins, order
        )
        assert cached.tokens.tolist() == fused["tokens"][0].tolist()
        assert cached.likelihoods == pytest.approx(fused["likelihoods"][0], abs=1e-6)
        assert cached.presence == pytest.approx(float(fused["presence"][0]), abs=1e-6)
        assert cached.probabilities == pytest.approx(fused["probabilities"][0], abs=1e-6)
        tokens, likelihoods, presence, probabilities = net.answer(search[0], templates, window)
        assert cached.tokens.tolist() == tokens.tolist()
        assert cached.likelihoods == pytest.approx(likelihoods, abs=1e-5)
        assert cached.presence == pytest.approx(presence, abs=1e-5)
        assert cached.probabilities == pytest.approx(probabilities, abs=1e-5)


@pytest.mark.parametrize("within", [0.04, 0.079, 0.2, 1.0])
def test_an_averaged_token_errs_least_of_all_among_what_is_near(within: float) -> None:
    bins, rng = 51, np.random.default_rng(5)
    rows = rng.dirichlet(np.full(bins, 0.3), 4)
    decoded = Decoded(rows.argmax(1), rows.max(1), 0.9, rows.astype(np.float32))
    found = averaged(decoded, within)
    places = np.linspace(0, bins - 1, 5001)
    for row, chosen, token in zip(rows, decoded.tokens, found.tokens, strict=True):
        near = [t for t in range(bins) if abs(t - chosen) / (bins - 1) <= within + 1e-9]
        errors = sum(row[t] * (places - t) ** 2 for t in near)
        assert token == pytest.approx(places[errors.argmin()], abs=0.01)
    assert found.likelihoods is decoded.likelihoods
    assert found.probabilities is decoded.probabilities


def test_another_object_further_away_does_not_draw_the_mean_to_it() -> None:
    row = np.zeros(101, np.float32)
    row[[30, 31, 32]], row[80] = (0.15, 0.3, 0.15), 0.29
    decoded = Decoded(row[None].repeat(4, 0).argmax(1), np.full(4, 0.3, np.float32), 1.0, row[None].repeat(4, 0))
    assert averaged(decoded, 0.1).tokens == pytest.approx([31.0] * 4)


def test_where_nothing_is_left_to_the_bins_the_token_stays() -> None:
    chosen = np.asarray([3, 0, 10, 5])
    nothing = Decoded(chosen, np.zeros(4, np.float32), 0.0, np.zeros((4, BINS), np.float32))
    assert averaged(nothing, 0.1).tokens.tolist() == chosen.tolist()


@pytest.mark.parametrize(("order", "steps"), [("xywh", (2, 3)), ("whxy", (0, 1))])
def test_sizes_are_weighed_by_bayes_rule(order: str, steps: tuple[int, int]) -> None:
    bins, change, size, rng = 60, 0.2, (0.25, 0.1), np.random.default_rng(6)
    rows = 0.9 * rng.dirichlet(np.full(bins, 0.5), 4)  # END has the rest
    decoded = Decoded(rows.argmax(1), rows.max(1), 0.9, rows.astype(np.float32))
    found, evidence = resized(decoded, np.asarray(size), change, order)
    likely = 0.0
    for step, expected in zip(steps, size, strict=True):
        prior = [math.exp(-(math.log((t + 0.5) / (bins - 1) / expected) ** 2) / (2 * change**2)) for t in range(bins)]
        joint = [p * row for p, row in zip(prior, rows[step].tolist(), strict=True)]
        assert found.probabilities[step] == pytest.approx(np.asarray(joint) / sum(joint) * 0.9, rel=1e-4, abs=1e-9)
        assert found.tokens[step] == int(np.argmax(joint))
        likely += math.log(sum(joint) / 0.9)
    assert evidence == pytest.approx(likely, rel=1e-5)
    for step in {0, 1, 2, 3} - set(steps):
        assert found.tokens[step] == decoded.tokens[step]
        assert found.probabilities[step] == pytest.approx(rows[step], rel=1e-6)
    assert decoded.tokens.tolist() == rows.argmax(1).tolist()  # what was given is as it was


def test_a_size_as_expected_is_the_best_evidence_and_another_the_worse_the_further() -> None:
    def evidence(width: int) -> float:
        rows = np.zeros((4, 101), np.float32)
        rows[[0, 1, 2, 3], [50, 50, width, 20]] = 1
        return resized(Decoded(rows.argmax(1), rows.max(1), 1.0, rows), np.asarray([0.205, 0.205]), 0.25, "xywh")[1]

    assert evidence(20) == pytest.approx(0, abs=1e-6)
    assert evidence(20) > evidence(22) > evidence(30) > evidence(60) > -math.inf


def test_corners_and_a_decoder_that_leaves_nothing_stay_as_they_are() -> None:
    rows = np.random.default_rng(7).dirichlet(np.ones(BINS), 4).astype(np.float32)
    decoded = Decoded(rows.argmax(1), rows.max(1), 1.0, rows)
    found, evidence = resized(decoded, np.asarray([0.5, 0.5]), 0.2, "corner")
    assert evidence == 0
    assert found.tokens.tolist() == decoded.tokens.tolist()
    assert found.probabilities == pytest.approx(rows)
    nothing = decoded._replace(probabilities=np.zeros((4, BINS), np.float32))
    found, evidence = resized(nothing, np.asarray([0.5, 0.5]), 0.2, "xywh")
    assert found.tokens.tolist() == decoded.tokens.tolist()
    assert math.isfinite(evidence)


def test_a_size_that_is_ruled_out_is_believed_as_it_was_and_is_evidence_against_the_target() -> None:
    rows = np.zeros((4, 101), np.float32)
    rows[:, 60], rows[:, 50] = 0.6, 0.4  # both far from 5 bins, the likelier one further
    decoded = Decoded(rows.argmax(1), rows.max(1), 1.0, rows)
    found, evidence = resized(decoded, np.asarray([0.055, 0.605]), 0.3, "xywh")
    assert found.tokens.tolist() == [60, 60, 60, 60]
    assert found.probabilities[2].tolist() == rows[2].tolist()
    assert evidence < -10


@pytest.mark.parametrize("order", ["xywh", "whxy", "corner"])
def test_tokens_say_a_box_rounded_down_and_clamped(order: str) -> None:
    rng, bins = np.random.default_rng(8), 41
    for _ in range(50):
        tokens = np.concatenate([rng.integers(0, 20, 2), rng.integers(20, bins, 2)])
        exact = tokens_to_box(tokens, bins, order)
        said = {
            "xywh": lambda box: box,
            "whxy": lambda box: [*box[2:], *box[:2]],
            "corner": lambda box: [*(box[:2] - box[2:] / 2), *(box[:2] + box[2:] / 2)],
        }[order]
        assert said(exact) == pytest.approx(tokens / (bins - 1))
        shift = rng.uniform(0.01, 0.99) / (bins - 1)  # by less than a bin
        shifted = exact + np.asarray([shift, shift, 0, 0] if order == "corner" else [shift] * 4)
        assert box_to_tokens(shifted, bins, order).tolist() == np.minimum(tokens, bins - 1).tolist()
    outside = np.asarray([-0.5, 1.5, 0.2, 0.2])
    assert set(box_to_tokens(outside, bins, order).tolist()) <= {0, bins - 1, 8}
