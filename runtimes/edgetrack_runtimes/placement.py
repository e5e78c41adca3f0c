"""Which nodes run where, and whether that is what was asked for.

A backend's name is a promise about every node that computes. What does not count against it are the operators in
`BOOKKEEPING`: they read no tensor data (a shape, a stored constant) or are the copies a runtime adds at a border, and
the GPU providers leave them on the host by design. Arithmetic on shapes (Gather, Concat, Cast of what Shape returned)
looks like any other computation in the record; but every graph here has fixed shapes, such arithmetic is folded before
nodes are placed, and whatever is left is real work. CUDA counts as elsewhere for TensorRT: it is the same chip, but a
graph cut into pieces is neither as fast as what was asked for nor gives the same numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgetrack_runtimes.errors import PlacementError

BOOKKEEPING = frozenset({"Constant", "MemcpyFromHost", "MemcpyToHost", "Shape", "Size"})
_NAMED_IN_ERROR = 8


@dataclass(frozen=True)
class PlacedNode:
    """A node as the runtime recorded it: where is an execution provider or a device, "" if nothing can run it."""

    name: str
    op: str
    where: str


def counted(nodes: Iterable[PlacedNode]) -> Mapping[str, int]:
    """Nodes per provider or device, most first."""
    return dict(Counter(node.where for node in nodes).most_common())


def require_placement(nodes: Sequence[PlacedNode], where: str, *, graph: str, backend: str) -> None:
    """Raise `PlacementError`, naming nodes and places, unless every node that computes is at `where`."""
    strays = [node for node in nodes if node.where != where and node.op not in BOOKKEEPING]
    if not strays:
        return
    named = ", ".join(f"{node.op} {node.name!r} on {node.where or 'no device'}" for node in strays[:_NAMED_IN_ERROR])
    more = f" and {len(strays) - _NAMED_IN_ERROR} more" if len(strays) > _NAMED_IN_ERROR else ""
    raise PlacementError(
        f"{graph}: {backend} was asked for, but {len(strays)} of {len(nodes)} nodes would not run on {where}: "
        f"{named}{more}. Choose another backend, or accept it with allow_fallback=True"
    )
