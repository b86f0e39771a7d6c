"""A benchmark's questions as a conversation file, so that `launchers.generate` can answer them."""

import json
from pathlib import Path
from typing import Any

from common.files import atomic_write_text
from common.qa.benchmarks import Benchmark, Item
from common.text.prompt import VIDEO


def write_questions(*, questions: Benchmark, output: str) -> dict[str, int]:
    """Writes one conversation a question; its id is what `common.qa.predictions.join` takes back.

    The two wordings of a pair become two rows, so that one is answered without sight of the other.

    Args:
        questions: the benchmark.
        output: JSON file, rows of {id, messages, videos, type}.
    """
    rows = [row for item in questions.items for row in _rows(item)]
    atomic_write_text(Path(output), "[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")
    return {"questions": len(rows), "videos": len({item.video for item in questions.items})}


def _rows(item: Item) -> list[dict[str, Any]]:
    names = [item.id] if len(item.questions) == 1 else [f"{item.id}#{part + 1}" for part in range(len(item.questions))]
    return [
        {
            "id": name,
            "messages": [
                {"role": "user", "content": f"{VIDEO}{question}"},
                {"role": "assistant", "content": item.reference},
            ],
            "videos": [item.video],
            "type": item.type or "all",
        }
        for name, question in zip(names, item.questions, strict=True)
    ]
