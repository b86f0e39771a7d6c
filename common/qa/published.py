"""Published numbers that ours stand beside, all graded by GPT-3.5 of their time.

Sources: the READMEs of Video-ChatGPT and VideoChat2, and the tables in the documentation of VideoGPT+ and PLLaVA.
They are not one measurement: the same predictions, graded a month later, went from 35.2 to 43.6 % on ActivityNet-QA
(Video-ChatGPT, issue 28); Video-ChatGPT's MSVD and MSRVTT are the validation splits, its successors' the test splits.
Averages are as printed; those of PLLaVA (3.12 and 3.48) are not the means of its five aspects (2.99 and 3.32).
"""

from typing import NamedTuple

JUDGE = "GPT-3.5, not pinned"
SETS = ("msvd_qa", "msrvtt_qa", "tgif_qa", "activitynet_qa")
VCGBENCH = "vcgbench"


class Published(NamedTuple):
    """A model's row: accuracy in % and score 0..5 by zero-shot set, and the five aspects of VCGBench."""

    model: str
    accuracy: tuple[float | None, ...]
    score: tuple[float | None, ...]
    aspects: tuple[float, ...]
    average: float | None


def rows_for(benchmark: str) -> list[tuple[str, list[float | None]]]:
    """The rows beside a benchmark's own: (model, five aspects and average) or (model, accuracy in %, score)."""
    if benchmark == VCGBENCH:
        return [(row.model, [*row.aspects, row.average]) for row in ROWS if row.aspects]
    if benchmark not in SETS:
        return []
    place = SETS.index(benchmark)
    rows = [(row.model, [row.accuracy[place], row.score[place]]) for row in ROWS if row.accuracy]
    return [(model, values) for model, values in rows if values[0] is not None]


def _row(model: str, accuracy: str = "", score: str = "", aspects: str = "", average: float | None = None) -> Published:
    """Reads columns that are written as in a table; "-" is a number that was not published."""

    def numbers(text: str) -> tuple[float | None, ...]:
        return tuple(None if word == "-" else float(word) for word in text.split())

    five = tuple(float(word) for word in aspects.split())
    return Published(model, numbers(accuracy), numbers(score), five, average)


#         model            MSVD MSRVTT TGIF ActivityNet              correctness detail context temporal consistency
ROWS = (
    _row("FrozenBiLM", "32.2 16.8 41.0 24.7", "- - - -"),
    _row("Video-LLaMA", "51.6 29.6 - 12.4", "2.5 1.8 - 1.1", "1.96 2.18 2.16 1.82 1.79", 1.98),
    _row("LLaMA-Adapter", "54.9 43.8 - 34.2", "3.1 2.7 - 2.7", "2.03 2.32 2.30 1.98 2.15", 2.16),
    _row("VideoChat", "56.3 45.0 34.4 26.5", "2.8 2.5 2.3 2.2", "2.23 2.50 2.53 1.94 2.24", 2.29),
    _row("Video-ChatGPT", "64.9 49.3 51.4 35.2", "3.3 2.8 3.0 2.7", "2.40 2.52 2.62 1.98 2.37", 2.38),
    _row("Video-ChatGPT, as PLLaVA prints it", aspects="2.50 2.57 2.69 2.16 2.20", average=2.42),
    _row("BT-Adapter", aspects="2.68 2.69 3.27 2.34 2.46", average=2.69),
    _row("VTimeLLM", aspects="2.78 3.10 3.40 2.49 2.47", average=2.85),
    _row("Chat-UniVi", "65.0 54.6 60.3 45.8", "3.6 3.1 3.4 3.2", "2.89 2.91 3.46 2.89 2.81", 2.99),
    _row("LLaMA-VID (13B, as PLLaVA prints it)", "70.0 58.9 - 47.5", "3.7 3.3 - 3.3", "2.96 3.00 3.53 2.46 2.51", 2.89),
    _row("Video-LLaVA", "70.7 59.2 70.0 45.3", "3.9 3.5 4.0 3.3", "2.84 2.86 3.44 2.46 2.57", 2.81),
    _row("VideoChat2 (Vicuna)", "70.0 54.1 - 49.1", "3.9 3.3 - 3.3", "3.02 2.88 3.51 2.66 2.81", 2.98),
    _row("ST-LLM", "74.6 63.2 - 50.9", "3.9 3.4 - 3.3", "3.23 3.05 3.74 2.93 2.81", 3.15),
    _row("IG-VLM LLaVA (no training)", "78.8 63.7 73.0 54.3", "4.1 3.5 4.0 3.4", "3.11 2.78 3.51 2.44 3.29", 3.03),
    _row("VideoGPT+ (Phi-3-mini)", "72.4 60.6 74.6 50.6", "3.9 3.6 4.1 3.6", "3.27 3.18 3.74 2.83 3.39", 3.28),
    _row("PLLaVA 7B", "76.6 62.0 77.5 56.3", "4.1 3.5 4.1 3.5", "3.21 2.86 3.62 2.33 2.93", 3.12),
    _row("PLLaVA 34B", "79.9 68.7 80.6 60.9", "4.2 3.8 4.3 3.7", "3.60 3.20 3.90 2.67 3.25", 3.48),
)
