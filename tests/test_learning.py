"""The learning rung of the default method: the commands of `make quickstart` reach the stated numbers."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.learning import ROOT, call, evaluation, values, write_results

pytestmark = [pytest.mark.learning, pytest.mark.slow]


def test_video_chatgpt_reaches_its_numbers(tmp_path: Path) -> None:
    recipe = subprocess.run(["make", "-n", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    commands = re.findall(r"-m (launchers\.\w+.*)", recipe)
    assert len(commands) == 4
    for command in commands:
        call(command, tmp_path)
    record = evaluation(tmp_path, "video_chatgpt_tiny")
    write_results("Video-ChatGPT, tiny, on the built-in moving shapes", record)
    rows, value, chance = record["rows"], values(record), record["rows"]["chance"]
    assert rows["real"]["macro"]["cases"] >= 600
    assert value["real"]["macro"] >= 0.90
    for kind in ("direction", "order"):
        assert value["real"][kind] >= 0.85
        for control in ("blind", "middle", "shuffled"):  # the interval of a control reaches down to chance, nearly
            assert rows[control][kind]["low"] <= chance[kind] + 0.05, (control, kind, rows[control][kind])
    assert value["before_training"]["macro"] < 0.5
    assert set(value["projector_only"]) == set(value["real"])
    (file,) = tmp_path.glob("video_chatgpt_tiny/*/generate_*/generated.jsonl")
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(answers) == 6
    assert all(answer["pred"] for answer in answers)
