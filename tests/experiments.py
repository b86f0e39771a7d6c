"""The tiny experiments, found by themselves: one of each method in `make test`, the others in `make check`."""

from typing import Any

import pytest

from common.config import CONF


def tiny(pattern: str = "*_tiny.yaml") -> list[Any]:
    """Names of tiny experiments as parameters of a test; all but the shortest name of each method are marked slow."""
    names = sorted(path.stem for path in (CONF / "experiment").glob(pattern))
    first = {min((name for name in names if method_of(name) == each), key=len) for each in map(method_of, names)}
    return [name if name in first else pytest.param(name, marks=pytest.mark.slow) for name in names]


def method_of(experiment: str) -> str:
    """The project that an experiment is of: the longest name of one that its own begins with."""
    methods = [path.parent.name for path in (CONF.parent / "projects").glob("*/module.py")]
    return max((method for method in methods if experiment.startswith(method)), key=len)
