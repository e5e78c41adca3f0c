"""KEY=VALUE settings on nested plain values, as the command lines take them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any


def with_settings(values: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy of `values` with ``key=value`` settings applied; keys of nested parts are dotted.

    A value is JSON where it can be read as such, and a plain word elsewhere.

    Raises:
        ValueError: an unknown key, or a setting without "="; the message lists the keys there are.
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
            part[last] = json.loads(text)
        except json.JSONDecodeError:
            part[last] = text
    return values
