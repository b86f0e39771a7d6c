"""The tiny experiments, found by themselves, and which of them a rung of the tests runs.

`make test` has one experiment of each method, `make check` all of the method whose turn it is too, `make nightly` all.
"""

import os
from datetime import UTC, datetime
from typing import Any

import pytest

from common.config import CONF


def tiny(pattern: str = "*_tiny.yaml") -> list[Any]:
    """Names as parameters of a test: the shortest name of each method, the others marked slow or nightly."""
    names = sorted(path.stem for path in (CONF / "experiment").glob(pattern))
    first = {min((name for name in names if method_of(name) == each), key=len) for each in map(method_of, names)}
    return [name if name in first else _marked(name, pytest.mark.slow) for name in names]


def matrix(pattern: str = "*_tiny.yaml", *, always: tuple[str, ...] = ()) -> list[Any]:
    """Names as parameters of a slow test: those of `always`, and of the method whose turn it is; others are nightly."""
    names = sorted(path.stem for path in (CONF / "experiment").glob(pattern))
    return [name if name in always else _marked(name) for name in names]


def one_of_each() -> list[Any]:
    """The shortest name of each method as parameters of a slow test; all but that of the method in turn are nightly."""
    names = sorted(path.stem for path in (CONF / "experiment").glob("*_tiny.yaml"))
    first = {each: min((name for name in names if method_of(name) == each), key=len) for each in map(method_of, names)}
    today = turn() if turn() in first else min(first)  # a method may have no tiny experiment yet
    return [_marked(name) if each != today else name for each, name in first.items()]


def methods() -> list[str]:
    """The projects."""
    return sorted(path.parent.name for path in (CONF.parent / "projects").glob("*/module.py"))


def method_of(experiment: str) -> str:
    """The project that an experiment is of: the longest name of one that its own begins with."""
    return max((method for method in methods() if experiment.startswith(method)), key=len)


def turn() -> str:
    """The method that goes through the larger matrices today; FRAMELAB_METHOD names another."""
    named = os.environ.get("FRAMELAB_METHOD")
    if named is None:
        return methods()[datetime.now(UTC).toordinal() % len(methods())]
    if named not in methods():
        raise ValueError(f"FRAMELAB_METHOD={named}: one of {', '.join(methods())}")
    return named


def _marked(name: str, *marks: pytest.MarkDecorator) -> Any:
    return pytest.param(name, marks=marks if method_of(name) == turn() else pytest.mark.nightly)
