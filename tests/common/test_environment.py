"""Who wins of command line, shell and hardware file, and what is refused."""

import os
from datetime import timedelta
from types import SimpleNamespace

import pytest

from common.config import ConfigError
from common.environment import set_environment, set_timeout


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NCCL_P2P_DISABLE", "NCCL_DEBUG", "NCCL_TIMEOUT"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_a_file_sets_what_the_shell_has_not() -> None:
    os.environ["NCCL_DEBUG"] = "INFO"
    assert set_environment({"NCCL_DEBUG": "WARN", "NCCL_P2P_DISABLE": 1, "NCCL_TIMEOUT": None}) == {
        "NCCL_P2P_DISABLE": "1"
    }
    assert (os.environ["NCCL_DEBUG"], os.environ["NCCL_P2P_DISABLE"]) == ("INFO", "1")
    assert "NCCL_TIMEOUT" not in os.environ


def test_the_command_line_wins_over_the_shell() -> None:
    os.environ["NCCL_DEBUG"] = "INFO"
    set_environment({"NCCL_DEBUG": "WARN"}, asked=["NCCL_DEBUG"])
    assert os.environ["NCCL_DEBUG"] == "WARN"


@pytest.mark.parametrize(
    ("values", "answer"),
    [
        ({"NCCL P2P": 1}, "is no name"),
        ({"OMP_NUM_THREADS": 4}, "set it in the shell"),
        ({"NCCL_P2P_DISABLE": True}, "switches are 1 or 0"),
        ({"NCCL_TIMEOUT": "2h"}, "whole seconds"),
    ],
)
def test_what_would_do_nothing_is_refused(values: dict[str, object], answer: str) -> None:
    before = dict(os.environ)
    with pytest.raises(ConfigError, match=answer):
        set_environment(values)
    assert dict(os.environ) == before


def test_the_timeout_reaches_the_strategy() -> None:
    strategy = SimpleNamespace(_timeout=timedelta(seconds=1800))
    set_timeout(strategy)
    assert strategy._timeout == timedelta(seconds=1800)
    set_environment({"NCCL_TIMEOUT": 7200})
    set_timeout(strategy)
    assert strategy._timeout == timedelta(hours=2)
    alone = SimpleNamespace()
    set_timeout(alone)
    assert not hasattr(alone, "_timeout")
