"""What a bundle knows of its own answers: asked of every CPU runtime when it is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import quantize.export
from edgetrack.bundle import find_model, read_bundle, shipped_models
from edgetrack.known_answer import MOVED
from quantize.export import ExportError, known_answers

BACKENDS = ["onnxruntime-cpu", "openvino-cpu"]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch):
    """Have each runtime answer with the box where the target is, moved by so many pixels, and a score."""

    def answer(*said: tuple[float, float]) -> None:
        found = {name: (np.add(MOVED, [by, 0, 0, 0]), score) for name, (by, score) in zip(BACKENDS, said, strict=True)}
        monkeypatch.setattr(quantize.export, "_cpu_backends", lambda: BACKENDS)
        monkeypatch.setattr(quantize.export, "_asked", lambda bundle, backend, variant: found[backend])

    return answer


def test_the_first_runtimes_answer_is_kept_where_all_agree(answering) -> None:
    answering((1.0, 0.95), (0.5, 0.94))
    said = {"box": [MOVED[0] + 1, *MOVED[1:]], "score": 0.95}
    assert known_answers(Path(), ["fp32", "int8"]) == {"fp32": said, "int8": said}


@pytest.mark.parametrize("said", [((0.0, 0.95), (20.0, 0.95)), ((0.0, 0.95), (0.0, 0.5))], ids=["box", "score"])
def test_an_answer_that_hangs_on_the_runtime_is_none(answering, said) -> None:
    answering(*said)
    assert known_answers(Path(), ["fp32"]) == {}


def test_a_model_that_does_not_find_the_target_knows_nothing(answering) -> None:
    answering((40.0, 0.95), (-40.0, 0.1))
    assert known_answers(Path(), ["fp32"]) == {}


@pytest.mark.parametrize("said", [((0.0, np.nan), (0.0, 0.95)), ((0.0, 0.95), (np.nan, 0.95))], ids=["score", "box"])
def test_an_answer_that_is_no_number_is_refused(answering, said) -> None:
    answering(*said)
    with pytest.raises(ExportError, match=r"fp32 on (onnxruntime|openvino)-cpu: the answer .* is not finite"):
        known_answers(Path(), ["fp32"])


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_know_what_they_answer_now(name) -> None:
    manifest = read_bundle(find_model(name)).manifest
    anew = known_answers(find_model(name), manifest.variants)
    for variant, known in manifest.known_answers.items():
        np.testing.assert_allclose(anew[variant]["box"], known.box, atol=0.5)
        assert anew[variant]["score"] == pytest.approx(known.score, abs=0.01)
