"""Rows of all ranks, however many each has."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.metrics.gather import gathered

ROOT = Path(__file__).resolve().parents[3]
RANK = """
import sys
from torch import distributed
from common.metrics.gather import gathered
rank, store = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
rows = [{"c": 3, "a": 1}, {}, {"b": 2, "a": 1}][rank]
print(gathered(rows))
distributed.destroy_process_group()
"""


def test_alone_it_is_what_this_process_holds_in_order() -> None:
    assert list(gathered({"b": 2, "a": 1}).items()) == [("a", 1), ("b", 2)]


@pytest.mark.slow
def test_every_rank_gets_the_rows_of_all_once(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path / "store")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    told = [rank.communicate() for rank in ranks]
    assert [out for out, _ in told] == ["{'a': 1, 'b': 2, 'c': 3}\n"] * 3, told
