"""Which other files an ONNX file reads its weights from, found without the onnx package.

A graph file is one protobuf message. Every message in it that can hold a tensor is walked by its field numbers in
onnx.proto; all else is skipped unread, so that a file of any size is walked in little memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

# Per message, the fields that lead to a tensor's external_data and the message that each holds.
_FIELDS = {
    "model": {7: "graph", 25: "function"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse_tensor"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse_tensor",
        23: "sparse_tensor",
    },
    "sparse_tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2
"""The fields of an entry of external_data, a map of strings."""
_VARINT, _FIXED64, _LENGTH_DELIMITED, _GROUP, _END_GROUP, _FIXED32 = range(6)


class _MalformedError(ValueError):
    """The bytes are no protobuf message."""


def external_locations(graph: Path) -> frozenset[str]:
    """Return every external location that the tensors of the file `graph` name, as it is written there.

    Runtimes resolve them relative to the graph's folder. A file that is no protobuf message names none: every runtime
    refuses it. Bytes that are not UTF-8 come out as `os.fsdecode` gives them.

    Raises:
        OSError: the file cannot be read.
    """
    with graph.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # which mmap refuses
            return frozenset()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return frozenset(_locations(content))
            except _MalformedError:
                return frozenset()


def _locations(content: mmap.mmap) -> Iterator[str]:
    # A stack of its own rather than recursion: a hostile file nests deeper than Python's.
    messages = [("model", 0, len(content))]
    while messages:
        kind, start, end = messages.pop()
        if kind == "entry":
            # The fields may come in any order, and of a field that comes twice protobuf takes the last.
            strings = {number: content[first:last] for number, first, last in _payloads(content, start, end)}
            if strings.get(_KEY) == b"location":
                yield strings.get(_VALUE, b"").decode("utf-8", "surrogateescape")
            continue
        fields = _FIELDS[kind]
        for number, first, last in _payloads(content, start, end):
            if number in fields:
                messages.append((fields[number], first, last))


def _payloads(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield field number, start and end of all that is length-delimited in the message at ``content[at:end]``.

    As lenient as protobuf, which skips groups though ONNX has none: what is refused here, every runtime refuses.
    """
    groups = 0
    while at < end:
        tag, at = _varint(content, at, end)
        number, wire_type = (tag & 0xFFFFFFFF) >> 3, tag & 7
        if wire_type == _VARINT:
            _, at = _varint(content, at, end)
        elif wire_type == _FIXED64:
            at += 8
        elif wire_type == _FIXED32:
            at += 4
        elif wire_type == _LENGTH_DELIMITED:
            length, first = _varint(content, at, end)
            at = first + length
            if at <= end and not groups:
                yield number, first, at
        elif wire_type == _GROUP:
            groups += 1
        elif wire_type == _END_GROUP and groups:
            groups -= 1
        else:
            raise _MalformedError(f"a field of wire type {wire_type} at byte {at}")
    if at != end or groups:
        raise _MalformedError(f"a message that should end at byte {end} does not")


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return the number at `at`, seven bits a byte, lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _MalformedError(f"a number that does not end before byte {at}")
