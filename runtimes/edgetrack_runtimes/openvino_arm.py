"""What an INT8 graph needs so that OpenVINO's CPU plugin computes it rightly on Arm.

From 2026.3 on the plugin makes one step there of an integer matrix product, its scale, its bias and the rounding of
the result, with the bias as an int32 in units of the product. Where something besides that one FakeQuantize reads the
result, the steps stay apart, and the bias is added in those units all the same, thousands of times too large. A bound
that no value reaches keeps the pattern from being found; the numbers are the same.
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

_SINCE = (2026, 3)
_LARGEST = float(np.finfo(np.float32).max)


def misplaces_biases(version: str) -> bool:
    """Whether this release of OpenVINO, such as "2026.4.1", does so on this machine: later ones may still."""
    year, minor = version.split(".")[:2]
    return platform.machine().lower() in ("aarch64", "arm64") and (int(year), int(minor)) >= _SINCE


def guard_biases(openvino: Any, model: Any) -> int:
    """Put a bound behind every biased product that a FakeQuantize and something else read; return how many.

    Args:
        openvino: the module.
        model: an `openvino.Model` as it was read, not compiled; it is changed in place.
    """
    shared = [node for node in model.get_ordered_ops() if _is_biased_product(node) and _is_shared(node)]
    for node in shared:
        readers = list(node.output(0).get_target_inputs())
        bound = openvino.opset8.clamp(node.output(0), -_LARGEST, _LARGEST)
        for reader in readers:
            reader.replace_source_output(bound.output(0))
    return len(shared)


def _is_biased_product(node: Any) -> bool:
    terms = {value.get_source_output().get_node().get_type_name() for value in node.inputs()}
    return node.get_type_name() == "Add" and terms == {"MatMul", "Constant"}


def _is_shared(node: Any) -> bool:
    readers = [reader.get_node().get_type_name() for reader in node.output(0).get_target_inputs()]
    return len(readers) > 1 and "FakeQuantize" in readers
