"""The learning rung of LLaVA video: whole language model and adapters reach the stated numbers."""

from pathlib import Path

import pytest

from tests.learning import call, evaluation, values, write_results

pytestmark = [pytest.mark.learning, pytest.mark.nightly]


@pytest.mark.parametrize("experiment", ["llava_video_tiny", "llava_video_lora_tiny"])
def test_llava_reaches_its_numbers(experiment: str, tmp_path: Path) -> None:
    call(f"launchers.train experiment={experiment}", tmp_path)
    call(f"launchers.evaluate experiment={experiment} ckpt=last", tmp_path)
    record = evaluation(tmp_path, experiment)
    title = "LoRA" if "lora" in experiment else "language model and projector"
    write_results(f"LLaVA video, tiny, {title}, on the built-in moving shapes", record)
    rows, value, chance = record["rows"], values(record), record["rows"]["chance"]
    assert rows["real"]["macro"]["cases"] >= 600
    assert value["real"]["macro"] >= 0.90
    for kind in ("direction", "order"):
        assert value["real"][kind] >= 0.85
        for control in ("blind", "middle", "shuffled"):
            assert rows[control][kind]["low"] <= chance[kind] + 0.05, (control, kind, rows[control][kind])
    assert value["before_training"]["macro"] < 0.5
