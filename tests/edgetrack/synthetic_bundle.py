"""A SeqTrack bundle small enough to check by hand: its "network" looks for the template's mean colour.

`write_colour_bundle` writes it as ONNX graphs. `ColourNet` is the same function in plain numpy, without a cache,
written apart from the graphs; the tests use it to say what a tracker should have answered.

The decoder's memory holds one row of logits for each of the four steps, half in the keys and half in the values. Step p
adds a small wave whose phase is the sum of all tokens so far (START included), which the graphs keep in the cache: a
decoder that loses or misplaces a token or a past answers differently.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgetrack.bundle import SCHEMA_VERSION, Bundle, SeqTrackManifest, write_bundle

DTYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


PRESENCE_ALONE = {
    "source": "overlap",
    "presence": 1.0,
    "overlap": 0.0,
    "intercept": 0.0,
    "memory": 0.0,
    "change": 0.0,
    "ok_threshold": 0.5,
}
"""A manifest's score that is the presence as it is."""


@dataclasses.dataclass(frozen=True)
class ColourNet:
    """Sizes and constants of the network, and its value in numpy.

    The search crop is cut into grid x grid cells; a cell's similarity is minus its squared colour distance to the
    templates, averaged over them and over the 3 x 3 cells around it. Width and height are always the token nearest to
    1 / search_factor. The factors keep a square of 24 pixels at that size: it is not on the edge of a rounding.
    """

    search: int = 64
    template: int = 32
    templates: int = 2
    bins: int = 41
    order: str = "xywh"
    cell: int = 4
    search_factor: float = 3.96
    template_factor: float = 0.96
    sharpness: float = 3.0
    ripple: float = 0.05
    absence: float = -4.0

    @property
    def grid(self) -> int:
        return self.search // self.cell

    @property
    def vocabulary(self) -> int:
        return self.bins + 2

    def spread(self) -> np.ndarray:
        """(grid, bins): linear interpolation from cell centres to tokens."""
        at = np.arange(self.bins) / (self.bins - 1) * self.grid - 0.5
        distance = np.abs(at[None, :] - np.arange(self.grid)[:, None])
        weight = np.clip(1 - distance, 0, None)
        return (weight / weight.sum(axis=0)).astype(np.float32)

    def size_row(self) -> np.ndarray:
        """(bins,): logits of a width or height."""
        best = round((self.bins - 1) / self.search_factor)
        return (-0.5 * (np.arange(self.bins) - best) ** 2).astype(np.float32)

    def wave(self) -> np.ndarray:
        """(vocabulary, vocabulary): the logits added for each phase."""
        v = np.arange(self.vocabulary)
        return (self.ripple * np.cos(2 * np.pi * (v[None, :] * 3 + v[:, None]) / self.vocabulary)).astype(np.float32)

    def answer(self, search: np.ndarray, templates: np.ndarray, window: np.ndarray):
        """Return tokens (4,), likelihoods (4,), presence and probabilities (4, bins) for a search (S, S, 3), templates
        (T, St, St, 3) and a window (bins,)."""
        cells = search.reshape(self.grid, self.cell, self.grid, self.cell, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
        similarity = np.zeros((self.grid, self.grid))
        for template in templates:
            colour = template.reshape(-1, 3).mean(axis=0)
            similarity -= ((cells - colour[:, None, None]) ** 2).sum(axis=0) / len(templates)
        near = [slice(max(i - 1, 0), i + 2) for i in range(self.grid)]
        similarity = np.asarray([[similarity[rows, columns].mean() for columns in near] for rows in near])
        across = {
            "x": similarity.max(axis=0) @ self.spread() * self.sharpness,
            "y": similarity.max(axis=1) @ self.spread() * self.sharpness,
            "w": self.size_row(),
            "h": self.size_row(),
        }
        said, tokens, likelihoods, probabilities, presence = [self.bins + 1], [], [], [], None
        for letter in self.order:
            end = self.absence if not tokens else -20.0
            logits = np.concatenate([across[letter], [end, -20.0]])
            logits = logits + self.wave()[sum(said) % self.vocabulary]
            odds = np.exp(logits - logits.max())
            odds /= odds.sum()
            if presence is None:
                presence = 1 - odds[self.bins]
            probabilities.append(odds[: self.bins])
            odds = odds[: self.bins] * (window if letter in "xy" else 1)
            said.append(int(odds.argmax()))
            tokens.append(said[-1])
            likelihoods.append(odds.max())
        return np.asarray(tokens), np.asarray(likelihoods), presence, np.asarray(probabilities)


class _Nodes:
    """Collects nodes and constants of one graph; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, op: str, *inputs: str, out: str = "", **attributes: object) -> str:
        out = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def constant(self, value: object, dtype: str = "float32") -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def write(self, path: Path, inputs: list[dict], outputs: list[dict]) -> None:
        values = [
            [helper.make_tensor_value_info(t["name"], DTYPES[t["dtype"]], t["shape"]) for t in ts]
            for ts in (inputs, outputs)
        ]
        graph = helper.make_graph(self.nodes, path.stem, *values, initializer=self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


def _memory(net: ColourNet, n: _Nodes) -> str:
    """Half the logits of the four steps, (1, 1, 1, 4, V), from `search` and the template state."""
    colour = n("Reshape", n("Sub", "template_values", "template_keys"), n.constant([net.templates, 3, 1], "int64"))
    cells = n(
        "AveragePool", n("Transpose", "search", perm=[0, 3, 1, 2]), kernel_shape=[net.cell] * 2, strides=[net.cell] * 2
    )
    cells = n("Reshape", cells, n.constant([1, 3, net.grid**2], "int64"))
    difference = n("Sub", cells, colour)
    distance = n("ReduceSum", n("Mul", difference, difference), n.constant([1], "int64"), keepdims=0)
    similarity = n("Neg", n("ReduceMean", distance, axes=[0], keepdims=0))
    similarity = n("Reshape", similarity, n.constant([1, 1, net.grid, net.grid], "int64"))
    similarity = n("AveragePool", similarity, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=0)
    similarity = n("Reshape", similarity, n.constant([net.grid, net.grid], "int64"))
    spread = n.constant(net.spread() * net.sharpness)
    rows = {
        "x": n("MatMul", n("ReduceMax", similarity, axes=[0], keepdims=1), spread),
        "y": n("Transpose", n("MatMul", n("Transpose", spread), n("ReduceMax", similarity, axes=[1], keepdims=1))),
        "w": n.constant(net.size_row()[None]),
        "h": n.constant(net.size_row()[None]),
    }
    bins = n("Concat", *(rows[letter] for letter in net.order), axis=0)
    special = n.constant([[net.absence, -20]] + [[-20, -20]] * 3)
    logits = n("Mul", n("Concat", bins, special, axis=1), n.constant(0.5))
    return n("Reshape", logits, n.constant([1, 1, 1, 4, net.vocabulary], "int64"))


def _step(net: ColourNet, n: _Nodes, token: str, position: str, keys: str, values: str, cross: tuple[str, str]):
    """One decoding step: logits (1, V) and the next cache, two of (1, 1, 1, 5, V)."""
    slots = n("Reshape", n.constant(np.arange(5), "int64"), n.constant([1, 1, 1, 5, 1], "int64"))
    here = n("Cast", n("Equal", slots, position), to=TensorProto.FLOAT)
    ones = n.constant(np.ones((1, 1, 1, 5, net.vocabulary)))
    here = n("Mul", here, ones)
    # The keys remember the token, the values its position; both count, so that neither can be mixed up or dropped.
    keys = n("Add", keys, n("Mul", here, n("Cast", token, to=TensorProto.FLOAT)))
    values = n("Add", values, n("Mul", here, n("Cast", position, to=TensorProto.FLOAT)))
    zero, axis = n.constant(0, "int64"), n.constant([3], "int64")
    total = n("ReduceSum", n("Gather", keys, zero, axis=4), axis, keepdims=0)
    positions = n("ReduceSum", n("Gather", values, zero, axis=4), axis, keepdims=0)
    # The cache adds 0 + 1 + ... + p, taken off again here: the phase is the sum of tokens only if it was kept well.
    expected = n("Gather", n.constant([0, 1, 3, 6, 10]), position)
    phase = n("Sub", n("Add", total, positions), expected)
    phase = n(
        "Mod",
        n("Reshape", n("Cast", phase, to=TensorProto.INT64), n.constant([1], "int64")),
        n.constant([net.vocabulary], "int64"),
    )
    memory = n("Reshape", n("Add", *cross), n.constant([4, net.vocabulary], "int64"))
    return n("Add", n("Gather", memory, position), n("Gather", n.constant(net.wave()), phase)), keys, values


def _track(net: ColourNet, n: _Nodes) -> None:
    memory = _memory(net, n)
    keys = values = n.constant(np.zeros((1, 1, 1, 5, net.vocabulary)))
    token = n.constant([net.bins + 1], "int64")
    tokens, likelihoods, probabilities = [], [], []
    for p, letter in enumerate(net.order):
        logits, keys, values = _step(net, n, token, n.constant([p], "int64"), keys, values, (memory, memory))
        odds = n("Softmax", logits, axis=-1)
        if p == 0:
            end = n("Gather", odds, n.constant(net.bins, "int64"), axis=1)
            n("Sub", n.constant(1.0), end, out="presence")
        odds = n("Slice", odds, n.constant([0], "int64"), n.constant([net.bins], "int64"), n.constant([1], "int64"))
        probabilities.append(odds)
        if letter in "xy":
            odds = n("Mul", odds, "window")
        tokens.append(n("ArgMax", odds, axis=1, keepdims=1))
        likelihoods.append(n("ReduceMax", odds, axes=[1], keepdims=1))
        token = n("Reshape", tokens[-1], n.constant([1], "int64"))
    n("Concat", *tokens, axis=1, out="tokens")
    n("Concat", *likelihoods, axis=1, out="likelihoods")
    n("Reshape", n("Concat", *probabilities, axis=1), n.constant([1, 4, net.bins], "int64"), out="probabilities")


def tensors(net: ColourNet) -> dict[str, dict]:
    """The tensors of the four graphs, as the manifest writes them."""

    def tensor(name: str, *shape: int, dtype: str = "float32") -> dict:
        return {"name": name, "shape": list(shape), "dtype": dtype}

    v, t = net.vocabulary, net.templates
    search = tensor("search", 1, net.search, net.search, 3)
    state = [tensor("template_keys", 1, 1, 1, t, 3), tensor("template_values", 1, 1, 1, t, 3)]
    cross = [tensor("cross_keys", 1, 1, 1, 4, v), tensor("cross_values", 1, 1, 1, 4, v)]
    cache = [(1, 1, 1, 5, v)] * 2
    past, present = (
        [tensor(f"{when}_{what}", *s) for what, s in zip(("keys", "values"), cache, strict=True)]
        for when in ("past", "present")
    )
    return {
        "template": {"inputs": [tensor("templates", t, net.template, net.template, 3)], "outputs": state},
        "encode": {"inputs": [search, *state], "outputs": cross},
        "decode_step": {
            "inputs": [tensor("token", 1, dtype="int64"), tensor("position", 1, dtype="int64"), *past, *cross],
            "outputs": [tensor("logits", 1, v), *present],
        },
        "track": {
            "inputs": [search, *state, tensor("window", net.bins)],
            "outputs": [
                tensor("tokens", 1, 4, dtype="int64"),
                tensor("likelihoods", 1, 4),
                tensor("presence", 1),
                tensor("probabilities", 1, 4, net.bins),
            ],
        },
    }


def write_graphs(root: Path, net: ColourNet) -> None:
    """Write the four ONNX files of `net` into `root`."""
    specs = tensors(net)
    n = _Nodes()
    colour = n("ReduceMean", "templates", axes=[1, 2], keepdims=0)
    colour = n("Reshape", colour, n.constant([1, 1, 1, net.templates, 3], "int64"))
    n("Identity", colour, out="template_keys")
    n("Mul", colour, n.constant(2.0), out="template_values")
    n.write(root / "template.onnx", **specs["template"])
    n = _Nodes()
    memory = _memory(net, n)
    n("Identity", memory, out="cross_keys")
    n("Identity", memory, out="cross_values")
    n.write(root / "encode.onnx", **specs["encode"])
    n = _Nodes()
    logits, keys, values = _step(
        net, n, "token", "position", "past_keys", "past_values", ("cross_keys", "cross_values")
    )
    for result, name in ((logits, "logits"), (keys, "present_keys"), (values, "present_values")):
        n("Identity", result, out=name)
    n.write(root / "decode_step.onnx", **specs["decode_step"])
    n = _Nodes()
    _track(net, n)
    n.write(root / "track.onnx", **specs["track"])


def manifest_of(net: ColourNet, **changes: object) -> SeqTrackManifest:
    """A manifest for `net`; `changes` replace its top-level entries."""
    values = {
        "schema_version": SCHEMA_VERSION,
        "kind": "seqtrack",
        "name": "colour",
        "description": "finds the template's mean colour",
        "preprocessing": {
            "color": "rgb",
            "mean": (0.5, 0.4, 0.3),
            "std": (0.2, 0.25, 0.3),
            "search": {"size": net.search, "factor": net.search_factor},
            "template": {"size": net.template, "factor": net.template_factor},
        },
        "decoder": {"bins": net.bins, "order": net.order},
        "templates": net.templates,
        "online": {"window": 0.5, "update_interval": None, "update_threshold": 0.015, "clip_margin": 10.0},
        "score": {"source": "likelihood", "ok_threshold": 0.1},
        "variants": {
            "fp32": {"graphs": {name: {"file": f"{name}.onnx", **spec} for name, spec in tensors(net).items()}}
        },
    }
    return SeqTrackManifest.model_validate({**values, **changes})


def write_colour_bundle(root: Path, net: ColourNet | None = None, **changes: object) -> Bundle:
    """Write the bundle of `net` into the new directory `root`; `changes` replace top-level entries of the manifest."""
    net = net or ColourNet()
    root.mkdir(parents=True)
    write_graphs(root, net)
    return write_bundle(root, manifest_of(net, **changes))
