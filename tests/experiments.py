"""The tiny experiments, found by themselves, and which of them a rung of the tests runs.

`make test` has one experiment of each method, `make check` one of the method whose turn it is in the larger matrices,
`make nightly` all of all.
"""

import os
from datetime import UTC, datetime
from typing import Any

import pytest

from common.config import CONF

DAYS = 5


def tiny(pattern: str = "*_tiny.yaml") -> list[Any]:
    """Names as parameters of a test: the shortest name of each method, the others marked slow or nightly."""
    names = _names(pattern)
    first = _first(names).values()
    return [name if name in first else _marked(name, pytest.mark.slow) for name in names]


def matrix(pattern: str = "*_tiny.yaml") -> list[Any]:
    """Names as parameters of a slow test: all but the shortest of the method in turn are nightly."""
    names = _names(pattern)
    today = _first(names).get(turn())
    return [name if name == today else pytest.param(name, marks=pytest.mark.nightly) for name in names]


def one_of_each() -> list[Any]:
    """The shortest name of each method as parameters of a slow test; all but that of the method in turn are nightly."""
    return [_marked(name) for name in _first(_names("*_tiny.yaml")).values()]


def _names(pattern: str) -> list[str]:
    return sorted(path.stem for path in (CONF / "experiment").glob(pattern))


def _first(names: list[str]) -> dict[str, str]:
    """The shortest name of each method."""
    return {
        method: min((name for name in names if method_of(name) == method), key=len) for method in map(method_of, names)
    }


def in_turn(number: int) -> pytest.MarkDecorator:
    """Marks one of several slow tests: `make check` takes those of one number of five a day, `make nightly` all."""
    day = datetime.now(UTC).toordinal()
    shifted = day + day // DAYS  # otherwise a number would meet the same method at each of its turns
    return pytest.mark.slow if shifted % DAYS == number % DAYS else pytest.mark.nightly


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
