"""What the ratios are made of: the same logits three ways, and the arithmetic of the shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import random_model

from benchmarks.ratios import NaiveStep, shares
from benchmarks.report import decoding
from edgetrack.decoding import STEPS


@pytest.mark.parametrize("kind", ["joint", "isolated"])
def test_the_naive_way_decodes_the_same_tokens(kind: str) -> None:
    model = random_model(kind)
    config = model.config
    generator = torch.Generator().manual_seed(1)
    count = config.search_tokens + config.templates * config.template_tokens
    answers = set()
    for _ in range(5):
        tokens = 5 * torch.randn(1, count, config.encoder_dim, generator=generator)
        with torch.no_grad():
            expected = model.generate(tokens).tokens
            sequence = torch.tensor([[model.decoder.start]])
            for _ in range(STEPS):
                logits = NaiveStep(model)(tokens, sequence)
                sequence = torch.cat([sequence, logits[:, : config.bins].argmax(-1, keepdim=True)], 1)
        assert sequence[0, 1:].tolist() == expected[0].tolist()
        answers.update(expected[0].tolist())
    assert len(answers) > 1


def test_shares_are_of_encoding() -> None:
    constant = {"encode": 0.010, "track": 0.012, "step": 0.001, "joint": 0.020}
    constant |= {f"naive{n}": 0.001 * n for n in range(1, STEPS + 1)}
    found = shares({name: np.full(5, value) for name, value in constant.items()})
    assert found["of_encoding"] == pytest.approx({"naive": 1.0, "cached": 0.4, "fused": 0.2})
    assert found["isolated_of_joint"] == pytest.approx(0.5)
    assert found["milliseconds"]["fused"] == pytest.approx(2.0)


@pytest.mark.parametrize(("noise", "shown"), [(0.0001, "0.20"), (0.004, "below noise")])
def test_a_difference_that_noise_hides_is_not_shown_as_one(noise: float, shown: str) -> None:
    times = dict.fromkeys(["step", "joint", *(f"naive{n}" for n in range(1, STEPS + 1))], np.full(5, 0.001))
    times |= {"encode": np.full(5, 0.010), "track": 0.012 + noise * np.asarray([-2, -1, 0, 1, 2])}
    found = shares(times)
    assert found["milliseconds"]["fused"] == pytest.approx(2)
    assert found["fused_quartiles"] == pytest.approx([2 - 1e3 * noise, 2 + 1e3 * noise])
    assert decoding(found)[2] == shown


def test_older_records_have_a_negative_time_where_noise_hid_it() -> None:
    old = {"of_encoding": {"naive": 0.02, "cached": 0.004, "fused": -0.004}}
    assert decoding(old) == ["0.02", "0.00", "below noise"]
    old["of_encoding"]["fused"] = 0.1
    assert decoding(old)[2] == "0.10"
