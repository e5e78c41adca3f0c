"""KEY=VALUE settings on nested plain values, as the command lines take them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

KINDS = {"true or false": bool, "a number": (int, float), "a word": str, "a list": (list, tuple), "a table": dict}
"""Of JSON's values, in words; a Boolean is a number to Python, so it comes first."""


def with_settings(values: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy of `values` with ``key=value`` settings applied; keys of nested parts are dotted.

    A value is JSON where it can be read as such, and a plain word elsewhere or in place of one.

    Raises:
        ValueError: an unknown key, or a setting without "=" (the message lists the keys there are); a value of another
            kind than the one there is, where there is one.
    """
    values = deepcopy(values)
    for setting in settings:
        key, separator, text = setting.partition("=")
        *path, last = key.split(".")
        part: Any = values
        for name in path:
            part = part.get(name) if isinstance(part, dict) else None
        if not separator or not isinstance(part, dict) or last not in part:
            known = ", ".join(part if isinstance(part, dict) else values)
            raise ValueError(f"cannot apply --set {setting!r}; expected KEY=VALUE with KEY one of {known}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        before = part[last]
        if isinstance(before, str) and not isinstance(value, str):
            value = text
        if before is not None and value is not None and (kind := _kind(value)) != (expected := _kind(before)):
            raise ValueError(f"cannot apply --set {setting!r}: got {kind}; expected {expected}, as {before!r} is")
        part[last] = value
    return values


def _kind(value: Any) -> str:
    """What a value is, as JSON has it: 0.2 is a number and `.2` a word."""
    return next(kind for kind, types in KINDS.items() if isinstance(value, types))
