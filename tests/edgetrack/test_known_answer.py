"""The known-answer test: a backend that computes something else than the model is refused when the model is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_bundle import ColourNet, manifest_of, write_colour_bundle, write_graphs

import edgetrack.model
from edgetrack import Tracker, WrongAnswerError, load
from edgetrack.bundle import KnownAnswer, find_model, read_bundle, shipped_models, write_bundle
from edgetrack.errors import BackendError
from edgetrack.imaging import overlap
from edgetrack.known_answer import MOVED, TARGET, agree, ask, frames
from edgetrack_runtimes import BackendStatus, discover, open_session

CPU = "onnxruntime-cpu"
CPUS = [status.backend for status in discover() if status.available and status.backend.endswith("-cpu")]


class Wrong:
    """A session whose graph gives other numbers, as a runtime's miscompiled one does."""

    def __init__(self, session, tensor: str, change) -> None:
        self._session, self._tensor, self._change = session, tensor, change

    def __getattr__(self, name: str):
        return getattr(self._session, name)

    def run(self, feeds):
        return {
            name: self._change(value) if name == self._tensor else value
            for name, value in self._session.run(feeds).items()
        }


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that knows its answer."""
    root, net = tmp_path_factory.mktemp("bundles") / "knowing", ColourNet()
    write_colour_bundle(root, net)
    box, score = ask(load(root, CPU, threads=1))
    known = KnownAnswer(box=tuple(box.tolist()), score=score)
    return write_bundle(root, manifest_of(net, known_answers={"fp32": known.model_dump()})).root


def break_backend(monkeypatch: pytest.MonkeyPatch, backend: str, graph: str, tensor: str, change) -> None:
    def opened(asked: str, path: Path, options):
        session = open_session(CPU, path, options)
        return Wrong(session, tensor, change) if (asked, path.stem) == (backend, graph) else session

    monkeypatch.setattr(edgetrack.model, "open_session", opened)


def test_the_target_is_where_it_is_said_to_be() -> None:
    # Both frames show the same waves, so that what differs is the ball where it was and where it is.
    first, second = frames()
    rows, columns = np.nonzero((first != second).any(-1))
    left, top = min(TARGET[0], MOVED[0]), min(TARGET[1], MOVED[1])
    right, bottom = max(TARGET[0], MOVED[0]) + TARGET[2], max(TARGET[1], MOVED[1]) + TARGET[3]
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(seen, [left, top, right, bottom], atol=1)


@pytest.mark.parametrize("backend", CPUS)
@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_find_the_target_in_every_precision(name, backend) -> None:
    manifest = read_bundle(find_model(name)).manifest
    assert set(manifest.known_answers) == set(manifest.variants)
    for variant, known in manifest.known_answers.items():
        # Loading compares them already; that the answer is right, the drawing says.
        assert overlap(ask(load(name, backend, variant, threads=1))[0], np.asarray(MOVED)) > 0.85
        assert known.score > 0.9


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8+fp16", "int8+bf16"])
@pytest.mark.parametrize("backend", CPUS)
@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_find_the_target_in_half_precision_or_are_refused(name, backend, precision) -> None:
    refused = ""
    try:
        model = load(name, backend, precision, threads=1)
    except BackendError as error:
        refused = str(error)
    if refused:
        assert f"precision {precision.removeprefix('int8+')!r}" in refused
        return
    box, score = ask(model)
    assert overlap(box, np.asarray(MOVED)) > 0.85
    # That it computes in it at all: float32's answer is another one.
    assert score != ask(load(name, backend, model.variant, threads=1))[1]


@pytest.mark.parametrize(("precision", "instead"), [("int8", "fp32"), ("fp32", "int8"), ("int8+bf16", "fp32")])
def test_a_wrong_answer_names_a_precision_to_take_instead(monkeypatch, precision, instead) -> None:
    known = {"fp32": KnownAnswer(box=MOVED, score=1.0), "int8": KnownAnswer(box=MOVED, score=1.0)}
    manifest = SimpleNamespace(name="m", variants=("fp32", "int8"), known_answers=known)
    model = SimpleNamespace(backend="b", precision=precision, variant=precision.split("+")[0], manifest=manifest)
    monkeypatch.setattr("edgetrack.known_answer.ask", lambda model, decode: (np.zeros(4), 0.0))
    with pytest.raises(WrongAnswerError, match=f"in {re.escape(precision)} wrongly: .* or precision '{instead}'$"):
        edgetrack.known_answer.verify(model)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda tokens: tokens, False),
        (lambda tokens: tokens + 10, True),
        (np.zeros_like, True),
    ],
    ids=["as it is", "moved", "zeros"],
)
def test_a_backend_that_computes_something_else(knowing, monkeypatch, change, wrong) -> None:
    break_backend(monkeypatch, CPU, "track", "tokens", change)
    if not wrong:
        load(knowing, CPU)
        return
    with pytest.raises(WrongAnswerError, match=r"onnxruntime-cpu computes 'colour' in fp32 wrongly.*right is \["):
        load(knowing, CPU)


def test_a_graph_that_gives_what_is_no_number(knowing, monkeypatch) -> None:
    break_backend(monkeypatch, CPU, "track", "likelihoods", lambda values: values * np.nan)
    with pytest.raises(WrongAnswerError):
        load(knowing, CPU)


@pytest.mark.parametrize(
    ("tensor", "change"), [("boxes", lambda v: v * np.nan), ("boxes", lambda v: -v), ("scores", lambda v: v * np.nan)]
)
def test_a_search_that_gives_what_is_no_box_or_no_number(monkeypatch, tensor, change) -> None:
    """Such as a second look would be taken at, and half precision overflows to."""
    break_backend(monkeypatch, CPU, "search", tensor, change)
    with pytest.raises(WrongAnswerError):
        load("vtt-nano", CPU)


def test_token_by_token_is_asked_too(knowing, monkeypatch) -> None:
    Tracker(knowing, CPU, decode="cached")
    break_backend(monkeypatch, CPU, "decode_step", "logits", lambda logits: logits[:, ::-1])
    load(knowing, CPU)  # does not run that graph
    with pytest.raises(WrongAnswerError):
        Tracker(knowing, CPU, decode="cached")


def test_auto_passes_over_a_backend_that_computes_wrongly(knowing, monkeypatch, caplog) -> None:
    statuses = [BackendStatus(name, True, "", "1.0", ("device",)) for name in ("openvino-cpu", CPU)]
    monkeypatch.setattr(edgetrack.model, "discover", lambda: statuses)
    break_backend(monkeypatch, "openvino-cpu", "track", "tokens", np.zeros_like)
    assert load(knowing).backend == CPU
    assert "openvino-cpu computes 'colour' in fp32 wrongly" in caplog.text


def test_a_bundle_that_knows_nothing_is_not_asked(tmp_path, monkeypatch) -> None:
    net = ColourNet()
    write_graphs(tmp_path, net)
    write_bundle(tmp_path, manifest_of(net))
    break_backend(monkeypatch, CPU, "track", "tokens", np.zeros_like)
    load(tmp_path, CPU)


def test_rounding_agrees_and_more_does_not() -> None:
    known = KnownAnswer(box=(100.0, 80.0, 50.0, 40.0), score=0.9)
    box = np.asarray(known.box)
    assert agree(box, 0.9, known)
    assert agree(np.add(box, [1, -1, 1, 0]), 0.8, known)
    assert not agree(box, 0.6, known)
    assert not agree(np.add(box, [5, 5, 0, 0]), 0.9, known)
    assert not agree(box * np.nan, 0.9, known)
