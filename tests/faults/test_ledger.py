"""Counts of faults: of one session, and of all that the file keeps."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.ledger import COUNTS, Count, Ledger, asked, kept, save, sessions, table, total

OLD = Count("a_tiny", "SIGTERM", injected=3, lost=0, date="2026-01-02", revision="0123456789ab", changed=False)


def test_a_session_counts_each_fault_of_each_experiment() -> None:
    ledger = Ledger(None)
    for lost in (False, True):
        ledger.count("SIGTERM", experiment="a_tiny", lost=lost)
    ledger.count("SIGTERM", experiment="b_tiny", lost=False)
    ledger.count("SIGTERM", experiment="b_tiny", lost=True, injected=0)
    assert ledger.lost("SIGTERM") == 2
    assert ledger.lost("SIGINT") == 0
    assert ledger.lines() == [
        "1 kinds of faults, injected 3 times, 2 results lost",
        "",
        "| fault | a_tiny | b_tiny | results lost |",
        "| --- | --- | --- | --- |",
        "| SIGTERM | 2 | 1 | 2 |",
    ]


def test_the_file_keeps_the_newest_count_of_each_and_leaves_the_others(tmp_path: Path) -> None:
    place = tmp_path / "counts.json"
    other = replace(OLD, fault="SIGINT", lost=1)
    save(place, [OLD, other])
    ledger = Ledger(place)
    ledger.count("SIGTERM", experiment="a_tiny", lost=False)
    ledger.count("SIGTERM", experiment="b_tiny", lost=False)
    assert [(each.experiment, each.fault, each.injected, each.lost) for each in kept(place)] == [
        ("a_tiny", "SIGINT", 3, 1),
        ("a_tiny", "SIGTERM", 1, 0),
        ("b_tiny", "SIGTERM", 1, 0),
    ]
    assert kept(place)[0] == other


def test_what_was_not_put_in_is_empty() -> None:
    rows = table([OLD, replace(OLD, experiment="b_tiny", fault="SIGINT", lost=2)])
    assert rows[2:] == ["| SIGINT |  | 3 | 2 |", "| SIGTERM | 3 |  | 0 |"]


def test_the_sessions_of_an_experiment_are_told_with_their_code() -> None:
    later = replace(OLD, fault="SIGINT", injected=1, date="2026-02-03", changed=True)
    assert sessions([OLD, later])[2:] == [
        "| a_tiny | 2 | 4 | 0 | 2026-01-02, 2026-02-03 | 0123456789ab, 0123456789ab with changes |"
    ]
    assert total([OLD, later]) == "2 kinds of faults, injected 4 times, 0 results lost"


def test_only_make_faults_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRAMELAB_WRITE_FAULTS", raising=False)
    assert asked() is None
    monkeypatch.setenv("FRAMELAB_WRITE_FAULTS", "1")
    assert asked() == COUNTS
