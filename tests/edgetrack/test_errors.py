"""The error tree is the one drawn in the module's docstring."""

from __future__ import annotations

import inspect
import re

import pytest

import edgetrack
from edgetrack import errors

LINE = re.compile(r"^ {4}((?:[│├└─ ] ?)*)(\w+)(?: {2,}(.*))?$")


def drawn() -> dict[str, tuple[str | None, str]]:
    """Name -> (parent, what is said of it), read off the drawing."""
    tree: dict[str, tuple[str | None, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if (match := LINE.match(line)) and match[2].endswith("Error"):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            tree[match[2]] = (path[depth - 1] if depth else None, match[3] or "")
    return tree


def test_every_error_is_drawn() -> None:
    assert set(drawn()) == set(errors.__all__)
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert defined == set(errors.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_is_where_it_is_drawn(name: str) -> None:
    parent, text = drawn()[name]
    error = getattr(errors, name)
    assert error.__bases__[0].__name__ == (parent or "Exception")
    also = re.search(r"\(also an? (\w+)\)", text)
    others = [base.__name__ for base in error.__mro__ if base.__module__ == "builtins"]
    if also:
        assert also[1] in others
    else:
        assert not {"ValueError", "ImportError"} & set(others)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_is_public_and_explained(name: str) -> None:
    assert getattr(edgetrack, name) is getattr(errors, name)
    assert getattr(errors, name).__doc__
