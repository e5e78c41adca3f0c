"""What the ratios are made of: the same logits three ways, and the arithmetic of the shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import random_model

from benchmarks.ratios import NaiveStep, shares
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
